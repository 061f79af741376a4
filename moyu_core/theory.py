"""Why training pushes active neurons down: closed forms for a last layer at initialisation, and Monte Carlo beside them.

The network of the theorem (Li et al., arXiv 2210.06313): f = V a with a = act(p), entries of V in R^(K x F) independent
N(0, s^2), independent of the pre-activations p and of the label y, a probability vector. With pi = softmax(f), Stein's
lemma gives for every neuron i (our derivation)

    cross-entropy          E[dL/da_i] = s^2 a_i (1 - E||pi||^2)
    squared loss / 2       E[dL/da_i] = K s^2 a_i
    through act            E[dL/dp_i] = act'(p_i) E[dL/da_i] = (s^2 / 2) (1 - E||pi||^2) d(act^2)/dp
    gated a = act(g) u     E[dL/du] = act(g) E[dL/da],  E[dL/dg] = act'(g) u E[dL/da]

so the sign of E[dL/da_i] is the sign of a_i for any activation: |a| shrinks. Only ReLU turns that into exact zeros; for GELU
and SiLU the sign in p changes twice (`turning_point`). Nothing is said about later training, Adam, weight decay, the
residual stream or layers before the last. numpy only, no torch: pages evaluate it live.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moyu_core.errors import InputError

Array = NDArray[np.float64]

POINTS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 2.0)
"""Pre-activations at which table and tests look; they lie on both sides of every change of sign."""
LOSSES = ("ce", "mse")
CHUNK_ENTRIES = 4_000_000
"""Entries of V drawn at once, 32 MB."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Function:
    """An activation function with its derivative.

    Attributes:
        name: as pages write it.
        value: act(p).
        slope: act'(p); ReLU's at 0 is 0.
        exact_zeros: whether a whole interval of p is mapped to exactly 0.
    """

    name: str
    value: Callable[[ArrayLike], Array]
    slope: Callable[[ArrayLike], Array]
    exact_zeros: bool = False


def _relu(p: ArrayLike) -> Array:
    return np.maximum(np.asarray(p, np.float64), 0.0)


def _relu_slope(p: ArrayLike) -> Array:
    return (np.asarray(p, np.float64) > 0).astype(np.float64)


def _normal_cdf(p: ArrayLike) -> Array:
    return 0.5 * (1.0 + _erf(np.asarray(p, np.float64) / math.sqrt(2.0)))


def _gelu(p: ArrayLike) -> Array:
    return np.asarray(p, np.float64) * _normal_cdf(p)


def _gelu_slope(p: ArrayLike) -> Array:
    x = np.asarray(p, np.float64)
    return _normal_cdf(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _sigmoid(p: ArrayLike) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(p, np.float64)))


def _silu(p: ArrayLike) -> Array:
    return np.asarray(p, np.float64) * _sigmoid(p)


def _silu_slope(p: ArrayLike) -> Array:
    s = _sigmoid(p)
    return s * (1.0 + np.asarray(p, np.float64) * (1.0 - s))


FUNCTIONS = {
    "relu": Function("ReLU", _relu, _relu_slope, exact_zeros=True),
    "gelu": Function("GELU", _gelu, _gelu_slope),
    "silu": Function("SiLU", _silu, _silu_slope),
}


def function(name: str) -> Function:
    """The activation function of a name.

    Raises:
        InputError: not relu, gelu or silu.
    """
    if name not in FUNCTIONS:
        raise InputError(f"Activation {name!r} has no closed form here; use one of {', '.join(FUNCTIONS)}.")
    return FUNCTIONS[name]


def turning_point(name: str) -> float:
    """p_min < 0 where act' changes its sign: -0.752 for GELU, -1.278 for SiLU; NaN for ReLU, which has none."""
    slope = function(name).slope
    if function(name).exact_zeros:
        return math.nan
    low, high = -2.0, 0.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(slope(middle)) < 0 else (low, middle)
    return 0.5 * (low + high)


def gradient_a(a: ArrayLike, s: float, loss: str = "ce", square: float = 0.0, classes: int = 0) -> Array:
    """E[dL/da_i] by the closed form; it has the sign of a_i.

    Args:
        a: activations.
        s: standard deviation of an entry of V.
        loss: `ce` or `mse` (||f - y||^2 / 2).
        square: E||softmax(f)||^2, in [1/K, 1]; for `ce`. At 1 (one class certain) nothing is left to push.
        classes: K; for `mse`.
    """
    if loss not in LOSSES:
        raise InputError(f"Loss {loss!r} has no closed form here; use one of {', '.join(LOSSES)}.")
    factor = 1.0 - square if loss == "ce" else float(classes)
    return s * s * factor * np.asarray(a, np.float64)


def gradient_p(name: str, p: ArrayLike, s: float, loss: str = "ce", square: float = 0.0, classes: int = 0) -> Array:
    """E[dL/dp_i] = act'(p) E[dL/da_i]; arguments as in `gradient_a`."""
    act = function(name)
    return act.slope(p) * gradient_a(act.value(p), s, loss, square, classes)


def gradient_gated(name: str, g: ArrayLike, u: ArrayLike, s: float, loss: str = "ce", square: float = 0.0,
                   classes: int = 0) -> tuple[Array, Array]:
    """(E[dL/dg], E[dL/du]) of a gated neuron a = act(g) u; both shrink |a|. Arguments as in `gradient_a`."""
    act, up = function(name), np.asarray(u, np.float64)
    by_a = gradient_a(act.value(g) * up, s, loss, square, classes)
    return act.slope(g) * up * by_a, act.value(g) * by_a


def sign_p(name: str, p: float) -> int:
    """Sign of E[dL/dp]: +1 gradient descent lowers p, -1 it raises p, 0 nothing moves."""
    return int(np.sign(float(gradient_p(name, p, 1.0))))


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo mean with its standard error, one entry a neuron.

    Attributes:
        mean: average over draws of V.
        error: standard error of that average.
        draws: number of draws.
    """

    mean: Array
    error: Array
    draws: int

    def distance(self, expected: ArrayLike) -> Array:
        """|mean - expected| in standard errors; 0 where both agree exactly (a dead ReLU neuron), infinite where the
        error is 0 and they do not."""
        gap = np.abs(self.mean - np.asarray(expected, np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gap == 0, 0.0, gap / self.error)

    def signs(self, errors: float = 3.0) -> NDArray[np.int64]:
        """Sign of each mean, 0 where it lies within `errors` standard errors of 0."""
        return np.where(np.abs(self.mean) > errors * self.error, np.sign(self.mean), 0).astype(np.int64)

    def scaled(self, factor: ArrayLike) -> Estimate:
        """The estimate of `factor` times the quantity: how dL/da becomes dL/dp, dL/dg or dL/du."""
        by = np.asarray(factor, np.float64)
        return Estimate(self.mean * by, self.error * np.abs(by), self.draws)


@dataclass(frozen=True)
class Simulation:
    """What one Monte Carlo over V gives.

    Attributes:
        gradient: dL/da of each neuron.
        gap: dL/da minus the closed form with this draw's own ||pi||^2: zero on average when the closed form is right.
        square: E||softmax(f)||^2, one entry; NaN for the squared loss.
    """

    gradient: Estimate
    gap: Estimate
    square: Estimate

    def agrees(self, errors: float = 3.0) -> bool:
        """Whether every neuron's gap lies within so many standard errors of 0."""
        return bool((self.gap.distance(0.0) <= errors).all())


class _Moments:
    """Running mean and standard error over draws."""

    def __init__(self, width: int) -> None:
        self.count, self.mean, self.square = 0, np.zeros(width), np.zeros(width)

    def add(self, values: Array) -> None:
        """Takes (N, width) draws in (Chan's update of mean and sum of squares)."""
        n, mean = len(values), values.mean(axis=0)
        delta, total = mean - self.mean, self.count + n
        self.square += ((values - mean) ** 2).sum(axis=0) + delta**2 * self.count * n / total
        self.mean = self.mean + delta * n / total
        self.count = total

    def estimate(self) -> Estimate:
        """Mean and standard error of what was taken in."""
        return Estimate(self.mean, np.sqrt(self.square / (self.count - 1) / self.count), self.count)


def _softmax(f: Array) -> Array:
    """Over the last axis."""
    e = np.exp(f - f.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _draws(a: Array, classes: int, s: float, draws: int, seed: int) -> Iterator[Array]:
    """V in chunks, (N, K, F)."""
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ENTRIES // (classes * len(a)))
    for start in range(0, draws, chunk):
        yield s * generator.standard_normal((min(chunk, draws - start), classes, len(a)))


def simulate(a: Sequence[float] | Array, classes: int = 50, s: float = 1.0, draws: int = 20_000, seed: int = 0,
             loss: str = "ce", label: bool = True) -> Simulation:
    """Monte Carlo over V for a layer with activations `a`: draws V, computes the gradient V^T (pi - y), averages.

    Args:
        a: activations of all neurons of the layer, (F,).
        classes: K.
        s: standard deviation of an entry of V.
        draws: number of V drawn, at least 2.
        seed: of the generator; the same arguments give the same numbers.
        loss: `ce` or `mse`.
        label: whether the term -<v_i, y> (y = class 0) is left in. Its mean is exactly 0 because V does not know y; without
            it the standard error falls by about sqrt(K).

    Raises:
        InputError: fewer than 2 draws, 2 classes or 1 neuron, or another loss.
    """
    act = np.asarray(a, np.float64)
    if draws < 2 or classes < 2 or act.ndim != 1 or not len(act) or loss not in LOSSES:
        raise InputError(f"A simulation needs 2 draws, 2 classes, a neuron and a loss of {', '.join(LOSSES)}; received "
                         f"{draws} draws, {classes} classes, activations of shape {act.shape}, loss {loss!r}.")
    gradient, gap, square = _Moments(len(act)), _Moments(len(act)), _Moments(1)
    for v in _draws(act, classes, s, draws, seed):
        output = _softmax(v @ act) if loss == "ce" else v @ act
        norm = (output**2).sum(axis=1) if loss == "ce" else np.full(len(v), np.nan)
        values = np.einsum("nk,nkf->nf", output, v) - (v[:, 0] if label else 0.0)
        factor = 1.0 - norm if loss == "ce" else np.full(len(v), float(classes))
        gradient.add(values)
        gap.add(values - s * s * factor[:, None] * act)
        square.add(norm[:, None])
    return Simulation(gradient.estimate(), gap.estimate(), square.estimate())


@dataclass(frozen=True)
class SignRow:
    """One row of the sign table.

    Attributes:
        p: pre-activation.
        a: act(p).
        expected: E[dL/dp] by the closed form.
        mean, error: the same by Monte Carlo.
        sign: of `expected`.
        seen: of `mean`, 0 where Monte Carlo does not resolve it.
    """

    p: float
    a: float
    expected: float
    mean: float
    error: float
    sign: int
    seen: int


def sign_table(name: str, points: Sequence[float] = POINTS, classes: int = 50, s: float = 1.0, draws: int = 20_000,
               seed: int = 0, loss: str = "ce", label: bool = False) -> list[SignRow]:
    """The sign of E[dL/dp] at each point, closed form beside Monte Carlo: one layer whose neurons sit at the points."""
    act, p = function(name), np.asarray(points, np.float64)
    run = simulate(act.value(p), classes, s, draws, seed, loss, label)
    seen = run.gradient.scaled(act.slope(p))
    expected = gradient_p(name, p, s, loss, float(run.square.mean[0]), classes)
    signs = seen.signs()
    return [SignRow(float(p[i]), float(act.value(p)[i]), float(expected[i]), float(seen.mean[i]), float(seen.error[i]),
                    int(np.sign(expected[i])), int(signs[i])) for i in range(len(p))]
