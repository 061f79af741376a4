"""Page Inertia, layers: the index by layer, W and X behind it, and the controls that must give nothing."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.ui import inertia_cached as reads
from app.ui import parts
from app.ui.links import linked
from moyu_core.figures import inertia as figures
from moyu_core.intervals import Interval
from moyu_core.store import Run

MEASURES = {"overlap": "by count", "energy": "energy-weighted"}


def draw(run: Run, layer: int) -> None:
    """Draw the part."""
    measure = str(
        linked(
            "measure",
            "overlap",
            lambda: st.segmented_control("Overlap", list(MEASURES), key="measure", required=True, format_func=MEASURES.__getitem__),
            options=list(MEASURES),
        )
    )
    rows = reads.frame(run.id, "indices")
    chosen = figures.where(rows, measure=measure).dropna(subset=["layer"])
    parts.chart(
        figures.index_sweep(chosen, layer),
        f"Inertia index by layer and content, {MEASURES[measure]}",
        "How to read this: I = what sharing a context adds to the overlap of two words over what the words bring "
        "along, as a share of what "
        "could be added (our definition). 0 = nothing. Bands hold for all layers at once; where they contain 0, the index is not "
        f"distinguishable from the baseline there. {run.id}, {run.spec.set_rule.label()}.",
        key="inertia-index",
    )
    left, right = st.columns([3, 2], gap="large")
    with left:
        content = str(
            linked(
                "content",
                "sentence",
                lambda: st.segmented_control(
                    "Content", list(figures.CONTENTS), key="content", required=True, format_func=figures.CONTENTS.__getitem__
                ),
                options=list(figures.CONTENTS),
            )
        )
        parts.chart(
            figures.overlap_sweep(reads.frame(run.id, "overlaps"), content),
            f"W and X by layer, {figures.CONTENTS[content]}",
            "How to read this: W = two words of a text, X = words of different texts at the same two places, pairs of "
            "the same token left "
            "out. Marginal: sets drawn by each neuron's own rate, so what lies between chance and marginal belongs to "
            "the model as a whole, "
            "what lies between X and W to the text.",
            key="inertia-overlaps",
        )
    with right:
        _means(run)
        _controls(run)


def _means(run: Run) -> None:
    st.markdown("**Inertia index, mean over layers**")
    table = pd.DataFrame(
        [
            {
                "content": name,
                "by count": reads.index_of(run.id, content, "overlap").text(3),
                "energy-weighted": reads.index_of(run.id, content, "energy").text(3),
            }
            for content, name in figures.CONTENTS.items()
        ]
    )
    st.dataframe(table, hide_index=True, alt="Inertia index by content with 95 % intervals over topics")


CONTROLS = {
    "labels shuffled": "Words change texts at random: W - X must be 0",
    "attention cut": "Attention cut to the word itself and the sink, positions kept: I must be 0",
    "attention cut, raw flocking": "The same model, W - X without correction: may differ from 0, so raw overlap is no evidence",
}


def _controls(run: Run) -> None:
    st.markdown("**Controls**")
    for name, words in CONTROLS.items():
        found = run.manifest["controls"].get(name)
        if found is None or found["mean"] is None:
            st.markdown(f"- {words}. Not available: it needs texts of at least two topics.")
            continue
        known = {key: float("nan") if value is None else float(value) for key, value in found.items()}
        interval = Interval(known["mean"], known["low"], known["high"], known["error"], int(known["n"]))
        zero = "not distinguishable from 0" if not interval.excludes(0) else "**differs from 0**"
        st.markdown(f"- {words}: {interval.text(4)}{', ' + zero if interval.known else ''}.")
    check = run.manifest["checks"]["token_by_token"]
    st.markdown(
        f"- Fed token by token instead of at once: largest difference of activations {check['largest_difference']:.1e} of the "
        f"maximum, sets overlap by {check['mean_overlap']:.4f}."
    )
