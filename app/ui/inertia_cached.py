"""Cached reading for the page Inertia; keys are run ids, layers and short strings, values are kept by reference and read-only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app.ui import cached
from moyu_core import sets
from moyu_core.claims import Claim
from moyu_core.figures.map_payload import MapPicture, encode
from moyu_core.intervals import Interval
from moyu_core.queries import inertia
from moyu_core.queries.inertia import Panel
from moyu_core.store import Run

Condition = tuple[str, str]
"""(content, history)."""


def runs_of_inertia() -> list[Run]:
    """The runs of the study, tracked ones first."""
    found = [run for run in cached.runs()[0] if run.spec.study == "inertia"]
    return sorted(found, key=lambda run: not run.tracked)


@st.cache_resource(show_spinner=False, max_entries=32)
def claims(run_id: str) -> dict[str, Claim]:
    """The judged claims."""
    return inertia.claims(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=128)
def frame(run_id: str, table: str) -> pd.DataFrame:
    """One of the study's small tables."""
    return inertia.frame(cached.find_run(run_id), table)


@st.cache_resource(show_spinner=False, max_entries=32)
def texts(run_id: str, shown: bool) -> pd.DataFrame:
    """The texts, or those whose panels are stored."""
    return inertia.texts(cached.find_run(run_id), shown)


@st.cache_resource(show_spinner=False, max_entries=64)
def panels(run_id: str, layer: int, prompts: tuple[str, ...]) -> dict[Condition, Panel]:
    """The panels of one text, or of two stacked."""
    read = [inertia.panels(cached.find_run(run_id), prompt, layer) for prompt in prompts]
    return read[0] if len(read) == 1 else {key: inertia.joined(read[0][key], read[1][key]) for key in read[0]}


@st.cache_resource(show_spinner=False, max_entries=256)
def matrix(run_id: str, layer: int, prompts: tuple[str, ...], condition: Condition) -> np.ndarray:
    """The overlap matrix of one panel."""
    return inertia.overlap_matrix(panels(run_id, layer, prompts)[condition])


@st.cache_resource(show_spinner=False, max_entries=64)
def order(run_id: str, layer: int, prompts: tuple[str, ...]) -> np.ndarray:
    """Neurons by how often they are active over all panels behind the sink: the one order of all panels."""
    shown = panels(run_id, layer, prompts)
    active = np.concatenate([panel.active for (_, history), panel in shown.items() if history != "bare"])
    return np.argsort(-sets.counts(active, n_neurons(run_id)), kind="stable")


@st.cache_resource(show_spinner=False, max_entries=32)
def n_neurons(run_id: str) -> int:
    """F of the run's model."""
    return int(cached.find_run(run_id).manifest["model"]["n_neurons"])


@st.cache_resource(show_spinner=False, max_entries=96)
def panel_bytes(
    run_id: str, layer: int, prompts: tuple[str, ...], condition: Condition, ordered: bool, title: str, caption: str
) -> bytes:
    """One panel as a picture for the map component; all panels of a view share order, zoom and cursor."""
    shown = panels(run_id, layer, prompts)
    panel, neurons = shown[condition], n_neurons(run_id)
    return encode(
        MapPicture(
            kind="set",
            cells=panel.active,
            n_neurons=neurons,
            tokens=panel.words,
            positions=inertia.places(panel, shown["sentence", "sequence"]),
            token_ids=panel.token_ids.tolist(),
            order=order(run_id, layer, prompts) if ordered else None,
            order_label="neurons by rate in these panels" if ordered else "neurons by index",
            profile=sets.rates(panel.active, neurons).astype(np.float32),
            profile_label="rate in this panel",
            title=title,
            caption=caption,
            scope=f"{run_id}/{layer}/{prompts}/{condition}",
            group="inertia",
            alt=f"{title}: active sets of {len(panel.words)} words by {neurons} neurons. {caption}",
        )
    )


@st.cache_resource(show_spinner=False, max_entries=32)
def kl(run_id: str) -> pd.DataFrame:
    """Mean KL of the set transplants."""
    return inertia.kl_by_source(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=32)
def blocked(run_id: str) -> dict[str, Interval]:
    """What blocking attention does."""
    return inertia.blocked(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=128)
def neurons(run_id: str, layer: int | None, which: str) -> pd.DataFrame:
    """Always-on or sequence-bound neurons."""
    run = cached.find_run(run_id)
    return inertia.always_on(run, layer) if which == "always" else inertia.sequence_bound(run, layer)


@st.cache_resource(show_spinner=False, max_entries=64)
def index_of(run_id: str, content: str, measure: str) -> Interval:
    """The inertia index, mean over layers."""
    return inertia.index_of(cached.find_run(run_id), content, measure)
