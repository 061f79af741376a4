"""The only `st.cache_*` wrappers. Keys are ids, layers and short strings, never arrays (large ones are sampled).

Everything is kept by reference in `cache_resource`, read-only; a run's fingerprint and the files' time are part of the key.
"""

from __future__ import annotations

import importlib.util
import os
import time

import numpy as np
import pandas as pd
import streamlit as st

from app.ui import visitors
from moyu_core import public, query, retention, sets, store
from moyu_core.errors import DamagedRunError, NotInRunError
from moyu_core.home import Home
from moyu_core.jobs import JobTable
from moyu_core.spec import SetRule

USED_SECONDS = 600
"""How exactly it is known when a run was last opened."""


@st.cache_resource(show_spinner=False)
def home() -> Home:
    """The folders of this installation."""
    return Home.default()


def jobs() -> JobTable:
    """The job table; in public mode as this visitor may see and use it."""
    limits = visitors.limits()
    return table() if limits is None else public.VisitorJobs(table(), visitors.visitor(), limits)


@st.cache_resource(show_spinner=False)
def table() -> JobTable:
    """The whole job table, for what is not a visitor's own."""
    return JobTable(home().jobs)


def runs() -> tuple[list[store.Run], list[DamagedRunError]]:
    """All runs that can be opened, and what is wrong with the others; read anew when a folder changes.

    In public mode the shipped ones, the visitor's own, shared ones, and those that a link has led to.
    """
    folders = [*home().tracked, home().runs]
    found, errors = _runs(tuple((str(folder), folder.stat().st_mtime_ns if folder.is_dir() else 0) for folder in folders))
    if visitors.limits() is None:
        return found, errors
    seen = public.held(table(), visitors.visitor()) | visitors.opened_by_link()
    return [run for run in found if run.tracked or run.id in seen], []


@st.cache_resource(show_spinner=False, max_entries=2)
def _runs(signature: tuple[tuple[str, int], ...]) -> tuple[list[store.Run], list[DamagedRunError]]:
    return store.list_runs(home())


def find_run(run_id: str) -> store.Run:
    """The run of this id, as it is on the disk now; `store` parses its manifest anew only when the file changes."""
    found = store.find_run(home(), run_id)
    _used(run_id, int(time.time() // USED_SECONDS))
    return found


@st.cache_resource(show_spinner=False, max_entries=256)
def _used(run_id: str, moment: int) -> None:
    """Note for housekeeping that a run was opened, not more often than needed."""
    del moment
    retention.mark_used(home(), run_id)


@st.cache_resource(show_spinner=False, max_entries=64)
def prompts(run_id: str) -> pd.DataFrame:
    """The run's prompts, without their texts."""
    return query.prompts(find_run(run_id), texts=False)


@st.cache_resource(show_spinner=False, max_entries=64)
def neurons(run_id: str, layer: int) -> pd.DataFrame:
    """Column norm and rate of each neuron of a layer."""
    return query.neurons(find_run(run_id), layer)


@st.cache_resource(show_spinner=False, max_entries=64)
def piece(run_id: str, prompt_id: str, condition: str, layer: int) -> query.Slice:
    """One prompt in one layer."""
    return query.read_slice(find_run(run_id), prompt_id, layer, condition)


@st.cache_resource(show_spinner=False, max_entries=64)
def active(run_id: str, prompt_id: str, condition: str, layer: int, rule: tuple[str, float] | None) -> np.ndarray:
    """(T, ceil(F/8)) packed sets: the stored ones, or those of a (rule, density) applied to the stored values."""
    found = piece(run_id, prompt_id, condition, layer)
    if rule is None:
        return found.active
    norms = neurons(run_id, layer)["column_norm"].to_numpy()
    return query.rethreshold(found, SetRule(rule[0], density=rule[1]), norms)


@st.cache_resource(show_spinner=False, max_entries=256)
def mean_overlap(run_id: str, prompt_id: str, condition: str, layer: int, rule: tuple[str, float] | None) -> float:
    """Mean overlap of the sets of two tokens of the prompt, sink left out; quadratic in the tokens, so not for every rerun."""
    behind_sink = ~piece(run_id, prompt_id, condition, layer).frame["is_sink"].to_numpy()
    return sets.mean_overlap(active(run_id, prompt_id, condition, layer, rule)[behind_sink])


@st.cache_resource(show_spinner=False, max_entries=64)
def sweep(run_id: str, prompt_id: str, statistic: str, condition: str) -> pd.DataFrame:
    """One statistic over layers and positions."""
    return query.sweep(find_run(run_id), prompt_id, statistic, condition)


@st.cache_resource(show_spinner=False, max_entries=256)
def top_tokens(run_id: str, layer: int, neuron: int) -> list[query.NeuronHit]:
    """Where a neuron is strongest in the run."""
    return query.top_tokens(find_run(run_id), layer, neuron)


@st.cache_resource(show_spinner=False, max_entries=512)
def vocabulary(run_id: str, layer: int, neuron: int) -> pd.DataFrame:
    """Promoted and suppressed tokens of a neuron."""
    return query.vocabulary(find_run(run_id), layer, neuron)


@st.cache_resource(show_spinner=False, max_entries=64)
def similarity_order(run_id: str, prompt_id: str, condition: str, layer: int) -> np.ndarray:
    """Neuron order by likeness along the prompt; from values where they are stored, else from the sets."""
    found = piece(run_id, prompt_id, condition, layer)
    behind_sink = ~found.frame["is_sink"].to_numpy()
    weights = np.abs(found.values) if found.codes is not None else found.mask
    return query.order_by_similarity(weights[behind_sink])


def vocabulary_run(weights: str) -> store.Run | None:
    """The `vocabulary` run of these model weights, if one was made."""
    for candidate in runs()[0]:
        if candidate.spec.study == "vocabulary" and candidate.spec.model.weights == weights:
            return candidate
    return None


def exists(run_id: str | None) -> bool:
    """Whether a run can be opened."""
    try:
        return run_id is not None and bool(find_run(run_id))
    except (NotInRunError, DamagedRunError):
        return False


def read_only() -> bool:
    """Whether this installation only shows what is there: `moyu serve --read-only`, or a host without torch."""
    return os.environ.get("MOYU_READ_ONLY") == "1" or not _has_torch()


@st.cache_resource(show_spinner=False)
def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None
