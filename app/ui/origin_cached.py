"""Cached reading for the page Origin; keys are run ids and short strings, values are kept by reference and read-only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.ui import cached
from moyu_core import monte_carlo, theory
from moyu_core.claims import Claim
from moyu_core.figures import origin as figures
from moyu_core.intervals import Interval
from moyu_core.model_sources import canonical_name
from moyu_core.monte_carlo import SignRow, Steps
from moyu_core.queries import origin
from moyu_core.store import Run

GRID = np.linspace(-4.0, 3.0, 281)
CLASSES, SPREAD, DRAWS = 50, 0.5, 8_000


def runs_of(study: str) -> list[Run]:
    """The runs of a study, tracked ones first."""
    return [run for run in cached.runs()[0] if run.spec.study == study]


def origin_runs() -> list[Run]:
    """The runs of the study `origin`, those of the default model first."""
    default = canonical_name("default")
    return sorted(runs_of("origin"), key=lambda run: run.manifest["model"]["name"] != default)


@st.cache_resource(show_spinner=False, max_entries=512)
def steps(name: str, p: float, loss: str) -> Steps:
    """The derivation at one pre-activation."""
    return monte_carlo.steps(name, p, loss, CLASSES, SPREAD)


@st.cache_resource(show_spinner=False, max_entries=8)
def sign_table(name: str, loss: str) -> list[SignRow]:
    """The sign table of an activation function."""
    return monte_carlo.sign_table(name, classes=CLASSES, s=SPREAD, draws=DRAWS, loss=loss)


@st.cache_resource(show_spinner=False, max_entries=8)
def closed_form(name: str, loss: str) -> np.ndarray:
    """E[dL/dp] on GRID, with the E||pi||^2 of the sign table's layer."""
    row = next(row for row in sign_table(name, loss) if row.expected)
    ratio = row.expected / float(theory.gradient_p(name, row.p, SPREAD, loss, 0.0, CLASSES))
    return ratio * theory.gradient_p(name, GRID, SPREAD, loss, 0.0, CLASSES)


@st.cache_resource(show_spinner=False, max_entries=64)
def training_figure(run_id: str, measure: str, label: str, layer: int | None) -> go.Figure:
    """One measure along training, seeds as bands."""
    frame = origin.curves(cached.find_run(run_id), measure, layer)
    return figures.along_training(origin.over_seeds(frame), label, frame, zero_line=measure == "sign_gradient")


@st.cache_resource(show_spinner=False, max_entries=64)
def at_the_end(run_id: str, measure: str, layer: int | None = None) -> dict[str, Interval]:
    """A measure at the last step by activation."""
    return origin.at_the_end(cached.find_run(run_id), measure, layer)


@st.cache_resource(show_spinner=False, max_entries=16)
def layers(run_id: str) -> list[int]:
    """Layers of a run of curves."""
    return origin.layers(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=32)
def sign_by_layer(run_id: str, condition: str) -> pd.DataFrame:
    """The sign measure by layer, the final norm's scale free."""
    return origin.sign_by_layer(cached.find_run(run_id), condition, "free")


@st.cache_resource(show_spinner=False, max_entries=32)
def claims(run_id: str) -> dict[str, Claim]:
    """The judged claims of an origin run."""
    return origin.claims(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=32)
def last_layer(run_id: str) -> dict[str, tuple[Interval, float]]:
    """The sign in the last layer at initialisation by scale, and the closed form."""
    return origin.last_layer(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=64)
def live_run(run_id: str) -> pd.DataFrame:
    """The whole table `curves` of a live run."""
    return cached.find_run(run_id).table("curves").to_pandas()
