"""Rows of the tables of `history` from the cells of the grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from moyu_core import sets
from moyu_core.schema.history import ENTROPY_HISTORIES, TABLES
from moyu_core.studies import shared
from moyu_core.studies.history.grid import Cells, Item
from moyu_core.studies.history.requests import MIN_PROBES
from moyu_core.studies.history.second_views import energy_weighted, entropy_view
from moyu_core.studies.history.texts import Plan
from moyu_core.two_way import Estimates, PairSums, components, estimates, uncertainty

BANDED = ("uncertainty", "history_share", "interaction")
"""Measures of sets that get simultaneous bounds by layer, at offset 0: those that are drawn. Variance components have them too."""
Row = dict[str, Any]


def offset_groups(items: Sequence[Item]) -> dict[int, list[int]]:
    """Offset -> numbers of the items there, where there are enough: tokens are compared at the same place only."""
    groups: dict[int, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.offset, []).append(number)
    return {offset: numbers for offset, numbers in groups.items() if len(numbers) >= MIN_PROBES}


def measured(cells: Cells, offset: int, items: Sequence[int], n_neurons: int, seed: int) -> Estimates:
    """The measures of schema.history.MEASURES of one table of probes and histories.

    Components and energy-weighted overlaps at offset 0 only, where values are kept; entropy from ENTROPY_HISTORIES histories.
    """
    active = [sets.unpack(cells.active[layer, items], n_neurons) for layer in range(len(cells.active))]
    asked = [partial(_of_sets, active, BANDED if offset == 0 else ()), partial(_shuffled, active, seed)]
    if active[0].shape[1] >= ENTROPY_HISTORIES:
        asked.append(partial(entropy_view, active))
    if offset == 0:
        asked.append(partial(_of_values, cells.logs))
        if cells.norms is not None:
            asked.append(partial(energy_weighted, active, list(cells.logs), cells.norms))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # they do not depend on each other, and numpy runs beside numpy
        found = list(pool.map(lambda view: view(), asked))
    return {name: values for view in found for name, values in view.items()}


def _of_sets(active: Sequence[np.ndarray], banded: Sequence[str]) -> Estimates:
    """U, shares and overlaps of sets."""
    return estimates(PairSums.stack([PairSums.of(table) for table in active]), uncertainty, banded)


def _shuffled(active: Sequence[np.ndarray], seed: int) -> Estimates:
    """U with the labels of the cells shuffled."""
    probes, histories, n_neurons = active[0].shape
    order = np.random.default_rng(seed).permutation(probes * histories)
    mixed = PairSums.stack([PairSums.of(table.reshape(-1, n_neurons)[order].reshape(table.shape)) for table in active])
    return {"uncertainty_shuffled": estimates(mixed, uncertainty, ())["uncertainty"]}


def _of_values(logs: np.ndarray) -> Estimates:
    """Variance components of (L, T, H, F) log(1 + |a|)."""
    return estimates(PairSums.stack([PairSums.of(table) for table in logs]), components)


def measure_rows(cells: Cells, offset: int, found: Estimates, layers: Sequence[int], probes: int, histories: int) -> list[Row]:
    """The table `measures`: by layer, and the mean over layers with its own interval."""
    rows = []
    for measure, (values, lows, highs, mean) in found.items():
        by_layer = zip(layers, values.tolist(), lows.tolist(), highs.tolist(), strict=True)
        for layer, value, low, high in (*by_layer, (None, mean.mean, mean.low, mean.high)):
            rows.append(
                {
                    "kind": cells.kind,
                    "length": cells.length,
                    "offset": offset,
                    "layer": layer,
                    "measure": measure,
                    "value": value,
                    "low": low,
                    "high": high,
                    "probes": probes,
                    "histories": histories,
                }
            )
    return rows


def flips(cells: Cells, none: sets.Packed, layers: Sequence[int], n_neurons: int) -> list[Row]:
    """The table `flips`.

    Args:
        cells: of one kind and length.
        none: (L, T, bytes), the sets without history.
        layers: layer numbers.
        n_neurons: F.
    """
    base = np.maximum(sets.sizes(none), 1)[:, :, None]
    shared_ = sets.shared(cells.active, none[:, :, None])
    size = sets.sizes(cells.active)
    stay, come_in = (shared_ / base).mean(axis=2), ((size - shared_) / base).mean(axis=2)
    again = _resampled(cells.active, n_neurons) if cells.active.shape[2] > 1 else None
    return [
        {
            "item": item,
            "kind": cells.kind,
            "length": cells.length,
            "layer": layer,
            "stay": stay[place, item],
            "come_in": come_in[place, item],
            "stay_resampled": None if again is None else again[place, item],
        }
        for place, layer in enumerate(layers)
        for item in range(stay.shape[1])
    ]


def sink_artefact(bare: sets.Packed, behind_sink: sets.Packed) -> Row:
    """Mean overlap of two different tokens at position 0 and behind the sink token, over layers and by layer.

    Args:
        bare: (L, T, bytes), tokens at position 0.
        behind_sink: (L, T, bytes), the same tokens right behind the sink token.
    """
    given = {"bare": bare, "behind_sink": behind_sink}
    by_layer = {name: [sets.mean_overlap(table) for table in found] for name, found in given.items()}
    known = {name: [value if np.isfinite(value) else None for value in values] for name, values in by_layer.items()}
    means = {name: float(np.mean(values)) if np.isfinite(values).all() else None for name, values in by_layer.items()}
    return {**means, **{f"by_layer_{name}": values for name, values in known.items()}}


def _resampled(active: sets.Packed, n_neurons: int) -> np.ndarray:
    """(L, T): mean over ordered pairs of draws of |A and B| / |A|, from the counts of each neuron over draws."""
    found = np.empty(active.shape[:2])
    for layer, table in enumerate(active):
        rows = sets.unpack(table, n_neurons)
        size = np.maximum(rows.sum(axis=2), 1)
        shared_ = np.einsum("thf,tf->th", rows.astype(np.float32), rows.sum(axis=1).astype(np.float32)) - rows.sum(axis=2)
        found[layer] = (shared_ / (size * (rows.shape[1] - 1))).mean(axis=1)
    return found


def kept_sets(cells: Cells, kept: Sequence[int], layers: Sequence[int], draws: int) -> list[Row]:
    """The table `sets`: the first draws in the kept layers."""
    return [
        {
            "item": item,
            "kind": cells.kind,
            "length": cells.length,
            "draw": draw,
            "layer": layer,
            "active": cells.active[place, item, draw].tobytes(),
        }
        for place, layer in enumerate(layers)
        if layer in kept
        for item in range(cells.active.shape[1])
        for draw in range(min(draws, cells.active.shape[2]))
    ]


def histories(model: str, design: Plan, texts: Callable[[list[int]], list[str]]) -> pa.Table:
    """The table `histories`: every cell can be read back as text from it and from `probes`."""
    draws = [draw for found in design.kinds.values() for draw in found]
    ids = [draw.token_ids.tolist() for draw in draws]
    return shared.table(
        TABLES["histories"],
        {
            "model": [model] * len(draws),
            "kind": [draw.kind for draw in draws],
            "draw": [draw.number for draw in draws],
            "source": [draw.source for draw in draws],
            "token_ids": ids,
            "tokens": [texts(row) for row in ids],
        },
    )
