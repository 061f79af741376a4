"""Sums over pairs of units: within a text, and across texts at the same pairs of places, pairs of the same token left out.

Every pair (i, j), i != j, of places counts once per ordered pair of texts; W and X are means over exactly the same places. Sums
over millions of pairs come out of sums of sets: the sum over pairs of u_a . v_b is (sum u_a) . (sum v_b), less the pairs that do
not count (`compiled.pair_sums`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moyu_core.sets import Packed
from moyu_core.studies.inertia.compiled import pair_sums

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairSums:
    """Sums of overlaps and numbers of pairs by topic; T topics, any number of layers in front.

    Attributes:
        within, within_pairs: (..., T) pairs inside one text.
        across, across_pairs: (..., T, T) pairs of different texts; the diagonal holds those of the same topic.
    """

    within: Array
    within_pairs: Array
    across: Array
    across_pairs: Array

    @staticmethod
    def stack(layers: Sequence[PairSums]) -> PairSums:
        """Several layers as one, in front."""
        names = PairSums.__dataclass_fields__
        return PairSums(**{name: np.stack([getattr(layer, name) for layer in layers]) for name in names})

    def mean_within(self, kept: NDArray[np.int64] | slice = slice(None)) -> Array:
        """W over the topics that are kept, (...)."""
        return _ratio(self.within[..., kept].sum(-1), self.within_pairs[..., kept].sum(-1))

    def mean_across(self, kept: NDArray[np.int64] | slice = slice(None), topics: str = "all") -> Array:
        """X over the topics that are kept, (...).

        Args:
            kept: numbers of topics.
            topics: all, same (texts of the same topic) or other (texts of different topics).
        """
        sums, pairs = (matrix[..., kept, :][..., :, kept] for matrix in (self.across, self.across_pairs))
        diagonal = np.eye(sums.shape[-1], dtype=bool)
        weight = {"all": diagonal | ~diagonal, "same": diagonal, "other": ~diagonal}[topics]
        return _ratio((sums * weight).sum((-2, -1)), (pairs * weight).sum((-2, -1)))


def _ratio(sums: Array, pairs: Array) -> Array:
    """sums / pairs; NaN where there is no pair."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, sums / pairs, np.nan)


class Pairs:
    """Which pairs count: ordered pairs (text s place i, text t place j), i != j, whose tokens differ.

    Args:
        tokens: (S, n) ids.
        topics: (S,) numbers 0..T-1.
        valid: (S, n), which units take part; None = all.
    """

    def __init__(self, tokens: NDArray[np.int64], topics: NDArray[np.int64], valid: NDArray[np.bool_] | None = None) -> None:
        self.valid = np.ones(tokens.shape, bool) if valid is None else valid
        self.topics = topics
        self.count = int(topics.max()) + 1
        self._width = tokens.shape[1]
        self._same = same_token(tokens, self.valid)
        self._within_pairs, self._across_pairs = self._numbers()

    def _numbers(self) -> tuple[Array, Array]:
        """(T,) and (T, T) numbers of pairs."""
        belongs = np.eye(self.count)[self.topics]  # (S, T)
        units = self.valid.sum(1)
        by_place = belongs.T @ self.valid
        within = belongs.T @ (units * (units - 1.0))
        across = np.outer(belongs.T @ units, belongs.T @ units) - by_place @ by_place.T - np.diag(within)
        texts = self._same // self._width
        one, other = self.topics[texts].T
        inside = texts[:, 0] == texts[:, 1]
        np.subtract.at(within, one[inside], 1)
        np.subtract.at(across, (one[~inside], other[~inside]), 1)
        return within, across

    def sums(self, active: Packed, n_neurons: int, energy: NDArray[np.floating] | None = None) -> tuple[PairSums, PairSums]:
        """Sums of one layer: overlap by count, and the share of one unit's energy that lies in the other's set.

        Args:
            active: (S * n, ceil(F/8)) packed sets, text after text.
            n_neurons: F.
            energy: (M,) energy shares of all members, unit after unit; None = the second answer is 0.
        """
        shares = np.zeros(0, np.float32) if energy is None else energy.astype(np.float32)
        within, across = pair_sums(active, self.valid.ravel(), shares, self.topics, self.count, n_neurons, self._same)
        count, held = (PairSums(w, self._within_pairs, x, self._across_pairs) for w, x in zip(within, across, strict=True))
        return count, held


def same_token(tokens: NDArray[np.int64], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(P, 2) ordered pairs of units, numbered text after text, that have the same token in different places."""
    width = tokens.shape[1]
    units = np.flatnonzero(valid)
    units = units[np.argsort(tokens.ravel()[units], kind="stable")]
    borders = np.flatnonzero(np.diff(tokens.ravel()[units])) + 1
    pairs = [np.stack(np.meshgrid(group, group, indexing="ij"), axis=-1).reshape(-1, 2) for group in np.split(units, borders)]
    every = np.concatenate(pairs)
    return np.ascontiguousarray(every[every[:, 0] % width != every[:, 1] % width])


def index(sequence: PairSums, parallel: PairSums, kept: NDArray[np.int64] | slice = slice(None)) -> Array:
    """The inertia index I = [(W - X) in sequence - (W - X) in parallel] / (1 - X in sequence), (...).

    What sharing a context adds to the overlap of two tokens over what the vocabulary brings, as a share of what could be
    added. 0 = nothing; at most about 1; negative where a context drives its tokens apart. Our definition.
    """
    across = sequence.mean_across(kept)
    flocking = sequence.mean_within(kept) - across
    vocabulary = parallel.mean_within(kept) - parallel.mean_across(kept)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (flocking - vocabulary) / (1 - across)
