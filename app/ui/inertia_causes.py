"""Page Inertia, causes: what explains the overlap of two words, and whether heavy hitters carry the pattern."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app.ui import inertia_cached as reads
from app.ui import parts
from app.ui.inertia_distance import done, which_layer
from app.ui.links import linked
from moyu_core.figures import inertia as figures
from moyu_core.figures import inertia_tests as tests
from moyu_core.figures.text import percent
from moyu_core.figures.token_strip import token_strip
from moyu_core.queries.inertia import of_layer
from moyu_core.store import Run

ROLES = {"heavy": "heavy hitter, blocked", "matched": "blocked in the comparison", "recent": "never blocked"}


def draw(run: Run, layer: int) -> None:
    """Draw the part."""
    st.subheader("What explains the overlap of two words", divider="gray")
    if done(run, "regression"):
        _regression(run, which_layer(run, layer))
    st.subheader("Heavy hitters", divider="gray")
    if done(run, "hitters"):
        _hitters(run)


def _regression(run: Run, layer: int | None) -> None:
    rows = reads.frame(run.id, "regression")
    chosen = of_layer(rows, layer)
    facts = run.manifest["parts"]["regression"]
    first = {row["content"]: row["r_squared"] for row in chosen.to_dict("records")}
    explained = {content: float(first[content]) for content in figures.CONTENTS if content in first}
    said = ", ".join(f"{figures.CONTENTS[content]} **{percent(share)}**" for content, share in explained.items())
    st.markdown(f"Share of the variance of overlap that the four explain together: {said}.")
    left, right = st.columns(2, gap="large")
    with left:
        parts.chart(
            tests.coefficients(chosen),
            "Coefficients of the regression of overlap",
            f"How to read this: change of the overlap of two words for one unit of each term, all four at once. Similarity: "
            f"{facts['similarity_in_words']}. Distance enters only within a sequence. Intervals resample topics.",
            key="inertia-coefficients",
        )
    with right:
        content = str(
            linked(
                "share_of",
                "sentence",
                lambda: st.segmented_control(
                    "Content", list(explained), key="share_of", required=True, format_func=figures.CONTENTS.__getitem__
                ),
                options=list(explained),
            )
        )
        parts.chart(
            tests.shapley_shares(rows, content),
            f"Shapley shares of R² by layer, {figures.CONTENTS[content]}",
            "How to read this: what each term adds to R², averaged over all orders in which the terms can enter.",
            key="inertia-shapley",
        )


def _hitters(run: Run) -> None:
    found = reads.blocked(run.id)
    difference = found["difference"]
    verdict = (
        "not distinguishable from blocking matched positions"
        if not difference.excludes(0)
        else "more than blocking matched positions"
        if difference.mean > 0
        else "less than blocking matched positions"
    )
    st.markdown(
        f"Blocking the {run.manifest['parts']['hitters']['positions']} heaviest positions costs "
        f"**{found['heavy'].text(3)}** nats a token "
        f"at the end of the text, matched positions {found['matched'].text(3)}: {verdict} ({difference.text(3)}). Attention lost: "
        f"{percent(found['mass heavy'].mean)} and {percent(found['mass matched'].mean)}."
    )
    _strip(run)
    parts.chart(
        tests.flocking_blocked(reads.frame(run.id, "hitters")),
        "W - X by layer with attention blocked",
        "How to read this: if heavy hitters carried the pattern, blocking them would lower W - X more than blocking as "
        "much attention "
        "elsewhere. Sentences in sequence; the sink and the last quarter of each text are never blocked.",
        key="inertia-hitters",
    )


def _strip(run: Run) -> None:
    names = reads.texts(run.id, False)["prompt_id"].tolist()
    name = linked("hitters_of", names[0], lambda: st.selectbox("Text", names, key="hitters_of", width=300), options=names)
    rows = reads.frame(run.id, "attention")
    rows = figures.where(rows, prompt_id=name).sort_values("position")
    notes = {int(row["position"]): ROLES[row["role"]] for row in rows.to_dict("records") if row["role"] in ("heavy", "matched")}
    st.html(
        token_strip(
            rows["token"].tolist(),
            rows["attention"].to_numpy(float),
            "mean attention received from later tokens",
            (rows["role"] == "sink").to_numpy(np.bool_),
            notes=notes,
        )
    )
    st.caption(
        "How to read this: the stronger the tone, the more attention later tokens give it, mean over layers and heads. "
        "Underlined: blocked, solid as "
        "heavy hitter, dotted in the comparison. Hatched: the sink, which takes most attention and is left alone."
    )
