"""What explains the overlap of two words: the token, the meaning, the sequence, the distance?

overlap ~ same token + semantic similarity + same sequence + same sequence * (log distance - mean). Distance does not exist across
sequences, so it enters only inside them. Shares of R^2 are Shapley values: the mean gain of a term over all orders of entering.
"""

from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moyu_core import sets
from moyu_core.schema.inertia import TERMS
from moyu_core.studies.inertia.conditions import unit_tokens
from moyu_core.studies.inertia.overlap import Measured
from moyu_core.studies.inertia.spread import Kept, known, layered
from moyu_core.studies.inertia.units import Reader

CONTENTS = ("sentence", "random_words")
Array = NDArray[np.float64]


def measure(reader: Reader, found: Measured, similarity: dict[str, Array], seed: int) -> list[dict[str, Any]]:
    """Rows of the table `regression`.

    Args:
        reader: reports.
        found: units of the conditions in sequence.
        similarity: content -> (S * n, D) vectors of length 1, whose products are semantic similarities.
        seed: of the pairs across sequences.
    """
    rows = []
    for content in CONTENTS:
        first, second = chosen_pairs(unit_tokens(found.texts[content]).shape, np.random.default_rng([seed, 5]))
        design = terms(found, content, similarity[content], first, second)
        reader.report("regression", CONTENTS.index(content), len(CONTENTS))
        active = found.units[content, "sequence"].active
        overlaps = np.stack([np.nan_to_num(sets.overlap(layer[first], layer[second])) for layer in active])
        width = len(found.texts[content][0].slots)
        topics = found.topics[first // width], found.topics[second // width]
        grams = np.stack([gram(design, y, *topics, found.n_topics) for y in overlaps])
        rows += _rows(content, grams, found)
    return rows


def chosen_pairs(shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of two units: all pairs inside the sequences, and as many random ones across them."""
    size, width = shape
    i, j = np.triu_indices(width, 1)
    start = np.arange(size)[:, None] * width
    first, second = (start + i).ravel(), (start + j).ravel()
    if size < 2:
        return first, second
    a, b = random.integers(size, size=(2, len(first)))
    b = np.where(a == b, (b + 1) % size, b)
    places = random.integers(width, size=(2, len(first)))
    return np.concatenate([first, a * width + places[0]]), np.concatenate([second, b * width + places[1]])


def terms(found: Measured, content: str, vectors: Array, first: np.ndarray, second: np.ndarray) -> Array:
    """(P, 4) the terms of schema.TERMS, in their order."""
    tokens = unit_tokens(found.texts[content])
    width = tokens.shape[1]
    flat = tokens.ravel()
    inside = first // width == second // width
    distance = np.log(np.maximum(np.abs(second - first), 1))
    centred = np.where(inside, distance - distance[inside].mean(), 0)
    cosine = np.einsum("pd,pd->p", vectors[first], vectors[second])
    return np.stack([flat[first] == flat[second], cosine, inside, centred], axis=1).astype(np.float64)


def gram(design: Array, y: Array, first: np.ndarray, second: np.ndarray, count: int) -> Array:
    """(T, T, 6, 6) sums of products of (1, terms, y) by the topics of the two words: enough for any subset of topics."""
    columns = np.column_stack([np.ones(len(y)), design, y])
    total = np.zeros((count, count, columns.shape[1], columns.shape[1]))
    for a in range(count):
        for b in range(count):
            part = columns[(first == a) & (second == b)]
            total[a, b] = part.T @ part
    return total


def _rows(content: str, grams: Array, found: Measured) -> list[dict[str, Any]]:
    everything = np.arange(found.n_topics)
    shares = np.stack([shapley(_kept(each, everything)) for each in grams])  # (L, 4)
    r_squared = np.asarray([_explained(_kept(each, everything), tuple(range(1, 1 + len(TERMS)))) for each in grams])
    rows = []
    for number, term in enumerate(TERMS):

        def one(kept: Kept, number: int = number) -> Array:
            return np.asarray([coefficients(_kept(each, kept))[number] for each in grams])

        for layer, mean, low, high in layered(found.n_topics, one, found.layers):
            of = slice(None) if layer is None else [found.layers.index(layer)]
            rows.append(
                {
                    "content": content,
                    "layer": layer,
                    "term": term,
                    "coefficient": known(mean),
                    "low": known(low),
                    "high": known(high),
                    "share": known(shares[of, number].mean()),
                    "r_squared": known(r_squared[of].mean()),
                }
            )
    return rows


def _kept(gram_by_topic: Array, kept: Kept) -> Array:
    """(6, 6) sums over pairs both of whose words belong to the topics kept."""
    return gram_by_topic[kept][:, kept].sum((0, 1))


def coefficients(sums: Array) -> Array:
    """(4,) least-squares coefficients of the terms; NaN for a term that does not vary (no two words share a token, say)."""
    spread = _covariance(sums)
    varying = np.diag(spread)[:-1] > 1e-12
    found = np.full(len(varying), np.nan)
    inner = spread[:-1, :-1][np.ix_(varying, varying)]
    found[varying] = np.linalg.lstsq(inner, spread[:-1, -1][varying], rcond=None)[0]
    return found


def _covariance(sums: Array) -> Array:
    """(5, 5) centred sums of products of (terms, y)."""
    return sums[1:, 1:] - np.outer(sums[0, 1:], sums[0, 1:]) / max(sums[0, 0], 1)


def _explained(sums: Array, chosen: tuple[int, ...]) -> float:
    """R^2 of the regression on the chosen terms (numbered from 1)."""
    spread = _covariance(sums)
    places = [number - 1 for number in chosen if spread[number - 1, number - 1] > 1e-12]
    if not places or spread[-1, -1] <= 0:
        return 0.0
    cross = spread[places, -1]
    return float(cross @ np.linalg.lstsq(spread[np.ix_(places, places)], cross, rcond=None)[0] / spread[-1, -1])


def shapley(sums: Array) -> Array:
    """(4,) Shapley shares of R^2; they add up to it."""
    count = len(TERMS)
    found = np.zeros(count)
    for term in range(1, count + 1):
        others = [other for other in range(1, count + 1) if other != term]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for chosen in combinations(others, size):
                found[term - 1] += weight * (_explained(sums, (*chosen, term)) - _explained(sums, chosen))
    return found
