"""Cached reading for the page *Predictors*; keys are ids, layers, densities and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.ui import cached
from moyu_core.figures import predictors as figures
from moyu_core.figures import trial as trial_figures
from moyu_core.figures.map_payload import Category, MapPicture, encode
from moyu_core.intervals import Interval
from moyu_core.queries import predictors as queries
from moyu_core.queries import trial
from moyu_core.store import Run
from moyu_core.studies.trial.verdicts import SMALLEST

CATEGORIES = (
    Category("hit", "hit", "none"),
    Category("miss", "miss", "cross"),
    Category("false alarm", "false_alarm", "hatch"),
    Category("neither", "neither"),
)
"""Told apart by pattern as well as by colour."""


def runs() -> list[Run]:
    """The finished comparisons, those of real models and with stored sets first."""
    found = [run for run in cached.runs()[0] if run.spec.study == queries.STUDY]
    return sorted(found, key=lambda run: (not run.spec.parameters["detail"], not run.tracked))


@st.cache_resource(show_spinner=False, max_entries=32)
def prompts(run_id: str) -> pd.DataFrame:
    """The run's prompts."""
    return queries.prompts(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=64)
def table(run_id: str, density: float) -> pd.DataFrame:
    """Every metric by method at one density."""
    return queries.table(cached.find_run(run_id), density)


@st.cache_resource(show_spinner=False, max_entries=64)
def curves(run_id: str, measure: str) -> pd.DataFrame:
    """A measure against density."""
    return queries.curves(cached.find_run(run_id), measure)


@st.cache_resource(show_spinner=False, max_entries=64)
def staleness(run_id: str, density: float, measure: str) -> pd.DataFrame:
    """A measure by tokens since the end of the prompt."""
    return queries.staleness(cached.find_run(run_id), density, measure)


@st.cache_resource(show_spinner=False, max_entries=64)
def paired(run_id: str, first: str, second: str, density: float, measure: str) -> Interval:
    """Difference of two methods over units."""
    return queries.paired(cached.find_run(run_id), first, second, density, measure)


@st.cache_resource(show_spinner=False, max_entries=32)
def by_token(run_id: str, prompt_id: str, condition: str, density: float) -> pd.DataFrame:
    """One prompt by method, layer and position."""
    return queries.by_layer_and_token(cached.find_run(run_id), prompt_id, density, condition)


@st.cache_resource(show_spinner=False, max_entries=128)
def overlay(run_id: str, prompt_id: str, condition: str, method: str, density: float, layer: int) -> queries.Overlay:
    """One method against the reference in one layer."""
    return queries.overlay(cached.find_run(run_id), prompt_id, method, density, layer, condition)


@st.cache_resource(show_spinner=False, max_entries=64)
def experts(run_id: str, layer: int) -> np.ndarray:
    """The expert of each neuron."""
    return queries.experts(cached.find_run(run_id), layer)


@st.cache_resource(show_spinner=False, max_entries=64)
def token_texts(run_id: str, prompt_id: str, condition: str) -> list[str]:
    """Token texts by position."""
    return queries.token_texts(cached.find_run(run_id), prompt_id, condition)


@st.cache_resource(show_spinner=False, max_entries=48)
def overlay_bytes(run_id: str, prompt_id: str, condition: str, method: str, density: float, layer: int) -> bytes:
    """The map of hits, misses and false alarms; neurons that the reference needs most often stand first."""
    run = cached.find_run(run_id)
    found = overlay(run_id, prompt_id, condition, method, density, layer)
    title = queries.methods(run)[method]["title"]
    needed = found.needed.mean(axis=0).astype(np.float32)
    hits = (found.needed & found.kept).sum(axis=1) / np.maximum(found.needed.sum(axis=1), 1)
    words = f"{title} at density {density:g}, layer {layer}, prompt {prompt_id}"
    return encode(
        MapPicture(
            kind="compare",
            cells=found.cells,
            n_neurons=found.needed.shape[1],
            tokens=found.tokens,
            positions=found.positions.tolist(),
            order=np.argsort(-needed, kind="stable"),
            order_label="neurons by how often they are needed",
            profile=needed,
            profile_label="needed in this prompt",
            bars=hits.astype(np.float32),
            bar_label="recall",
            categories=CATEGORIES,
            title=words,
            caption=f"{run.manifest['model']['name']}, run {run.id}, reference: {run.spec.set_rule.label()}",
            alt=f"Hits, misses and false alarms of {words}.",
            scope=f"{run_id}/{prompt_id}/{condition}/{layer}",
        )
    )


@st.cache_resource(show_spinner=False, max_entries=64)
def multiples_figure(
    run_id: str, prompt_id: str, condition: str, density: float, measure: str, methods: tuple[str, ...]
) -> go.Figure:
    """Small multiples of one prompt; building them takes longer than the rest of the page."""
    table: Any = prompts(run_id).set_index(["prompt_id", "condition"])
    return figures.by_layer_and_token(
        by_token(run_id, prompt_id, condition, density),
        queries.methods(cached.find_run(run_id)),
        measure,
        methods,
        token_texts(run_id, prompt_id, condition),
        int(table.at[(prompt_id, condition), "prompt_tokens"]),
    )


@st.cache_resource(show_spinner=False, max_entries=64)
def curves_figure(run_id: str, measure: str, methods: tuple[str, ...]) -> go.Figure:
    """A measure against density."""
    return figures.curves(curves(run_id, measure), queries.methods(cached.find_run(run_id)), measure, methods)


@st.cache_resource(show_spinner=False, max_entries=64)
def staleness_figure(run_id: str, density: float, measure: str, methods: tuple[str, ...]) -> go.Figure:
    """A measure by tokens since the end of the prompt."""
    return figures.staleness(staleness(run_id, density, measure), queries.methods(cached.find_run(run_id)), measure, methods)


def trials(weights: str) -> list[Run]:
    """The finished trials, that of these weights first, then real models before tiny ones."""
    found = [run for run in cached.runs()[0] if run.spec.study == trial.STUDY]
    return sorted(found, key=lambda run: (run.spec.model.weights != weights, run.manifest["model"]["name"].startswith("tiny")))


@st.cache_resource(show_spinner=False, max_entries=32)
def trial_known(run_id: str) -> float:
    """Share of tokens that the table has met."""
    return trial.known(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=32)
def trial_dense(run_id: str) -> float:
    """Surprise of the dense model at its own texts."""
    return trial.dense(cached.find_run(run_id))["surprise"]


@st.cache_resource(show_spinner=False, max_entries=32)
def trial_table(run_id: str, density: float) -> pd.DataFrame:
    """Every measure by method."""
    return trial.table(cached.find_run(run_id), density)


@st.cache_resource(show_spinner=False, max_entries=32)
def trial_answers(run_id: str, density: float) -> pd.DataFrame:
    """What was written."""
    return trial.answers(cached.find_run(run_id), density)


@st.cache_resource(show_spinner=False, max_entries=32)
def trial_curves(run_id: str, setting: str) -> go.Figure:
    """KL against density."""
    run = cached.find_run(run_id)
    return trial_figures.curves(trial.curves(run, setting), trial.titles(run), (*trial.ours(run), *trial.rivals(run)))


@st.cache_resource(show_spinner=False, max_entries=64)
def trial_lead(run_id: str, table: str, density: float, setting: str) -> go.Figure:
    """The table's lead over its rivals."""
    run = cached.find_run(run_id)
    return trial_figures.lead(trial.gaps(run, table, density, setting), trial.titles(run), SMALLEST, trial.EVERY_GENRE)
