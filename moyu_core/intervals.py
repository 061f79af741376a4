"""Intervals over units (topics, documents, seeds; never tokens), simultaneous bands over layers, and Holm's correction.

With few units a t interval over unit means covers what it promises, a percentile bootstrap does not. A
statistic that is no mean (a ratio of means, an index) goes through the jackknife: its pseudo-values are units again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Units = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval.

    Attributes:
        mean: the estimate.
        low, high: bounds; NaN where fewer than two units were there, so that there is no interval.
        error: standard error, NaN likewise.
        n: number of units.
    """

    mean: float
    low: float
    high: float
    error: float
    n: int

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    def excludes(self, value: float) -> bool:
        """Whether the value lies outside; false where there is no interval."""
        return self.known and not self.low <= value <= self.high

    def in_words(self, unknown: str, same: str, above: str, below: str) -> str:
        """The wording that fits a difference: no interval, not distinguishable from 0, above it, below it."""
        if not self.known:
            return unknown
        if not self.excludes(0):
            return same
        return above if self.mean > 0 else below

    def text(self, digits: int = 2) -> str:
        """For sentences: `0.31 [0.28, 0.34]`, or `0.31 (one unit, no interval)`."""
        if not self.known:
            return f"{self.mean:.{digits}f} (one unit, no interval)" if self.n == 1 else f"{self.mean:.{digits}f} (no interval)"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def t_interval(units: ArrayLike, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of independent units; NaN units are left out.

    Args:
        units: (n,) one value a unit.
        level: coverage, in (0, 1).
    """
    values = np.asarray(units, np.float64).ravel()
    values = values[np.isfinite(values)]
    n = len(values)
    mean = float(values.mean()) if n else float("nan")
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), float("nan"), n)
    error = float(values.std(ddof=1) / np.sqrt(n))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    return Interval(mean, mean - half, mean + half, error, n)


def pseudo_values(n_units: int, statistic: Callable[[NDArray[np.int64]], ArrayLike]) -> Units:
    """Jackknife pseudo-values n*T - (n-1)*T(without unit j), shape (n_units, ...): units whose mean estimates T.

    Args:
        n_units: n >= 2.
        statistic: takes the numbers of the units that are kept, returns a number or an array.
    """
    everything = np.arange(n_units)
    whole = np.asarray(statistic(everything), np.float64)
    left_out = [np.asarray(statistic(np.delete(everything, unit)), np.float64) for unit in everything]
    return np.stack([n_units * whole - (n_units - 1) * value for value in left_out])


def jackknife(n_units: int, statistic: Callable[[NDArray[np.int64]], float], level: float = LEVEL) -> Interval:
    """T on all units, with a t interval from its pseudo-values; without interval for one unit.

    Args:
        n_units: number of independent units.
        statistic: as in `pseudo_values`, returning a number.
    """
    whole = float(statistic(np.arange(n_units)))
    if n_units < 2:
        return Interval(whole, float("nan"), float("nan"), float("nan"), n_units)
    found = t_interval(pseudo_values(n_units, statistic), level)
    if found.n < 2:
        return Interval(whole, float("nan"), float("nan"), float("nan"), found.n)
    half = found.high - found.mean
    return Interval(whole, whole - half, whole + half, found.error, found.n)


def bands(units: ArrayLike, level: float = LEVEL, draws: int = 4000, seed: int = 0) -> tuple[Units, Units, Units]:
    """(mean, low, high) with simultaneous (max-t) coverage over the columns: all columns are inside at once.

    The critical value is the quantile of max |t| in normal samples of the same size whose correlation between columns is
    the units' own, shrunk (Ledoit-Wolf) because n units cannot tell the correlation of more than n columns.

    Args:
        units: (n, L), one row a unit, finite; for instance one column a layer.
        level: coverage of the whole band.
        draws, seed: of the simulation.

    Returns:
        three arrays (L,); the bounds are NaN for fewer than two units.
    """
    values = np.asarray(units, np.float64)
    n, columns = values.shape
    mean = values.mean(axis=0)
    if n < 2:
        return mean, np.full(columns, np.nan), np.full(columns, np.nan)
    error = values.std(axis=0, ddof=1) / np.sqrt(n)
    half = _critical(values, level, draws, seed) * error
    return mean, mean - half, mean + half


def _critical(values: Units, level: float, draws: int, seed: int) -> float:
    """The `level` quantile of max over columns of |t|; columns that do not vary play no part."""
    n = len(values)
    spread = values.std(axis=0, ddof=1)
    varying = spread > 0
    if varying.sum() < 2:
        return float(stdtrit(n - 1, (1 + level) / 2))
    standard = (values[:, varying] - values[:, varying].mean(axis=0)) / spread[varying]
    covariance = ledoit_wolf(standard)
    scale = np.sqrt(np.diag(covariance))
    root = np.linalg.cholesky(covariance / np.outer(scale, scale) + 1e-9 * np.eye(len(scale)))
    sample = _normals(draws, n, len(scale), seed) @ root.T
    t = sample.mean(axis=1) / (sample.std(axis=1, ddof=1) / np.sqrt(n))
    return float(np.quantile(np.abs(t).max(axis=1), level))


@lru_cache(maxsize=4)  # a study asks for dozens of bands of one shape, and drawing costs more than what is done with the draws
def _normals(draws: int, n: int, columns: int, seed: int) -> Units:
    """(draws, n, columns) standard normal values, the same for the same seed; not to be written to."""
    drawn = np.random.default_rng(seed).standard_normal((draws, n, columns))
    drawn.flags.writeable = False
    return drawn


def ledoit_wolf(centred: Units) -> Units:
    """Covariance shrunk towards a multiple of the identity, (L, L) (Ledoit and Wolf, J. Multivariate Analysis 88, 2004).

    Equal to scikit-learn's, which pages cannot use: importing it takes a second, and installations that only read lack it.

    Args:
        centred: (n, L), one row a unit, every column of mean 0.
    """
    n, columns = centred.shape
    sample = centred.T @ centred / n
    middle = np.trace(sample) / columns
    distance = float((sample**2).sum() - columns * middle**2)
    noise = float(((centred**2).T @ centred**2).sum() / n - (sample**2).sum()) / n
    share = min(noise / distance, 1.0) if distance > 0 else 0.0
    return (1 - share) * sample + share * middle * np.eye(columns)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: step-down, so the family-wise error is kept whatever their dependence."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted.tolist()
