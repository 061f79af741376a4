"""The topic switch: how many words until the sets are those of the new topic?

Every text follows one of another topic, and, as the control, another one of its own. Its sets are compared with the GRIFFIN set of
its topic, made from the topic's texts that are not in play. The words are the same in both, so their difference is the switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moyu_core import sets
from moyu_core.intervals import jackknife
from moyu_core.studies.inertia.carrier import unrelated
from moyu_core.studies.inertia.conditions import Text, sequence_ids
from moyu_core.studies.inertia.prefix import statistic, top
from moyu_core.studies.inertia.spread import curve_rows, known, topic_means
from moyu_core.studies.inertia.units import Reader, Units

TEXTS_A_TOPIC = 3
"""The text, the one before it in the control, and at least one that makes the topic's set."""
ENOUGH = 0.95
SMOOTH = 5
"""Words of the running mean: single words differ more than the switch."""


def measure(reader: Reader, texts: Sequence[Text], topics: np.ndarray) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the table `switch`, and facts: words until 95 % of the overlap without a switch."""
    strangers, siblings = unrelated(topics), _siblings(topics)
    pairs = [sequence_ids(text, [reader.model.sink_token_id]) for text in texts]
    usage = statistic(reader, [ids for ids, _ in pairs], [((1, len(ids)),) for ids, _ in pairs], "topics")[:, :, 0]
    after = {
        "other": [_after(texts[first], text) for first, text in zip(strangers, texts, strict=True)],
        "same": [_after(texts[first], text) for first, text in zip(siblings, texts, strict=True)],
    }
    new = _topic_sets(usage, topics, [(topics[i], {i, siblings[i]}) for i in range(len(texts))])
    old = _topic_sets(usage, topics, [(topics[strangers[i]], {strangers[i]}) for i in range(len(texts))])
    rows, curves = [], {}
    for before, joined in after.items():
        units = reader.sequences(joined, f"switch, {before} topic before")
        for target, scores in (("new", new), ("old", old)) if before == "other" else (("new", new),):
            means = topic_means(_overlaps(units, scores, len(texts[0].slots)), topics)
            curves[before, target] = means.mean(axis=1)
            rows += [{"before": before, "target": target, **row} for row in curve_rows(means, reader.layers, "word")]
    return rows, {"words_until": _words_until(curves["other", "new"], curves["same", "new"]), "smooth": SMOOTH, "enough": ENOUGH}


def _siblings(topics: np.ndarray) -> list[int]:
    """For each text the next one of its own topic."""
    found = []
    for text, topic in enumerate(topics):
        members = np.flatnonzero(topics == topic)
        found.append(int(members[(int(np.flatnonzero(members == text)[0]) + 1) % len(members)]))
    return found


def _after(first: Text, text: Text) -> Text:
    return Text(text.prompt, text.topic, (*first.slots, *text.slots))


def _topic_sets(usage: np.ndarray, topics: np.ndarray, wanted: list[tuple[int, set[int]]]) -> np.ndarray:
    """(L, S, F) mean statistic of a topic's texts without those in play."""
    rows = []
    for topic, used in wanted:
        members = [text for text in np.flatnonzero(topics == topic) if text not in used]
        rows.append(usage[:, members].mean(axis=1))
    return np.stack(rows, axis=1)


def _overlaps(units: Units, scores: np.ndarray, words: int) -> np.ndarray:
    """(S, L, words) overlap of the last `words` units of each text with its topic's set of the same size."""
    size = scores.shape[1]
    found = np.empty((size, len(units.layers), words))
    for layer in range(len(units.layers)):
        k = max(1, round(float(sets.sizes(units.active[layer]).mean())))
        chosen = top(scores[layer : layer + 1], np.asarray([k]))[0]
        active = units.active[layer].reshape(size, -1, units.active.shape[-1])[:, -words:]
        found[:, layer] = sets.overlap(active, chosen[:, None])
    return found


def _words_until(switched: np.ndarray, control: np.ndarray) -> dict[str, float | None]:
    """Words after the switch until the running mean reaches 95 % of the control's, with its interval: (T, words) each."""
    found = jackknife(len(switched), lambda kept: _first(switched[kept].mean(0), control[kept].mean(0)))
    return {"mean": known(found.mean), "low": known(found.low), "high": known(found.high)}


def _first(switched: np.ndarray, control: np.ndarray) -> float:
    """0 = at once; the number of words where it is never reached."""
    window = np.ones(min(SMOOTH, len(switched)))
    ratio = np.convolve(switched, window, "valid") / np.convolve(control, window, "valid")
    reached = np.flatnonzero(ratio >= ENOUGH)
    return float(reached[0]) if len(reached) else float(len(switched))
