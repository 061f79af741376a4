"""Page History: measures by layer, by kind and length, transplants, predictors and drift; one column for each model."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from app.ui import history_cached as reads
from app.ui import parts
from app.ui.links import linked
from moyu_core.figures import history as figures
from moyu_core.queries import history
from moyu_core.schema.history import KINDS, MEASURES, QUANTITIES
from moyu_core.store import Run

STAYS = "stays"
HEAT = (
    "uncertainty",
    "history_share",
    "interaction",
    "variance_token",
    "variance_history",
    "overlap_same_token",
    "uncertainty_shuffled",
    STAYS,
)
COLUMNS = {"recall": "recall", "precision": "precision", "jaccard": "Jaccard", "captured": "captured energy"}
NOT_ASKED = "This run was made without this part; `moyu study history --part {}` measures it."


def columns(models: list[str], draw: Callable[[str], None]) -> None:
    """One column for each model, two beside each other at most, so that figures stay legible."""
    for start in range(0, len(models), 2):
        pair = models[start : start + 2]
        for column, model in zip(st.columns(len(pair), gap="medium"), pair, strict=True):
            with column:
                st.markdown(f"**{model}**")
                draw(model)


def layers(run: Run, models: list[str]) -> None:
    """U, history share, interaction and variance components by layer."""
    kind, length = _kind_and_length(run, models[0])

    def one(model: str) -> None:
        for names, title in (
            (("uncertainty", "history_share", "interaction"), "share"),
            (("variance_token", "variance_history", "variance_interaction"), "variance share"),
        ):
            frames = {name: reads.by_layer(run.id, model, name, kind, length) for name in names}
            if frames[names[0]].empty:
                st.caption(f"{model} has no histories of this kind and length.")
                return
            parts.chart(
                figures.shares(frames, title), f"{title} by layer, {model}", _LAYER_HELP[title], key=f"history-{title}-{model}"
            )

    columns(models, one)


_LAYER_HELP = {
    "share": "How to read this: U = 0, the token alone decides its active set; U = 1, knowing the token says nothing. History "
    "share: what of the set knowing the history alone tells. Bands hold for all layers at once, over probes and histories.",
    "variance share": "How to read this: variance components of log(1 + |a|) in the table probes x histories, over their sum; "
    "noise gives 0 and may come out negative.",
}


_HEAT_HELP = (
    "How to read this: of a token's set without history, the share that is still there behind a history; mean over probe tokens "
    "and layers, on hover the range over layers. Sink tokens and one token repeated change nothing but the position and what "
    "little they say: they are the control for position."
)


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


def kinds(run: Run, models: list[str]) -> None:
    """Heat map of kinds and lengths."""
    measure = str(
        linked(
            "measure",
            HEAT[0],
            lambda: st.selectbox("Measure", list(HEAT), key="measure", format_func=_measure_name),
            options=list(HEAT),
        )
    )

    def one(model: str) -> None:
        frame = reads.stays(run.id, model) if measure == STAYS else reads.over_layers(run.id, model, measure)
        parts.chart(
            figures.kinds_and_lengths(frame, list(dict.fromkeys(frame["kind"])), _measure_name(measure)),
            f"{_measure_name(measure)} by kind and length of history, {model}",
            _HEAT_HELP
            if measure == STAYS
            else f"How to read this: {MEASURES[measure]}; mean over layers. Compare along a row with "
            "care: position alone changes sets too, as the controls under “stays without history” show.",
            key=f"history-kinds-{model}",
            table=frame,
        )

    columns(models, one)


def _measure_name(measure: str) -> str:
    return "stays without history" if measure == STAYS else measure.replace("_", " ")


def transplant(run: Run, models: list[str]) -> None:
    """The transplant ladder."""

    def one(model: str) -> None:
        rows = reads.ladder(run.id, model)
        if rows.empty:
            st.caption(NOT_ASKED.format("transplant"))
            return
        parts.chart(
            figures.ladder(rows),
            f"Set transplants, {model}",
            "How to read this: at the current token only, every layer keeps a set of the given density that was taken from "
            "elsewhere; further right, the next token is predicted worse than by the dense model. Logarithmic; 95 % over "
            "probes and histories. The distance from own to same token, other history is what the history decides.",
            key=f"history-ladder-{model}",
            table=rows,
        )

    columns(models, one)


def predictor(run: Run, models: list[str]) -> None:
    """Trained predictors against the number of domains."""
    column = str(
        linked(
            "score",
            "recall",
            lambda: st.segmented_control("Measure", list(COLUMNS), key="score", required=True, format_func=COLUMNS.__getitem__),
            options=list(COLUMNS),
        )
    )

    def one(model: str) -> None:
        rows = reads.predictor(run.id, model, column)
        if rows.empty:
            st.caption(NOT_ASKED.format("predictor"))
            return
        chance = reads.predictor(run.id, model, "chance") if column == "recall" else rows.iloc[:0]
        parts.chart(
            figures.predictor(rows, chance, COLUMNS[column]),
            f"Predictor {COLUMNS[column]} by training domains, {model}",
            "How to read this: DejaVu predictors trained on the same number of tokens from more and more domains, tested on "
            "other texts of those domains and on domains that they have not seen. Bands: 95 % over seeds of the predictor. "
            "Dotted: chance recall from the neurons' own rates.",
            key=f"history-predictor-{model}",
            table=rows,
        )

    columns(models, one)


def drift(run: Run, models: list[str]) -> None:
    """Importance drift along a text and between halves of the texts."""

    def one(model: str) -> None:
        frame = reads.drift(run.id, model, "cancellation")
        if frame.empty:
            st.caption(NOT_ASKED.format("drift"))
            return
        mean = pd.DataFrame(frame.groupby(["quantity", "position"], as_index=False)[["value"]].mean())
        mean = mean.assign(low=float("nan"), high=float("nan"))
        parts.chart(
            figures.along_text({name: mean.loc[mean["quantity"] == name] for name in QUANTITIES}),
            f"Cancellation of importance along a text, {model}",
            "How to read this: 1 = every position pushes a neuron's importance the same way, so what a history taught still "
            "holds; at 1/√n signs are as good as random and the past cancels. Mean over neurons, texts and layers. Exact zeros add "
            "nothing: a ReLU neuron that fired at few of the n positions has few terms to cancel, so its curve lies higher.",
            key=f"history-drift-{model}",
        )
        pair = [reads.drift(run.id, model, name) for name in ("stability", "stability_flipped")]
        first, second = (rows.loc[rows["quantity"] == "increment"].sort_values("layer") for rows in pair)
        parts.chart(
            figures.two_lines(first, second, ("as measured", "signs drawn at random"), "overlap of the top 10 %"),
            f"Stability of importance between halves of the texts, {model}",
            "How to read this: overlap of the 10 % most important neurons of one half of the texts with those of the other. "
            "If signs drawn at random give the same, importance does not add up over texts.",
            key=f"history-stability-{model}",
        )

    columns(models, one)
    st.caption(
        "Importance: our reading of the paper's update, a · dL/da summed over positions; the literal |V| · dL/da is shown too. "
        "Position 0, the sink token, is left out."
    )
