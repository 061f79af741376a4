"""Cached reading for the page History; keys are run ids, layers and short strings, values are kept by reference and read-only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app.ui import cached
from moyu_core.claims import Claim
from moyu_core.figures.history import kind_name
from moyu_core.figures.map_payload import Category, MapPicture, encode
from moyu_core.queries import history
from moyu_core.queries.history import Cell
from moyu_core.store import Run

CATEGORIES = (
    Category("stay", "stay"),
    Category("drop out", "out", "hatch"),
    Category("come in", "in", "dot"),
    Category("in neither", "neither"),
)
"""In the order of the codes of `queries.history.flip_map`; patterns survive greyscale."""


def runs_of_history() -> list[Run]:
    """The runs of the study, tracked ones first."""
    return sorted((run for run in cached.runs()[0] if run.spec.study == "history"), key=lambda run: not run.tracked)


@st.cache_resource(show_spinner=False, max_entries=32)
def claims(run_id: str) -> dict[str, Claim]:
    """The judged claims."""
    return history.claims(cached.find_run(run_id))


@st.cache_resource(show_spinner=False, max_entries=64)
def probes(run_id: str, model: str) -> pd.DataFrame:
    """The probe tokens, indexed by item."""
    return history.frame(cached.find_run(run_id), "probes", model).set_index("item")


@st.cache_resource(show_spinner=False, max_entries=64)
def cells(run_id: str, model: str) -> list[Cell]:
    """The histories whose sets are stored."""
    return history.cells(cached.find_run(run_id), model)


@st.cache_resource(show_spinner=False, max_entries=256)
def tokens(run_id: str, model: str, cell: Cell) -> tuple[str, list[str]]:
    """(source, token texts) of a history."""
    return history.history_tokens(cached.find_run(run_id), model, cell)


@st.cache_resource(show_spinner=False, max_entries=64)
def flip_codes(run_id: str, model: str, layer: int, first: Cell, second: Cell) -> tuple[list[int], np.ndarray]:
    """(items, (T, F) codes)."""
    return history.flip_map(cached.find_run(run_id), model, layer, first, second)


@st.cache_resource(show_spinner=False, max_entries=48)
def flip_bytes(run_id: str, model: str, layer: int, first: Cell, second: Cell) -> bytes:
    """The flip map as the canvas takes it: probe tokens by neurons, those that flip most first."""
    items, codes = flip_codes(run_id, model, layer, first, second)
    table = probes(run_id, model).loc[items]
    flipping = ((codes == history.OUT) | (codes == history.IN)).mean(axis=0)
    names = ["".join(path(run_id, model, item)) for item in items]
    between = f"from {label(first)} to {label(second)}"
    return encode(
        MapPicture(
            kind="compare",
            cells=codes,
            n_neurons=codes.shape[1],
            tokens=names,
            categories=CATEGORIES,
            token_ids=[ids[-1] for ids in table["token_ids"]],
            positions=list(range(len(names))),
            order=np.lexsort((-flipping, (codes == history.NEITHER).all(axis=0))),
            order_label="neurons that flip most often first",
            profile=flipping.astype(np.float32),
            profile_label="probes it flips in",
            bars=(codes == history.STAY).sum(axis=1) / np.maximum(np.isin(codes, (history.STAY, history.OUT)).sum(axis=1), 1),
            bar_label="stays",
            title=f"{model}, layer {layer}",
            caption=f"{between}, run {run_id}, {cached.find_run(run_id).spec.set_rule.label()}",
            alt=f"Map of {len(names)} probe tokens by {codes.shape[1]} neurons: what stays, drops out and comes in {between}, "
            f"layer {layer} of {model}.",
            scope=f"{run_id}/{model}/{layer}/{first}/{second}",
        )
    )


@st.cache_resource(show_spinner=False, max_entries=256)
def by_layer(run_id: str, model: str, measure: str, kind: str, length: int) -> pd.DataFrame:
    """One measure by layer."""
    return history.by_layer(cached.find_run(run_id), model, measure, kind, length)


@st.cache_resource(show_spinner=False, max_entries=64)
def over_layers(run_id: str, model: str, measure: str) -> pd.DataFrame:
    """One measure, mean over layers, by kind and length."""
    return history.over_layers(cached.find_run(run_id), model, measure)


@st.cache_resource(show_spinner=False, max_entries=64)
def measures(run_id: str, model: str) -> list[str]:
    """The measures that the run holds."""
    return history.measures(cached.find_run(run_id), model)


@st.cache_resource(show_spinner=False, max_entries=64)
def histories_of(run_id: str, model: str, kind: str) -> int:
    """How many histories a kind has."""
    return history.histories_of(cached.find_run(run_id), model, kind)


def counts(run_id: str, model: str) -> list[int]:
    """The numbers of histories that its kinds have, from the smallest; a run may have been given fewer than were asked for."""
    return sorted({histories_of(run_id, model, str(kind)) for kind in over_layers(run_id, model, "uncertainty")["kind"]})


@st.cache_resource(show_spinner=False, max_entries=64)
def stays_of_others(run_id: str, model: str) -> float:
    """What `stays` is to be compared with."""
    return history.stays_of_others(cached.find_run(run_id), model)


@st.cache_resource(show_spinner=False, max_entries=128)
def flips(run_id: str, model: str, item: int) -> pd.DataFrame:
    """How one probe token's set changes, by kind, length and layer."""
    return history.flips(cached.find_run(run_id), model, item)


@st.cache_resource(show_spinner=False, max_entries=32)
def stays(run_id: str, model: str) -> pd.DataFrame:
    """What stays of the sets without history, by kind and length; controls first."""
    return history.stays(cached.find_run(run_id), model)


@st.cache_resource(show_spinner=False, max_entries=32)
def ladder(run_id: str, model: str) -> pd.DataFrame:
    """The transplant ladder."""
    return history.ladder(cached.find_run(run_id), model)


@st.cache_resource(show_spinner=False, max_entries=64)
def drift(run_id: str, model: str, measure: str) -> pd.DataFrame:
    """One measure of the importance drift."""
    return history.drift(cached.find_run(run_id), model, measure)


@st.cache_resource(show_spinner=False, max_entries=128)
def predictor(run_id: str, model: str, column: str) -> pd.DataFrame:
    """One measure of the predictors over seeds."""
    return history.predictor(cached.find_run(run_id), model, column)


def label(cell: Cell) -> str:
    """A history in lists."""
    return (
        kind_name(cell.kind) + (f", {cell.length} tokens" if cell.length else "") + (f", draw {cell.draw + 1}" if cell.draw else "")
    )


def key_of(cell: Cell) -> str:
    """A history in links."""
    return f"{cell.kind}:{cell.length}:{cell.draw}"


def path(run_id: str, model: str, item: int) -> list[str]:
    """A probe token in words: the texts of the probe's tokens before it, which are part of what is measured, and its own."""
    texts = probes(run_id, model)["token"].to_dict()
    return [str(texts[each]) for each in _path(run_id, model, item)]


def merges(run_id: str, model: str, item: int) -> int:
    """Cells in which plain text would merge history and probe, told of every token of the probe."""
    return int(probes(run_id, model)["merges"].to_dict()[_path(run_id, model, item)[0]])


@st.cache_resource(show_spinner=False, max_entries=1024)
def _path(run_id: str, model: str, item: int) -> list[int]:
    """The items that a probe is walked along up to this one; a beginning that probes share is the item of one of them."""
    every: dict[int, list[int]] = probes(run_id, model)["token_ids"].to_dict()  # pyright: ignore[reportAssignmentType]
    known, ids = {tuple(found): number for number, found in every.items()}, every[item]
    return [known[tuple(ids[: end + 1])] for end in range(len(ids))]
