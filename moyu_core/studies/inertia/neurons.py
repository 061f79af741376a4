"""Single neurons: how often each fires, and whether that belongs to the sequence it stands in."""

from __future__ import annotations

from typing import Any

import numpy as np

from moyu_core import sets
from moyu_core.studies.inertia.overlap import Measured


def columns(found: Measured) -> dict[str, Any]:
    """The columns of the table `rates`, one row a (layer, neuron)."""
    n_layers = len(found.layers)
    n_neurons = found.units["sentence", "sequence"].n_neurons
    rates = {history: _rates(found, "sentence", history) for history in ("parallel", "sequence")}
    binding = np.mean(
        [
            between(_by_text(found, content, "sequence")) - between(_by_text(found, content, "parallel"))
            for content in ("sentence", "random_words")
        ],
        axis=0,
    )
    return {
        "layer": np.repeat(np.asarray(found.layers, np.int16), n_neurons),
        "neuron": np.tile(np.arange(n_neurons, dtype=np.int32), n_layers),
        "rate_parallel": rates["parallel"].astype(np.float16).ravel(),
        "rate_sequence": rates["sequence"].astype(np.float16).ravel(),
        "rate_random": _rates(found, "random_words", "sequence").astype(np.float16).ravel(),
        "binding": binding.astype(np.float16).ravel(),
    }


def _rates(found: Measured, content: str, history: str) -> np.ndarray:
    """(L, F) share of the units in which each neuron is active."""
    units = found.units[content, history]
    return np.stack([sets.rates(layer, units.n_neurons) for layer in units.active])


def _by_text(found: Measured, content: str, history: str) -> tuple[np.ndarray, int]:
    """(L, S, F) rate of each neuron in each text, and the words of a text."""
    units = found.units[content, history]
    size, width = len(found.topics), len(found.texts[content][0].slots)
    active = units.active.reshape(len(found.layers), size, width, -1)
    return np.stack([[sets.rates(text, units.n_neurons) for text in layer] for layer in active]), width


def between(rates: tuple[np.ndarray, int]) -> np.ndarray:
    """(L, F) share of a neuron's variance that lies between texts: 0 = it fires alike in all, 1 = all or nothing in each.

    The between-text variance of the rates less what chance alone would give, over p(1 - p); 0 for neurons that never or always
    fire and for a single text. Can be slightly negative.
    """
    by_text, width = rates
    if by_text.shape[1] < 2 or width < 2:
        return np.zeros(by_text.shape[::2])
    chance = (by_text * (1 - by_text)).mean(1) / (width - 1)
    p = by_text.mean(1)
    whole = p * (1 - p)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, (by_text.var(1, ddof=1) - chance) / whole, 0.0)
