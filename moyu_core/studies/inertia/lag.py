"""The lag curve: how the overlap of two words falls with their distance, at the same later words for every distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from moyu_core.intervals import Interval, jackknife
from moyu_core.studies.inertia.conditions import Draws, Text, documents, sequence_ids, unit_tokens
from moyu_core.studies.inertia.spread import curve_rows, known
from moyu_core.studies.inertia.units import Reader, Units

LONGEST = 64
FAR = 16
"""O(1) - O(16) is reported first; where texts are shorter, O(1) - O(longest lag)."""
CONTENTS = ("sentence", "shuffled", "random_words")


def measure(reader: Reader, texts: Sequence[Text], seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the table `lags`, and facts: the longest lag, the drop O(1) - O(16), the half-life where there is one."""
    joined, longest = _documents(reader, texts)
    draws = Draws(reader.model, seed, 2)
    rows, drops, half = [], {}, {}
    for content in CONTENTS:
        made = draws.content(content, joined)
        runs = {"sequence": reader.sequences(made, f"lags, {content}"), "parallel": reader.parallel(made, f"lags, {content} alone")}
        for history, units in runs.items():
            curves = by_lag(units, unit_tokens(made), longest)
            rows += [{"content": content, "history": history, **row} for row in curve_rows(curves, reader.layers, "lag", 1)]
            drops[f"{content}, {history}"] = _drop(curves.mean(axis=1)).__dict__
            if history == "sequence":
                half[content] = half_life(curves.mean(axis=1))
    facts = {
        "longest": longest,
        "asked": LONGEST,
        "words": 2 * longest,
        "far": min(FAR, longest),
        "drop": _plain(drops),
        "half_life": half,
    }
    return rows, facts


def _documents(reader: Reader, texts: Sequence[Text]) -> tuple[list[Text], int]:
    """One long text a topic, twice as long as the longest lag, and that lag: what the shortest of them and the model allow."""
    joined = documents(texts, 2 * LONGEST)
    longest = min(LONGEST, min(len(text.slots) for text in joined) // 2)
    while longest > 1 and max(len(sequence_ids(text, [0])[0]) for text in documents(texts, 2 * longest)) > reader.limit:
        longest -= 1
    return documents(texts, 2 * longest), longest


def by_lag(units: Units, tokens: NDArray[np.int64], longest: int) -> NDArray[np.float64]:
    """(S, L, longest) mean overlap of a word's set with that of the word d = 1..longest places before.

    The later words are those from place `longest` on, the same for every d. Pairs of the same token are left out; NaN where
    nothing is left.

    Args:
        units: S * n units, text after text.
        tokens: (S, n) ids of the units' tokens.
        longest: largest d.
    """
    size, width = tokens.shape
    found = np.full((size, len(units.layers), longest), np.nan)
    later = np.arange(longest, width)
    for layer in range(len(units.layers)):
        vectors = units.unit_vectors(layer).reshape(size, width, -1)
        for text in range(size):
            gram = vectors[text, later] @ vectors[text].T
            for lag in range(1, longest + 1):
                differ = tokens[text, later] != tokens[text, later - lag]
                if differ.any():
                    found[text, layer, lag - 1] = gram[np.arange(len(later)), later - lag][differ].mean()
    return found


def _drop(curves: NDArray[np.float64]) -> Interval:
    """O(1) - O(16) over topics: (T, D) curves."""
    far = min(FAR, curves.shape[1]) - 1
    return jackknife(len(curves), lambda kept: float(np.mean(curves[kept, 0] - curves[kept, far])))


def half_life(curves: NDArray[np.float64]) -> dict[str, float | None] | None:
    """Half-life in words of floor + exponential, fitted to the mean curve; None unless its interval lies inside [1, largest d]."""
    if curves.shape[1] < 4 or len(curves) < 2 or not np.isfinite(curves).all():
        return None
    found = jackknife(len(curves), lambda kept: _fit(curves[kept].mean(axis=0)))
    if not found.known or found.low < 1 or found.high > curves.shape[1]:
        return None
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _fit(curve: NDArray[np.float64]) -> float:
    lags = np.arange(1, len(curve) + 1)
    try:
        (_, _, half), _ = curve_fit(
            lambda d, floor, height, half: floor + height * 2.0 ** (-d / half),
            lags,
            curve,
            p0=(curve[-1], curve[0] - curve[-1], 3.0),
            bounds=([0, -1, 0.1], [1, 1, 1000]),
        )
    except RuntimeError:  # no convergence: there is no such curve
        return float("nan")
    return float(half)


def _plain(drops: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    return {name: {key: known(value) for key, value in interval.items()} for name, interval in drops.items()}
