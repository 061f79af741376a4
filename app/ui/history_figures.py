"""The figures of the page History, drawn once: building one costs more than showing it. Keys as in `history_cached`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.ui import cached
from app.ui import history_cached as reads
from moyu_core.figures import history as figures
from moyu_core.queries import history
from moyu_core.queries.history import Cell
from moyu_core.schema.history import QUANTITIES

STAYS = "stays"
"""The measure of the heat map that is not one of the table `measures`."""


@st.cache_resource(show_spinner=False, max_entries=256)
def shares(run_id: str, model: str, measures: tuple[str, ...], title: str, kind: str, length: int) -> go.Figure | None:
    """Measures by layer; None where the run holds the first of them alone or not for this kind and length."""
    found = {name: reads.by_layer(run_id, model, name, kind, length) for name in measures}
    found = {name: rows for name, rows in found.items() if not rows.empty}
    return figures.shares(found, title) if measures[0] in found and len(found) > 1 else None


@st.cache_resource(show_spinner=False, max_entries=32)
def artefact(run_id: str, model: str) -> go.Figure:
    """Overlap of different tokens without and with sink control; the run must hold it."""
    found = history.sink_artefact(cached.find_run(run_id), model)
    assert found is not None
    return figures.two_lines(*found, ("at position 0", "behind the sink token"), "overlap of different tokens")


@st.cache_resource(show_spinner=False, max_entries=128)
def heat(run_id: str, model: str, measure: str, label: str) -> go.Figure:
    """One measure by kind and length of history."""
    frame = heat_rows(run_id, model, measure)
    return figures.kinds_and_lengths(frame, list(dict.fromkeys(frame["kind"])), label)


def heat_rows(run_id: str, model: str, measure: str) -> pd.DataFrame:
    """The numbers of `heat`."""
    return reads.stays(run_id, model) if measure == STAYS else reads.over_layers(run_id, model, measure)


@st.cache_resource(show_spinner=False, max_entries=32)
def ladder(run_id: str, model: str, largest: float) -> go.Figure:
    """The transplant ladder, its axis up to `largest` nats."""
    return figures.ladder(reads.ladder(run_id, model), largest)


@st.cache_resource(show_spinner=False, max_entries=128)
def predictor(run_id: str, model: str, column: str, label: str, largest: float) -> go.Figure:
    """One measure of the predictors, beside recall its chance level; its axis up to `largest`."""
    rows = reads.predictor(run_id, model, column)
    chance = reads.predictor(run_id, model, "chance") if column == "recall" else rows.iloc[:0]
    return figures.predictor(rows, chance, label, largest)


@st.cache_resource(show_spinner=False, max_entries=32)
def cancellation(run_id: str, model: str) -> go.Figure:
    """Cancellation of importance along a text, mean over layers."""
    frame = reads.drift(run_id, model, "cancellation")
    mean = pd.DataFrame(frame.groupby(["quantity", "position"], as_index=False)[["value"]].mean())
    mean = mean.assign(low=float("nan"), high=float("nan"))
    return figures.along_text({name: mean.loc[mean["quantity"] == name] for name in QUANTITIES})


@st.cache_resource(show_spinner=False, max_entries=32)
def signs(run_id: str, model: str) -> go.Figure:
    """Share of positive increments by layer, both quantities."""
    share = reads.drift(run_id, model, "positive_share").sort_values("layer")
    first, second = (share.loc[share["quantity"] == name] for name in QUANTITIES)
    return figures.two_lines(first, second, ("a · dL/da", "|V| · dL/da"), "share of increments above 0")


@st.cache_resource(show_spinner=False, max_entries=32)
def stability(run_id: str, model: str) -> go.Figure:
    """Stability of importance between halves of the texts by layer, beside signs drawn at random."""
    pair = [reads.drift(run_id, model, name) for name in ("stability", "stability_flipped")]
    first, second = (rows.loc[rows["quantity"] == "increment"].sort_values("layer") for rows in pair)
    return figures.two_lines(first, second, ("as measured", "signs drawn at random"), "overlap of the top 10 %")


@st.cache_resource(show_spinner=False, max_entries=128)
def probe_over_layers(run_id: str, model: str, item: int, first: Cell, second: Cell) -> go.Figure | None:
    """Share of a probe's set that stays within the kinds of two histories, by layer; None where neither kind has draws."""
    frame = reads.flips(run_id, model, item)
    found = []
    for cell in (first, second):
        same = bool(found) and (cell.kind, cell.length) == (first.kind, first.length)
        part = frame.loc[(frame["kind"] == cell.kind) & (frame["length"] == cell.length)].sort_values("layer")
        rows = part.assign(value=part["stay_resampled"], low=np.nan, high=np.nan).dropna(subset=["value"])
        found.append(rows.iloc[:0] if same else rows)  # two draws of one kind have one curve
    if found[0].empty and found[1].empty:
        return None
    names = (reads.label(first).split(", draw")[0], reads.label(second).split(", draw")[0])
    return figures.two_lines(found[0], found[1], names, "share of the set that stays")
