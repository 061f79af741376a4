"""The core of the study: W, X and the inertia index of every content, the sink artefact, the controls that must give nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from moyu_core import sets
from moyu_core.intervals import Interval
from moyu_core.schema.inertia import CONTENTS
from moyu_core.studies.inertia.conditions import Draws, Text, distinct, unit_tokens
from moyu_core.studies.inertia.pairs import Pairs, PairSums, index
from moyu_core.studies.inertia.spread import Kept, known, layered, over_layers
from moyu_core.studies.inertia.units import Reader, Units, cut

BARE = ("sentence", "random_words")
"""Contents whose words are also run without the sink token, to show the artefact."""
Row = dict[str, Any]


@dataclass
class Measured:
    """What the conditions gave.

    Attributes:
        texts: the texts of each content, places alike.
        topics: (S,) number of each text's topic.
        units: (content, history) -> sets of all units, text after text.
        count, energy: (content, history) -> pair sums by layer; overlap by count and energy-weighted.
        controls: name -> what must be zero.
    """

    texts: dict[str, list[Text]]
    topics: np.ndarray
    layers: tuple[int, ...]
    units: dict[tuple[str, str], Units] = field(default_factory=dict)
    count: dict[tuple[str, str], PairSums] = field(default_factory=dict)
    energy: dict[tuple[str, str], PairSums] = field(default_factory=dict)
    controls: dict[str, Interval] = field(default_factory=dict)

    @property
    def n_topics(self) -> int:
        """Units of every interval."""
        return int(self.topics.max()) + 1

    def index(self, content: str, kept: Kept, sums: str = "count") -> np.ndarray:
        """(L,) inertia index of a content over the topics kept."""
        by_condition: dict[tuple[str, str], PairSums] = getattr(self, sums)
        return index(by_condition[content, "sequence"], by_condition[content, "parallel"], kept)


def topic_numbers(texts: Sequence[Text]) -> np.ndarray:
    """(S,) number of each text's topic, in order of appearance."""
    names = list(dict.fromkeys(text.topic for text in texts))
    return np.asarray([names.index(text.topic) for text in texts])


def measure(reader: Reader, texts: Sequence[Text], seed: int) -> Measured:
    """Run all conditions and sum over their pairs."""
    draws = Draws(reader.model, seed, 0)
    by_content = {content: draws.content(content, texts) for content in CONTENTS}
    found = Measured(by_content, topic_numbers(texts), reader.layers)
    _run(reader, found)
    for number, (condition, units) in enumerate(found.units.items()):
        reader.report("overlaps", number, len(found.units))
        found.count[condition], found.energy[condition] = sums_of(_pairs(found, *condition), units)
    _controls(reader, found, seed)
    return found


def _run(reader: Reader, found: Measured) -> None:
    """The forward passes: each different word once alone, each text of each content once."""
    everything = [text for texts in found.texts.values() for text in texts]
    words, where = distinct(everything)
    alone = reader.words(words, "words alone", energy=True)
    size = len(found.topics)
    for number, (content, texts) in enumerate(found.texts.items()):
        found.units[content, "parallel"] = alone.take(where[number * size : (number + 1) * size].ravel())
        found.units[content, "sequence"] = reader.sequences(texts, f"{content.replace('_', ' ')} in sequence", energy=True)
    for content in BARE:
        found.units[content, "bare"] = reader.parallel(found.texts[content], "words without the sink", energy=True, sink=False)


def _pairs(found: Measured, content: str, history: str) -> Pairs:
    """The pairs that count; without the sink only words of one token stand at position 0."""
    texts = found.texts[content]
    alone = np.asarray([[len(word.ids) == 1 for word in text.words] for text in texts]) if history == "bare" else None
    return Pairs(unit_tokens(texts), found.topics, alone)


def sums_of(pairs: Pairs, units: Units) -> tuple[PairSums, PairSums]:
    """All layers: overlap by count, and the share of one set's energy that lies in the other, 0 where the units have none."""

    def one(layer: int) -> tuple[PairSums, PairSums]:
        return pairs.sums(units.active[layer], units.n_neurons, units.energy[layer] if units.energy else None)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        count, energy = zip(*pool.map(one, range(len(units.layers))), strict=True)
    return PairSums.stack(count), PairSums.stack(energy)


def counts_of(pairs: Pairs, units: Units) -> PairSums:
    """Overlap by count alone, all layers."""
    return sums_of(pairs, replace(units, energy=[]))[0]


def _controls(reader: Reader, found: Measured, seed: int) -> None:
    """What must be zero: W - X when the words of a place change texts at random, and I when words cannot see each other."""
    texts = found.texts["sentence"]
    order = np.random.default_rng([seed, 1])
    size, width = len(texts), len(texts[0].slots)
    moved = np.stack([order.permutation(size) for _ in range(width)], axis=1)  # (S, n): which text's word comes here
    where = moved * width + np.arange(width)
    labels = np.zeros(size, np.int64) + found.topics  # places keep their topics, words do not
    shuffled = counts_of(
        Pairs(unit_tokens(texts)[moved, np.arange(width)], labels), found.units["sentence", "sequence"].take(where.ravel())
    )
    found.controls["labels shuffled"] = over_layers(
        found.n_topics, lambda kept: shuffled.mean_within(kept) - shuffled.mean_across(kept)
    )
    pairs = Pairs(unit_tokens(texts), found.topics)
    blind = [
        counts_of(pairs, units)
        for units in (reader.sequences(texts, "attention cut", mask=cut), reader.parallel(texts, "attention cut", mask=cut))
    ]
    found.controls["attention cut"] = over_layers(found.n_topics, lambda kept: index(blind[0], blind[1], kept))
    found.controls["attention cut, raw flocking"] = over_layers(
        found.n_topics, lambda kept: blind[0].mean_within(kept) - blind[0].mean_across(kept)
    )


def overlap_rows(found: Measured) -> list[Row]:
    """The table `overlaps`: one row a (content, history, layer)."""
    rows = []
    for (content, history), sums in found.count.items():
        energy, units = found.energy[content, history], found.units[content, history]
        values = {
            "within": sums.mean_within(),
            "across": sums.mean_across(),
            "across_same": sums.mean_across(topics="same"),
            "across_other": sums.mean_across(topics="other"),
            "within_energy": energy.mean_within(),
            "across_energy": energy.mean_across(),
        }
        for number, layer in enumerate(found.layers):
            packed = units.active[number]
            rows.append(
                {
                    "content": content,
                    "history": history,
                    "layer": layer,
                    **{name: known(value[number]) for name, value in values.items()},
                    "chance": float(sets.sizes(packed).mean()) / units.n_neurons,
                    "marginal": known(marginal(packed.reshape(*_shape(found), -1), found.topics, units.n_neurons)),
                }
            )
    return rows


def _shape(found: Measured) -> tuple[int, int]:
    return len(found.topics), len(found.texts["sentence"][0].slots)


def marginal(active: np.ndarray, topics: np.ndarray, n_neurons: int) -> float:
    """Overlap of two sets drawn by each neuron's own rate: sum p q / sum p, p and q from different halves of the texts.

    Halves alternate inside the topics, so both hold all of them. NaN for a single text.

    Args:
        active: (S, n, ceil(F/8)).
        topics: (S,).
        n_neurons: F.
    """
    rank = np.asarray([np.sum(topics[:text] == topic) for text, topic in enumerate(topics)])
    first = rank % 2 == 0 if (rank > 0).any() else np.arange(len(topics)) % 2 == 0
    if first.all() or not first.any():
        return float("nan")
    p, q = (sets.rates(active[half].reshape(-1, active.shape[-1]), n_neurons) for half in (first, ~first))
    return float(p @ q / p.sum()) if p.sum() else float("nan")


def index_rows(found: Measured) -> list[Row]:
    """The table `indices`: I by content, by count and by energy, for each layer and (layer empty) their mean."""
    rows = []
    for content in CONTENTS:
        for measure_name, sums in (("overlap", "count"), ("energy", "energy")):
            values = layered(found.n_topics, lambda kept, c=content, s=sums: found.index(c, kept, s), found.layers)
            rows += [
                {
                    "content": content,
                    "measure": measure_name,
                    "layer": layer,
                    "index": known(mean),
                    "low": known(low),
                    "high": known(high),
                }
                for layer, mean, low, high in values
            ]
    return rows


def sink_artefact(found: Measured) -> Row:
    """Mean overlap of two one-token words of different texts at position 0 and behind the sink token, over layers and by layer."""
    texts = found.texts["sentence"]
    alone = np.asarray([[len(word.ids) == 1 for word in text.words] for text in texts])
    behind = counts_of(Pairs(unit_tokens(texts), found.topics, alone), found.units["sentence", "parallel"]).mean_across()
    bare = found.count["sentence", "bare"].mean_across()
    return {
        "bare": known(bare.mean()),
        "behind_sink": known(behind.mean()),
        "by_layer_bare": [known(v) for v in bare],
        "by_layer_behind_sink": [known(v) for v in behind],
    }
