"""Closed forms of the theory against Monte Carlo, Monte Carlo against finite differences, and both against wrong formulas."""

from __future__ import annotations

import numpy as np
import pytest

from moyu_core import monte_carlo, theory
from moyu_core.errors import InputError

POINTS = np.asarray([-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])


@pytest.mark.parametrize("name", theory.FUNCTIONS)
def test_slope_is_the_derivative(name: str) -> None:
    act, h = theory.function(name), 1e-6
    p = POINTS[POINTS != 0]
    numeric = (act.value(p + h) - act.value(p - h)) / (2 * h)
    np.testing.assert_allclose(act.slope(p), numeric, atol=1e-9)


def test_turning_points() -> None:
    assert theory.turning_point("gelu") == pytest.approx(-0.752, abs=5e-4)
    assert theory.turning_point("silu") == pytest.approx(-1.278, abs=5e-4)
    assert np.isnan(theory.turning_point("relu"))


@pytest.mark.parametrize("name", theory.FUNCTIONS)
@pytest.mark.parametrize("loss", theory.LOSSES)
@pytest.mark.parametrize("label", [True, False])
def test_closed_form_within_three_standard_errors(name: str, loss: str, label: bool) -> None:
    a = theory.function(name).value(POINTS)
    run = monte_carlo.simulate(a, classes=50, s=0.7, draws=8_000, seed=3, loss=loss, label=label)
    assert run.agrees(3.0), run.gap.distance(0.0)
    square = float(run.square.mean[0]) if loss == "ce" else 0.0
    expected = theory.gradient_a(a, 0.7, loss, square, classes=50)
    assert (run.gradient.distance(expected) <= 3.0).all()


def test_wrong_formulas_are_rejected() -> None:
    a = np.asarray([0.5, 1.0, 2.0])
    run = monte_carlo.simulate(a, classes=20, s=1.0, draws=8_000, seed=0)
    square = float(run.square.mean[0])
    for wrong in (a, a * (1 - square) * 1.1, np.full(3, 1 - square), -a * (1 - square)):
        assert run.gradient.distance(wrong).max() > 3.0


def test_methods_own_numbers() -> None:
    a = np.r_[1.0, np.abs(np.random.default_rng(0).normal(size=23))]
    run = monte_carlo.simulate(a, classes=50, s=0.5, draws=6_000, seed=1, loss="mse")
    assert theory.gradient_a(1.0, 0.5, "mse", classes=50) == pytest.approx(12.5)
    assert run.gradient.distance(12.5)[0] <= 3.0


def test_simulation_is_the_mean_of_finite_differences() -> None:
    a, classes, s, draws, h = np.asarray([0.3, -0.2, 1.1]), 4, 0.8, 5, 1e-6
    v = s * np.random.default_rng(7).standard_normal((draws, classes, len(a)))

    def mean_loss(x: np.ndarray) -> float:
        f = v @ x
        return float((np.log(np.exp(f).sum(axis=1)) - f[:, 0]).mean())

    numeric = [(mean_loss(a + h * unit) - mean_loss(a - h * unit)) / (2 * h) for unit in np.eye(3)]
    run = monte_carlo.simulate(a, classes, s, draws, seed=7)
    np.testing.assert_allclose(run.gradient.mean, numeric, atol=1e-8)


def test_standard_errors_are_the_right_size() -> None:
    z = [monte_carlo.simulate([1.0], 5, 1.0, 400, seed=seed).gap for seed in range(200)]
    spread = np.std([float(e.mean[0] / e.error[0]) for e in z])
    assert 0.85 < spread < 1.15


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = monte_carlo.simulate([0.5, 1.0], 8, 1.0, 101, seed=2)
    monkeypatch.setattr(monte_carlo, "CHUNK_ENTRIES", 16 * 7)
    parts = monte_carlo.simulate([0.5, 1.0], 8, 1.0, 101, seed=2)
    np.testing.assert_allclose(parts.gradient.mean, whole.gradient.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.gradient.error, whole.gradient.error, rtol=1e-12)


def test_kept_draws_are_those_of_the_seed_and_cannot_be_changed() -> None:
    expected = np.random.default_rng(2).standard_normal((10, 3, 2))
    for _ in range(2):
        kept = monte_carlo._normals(10, 3, 2, 2)
        np.testing.assert_array_equal(kept, expected)
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 0


def test_sign_table() -> None:
    for name in theory.FUNCTIONS:
        for row in monte_carlo.sign_table(name, draws=8_000, seed=5):
            low = theory.turning_point(name)
            wanted = 1 if row.p > 0 else 0 if name == "relu" else -1 if row.p > low else 1
            assert row.sign == wanted == theory.sign_p(name, row.p)
            assert row.seen in (wanted, 0)
            assert abs(row.mean - row.expected) <= 3 * row.error + 1e-15
    resolved = {(name, row.p): row.seen for name in ("gelu", "silu") for row in monte_carlo.sign_table(name, draws=8_000, seed=5)}
    assert resolved["gelu", -0.5] == resolved["silu", -1.0] == resolved["silu", -0.5] == -1
    assert resolved["gelu", -1.0] == resolved["silu", -3.0] == 1


@pytest.mark.parametrize(("g", "u"), [(1.0, 0.7), (1.0, -0.7), (-0.5, 0.7), (-2.5, -0.7)])
def test_gated_both_factors_shrink(g: float, u: float) -> None:
    act = theory.function("silu")
    a = act.value(np.asarray([g])) * u
    run = monte_carlo.simulate(np.r_[a, 0.4, -0.6], 10, 1.0, 20_000, seed=1, label=False)
    by_g, by_u = theory.gradient_gated("silu", g, u, 1.0, square=float(run.square.mean[0]))
    first = monte_carlo.Estimate(run.gradient.mean[:1], run.gradient.error[:1], run.gradient.draws)
    assert first.scaled(act.slope(g) * u).distance(by_g)[0] <= 3.0
    assert first.scaled(act.value(g)).distance(by_u)[0] <= 3.0
    assert np.sign(by_u) == np.sign(u)
    assert np.sign(by_g) == np.sign(act.slope(g) * act.value(g))


def test_relu_below_zero_is_exactly_untouched() -> None:
    row = monte_carlo.sign_table("relu", [-1.0, 1.0], draws=500)[0]
    assert row.a == row.expected == row.mean == row.error == 0.0


@pytest.mark.parametrize(
    ("name", "p", "loss"), [("relu", 1.0, "ce"), ("gelu", -0.5, "ce"), ("silu", -2.5, "mse"), ("relu", -1.0, "ce")])
def test_every_step_of_the_derivation_holds(name: str, p: float, loss: str) -> None:
    found = monte_carlo.steps(name, p, loss)
    assert found.a == pytest.approx(float(theory.function(name).value(p)))
    assert abs(found.label[0]) <= 3 * found.label[1] and found.label[1] == pytest.approx(found.s / found.draws**0.5, rel=0.1)
    for (mean, error), closed in ((found.by_a, found.closed_a), (found.by_p, found.closed_p)):
        assert abs(mean - closed) <= 3 * error + 1e-12
    assert np.sign(found.closed_p) == theory.sign_p(name, p)
    assert np.sign(found.closed_a) == np.sign(found.a)


def test_refusals() -> None:
    with pytest.raises(InputError, match="relu, gelu, silu"):
        theory.function("tanh")
    with pytest.raises(InputError, match="2 draws"):
        monte_carlo.simulate([1.0], draws=1)
    with pytest.raises(InputError, match="ce, mse"):
        theory.gradient_a(1.0, 1.0, "hinge")
