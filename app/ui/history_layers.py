"""Page History, by layer: U, history share, variance components and the second views; what sink control removes."""

from __future__ import annotations

import streamlit as st

from app.ui import history_cached as reads
from app.ui import history_figures as drawn
from app.ui import parts
from app.ui.history_parts import columns
from app.ui.links import boolean, linked
from moyu_core.figures import history as figures
from moyu_core.figures.text import percent
from moyu_core.queries import history
from moyu_core.schema.history import ENTROPY_HISTORIES, KINDS
from moyu_core.store import Run

SECOND_VIEWS = ("uncertainty", "uncertainty_energy", "uncertainty_entropy")


def layers(run: Run, models: list[str]) -> None:
    """U, history share, interaction, variance components and the second views by layer; without sink control, what that makes."""
    control = linked(
        "history_sink",
        True,
        lambda: st.toggle(
            "Sink control",
            key="history_sink",
            help="Every probe stands behind the sink token. Off: probes alone at position 0, where an attention sink makes nearly "
            "the same neurons fire whatever the token. That is an artefact, and is shown to be recognised as one.",
        ),
        decode=boolean,
    )
    if not control:
        columns(models, lambda model: _artefact(run, model))
        return
    kind, length = _kind_and_length(run, models[0])

    def one(model: str) -> None:
        for title, names in _LAYER_VIEWS.items():
            if reads.by_layer(run.id, model, names[0], kind, length).empty:
                st.caption(f"{model} has no histories of this kind and length.")
                return
            figure = drawn.shares(run.id, model, names, title, kind, length)
            if figure is not None:
                parts.chart(figure, f"{title} by layer, {model}", _LAYER_HELP[title], key=f"history-{title}-{model}")

    columns(models, one)
    _missing_views(run, models, kind)


_LAYER_VIEWS = {
    "share": ("uncertainty", "history_share", "interaction"),
    "variance share": ("variance_token", "variance_history", "variance_interaction"),
    "U, second views": SECOND_VIEWS,
}


def _missing_views(run: Run, models: list[str], kind: str) -> None:
    """Say which second view is not drawn, and precisely why."""
    few = max(reads.histories_of(run.id, model, kind) for model in models)
    if few < ENTROPY_HISTORIES:
        st.caption(
            f"Entropy is not shown: it needs at least {ENTROPY_HISTORIES} histories of a kind and this run has {few} of "
            f"{figures.kind_name(kind)}. With few histories entropy comes out too low, which U does not. With texts enough, "
            f"`moyu study history --draws {ENTROPY_HISTORIES}` measures it."
        )
    if not any("uncertainty_energy" in reads.measures(run.id, model) for model in models):
        st.caption("This run was made before overlaps were also weighted by energy, so that view is not shown.")


def _artefact(run: Run, model: str) -> None:
    """How alike different tokens are at position 0 and behind the sink token."""
    found = history.sink_artefact(run, model)
    if found is None:
        st.info(f"This run was made before probes also stood without a sink token, so the artefact of {model} is not known here.")
        return
    bare, behind = found
    here, there = (float(rows["value"].to_numpy().mean()) for rows in (bare, behind))
    verdict = "This is an artefact of position 0." if here > there else "In this model position 0 makes no such artefact."
    st.warning(
        f"Sink control is off: two different probes alone at position 0 share {percent(here)} of their sets, behind the sink "
        f"token {percent(there)}, mean over layers. {verdict}"
    )
    parts.chart(
        drawn.artefact(run.id, model),
        f"Overlap of different tokens without and with sink control, {model}",
        "How to read this: mean overlap of the sets of two different probe tokens without history. High at position 0 = the first "
        "place, not the token, decides which neurons fire there; so position 0 is left out of every other chart.",
        key=f"history-sink-{model}",
    )


_LAYER_HELP = {
    "share": "How to read this: U = 0, the token alone decides its active set; U = 1, knowing the token says nothing. History "
    "share: what of the set knowing the history alone tells. Bands hold for all layers at once, over probes and histories.",
    "variance share": "How to read this: variance components of log(1 + |a|) in the table probes x histories, over their sum; "
    "noise gives 0 and may come out negative.",
    "U, second views": "How to read this: the same question asked in other ways. Energy-weighted: neurons count by (a·c)², so "
    "swaps of small neurons near the border hardly matter. Entropy, our definition: H(active | token) / H(active), from "
    f"{ENTROPY_HISTORIES} histories only.",
}


def _kind_and_length(run: Run, model: str) -> tuple[str, int]:
    frame = reads.over_layers(run.id, model, "uncertainty")
    kinds = list(dict.fromkeys(frame["kind"]))
    primary = history.facts(run, model)["primary"]
    left, right = st.columns(2)
    with left:
        kind = linked(
            "kind",
            primary["kind"],
            lambda: st.selectbox("Kind of history", kinds, key="kind", format_func=figures.kind_name, help=_kind_help()),
            options=kinds,
        )
    lengths = sorted(frame[frame["kind"] == kind]["length"].tolist())
    start = primary["length"] if primary["length"] in lengths else lengths[-1]
    if len(lengths) == 1:
        return str(kind), int(lengths[0])
    with right:
        length = linked(
            "tokens", start, lambda: st.select_slider("History tokens", lengths, key="tokens"), options=lengths, decode=int
        )
    return str(kind), int(length)


def _kind_help() -> str:
    return "\n\n".join(f"**{figures.kind_name(kind)}**: {meaning}" for kind, meaning in KINDS.items())
