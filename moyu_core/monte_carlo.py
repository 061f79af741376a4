"""Monte Carlo beside the closed forms of `theory`: V is drawn again and again, the gradient computed and averaged.

Every mean comes with its standard error, so that "agrees with the closed form" and "has this sign" are statements about numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moyu_core.errors import InputError
from moyu_core.theory import LOSSES, POINTS, Array, function, gradient_a, gradient_p

CHUNK_ENTRIES = 4_000_000
"""Entries of V drawn at once, 32 MB."""


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
        label: the term -<v_i, y> of each neuron, whose expectation is 0.
    """

    gradient: Estimate
    gap: Estimate
    square: Estimate
    label: Estimate

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


def _draws(width: int, classes: int, draws: int, seed: int) -> Iterator[Array]:
    """V / s in chunks, (N, K, F)."""
    chunk = max(1, CHUNK_ENTRIES // (classes * width))
    if draws <= chunk:
        yield _normals(draws, classes, width, seed)
        return
    generator = np.random.default_rng(seed)
    for start in range(0, draws, chunk):
        yield generator.standard_normal((min(chunk, draws - start), classes, width))


@lru_cache(maxsize=2)
def _normals(draws: int, classes: int, width: int, seed: int) -> Array:
    """Standard normal (draws, K, F); kept, because a page asks for the same ones with one activation and loss after the other:
    those of its sign table and those of its steps."""
    drawn = np.random.default_rng(seed).standard_normal((draws, classes, width))
    drawn.flags.writeable = False
    return drawn


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
    gradient, gap, square, labels = _Moments(len(act)), _Moments(len(act)), _Moments(1), _Moments(len(act))
    for z in _draws(len(act), classes, draws, seed):
        output = s * (z @ act)
        output = _softmax(output) if loss == "ce" else output
        norm = (output**2).sum(axis=1) if loss == "ce" else np.full(len(z), np.nan)
        values = s * ((output[:, None] @ z)[:, 0] - (z[:, 0] if label else 0.0))
        factor = 1.0 - norm if loss == "ce" else np.full(len(z), float(classes))
        gradient.add(values)
        gap.add(values - s * s * factor[:, None] * act)
        square.add(norm[:, None])
        labels.add(-s * z[:, 0])
    return Simulation(gradient.estimate(), gap.estimate(), square.estimate(), labels.estimate())


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


@dataclass(frozen=True)
class Steps:
    """The derivation at one pre-activation, step by step; every pair is (Monte Carlo mean, its standard error).

    Attributes:
        p, a, slope: pre-activation, act(p), act'(p).
        classes, s, draws: K, standard deviation of an entry of V, draws of V.
        label: of the term -<v_i, y>, whose expectation is 0.
        square: of ||softmax(f)||^2; NaN for the squared loss.
        by_a, by_p: of dL/da_i and dL/dp_i, the label's term left out.
        closed_a, closed_p: the closed forms.
    """

    p: float
    a: float
    slope: float
    classes: int
    s: float
    draws: int
    label: tuple[float, float]
    square: tuple[float, float]
    by_a: tuple[float, float]
    by_p: tuple[float, float]
    closed_a: float
    closed_p: float


def steps(name: str, p: float, loss: str = "ce", classes: int = 50, s: float = 0.5, draws: int = 2_000, seed: int = 0) -> Steps:
    """Evaluates every step at `p`, in a layer whose other neurons sit at `theory.POINTS`. Arguments as in `simulate`."""
    act = function(name)
    a = act.value(np.asarray([p, *POINTS]))
    run = simulate(a, classes, s, draws, seed, loss, label=False)
    slope, square = float(act.slope(p)), float(run.square.mean[0])
    by_a = (float(run.gradient.mean[0]), float(run.gradient.error[0]))
    return Steps(
        p, float(a[0]), slope, classes, s, draws,
        (float(run.label.mean[0]), float(run.label.error[0])), (square, float(run.square.error[0])),
        by_a, (slope * by_a[0], abs(slope) * by_a[1]),
        float(gradient_a(a[0], s, loss, square, classes)), float(gradient_p(name, p, s, loss, square, classes)),
    )
