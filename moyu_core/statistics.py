"""Per-token statistics of an activation, in numpy, written to touch the data few times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
TINY_ENERGY = 1e-25
"""Sum of a^2 below which the squares come near the smallest float32 and lose digits: `exact_statistics` takes over."""


@dataclass(frozen=True)
class TokenStatistics:
    """One value per row; names, units and meanings are those of `schema.activation_columns`."""

    l2_norm: Rows
    abs_max: Rows
    effective_neurons: Rows
    zero_share: Rows
    nonfinite: NDArray[np.int32]

    @staticmethod
    def empty(shape: tuple[int, ...]) -> TokenStatistics:
        """Room for so many rows."""
        l2_norm, abs_max, effective_neurons, zero_share = np.empty((4, *shape), np.float32)
        return TokenStatistics(l2_norm, abs_max, effective_neurons, zero_share, np.empty(shape, np.int32))

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The columns, in the order of the attributes."""
        return tuple(vars(self).values())

    def __getitem__(self, place: int) -> TokenStatistics:
        """The rows at one place of the first axis, as views."""
        return TokenStatistics(**{name: column[place] for name, column in vars(self).items()})


def clean_rows(activation: Rows) -> tuple[Rows, NDArray[np.int32]]:
    """Rows with NaN and infinities replaced by 0, and how many there were in each row."""
    finite = np.isfinite(activation)
    return np.where(finite, activation, np.float32(0)), (~finite).sum(axis=1).astype(np.int32)


def exact_statistics(activation: Rows) -> tuple[Rows, Rows, Rows]:
    """(l2_norm, effective_neurons, zero_share) of rows that hold zeros or very small values, in float64."""
    squares = np.square(activation.astype(np.float64))
    energy = squares.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weighted = np.where(squares > 0, squares * np.log2(squares), 0).sum(axis=1)
        effective = np.where(energy > 0, np.exp2(np.log2(energy) - weighted / energy), 0)
    zero_share = (activation == 0).mean(axis=1)
    return np.sqrt(energy).astype(np.float32), effective.astype(np.float32), zero_share.astype(np.float32)
