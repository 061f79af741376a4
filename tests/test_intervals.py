"""Intervals cover what they promise, bands cover all columns at once, and claims are judged at the stated rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import covariance

from moyu_core.claims import (
    NOT_APPLICABLE,
    NOT_RESOLVED,
    NOT_SUPPORTED,
    SUPPORTED,
    Claim,
    judge,
    verdict,
)
from moyu_core.intervals import Interval, bands, holm, jackknife, ledoit_wolf, pseudo_values, t_interval

RNG = np.random.default_rng


def test_the_t_interval_is_scipys() -> None:
    units = RNG(0).normal(3, 2, 9)
    expected = stats.ttest_1samp(units, 0).confidence_interval(0.95)
    found = t_interval(units)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 9 and found.mean == pytest.approx(units.mean())


def test_too_few_units_have_no_interval_and_say_so() -> None:
    one = t_interval([0.5])
    assert not one.known and not one.excludes(9) and "one unit, no interval" in one.text()
    assert t_interval([0.5, np.nan]) .n == 1
    assert not t_interval([]).known
    assert not jackknife(1, lambda units: 2.0).known and jackknife(1, lambda units: 2.0).mean == 2


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    units = RNG(1).normal(size=8)
    found, expected = jackknife(8, lambda keep: float(units[keep].mean())), t_interval(units)
    assert (found.low, found.mean, found.high) == pytest.approx((expected.low, expected.mean, expected.high))
    np.testing.assert_allclose(pseudo_values(8, lambda keep: units[keep].mean()), units)


def test_the_jackknife_of_a_ratio_covers() -> None:
    rng, inside = RNG(2), 0
    for _ in range(400):
        top, bottom = rng.normal(2, 0.5, 12), rng.normal(4, 0.5, 12)
        found = jackknife(12, lambda keep, t=top, b=bottom: float(t[keep].mean() / b[keep].mean()))
        inside += found.low <= 0.5 <= found.high
    assert 0.92 <= inside / 400 <= 0.98


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_bands_cover_all_layers_at_once(shared: float) -> None:
    rng, inside, plain = RNG(3), 0, 0
    for trial in range(150):
        common = rng.normal(size=(8, 1)) * np.sqrt(shared)
        units = common + rng.normal(size=(8, 20)) * np.sqrt(1 - shared)
        _, low, high = bands(units, draws=800, seed=trial)
        inside += bool(((low <= 0) & (high >= 0)).all())
        single = [t_interval(column) for column in units.T]
        plain += all(found.low <= 0 <= found.high for found in single)
    assert inside / 150 >= 0.90
    assert plain < inside, "single intervals do not cover all layers together"


def test_bands_of_columns_that_do_not_vary() -> None:
    mean, low, high = bands(np.ones((5, 3)))
    assert (mean == 1).all() and (low == 1).all() and (high == 1).all()
    assert np.isnan(bands(np.ones((1, 3)))[1]).all()


@pytest.mark.parametrize("shape", [(36, 30), (8, 20), (10, 3), (4, 2)])
def test_the_shrunk_covariance_is_scikit_learns(shape: tuple[int, int]) -> None:
    units = RNG(5).normal(size=shape) + RNG(6).normal(size=(shape[0], 1))
    centred = units - units.mean(axis=0)
    np.testing.assert_allclose(ledoit_wolf(centred), covariance.ledoit_wolf(centred)[0], atol=1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1]) and holm([]) == []


def claim(name: str, units: np.ndarray, delta: float = 0.1, verdict_: str = NOT_RESOLVED) -> Claim:
    return Claim(name, "s", "our definition", "e", delta, t_interval(units), "m", f"{len(units)} topics", verdict_)


def test_the_verdict_of_one_claim() -> None:
    def at(low: float, high: float) -> str:
        return verdict(Interval((low + high) / 2, low, high, 0.1, 8), 0.1)

    assert [at(0.2, 0.3), at(0.0, 0.05), at(0.05, 0.3)] == [SUPPORTED, NOT_SUPPORTED, NOT_RESOLVED]
    assert verdict(t_interval([5.0]), 0.1) == NOT_RESOLVED


def test_planted_effects_and_nulls_at_the_stated_rates() -> None:
    rng = RNG(4)
    planted = [judge([claim("a", rng.normal(1, 0.3, 10)), claim("b", rng.normal(0, 0.05, 10))]) for _ in range(200)]
    assert np.mean([pair[0].verdict == SUPPORTED for pair in planted]) > 0.97
    assert np.mean([pair[1].verdict == NOT_SUPPORTED for pair in planted]) > 0.97
    at_border = [judge([claim("a", rng.normal(0.1, 0.3, 10))])[0].verdict for _ in range(600)]
    assert np.mean([v != NOT_RESOLVED for v in at_border]) < 0.075, "an effect of just delta is resolved in 5 % of the cases"
    noisy = [judge([claim("a", rng.normal(0.3, 2, 4))])[0].verdict for _ in range(200)]
    assert np.mean([v == NOT_RESOLVED for v in noisy]) > 0.9


def test_holm_makes_many_claims_harder_and_inapplicable_ones_do_not_count() -> None:
    units = np.array([0.1, 0.5, 0.3, 0.6, 0.15, 0.4, 0.2, 0.55])
    alone = claim("a", units)
    assert judge([alone])[0].verdict == SUPPORTED
    others = [claim(f"o{i}", RNG(i).normal(0.1, 1, 8)) for i in range(200)]
    assert judge([alone, *others])[0].verdict == NOT_RESOLVED
    silent = [claim(f"o{i}", units, verdict_=NOT_APPLICABLE) for i in range(200)]
    judged = judge([alone, *silent])
    assert judged[0].verdict == SUPPORTED and judged[1].verdict == NOT_APPLICABLE


def test_claims_survive_json() -> None:
    for units in (np.array([1.0, 2.0]), np.array([1.0])):
        first = claim("a", units)
        again = Claim.from_json(first.as_json())
        assert again.as_json() == first.as_json() and again.effect.known == first.effect.known
