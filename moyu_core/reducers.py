"""What is kept of an activation: an active set and a few statistics per row, computed where the activation is.

On the CPU the rows go through a compiled kernel (`host_rows`); the few that hold NaN, infinities or values whose squares
leave float32 are done again in numpy and float64. On a GPU the same numbers come out of torch in `device_reducers`; tests hold
all of them to a plain sort.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moyu_core import sets, statistics
from moyu_core.errors import InputError
from moyu_core.spec import SetRule
from moyu_core.statistics import TokenStatistics

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class ReducedRows:
    """What is left of N activation rows.

    Attributes:
        active: (N, ceil(F/8)) packed active sets.
        sizes: (N,) |A| of each row.
        statistics: per-row statistics, each (N,).
    """

    active: sets.Packed
    sizes: NDArray[np.integer]
    statistics: TokenStatistics


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
        from moyu_core.host_rows import reduce_shared

        activation = np.ascontiguousarray(activation)
        norms = np.atleast_2d(np.ones(activation.shape[1], np.float32) if self.rule.name == "magnitude" else norms)
        rule = self._rule(activation.shape[1])
        out = _Out.empty(*activation.shape)
        reduce_shared(activation, norms, *rule, *out.arrays())
        found = out.reduced(activation.shape[1])
        odd = np.flatnonzero(out.odd())
        if len(odd):
            self._careful(activation[odd], norms[odd] if len(norms) > 1 else norms, found, odd)
        return found

    def _rule(self, n_neurons: int) -> tuple[int, int, bool]:
        """`count`, `border` and `positive` of the kernel."""
        if self.rule.density is not None:
            return self.rule.count(n_neurons), 1, False
        border = 0 if self.threshold is None else int(np.float32(self.threshold).view(np.int32))
        return 0, max(border, 1), self.rule.name == "positive"

    def _careful(self, rows: Rows, norms: Rows, found: ReducedRows, places: NDArray[np.int64]) -> None:
        """Rows that float32 sums cannot hold, or that are not finite, again: what is not finite counts as 0."""
        rows, nonfinite = statistics.clean_rows(rows)
        kept = found.statistics
        found.active[places] = self._sets(rows, norms)
        found.sizes[places] = sets.sizes(found.active[places])
        kept.l2_norm[places], kept.effective_neurons[places], zero_share = statistics.exact_statistics(rows)
        kept.abs_max[places] = np.abs(rows).max(axis=1)
        kept.zero_share[places] = zero_share - nonfinite / np.float32(rows.shape[1])  # `rows` holds 0 where a was not finite
        kept.nonfinite[places] = nonfinite

    def _sets(self, rows: Rows, norms: Rows) -> sets.Packed:
        """The sets of clean rows, in numpy."""
        if self.rule.name == "positive":
            return sets.positive_sets(rows)
        with np.errstate(over="ignore"):
            score = np.abs(rows) * norms
        if self.threshold is not None:
            return sets.threshold_sets(score, self.threshold)
        return sets.top_sets(score, self.rule.count(rows.shape[1]))


@dataclass(frozen=True)
class _Out:
    """Arrays that the kernel fills, a row each: what `host_rows.reduce_rows` calls them."""

    active: sets.Packed
    sizes: NDArray[np.int32]
    energy: Rows
    weighted_log: Rows
    top: NDArray[np.int32]
    zeros: NDArray[np.int32]

    @staticmethod
    def empty(n_rows: int, n_neurons: int) -> _Out:
        energy, weighted_log = np.empty((2, n_rows), np.float32)
        sizes, top, zeros = np.empty((3, n_rows), np.int32)
        return _Out(np.empty((n_rows, (n_neurons + 7) // 8), np.uint8), sizes, energy, weighted_log, top, zeros)

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.active, self.sizes, self.energy, self.weighted_log, self.top, self.zeros

    def reduced(self, n_neurons: int) -> ReducedRows:
        return ReducedRows(self.active, self.sizes, TokenStatistics(
            np.sqrt(self.energy),
            self.top.view(np.float32),
            statistics.effective_number(self.energy, self.weighted_log),
            (self.zeros / n_neurons).astype(np.float32),
            np.zeros(len(self.top), np.int32),
        ))  # fmt: skip

    def odd(self) -> NDArray[np.bool_]:
        """Rows whose sums do not mean anything."""
        sums = self.top.view(np.float32) + self.energy + self.weighted_log
        return ~(np.isfinite(sums) & (self.energy > statistics.TINY_ENERGY))
