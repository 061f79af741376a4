"""Statistics against their definitions in float64."""

from __future__ import annotations

import warnings

import numpy as np
import plain
import pytest

from moyu_core import sets
from moyu_core.reducers import RowReducer
from moyu_core.spec import SetRule
from moyu_core.statistics import TokenStatistics, clean_rows

NAMES = ("l2_norm", "abs_max", "effective_neurons", "zero_share")
NORMS = np.ones(300, np.float32)


def reduce(a: np.ndarray) -> TokenStatistics:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of overflow, of logarithms of 0 and of 0 / 0
        return RowReducer(SetRule("magnitude"))(a.astype(np.float32), NORMS[: a.shape[1]]).statistics


def rows(kind: str) -> np.ndarray:
    a = np.random.default_rng(0).standard_normal((150, 300)).astype(np.float32)
    if kind == "heavy":
        a = np.sinh(4 * a)
    if kind == "relu":
        a = np.maximum(a, 0)
    if kind == "some zeros":
        a[::3, 5:9] = 0
    if kind == "one neuron":
        a[:, 1:] = 0
    if kind == "zeros":
        a[:] = 0
    return a


@pytest.mark.parametrize("kind", ["normal", "heavy", "relu", "some zeros", "one neuron", "zeros"])
@pytest.mark.parametrize("scale", [1, 1e-3, 1e4])
def test_statistics_are_those_of_their_definitions(kind: str, scale: float) -> None:
    a = (rows(kind) * np.float32(scale)).astype(np.float32)
    found = reduce(a)
    for name, expected in plain.statistics(a).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=2e-5, atol=0, err_msg=name)
    assert (found.nonfinite == 0).all()
    assert found.l2_norm.dtype == np.float32
    assert found.nonfinite.dtype == np.int32


def test_effective_neurons_run_from_1_to_f() -> None:
    even = np.where(np.arange(300) % 2, 3.0, -3.0)[None]
    assert reduce(even).effective_neurons == pytest.approx(300, rel=1e-5)
    assert reduce(np.eye(1, 300)).effective_neurons == pytest.approx(1)
    assert reduce(np.zeros((1, 300))).effective_neurons == 0


def test_squares_that_lose_digits_before_they_vanish() -> None:
    a = np.where(np.arange(300) % 2, 1.3e-22, -2.6e-22)[None].astype(np.float32)
    found = reduce(a)
    for name, expected in plain.statistics(a).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-18, 1e18, 1e25, 1e36])
def test_squares_that_float32_cannot_hold(scale: float) -> None:
    a = (rows("normal") * np.float32(scale)).astype(np.float32)
    found = reduce(a)
    for name, expected in plain.statistics(a).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-4, err_msg=name)


def test_what_is_not_finite_is_counted_and_plays_no_part() -> None:
    a = rows("relu")
    a[3, [0, 7]] = np.nan, np.inf
    a[4, 9] = -np.inf
    a[5] = np.nan
    found = reduce(a)
    kept = np.where(np.isfinite(a), a, 0)
    for name in ("l2_norm", "abs_max", "effective_neurons"):
        np.testing.assert_allclose(getattr(found, name), plain.statistics(kept)[name], rtol=2e-5)
    np.testing.assert_allclose(found.zero_share, (a == 0).mean(1), rtol=1e-6, atol=1e-7)
    assert found.zero_share[5] == 0, "NaN is no exact zero"
    assert found.nonfinite[:7].tolist() == [0, 0, 0, 2, 1, 300, 0]


@pytest.mark.parametrize("rule", [SetRule("top"), SetRule("magnitude", 1.0), SetRule("positive"), SetRule("cett")])
def test_what_is_not_finite_is_in_no_set(rule: SetRule) -> None:
    a = rows("normal")
    a[0, :50] = np.nan
    a[1, :50] = np.inf
    a[2] = np.nan
    active = RowReducer(rule, 0.5 if rule.name == "cett" else None)(a, NORMS).active
    mask = sets.unpack(active, 300)
    assert not mask[:2, :50].any()
    assert not mask[2].any()
    assert mask[0, 50:].any()


def test_clean_rows_leave_the_original_alone() -> None:
    a = np.array([[np.nan, 1, -np.inf]], np.float32)
    cleaned, count = clean_rows(a)
    assert cleaned.tolist() == [[0, 1, 0]]
    assert count.tolist() == [2]
    assert np.isnan(a[0, 0])
