"""Cached reading for the page *Trinity*; keys are run ids, densities and names, values are kept by reference and read-only."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.ui import cached
from moyu_core.queries import trinity
from moyu_core.store import Run
from moyu_core.studies.trinity.requests import METHODS


def runs() -> list[Run]:
    """The runs of quality, tracked ones first, the default model's first among them."""
    found = [run for run in cached.runs()[0] if run.spec.study == "trinity"]
    return sorted(found, key=lambda run: (not run.tracked, run.manifest["model"]["name"].startswith("tiny")))


def speed_runs(run: Run) -> list[Run]:
    """The newest speed run of every machine on the same weights and arithmetic, the newest first."""
    found: dict[str, Run] = {}
    for speed in trinity.matching(cached.runs()[0], run.spec.model.weights, "speed"):
        if speed.spec.model.dtype == run.spec.model.dtype:
            found.setdefault(machine(speed), speed)
    return list(found.values())


def machine(speed: Run) -> str:
    """What a speed was measured on, in words: the GPU with what gathers there, or the processor; the threads of the host."""
    about, device = speed.manifest["machine"], str(speed.spec.parameters["device"])
    where = about["processor"] if device == "cpu" else f"{device}, {about.get('gather', 'torch')}"
    return f"{where}, {about['threads']} thread{'s' * (about['threads'] != 1)}"


def families_run() -> Run | None:
    """The newest run that tried the architectures."""
    return next((run for run in cached.runs()[0] if run.spec.study == "families"), None)


@st.cache_resource(show_spinner=False, max_entries=32)
def titles(*run_ids: str) -> dict[str, str]:
    """Names of the usual methods for people, from these runs; a method's own word where none of them has it."""
    found = {name: name for name in METHODS}
    for run_id in run_ids:
        found |= trinity.titles(cached.find_run(run_id))
    return found


@st.cache_resource(show_spinner=False, max_entries=32)
def methods(run_id: str) -> pd.DataFrame:
    """Methods with what kept some from being measured."""
    return trinity.methods(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=32)
def trade_off(run_id: str, speed_id: str | None) -> pd.DataFrame:
    """Quality beside measured speed at every density of the curves, the reading task too, methods in their usual order."""
    run = cached.find_run(run_id)
    frame = trinity.trade_off(run, cached.find_run(speed_id) if speed_id else None)
    frame = frame.merge(trinity.reading(run), on=["method", "density"], how="left")
    order = {name: place for place, name in enumerate(trinity.methods(run)["method"])}
    return frame.sort_values(
        ["method", "density"], key=lambda column: column.map(order) if column.name == "method" else column, ignore_index=True
    )


@st.cache_resource(show_spinner=False, max_entries=32)
def dense_reading(run_id: str) -> tuple[float, int]:
    """(share of questions that the dense model answers, passages); (NaN, 0) where nothing was read."""
    frame = trinity.reading(cached.find_run(run_id))
    dense: Any = frame[frame["method"] == "dense"]
    return (float("nan"), 0) if dense.empty else (float(dense["reading"].iloc[0]), int(dense["passages"].iloc[0]))


@st.cache_resource(show_spinner=False, max_entries=32)
def points(run_id: str, speed_id: str | None) -> pd.DataFrame:
    """Operating points with the speed-up measured there."""
    return trinity.speed_at_point(cached.find_run(run_id), cached.find_run(speed_id) if speed_id else None)


@st.cache_resource(show_spinner=False, max_entries=32)
def speeds(speed_id: str) -> pd.DataFrame:
    """The measured speeds."""
    return trinity.speeds(cached.find_run(speed_id))


def at_density(frame: Any, density: float) -> Any:
    """The rows of one density, and of methods with a size of their own."""
    return frame[(frame["density"] == density) | (frame["density"] == trinity.OWN)]


@st.cache_resource(show_spinner=False, max_entries=8)
def matrix(run_ids: tuple[str, ...]) -> pd.DataFrame:
    """Models by methods."""
    return trinity.matrix([cached.find_run(run_id) for run_id in run_ids])


@st.cache_resource(show_spinner=False, max_entries=64)
def applicability(run_ids: tuple[str, ...], density: float) -> dict[str, tuple[int, int]]:
    """Method -> (models on which it stays within the budget, models)."""
    return trinity.applicability(matrix(run_ids), density)


@st.cache_resource(show_spinner=False, max_entries=4)
def families(run_id: str) -> pd.DataFrame:
    """Architectures by methods."""
    return trinity.families(cached.find_run(run_id))
