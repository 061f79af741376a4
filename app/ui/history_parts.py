"""Page History: measures by kind and length, transplants, predictors and drift; one column for each model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import streamlit as st

from app.ui import history_cached as reads
from app.ui import history_figures as drawn
from app.ui import parts
from app.ui.history_figures import STAYS
from app.ui.history_form import AHEAD
from app.ui.links import linked
from moyu_core.figures.history import SMALLEST_NATS
from moyu_core.figures.text import percent
from moyu_core.schema.history import MEASURES
from moyu_core.store import Run
from moyu_core.studies.history.requests import LOOK_AHEADS

HEAT = (
    "uncertainty",
    "uncertainty_energy",
    "uncertainty_entropy",
    "history_share",
    "interaction",
    "variance_token",
    "variance_history",
    "overlap_same_token",
    "overlap_same_token_energy",
    "overlap_different",
    "uncertainty_shuffled",
    STAYS,
)
"""Measures of the heat map; those that a run does not hold are left out."""
COLUMNS = {
    "recall": "recall",
    "precision": "precision",
    "jaccard": "Jaccard",
    "captured": "captured energy",
    "density": "|Â| / F",
}
NOT_ASKED = "This run was made without this part; `moyu study history --part {}` measures it."


def columns(models: list[str], draw: Callable[[str], None]) -> None:
    """One column for each model, two beside each other at most, so that figures stay legible."""
    for start in range(0, len(models), 2):
        pair = models[start : start + 2]
        for column, model in zip(st.columns(len(pair), gap="medium"), pair, strict=True):
            with column:
                st.markdown(f"**{model}**")
                draw(model)


_HEAT_HELP = (
    "How to read this: of a token's set without history, the share that is still there behind a history; mean over probe tokens "
    "and layers, on hover the range over layers. Sink tokens and one token repeated change nothing but the position and what "
    "little they say: they are the control for position. "
)


def kinds(run: Run, models: list[str]) -> None:
    """Heat map of kinds and lengths."""
    held = [name for name in HEAT if name == STAYS or name in reads.measures(run.id, models[0])]
    measure = str(
        linked(
            "measure",
            HEAT[0],
            lambda: st.selectbox("Measure", held, key="measure", format_func=_measure_name),
            options=held,
        )
    )

    def one(model: str) -> None:
        parts.chart(
            drawn.heat(run.id, model, measure, _measure_name(measure)),
            f"{_measure_name(measure)} by kind and length of history, {model}",
            _heat_help(run, model, measure),
            key=f"history-kinds-{model}",
            table=drawn.heat_rows(run.id, model, measure),
        )

    columns(models, one)


def _heat_help(run: Run, model: str, measure: str) -> str:
    """The line under the map, with the level that an overlap has to be compared with."""
    if measure == STAYS:
        return (
            _HEAT_HELP
            + f"Level to compare with: {percent(reads.stays_of_others(run.id, model))} for another token's set{_random(run)}."
        )
    text = (
        f"How to read this: {MEASURES[measure]}; mean over layers, on hover with its 95 % interval. Compare along a "
        "row with care: position alone changes sets too, as the controls under “stays without history” show."
    )
    if measure in BASELINES:
        level = float(reads.over_layers(run.id, model, BASELINES[measure])["value"].to_numpy().mean())
        text += (
            f" Level to compare with: {percent(level)} for different tokens behind different histories, on average{_random(run)}."
        )
    return text


def _random(run: Run) -> str:
    """Chance level of a random set, where the rule fixes its size."""
    density = run.spec.set_rule.density
    return f", {percent(density)} for a random set" if density else ""


BASELINES = {"overlap_same_token": "overlap_different", "overlap_same_token_energy": "overlap_different_energy"}
"""Overlap -> the measure that says what tokens share anyway."""


def _measure_name(measure: str) -> str:
    return "stays without history" if measure == STAYS else measure.replace("_", " ")


def transplant(run: Run, models: list[str]) -> None:
    """The transplant ladder; one axis for all models."""
    ladders = [reads.ladder(run.id, model) for model in models]
    largest = max((float(rows["high"].to_numpy().max()) for rows in ladders if not rows.empty), default=1.0)

    def one(model: str) -> None:
        rows = reads.ladder(run.id, model)
        if rows.empty:
            st.caption(NOT_ASKED.format("transplant"))
            return
        parts.chart(
            drawn.ladder(run.id, model, largest),
            f"Set transplants, {model}",
            "How to read this: at the current token only, every layer keeps a set of the given density that was taken from "
            "elsewhere; further right, the next token is predicted worse than by the dense model. Logarithmic, what is below "
            f"{SMALLEST_NATS:g} stands there; 95 % over probes and histories. The distance from own to same token, other history "
            "is what the history decides.",
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

    found = [reads.predictor(run.id, model, column) for model in models]
    largest = max((float(np.nanmax(rows[["value", "high"]].to_numpy())) for rows in found if not rows.empty), default=1.0)

    def one(model: str) -> None:
        rows = reads.predictor(run.id, model, column)
        if rows.empty:
            st.caption(NOT_ASKED.format("predictor"))
            return
        parts.chart(
            drawn.predictor(run.id, model, column, COLUMNS[column], 1.05 * largest),
            f"Predictor {COLUMNS[column]} by training domains, {model}",
            "How to read this: DejaVu predictors trained on the same number of tokens from more and more domains, tested on "
            f"other texts of those domains and on domains that they have not seen. They read {_read(run)}. Bands: 95 % over seeds "
            "of the predictor. "
            + (
                "Dotted: chance recall from the neurons' own rates; a random set of the same size would have |Â| / F."
                if column == "recall"
                else f"|Â| / F, the share of neurons predicted, is {_size(run, model)} throughout."
            ),
            key=f"history-predictor-{model}",
            table=rows,
        )

    columns(models, one)


def _read(run: Run) -> str:
    """The hidden state that the run's predictors were given."""
    return AHEAD[run.spec.parameters.get("look_ahead", LOOK_AHEADS[0])]


def _size(run: Run, model: str) -> str:
    """Share of the neurons that are predicted, mean over everything."""
    return percent(float(reads.predictor(run.id, model, "density")["value"].to_numpy().mean()))


def drift(run: Run, models: list[str]) -> None:
    """Importance drift along a text and between halves of the texts."""

    def one(model: str) -> None:
        if reads.drift(run.id, model, "cancellation").empty:
            st.caption(NOT_ASKED.format("drift"))
            return
        parts.chart(
            drawn.cancellation(run.id, model),
            f"Cancellation of importance along a text, {model}",
            "How to read this: 1 = every position pushes a neuron's importance the same way, so what a history taught still "
            "holds; at 1/√n signs are as good as random and the past cancels. Mean over neurons, texts and layers. Exact zeros add "
            "nothing: a ReLU neuron that fired at few of the n positions has few terms to cancel, so its curve lies higher.",
            key=f"history-drift-{model}",
        )
        parts.chart(
            drawn.signs(run.id, model),
            f"Share of positive importance increments, {model}",
            "How to read this: of the increments that are not exactly 0, the share that is positive; at 0.5 importance is pushed "
            "up as often as down. 95 % over texts, layer by layer.",
            key=f"history-positive-{model}",
        )
        parts.chart(
            drawn.stability(run.id, model),
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
