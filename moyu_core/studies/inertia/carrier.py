"""The carrier test: does what came before decide which neurons fire, whatever comes next?

One prefix goes on in three ways: as the text does, as a text of another topic does, with random words. The continuation's sets are
compared with the prefix's GRIFFIN set, and with those of other topics' prefixes as the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moyu_core import sets
from moyu_core.schema.inertia import CONTINUATIONS
from moyu_core.studies.inertia.conditions import Draws, Text, sequence_ids
from moyu_core.studies.inertia.prefix import leave_out, statistic, top
from moyu_core.studies.inertia.spread import curve_rows, topic_means
from moyu_core.studies.inertia.units import Reader, Units

PREFIX_SHARE = 5 / 8
"""Share of a text's words that make the prefix: 20 of 32, which leaves 12 words to look at."""
SHORTEST = 8
"""Words a text needs for the test: a prefix of 5 and 3 to look at."""


@dataclass(frozen=True)
class Joined:
    """The three continuations of every text.

    Attributes:
        topics: (S,) number of each text's topic.
        cut: words of the prefix.
        texts: continuation -> S texts, prefix and continuation.
        own: (L, S, F) statistic of each text's prefix.
        static: (L, S, F) the mean statistic of the texts of all other topics.
    """

    topics: np.ndarray
    cut: int
    texts: dict[str, list[Text]]
    own: np.ndarray
    static: np.ndarray


def join(reader: Reader, texts: Sequence[Text], topics: np.ndarray, seed: int) -> Joined:
    """Prefixes, continuations and the statistics of both; at least two topics are needed."""
    width = len(texts[0].slots)
    cut = int(PREFIX_SHARE * width)
    strangers = unrelated(topics)
    draws = Draws(reader.model, seed, 3)
    others = draws.content("random_words", [Text(text.prompt, text.topic, text.slots[cut:]) for text in texts])
    ends = {
        "true": [text.slots[cut:] for text in texts],
        "unrelated": [texts[other].slots[cut:] for other in strangers],
        "random_words": [text.slots for text in others],
    }
    joined = {
        name: [Text(text.prompt, text.topic, (*text.slots[:cut], *end)) for text, end in zip(texts, ends[name], strict=True)]
        for name in CONTINUATIONS
    }
    pairs = [sequence_ids(text, [reader.model.sink_token_id]) for text in texts]
    spans = [((1, int(rows[cut - 1]) + 1), (1, len(ids))) for ids, rows in pairs]
    found = statistic(reader, [ids for ids, _ in pairs], spans, "prefixes")
    return Joined(topics, cut, joined, found[:, :, 0], leave_out(found[:, :, 1], topics, topics.tolist()))


def unrelated(topics: np.ndarray) -> list[int]:
    """For each text one of the next topic, the same number inside it where that exists."""
    members = [np.flatnonzero(topics == topic) for topic in range(int(topics.max()) + 1)]
    found = []
    for text, topic in enumerate(topics):
        rank = int(np.flatnonzero(members[topic] == text)[0])
        nearby = members[(topic + 1) % len(members)]
        found.append(int(nearby[rank % len(nearby)]))
    return found


def measure(reader: Reader, joined: Joined) -> list[dict[str, Any]]:
    """Rows of the table `carrier`."""
    rows = []
    for name, texts in joined.texts.items():
        units = reader.sequences(texts, f"carrier, {name.replace('_', ' ')}")
        own, other = against_prefixes(units, joined)
        for prefix, values in (("own", own), ("other", other)):
            means = topic_means(values.transpose(1, 0, 2), joined.topics)  # (T, L, words)
            rows += [{"continuation": name, "prefix": prefix, **row} for row in curve_rows(means, reader.layers, "word")]
    return rows


def against_prefixes(units: Units, joined: Joined) -> tuple[np.ndarray, np.ndarray]:
    """(L, S, words) overlap of the continuation's sets with the own prefix's set, and the mean over other topics' prefixes."""
    size = len(joined.topics)
    own, other = [], []
    for layer in range(len(units.layers)):
        active = units.active[layer]
        k = max(1, round(float(sets.sizes(active).mean())))
        prefixes = sets.unpack(top(joined.own[layer : layer + 1], np.asarray([k]))[0], units.n_neurons).astype(np.float32)
        vectors = units.unit_vectors(layer).reshape(size, -1, units.n_neurons)[:, joined.cut :]
        overlaps = np.einsum("swf,tf->swt", vectors, prefixes / np.sqrt(k), optimize=True)
        own.append(overlaps[np.arange(size), :, np.arange(size)])
        foreign = joined.topics[:, None] != joined.topics[None, :]
        other.append((overlaps * foreign[:, None]).sum(2) / foreign.sum(1)[:, None])
    return np.stack(own), np.stack(other)
