"""What is kept of an activation: an active set and a few statistics per row, computed where the activation is.

On the CPU the rows go through numpy (its partial sort uses the vector units; torch's top-k costs three times as much), a
few rows at a time so that they stay in the cache. One thread: between two steps of a forward pass torch's own threads
spin on the other cores, and sharing the blocks with a pool made a capture slower. On a GPU the same numbers come out of
torch in `device_reducers`; a test holds the two together.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moyu_core import sets, statistics
from moyu_core.errors import InputError
from moyu_core.spec import SetRule
from moyu_core.statistics import TokenStatistics

Rows = NDArray[np.float32]
BLOCK_ROWS = 64
"""Rows reduced at a time: 64 x 1536 float32 and three scratch arrays of that size fit a 2 MB level-2 cache."""
_THREAD = threading.local()


@dataclass(frozen=True)
class ReducedRows:
    """What is left of N activation rows.

    Attributes:
        active: (N, ceil(F/8)) packed active sets.
        statistics: per-row statistics, each (N,).
    """

    active: sets.Packed
    statistics: TokenStatistics

    @property
    def sizes(self) -> NDArray[np.int64]:
        """|A| of each row."""
        return sets.sizes(self.active)


@dataclass(frozen=True)
class RowReducer:
    """Reduces rows of one layer under one set rule.

    Attributes:
        rule: the active-set rule.
        threshold: eps of this layer; for the rule `cett` only.
    """

    rule: SetRule
    threshold: float | None = None

    def __post_init__(self) -> None:
        if (self.rule.name == "cett") != (self.threshold is not None):
            raise InputError("The rule `cett` needs a threshold for each layer, and only that rule takes one.")

    def __call__(self, activation: Rows, norms: Rows) -> ReducedRows:
        """Reduce N rows.

        Args:
            activation: (N, F) float32.
            norms: column norms c, (F,), or (N, F) where they differ by row (mixture models).
        """
        scratch, mask = _buffers(activation.shape[1])
        blocks = []
        for start in range(0, max(len(activation), 1), BLOCK_ROWS):
            rows = activation[start : start + BLOCK_ROWS]
            own_norms = norms if norms.ndim == 1 else norms[start : start + BLOCK_ROWS]
            blocks.append(self._block(rows, own_norms, scratch[:, : len(rows)], mask[: len(rows)]))
        return _stack(blocks)

    def _block(self, rows: Rows, norms: Rows, scratch: Rows, mask: NDArray[np.bool_]) -> ReducedRows:
        magnitude = np.abs(rows, out=scratch[0])
        abs_max = magnitude.max(axis=1)
        nonfinite = np.zeros(len(rows), np.int32)
        if not np.isfinite(abs_max).all():
            rows, nonfinite = statistics.clean_rows(rows)
            magnitude = np.abs(rows, out=scratch[0])
            abs_max = magnitude.max(axis=1)
        with np.errstate(over="ignore"):  # norms and squares of huge activations; float64 takes over where it matters
            active = self._active(rows, magnitude, norms, scratch[1], mask)
            return ReducedRows(active, _statistics(rows, abs_max, nonfinite, scratch[1:]))

    def _active(
        self, rows: Rows, magnitude: Rows, norms: Rows, scratch: Rows, mask: NDArray[np.bool_]
    ) -> sets.Packed:
        """The sets of clean rows; `magnitude` is overwritten."""
        if self.rule.name == "positive":
            return sets.positive_sets(rows)
        if self.rule.name != "magnitude":
            np.multiply(magnitude, norms, out=magnitude)
        if self.threshold is not None:
            return sets.threshold_sets(magnitude, self.threshold)
        return sets.top_sets(magnitude, self.rule.count(rows.shape[1]), scratch, mask)


def _buffers(n_neurons: int) -> tuple[Rows, NDArray[np.bool_]]:
    """Scratch of this thread, (3, BLOCK_ROWS, F) floats and (BLOCK_ROWS, F) booleans.

    Kept from call to call: fresh memory of this size comes from the system, and its page faults cost as much as the sums.
    """
    kept = getattr(_THREAD, "buffers", None)
    if kept is None or kept[0].shape[1:] != (BLOCK_ROWS, n_neurons):
        kept = _THREAD.buffers = (np.empty((3, BLOCK_ROWS, n_neurons), np.float32), np.empty((BLOCK_ROWS, n_neurons), bool))
    return kept


def _statistics(rows: Rows, abs_max: Rows, nonfinite: NDArray[np.int32], scratch: Rows) -> TokenStatistics:
    energy, weighted_log = statistics.energy_and_entropy(rows, scratch)
    l2_norm = np.sqrt(energy)
    effective = statistics.effective_number(energy, weighted_log)
    zero_share = np.zeros(len(rows), np.float32)
    odd = np.flatnonzero(~(np.isfinite(energy) & np.isfinite(weighted_log) & (energy > statistics.TINY_ENERGY)))
    if len(odd):
        l2_norm[odd], effective[odd], zero_share[odd] = statistics.exact_statistics(rows[odd])
        zero_share[odd] -= nonfinite[odd] / np.float32(rows.shape[1])  # `rows` holds 0 where a was not finite
    return TokenStatistics(l2_norm, abs_max, effective, zero_share, nonfinite)


def _stack(parts: list[ReducedRows]) -> ReducedRows:
    if len(parts) == 1:
        return parts[0]
    return ReducedRows(
        np.concatenate([part.active for part in parts]),
        TokenStatistics.stack([part.statistics for part in parts]),
    )
