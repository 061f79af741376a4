"""Estimates with intervals over topics: the jackknife for one number, simultaneous bands for a curve or for layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moyu_core.intervals import Interval, bands, jackknife, pseudo_values

Kept = NDArray[np.int64]
Statistic = Callable[[Kept], NDArray[np.float64]]
"""Takes the numbers of the topics that are kept, returns the estimate from them, an array (L, ...) whose first axis is layers."""


@dataclass(frozen=True)
class Curve:
    """An estimate at several places with simultaneous bounds; NaN bounds where there is no interval."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def curve(n_topics: int, statistic: Statistic) -> Curve:
    """A statistic of any number of places, (K,), with bands that hold at all places at once."""
    whole = np.asarray(statistic(np.arange(n_topics)), np.float64).ravel()
    low, high = np.full((2, len(whole)), np.nan)
    if n_topics < 2:
        return Curve(whole, low, high)
    units = pseudo_values(n_topics, lambda kept: np.asarray(statistic(kept)).ravel())
    fine = np.isfinite(units).all(axis=0)
    if fine.any():
        mean, below, above = bands(units[:, fine])
        low[fine], high[fine] = whole[fine] + below - mean, whole[fine] + above - mean
    return Curve(whole, low, high)


def over_layers(n_topics: int, statistic: Statistic) -> Interval:
    """The mean over layers of a statistic (L,), with its interval: the form of every primary endpoint."""
    return jackknife(n_topics, lambda kept: float(np.mean(statistic(kept))))


def layered(n_topics: int, statistic: Statistic, layers: tuple[int, ...]) -> list[tuple[int | None, float, float, float]]:
    """(layer, mean, low, high) of each layer with simultaneous bounds, and first, with layer None, of the mean over layers."""
    mean = over_layers(n_topics, statistic)
    found = curve(n_topics, statistic)
    rows = zip(layers, found.mean.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
    return [(None, mean.mean, mean.low, mean.high), *rows]


def topic_means(values: NDArray[np.float64], topics: NDArray[np.int64]) -> NDArray[np.float64]:
    """(T, ...) mean of each topic's texts, NaN left out: (S, ...) values, (S,) numbers of topics."""
    return np.stack([np.nanmean(values[topics == topic], axis=0) for topic in range(int(topics.max()) + 1)])


def curve_of_means(means: NDArray[np.float64]) -> Curve:
    """The mean over topics at each of K places with simultaneous bands: (T, K) topic means."""
    return curve(len(means), lambda kept: means[kept].mean(axis=0))


def curve_rows(means: NDArray[np.float64], layers: tuple[int, ...], place: str, first: int = 0) -> list[dict[str, Any]]:
    """Rows {layer, <place>, overlap, low, high} of a curve: with bands for the mean over layers (None), without for each layer.

    Args:
        means: (T, L, K) topic means.
        layers: numbers of the layers.
        place: name of the column that numbers the K places.
        first: number of the first place.
    """
    rows = []
    found = curve_of_means(means.mean(axis=1))
    for number, layer in enumerate((None, *layers)):
        values = found.mean if layer is None else means[:, number - 1].mean(axis=0)
        for index, value in enumerate(values.tolist()):
            low, high = (found.low[index], found.high[index]) if layer is None else (np.nan, np.nan)
            rows.append({"layer": layer, place: first + index, "overlap": known(value), "low": known(low), "high": known(high)})
    return rows


def known(value: float) -> float | None:
    """The number, or None where there is none: NaN does not belong into a table."""
    return float(value) if np.isfinite(value) else None
