"""The figures of the page Trinity, drawn once: building one costs more than showing it. Keys as in `trinity_cached`."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.ui import cached
from app.ui import trinity_cached as reads
from moyu_core.figures import applicability
from moyu_core.figures import trinity as figures


@st.cache_resource(show_spinner=False, max_entries=64)
def three_axes(run_id: str, speed_id: str | None, model_runs: tuple[str, ...], density: float) -> go.Figure:
    """Performance, speed and applicability at one density."""
    at = reads.at_density(reads.trade_off(run_id, speed_id), density)
    shares = {name: good / whole for name, (good, whole) in reads.applicability(model_runs, density).items()}
    axes = pd.DataFrame(
        {"method": at["method"], "performance": 1 / at["ratio"], "speed": at["speed"], "applicability": at["method"].map(shares)}
    )
    return figures.three_axes(axes, reads.titles(run_id))


@st.cache_resource(show_spinner=False, max_entries=128)
def against_density(run_id: str, speed_id: str | None, measure: str, density: float) -> go.Figure:
    """A measure of quality by density, a line at the chosen one."""
    shown: Any = reads.trade_off(run_id, speed_id).dropna(subset=[measure])
    return figures.against_density(shown, measure, reads.titles(run_id), density, _budget(run_id))


@st.cache_resource(show_spinner=False, max_entries=64)
def against_speed(run_id: str, speed_id: str, measure: str) -> go.Figure:
    """A measure of quality by measured speed."""
    shown: Any = reads.trade_off(run_id, speed_id).dropna(subset=[measure])
    return figures.against_speed(shown, measure, reads.titles(run_id), _budget(run_id))


@st.cache_resource(show_spinner=False, max_entries=64)
def bars(run_id: str, speed_id: str, density: float) -> go.Figure:
    """Measured speeds at one density beside their bounds."""
    return figures.speeds(reads.at_density(reads.speeds(speed_id), density), reads.titles(run_id))


@st.cache_resource(show_spinner=False, max_entries=4)
def families(families_id: str, model_runs: tuple[str, ...]) -> go.Figure:
    """Methods by architectures; names are those of the runs of quality."""
    return applicability.matrix(reads.families(families_id), reads.titles(*model_runs))


def _budget(run_id: str) -> float:
    return cached.find_run(run_id).manifest["budget"]
