"""Active sets and their overlap, in numpy: the reference that every other implementation is tested against.

A set of neurons is a row of packed bits, least significant bit first, ceil(F/8) bytes. Set rules are named in
`schema.SET_RULES`. Nothing here knows of models, files or pages, and nothing imports torch, so pages can re-threshold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moyu_core.errors import InputError

Packed = NDArray[np.uint8]
Scores = NDArray[np.float32]


def pack(mask: NDArray[np.bool_]) -> Packed:
    """(..., F) booleans -> (..., ceil(F/8)) bytes, least significant bit first; spare bits are 0."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack(packed: Packed, n_neurons: int) -> NDArray[np.bool_]:
    """(..., ceil(F/8)) bytes -> (..., F) booleans, the inverse of `pack`."""
    return np.unpackbits(packed, axis=-1, count=n_neurons, bitorder="little").view(bool)


def sizes(packed: Packed) -> NDArray[np.int64]:
    """Number of neurons in each set, shape (...)."""
    if packed.shape[-1] % 8 == 0:  # eight bytes at a time
        return np.bitwise_count(np.ascontiguousarray(packed).view(np.uint64)).sum(axis=-1, dtype=np.int64)
    return np.bitwise_count(packed).sum(axis=-1, dtype=np.int64)


def top_sets(score: Scores, k: int) -> Packed:
    """The k largest scores of each row.

    Exact zeros are never active, so a row with fewer than k non-zero scores gives a smaller set: filling it up by
    index would make unrelated tokens share neurons that do nothing. Among equal scores at the border the lower index wins.

    Args:
        score: (N, F) non-negative finite float32.
        k: from 1 to F.

    Returns:
        (N, ceil(F/8)) packed sets.
    """
    n_neurons = score.shape[1]
    if not 1 <= k <= n_neurons:
        raise InputError(f"A set must keep between 1 and {n_neurons} neurons, not {k}.")
    ordered = np.array(score, np.float32, order="C")
    ordered.view(np.int32).partition(n_neurons - k, axis=1)  # same order for floats >= 0, and a third faster
    border = ordered[:, n_neurons - k]
    packed = pack(score >= np.maximum(border, np.finfo(np.float32).smallest_subnormal)[:, None])
    for row in np.flatnonzero(sizes(packed) > k):
        packed[row] = pack(_break_ties(score[row], float(border[row]), k))
    return packed


def _break_ties(score: Scores, border: float, k: int) -> NDArray[np.bool_]:
    """One row in which more than k scores reach the border: keep those above it, then the border's lowest indices."""
    active = score > border
    ties = np.flatnonzero(score == border)
    active[ties[: k - int(active.sum())]] = True
    return active


def threshold_sets(score: Scores, threshold: float) -> Packed:
    """Neurons whose score reaches the threshold; exact zeros never do. (N, F) -> (N, ceil(F/8))."""
    return pack((score >= threshold) & (score > 0))


def positive_sets(activation: Scores) -> Packed:
    """Neurons with a > 0 (meaningful for ReLU). NaN is not positive. (N, F) -> (N, ceil(F/8))."""
    return pack(activation > 0)


def shared(a: Packed, b: Packed) -> NDArray[np.int64]:
    """|A and B| for sets that broadcast against each other, shape (...)."""
    return sizes(a & b)


def overlap(a: Packed, b: Packed) -> NDArray[np.float64]:
    """|A and B| / sqrt(|A| |B|), from 0 to 1: for equal sizes the shared share; NaN where a set is empty.

    Two independent random sets of density rho overlap at rho on average.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared(a, b) / np.sqrt(sizes(a) * sizes(b).astype(np.float64))


def jaccard(a: Packed, b: Packed) -> NDArray[np.float64]:
    """|A and B| / |A or B|, from 0 to 1; NaN where both are empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared(a, b) / sizes(a | b)


def overlap_matrix(a: Packed, b: Packed) -> NDArray[np.float64]:
    """`overlap` of every row of a (N) with every row of b (M): (N, M). Row by row, so memory stays at M sets."""
    return np.stack([overlap(row[None], b) for row in a]) if len(a) else np.empty((0, len(b)))


def mean_overlap(packed: Packed) -> float:
    """Mean `overlap` of all pairs of different rows; pairs with an empty set do not count; NaN where there is no pair."""
    pairs = overlap_matrix(packed, packed)[np.triu_indices(len(packed), 1)]
    return float(np.nanmean(pairs)) if np.isfinite(pairs).any() else float("nan")


def recall(predicted: Packed, reference: Packed) -> NDArray[np.float64]:
    """|A* and A^| / |A*|, from 0 to 1; NaN where the reference is empty. Chance level: |A^| / F."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared(predicted, reference) / sizes(reference)


def rates(packed: Packed, n_neurons: int) -> NDArray[np.float64]:
    """Share of the rows in which each neuron is active: (N, ceil(F/8)) -> (F,); NaN for no rows."""
    if not len(packed):
        return np.full(n_neurons, np.nan)
    return counts(packed, n_neurons) / len(packed)


def counts(packed: Packed, n_neurons: int) -> NDArray[np.int64]:
    """Rows in which each neuron is active, (N, ceil(F/8)) -> (F,). 255 rows at a time, so that bytes can count them."""
    total = np.zeros(n_neurons, np.int64)
    for start in range(0, len(packed), 255):
        block = unpack(packed[start : start + 255], n_neurons)
        total += block.view(np.uint8).sum(axis=0, dtype=np.uint8)
    return total
