"""Sets and overlaps against Python's own sets and a plain sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moyu_core import sets
from moyu_core.errors import InputError
from moyu_core.spec import SetRule

masks = st.integers(1, 40).flatmap(lambda width: arrays(bool, (5, width)))
tied_scores = st.integers(1, 30).flatmap(  # few distinct values: ties and zeros in almost every row
    lambda width: arrays(np.float32, (6, width), elements=st.sampled_from([0.0, 1e-42, 0.5, 1.0, 2.0])))


def members(packed: np.ndarray, n_neurons: int) -> list[set[int]]:
    """Reads the bits by hand: neuron i is bit i % 8 of byte i // 8, least significant first."""
    return [{i for i in range(n_neurons) if int(row[i // 8]) >> (i % 8) & 1} for row in packed]


@given(masks)
def test_pack_puts_the_lowest_neuron_in_the_lowest_bit(mask: np.ndarray) -> None:
    packed = sets.pack(mask)
    assert packed.shape == (5, (mask.shape[1] + 7) // 8)
    assert members(packed, mask.shape[1]) == [set(np.flatnonzero(row)) for row in mask]
    assert not members(packed, 8 * packed.shape[1])[0] - set(range(mask.shape[1])), "spare bits are 0"
    assert (sets.unpack(packed, mask.shape[1]) == mask).all()
    assert (sets.sizes(packed) == mask.sum(1)).all()


@settings(max_examples=200)
@given(tied_scores, st.data())
def test_top_sets_are_the_head_of_a_stable_sort_without_zeros(score: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, score.shape[1]))
    expected = []
    for row in score:
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        expected.append({i for i in order[:k] if row[i] > 0})
    before = score.copy()
    assert members(sets.top_sets(score, k), score.shape[1]) == expected
    assert (score == before).all(), "scores are left as they were"


def test_top_sets_refuse_sizes_outside_the_row() -> None:
    for k in (0, 4, -1):
        with pytest.raises(InputError, match="between 1 and 3"):
            sets.top_sets(np.ones((1, 3), np.float32), k)


@pytest.mark.parametrize(("density", "n", "k"), [
    (1e-9, 1536, 1), (0.0006, 1536, 1), (0.1, 1536, 153), (0.3, 10, 3), (0.7, 10, 7), (1.0, 1536, 1536), (0.29, 100, 29),
    (0.57, 100, 57), (0.999, 8, 7),
])
def test_k_of_a_density(density: float, n: int, k: int) -> None:
    assert SetRule("top", density).count(n) == k


def test_threshold_and_positive_sets() -> None:
    score = np.array([[0, 0.5, 1, 2]], np.float32)
    assert members(sets.threshold_sets(score, 1.0), 4) == [{2, 3}]
    assert members(sets.threshold_sets(score, 0.0), 4) == [{1, 2, 3}], "exact zeros are in no set"
    a = np.array([[-1, -0.0, 0, np.nan, 1e-45, np.inf]], np.float32)
    assert members(sets.positive_sets(a), 6) == [{4, 5}]


@given(masks, st.integers(0, 2**32 - 1))
def test_overlaps_are_those_of_python_sets(mask: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).random(mask.shape) < 0.4
    a, b = sets.pack(mask), sets.pack(other)
    pairs = list(zip(members(a, mask.shape[1]), members(b, mask.shape[1]), strict=True))

    def share(part: int, whole: float) -> float:
        return part / whole if whole else np.nan

    np.testing.assert_array_equal(sets.shared(a, b), [len(x & y) for x, y in pairs])
    np.testing.assert_allclose(sets.overlap(a, b), [share(len(x & y), (len(x) * len(y)) ** 0.5) for x, y in pairs])
    np.testing.assert_allclose(sets.jaccard(a, b), [share(len(x & y), len(x | y)) for x, y in pairs])
    np.testing.assert_allclose(sets.recall(a, b), [share(len(x & y), len(y)) for x, y in pairs])
    matrix = sets.overlap_matrix(a, b[:3])
    assert matrix.shape == (5, 3)
    np.testing.assert_allclose(matrix[4, 1], sets.overlap(a[4], b[1]))
    np.testing.assert_allclose(np.diag(matrix), sets.overlap(a, b)[:3])
    assert sets.overlap_matrix(a[:0], b).shape == (0, 5)


def test_overlap_of_large_sets_does_not_overflow() -> None:
    packed = sets.pack(np.ones((1, 70_000), bool))
    assert sets.overlap(packed, packed) == 1


@pytest.mark.parametrize("rows", [0, 1, 254, 255, 256, 511, 700])
def test_counts_beyond_what_a_byte_holds(rows: int) -> None:
    mask = np.random.default_rng(rows).random((rows, 11)) < 0.9
    mask[:, 3] = True
    packed = sets.pack(mask)
    assert (sets.counts(packed, 11) == mask.sum(0)).all()
    rates = sets.rates(packed, 11)
    assert np.isnan(rates).all() if rows == 0 else (rates == mask.mean(0)).all()


def test_mean_overlap_is_that_of_all_pairs_without_self_pairs() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
    assert sets.mean_overlap(sets.pack(mask)) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert np.isnan(sets.mean_overlap(sets.pack(mask[:1]))) and np.isnan(sets.mean_overlap(sets.pack(mask[2:])))
