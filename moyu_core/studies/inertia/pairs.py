"""Sums over pairs of units: within a text, and across texts at the same pairs of places, pairs of the same token left out.

Every pair (i, j), i != j, of places counts once per ordered pair of texts; W and X are means over exactly the same places. Sums
over millions of pairs come out of sums of vectors: the sum over pairs of u_a . v_b is (sum u_a) . (sum v_b), less the pairs that do
not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
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
    def stack(layers: list[PairSums]) -> PairSums:
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
        differ = tokens[:, :, None] != tokens[:, None, :]  # also takes out i == j
        self.inside = differ & self.valid[:, :, None] & self.valid[:, None, :]
        self.belongs = np.eye(self.count)[topics]  # (S, T)
        self._groups = self._same_token_groups(tokens)
        ones = self.valid[..., None].astype(np.float32)
        self._within_pairs = self.inside.sum((1, 2)) @ self.belongs
        self._across_pairs = np.round(self._across(ones, ones) - self._same_token(ones, ones))

    def sums(self, left: Vectors, right: Vectors) -> PairSums:
        """Sums of left[s, i] . right[t, j]; both (S, n, F) float32."""
        if not self.valid.all():
            same = right is left
            left = left * self.valid[..., None]
            right = left if same else right * self.valid[..., None]
        products = np.matmul(left, right.transpose(0, 2, 1))
        within = np.where(self.inside, products, 0).sum((1, 2), dtype=np.float64) @ self.belongs
        across = self._across(left, right, np.trace(products, axis1=1, axis2=2)) - self._same_token(left, right)
        return PairSums(within, self._within_pairs, across, self._across_pairs)

    def _same_token_groups(self, tokens: NDArray[np.int64]) -> list[tuple[Any, ...]]:
        """(texts, places, pairs that are to be taken out, topics) of each token that stands in two texts."""
        text, place = np.nonzero(self.valid)
        order = np.argsort(tokens[text, place], kind="stable")
        borders = np.flatnonzero(np.diff(tokens[text, place][order])) + 1
        groups = []
        for group in np.split(order, borders):
            s, i = text[group], place[group]
            counts = (s[:, None] != s[None, :]) & (i[:, None] != i[None, :])
            if counts.any():
                groups.append((s, i, counts, self.belongs[s]))
        return groups

    def _across(self, left: Vectors, right: Vectors, same_unit: Array | None = None) -> Array:
        """(T, T) sums over pairs of different texts and different places, whatever their tokens."""
        if same_unit is None:
            same_unit = (left * right).sum((1, 2), dtype=np.float64)
        sums = [self._by_topic(left)]
        sums.append(sums[0] if right is left else self._by_topic(right))
        whole = sums[0].sum(1, dtype=np.float64) @ sums[1].sum(1, dtype=np.float64).T
        same_place = np.einsum("aik,bik->ab", sums[0], sums[1], optimize=True)
        own = np.vecdot(left.sum(1), right.sum(1)).astype(np.float64) - same_unit
        return whole - same_place - np.diag(own @ self.belongs)

    def _by_topic(self, part: Vectors) -> Vectors:
        """(T, n, F) sums over the texts of each topic."""
        return np.stack([part[self.topics == topic].sum(0) for topic in range(self.count)])

    def _same_token(self, left: Vectors, right: Vectors) -> Array:
        """(T, T) the part of `_across` that comes from pairs of the same token."""
        total = np.zeros((self.count, self.count))
        for text, place, counts, belongs in self._groups:
            first = left[text, place]
            second = first if right is left else right[text, place]
            total += belongs.T @ np.where(counts, first @ second.T, 0) @ belongs
        return total


def index(sequence: PairSums, parallel: PairSums, kept: NDArray[np.int64] | slice = slice(None)) -> Array:
    """The inertia index I = [(W - X) in sequence - (W - X) in parallel] / (1 - X in sequence), (...).

    What sharing a context adds to the overlap of two tokens over what the vocabulary brings, as a share of what could be
    added. 0 = nothing; at most about 1; negative where a context drives its tokens apart. Our definition (EXPERIMENTS 3).
    """
    across = sequence.mean_across(kept)
    flocking = sequence.mean_within(kept) - across
    vocabulary = parallel.mean_within(kept) - parallel.mean_across(kept)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (flocking - vocabulary) / (1 - across)
