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
from moyu_core.schema import packed_bytes
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

    @staticmethod
    def empty(shape: tuple[int, ...], n_neurons: int) -> ReducedRows:
        """Room for so many rows of F neurons; what stands in it means nothing yet."""
        active = np.empty((*shape, packed_bytes(n_neurons)), np.uint8)
        return ReducedRows(active, np.empty(shape, np.int32), TokenStatistics.empty(shape))

    def __getitem__(self, place: int) -> ReducedRows:
        """The rows at one place of the first axis, as views."""
        return ReducedRows(self.active[place], self.sizes[place], self.statistics[place])


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

    def __call__(self, activation: Rows, norms: Rows, out: ReducedRows | None = None) -> ReducedRows:
        """Reduce N rows.

        Args:
            activation: (N, F) float32.
            norms: column norms c, (F,), or (N, F) where they differ by row (mixture models).
            out: N rows to write into, contiguous; None makes them.
        """
        from moyu_core.host_rows import ODD, reduce_shared

        activation = np.ascontiguousarray(activation)
        n_rows, n_neurons = activation.shape
        norms = np.atleast_2d(np.ones(n_neurons, np.float32) if self.rule.name == "magnitude" else norms)
        found = ReducedRows.empty((n_rows,), n_neurons) if out is None else out
        kept = found.statistics
        if reduce_shared(activation, norms, *self._rule(n_neurons), found.active, found.sizes, *kept.arrays()):
            odd = np.flatnonzero(kept.nonfinite == ODD)
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
