"""The set transplant with prefix sets: at one token, keep in every layer only a set from elsewhere, and see what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from moyu_core.branching import kept
from moyu_core.schema.inertia import SOURCES
from moyu_core.sites import Activation, watch
from moyu_core.spec import SetRule
from moyu_core.studies.inertia.carrier import Joined
from moyu_core.studies.inertia.conditions import sequence_ids
from moyu_core.studies.inertia.units import Reader
from moyu_core.transplant import history, transplant

DENSITIES = (0.1, 0.3, 0.5)


def densities(rule: SetRule) -> tuple[float, ...]:
    """The densities that are tried: the usual ones and the run's own."""
    return tuple(sorted({*DENSITIES, *([rule.density] if rule.density else [])}))


def measure(reader: Reader, joined: Joined, rule: SetRule, seed: int) -> list[dict[str, Any]]:
    """Rows of the table `transplants`: two words of each continuation of each text, in its middle and its last."""
    rows = []
    random = np.random.default_rng([seed, 4])
    width = len(joined.texts["true"][0].slots)
    words = sorted({(width - joined.cut) // 2, width - joined.cut - 1})
    total = len(joined.texts) * len(joined.topics)
    for number, (name, texts) in enumerate(joined.texts.items()):
        for index, text in enumerate(texts):
            reader.report("transplants", number * len(texts) + index, total)
            ids, places = sequence_ids(text, [reader.model.sink_token_id])
            for word in words:
                upto = torch.from_numpy(ids[: places[joined.cut + word] + 1])
                found = _kl(reader, upto, joined.own[:, index], joined.static[:, index], densities(rule), random)
                reader.tokens += len(upto)
                rows += [
                    {
                        "prompt_id": text.prompt.id,
                        "topic": text.topic,
                        "continuation": name,
                        "word": word,
                        "source": source,
                        "density": density,
                        "kl": kl,
                    }
                    for (source, density), kl in found.items()
                ]
    return rows


def _kl(
    reader: Reader, ids: torch.Tensor, prefix: np.ndarray, static: np.ndarray, tried: tuple[float, ...], random: np.random.Generator
) -> dict[tuple[str, float], float]:
    """KL by (source, density) at the last of these tokens."""
    ids = ids.to(reader.model.device)
    past = history(reader.model, ids[None, :-1])
    scores = {
        "own": own_scores(reader, ids, past),
        "prefix": prefix,
        "static": static,
        "random": random.random(prefix.shape, np.float32),
    }
    keys = [(source, density) for source in SOURCES for density in tried]
    masks = {}
    for number, layer in enumerate(reader.layers):
        chosen = [_largest(scores[source][number], density) for source, density in keys]
        masks[layer] = torch.from_numpy(np.stack(chosen)).to(reader.model.device)
    return dict(zip(keys, transplant(reader.model, ids, masks, past).tolist(), strict=True))


def _largest(scores: np.ndarray, density: float) -> np.ndarray:
    """(F,) bool: the k largest scores, k as for the rule `top`."""
    k = SetRule("top", density).count(len(scores))
    chosen = np.zeros(len(scores), bool)
    chosen[np.argpartition(-scores, k - 1)[:k]] = True
    return chosen


@torch.inference_mode()
def own_scores(reader: Reader, ids: torch.Tensor, past: Any) -> np.ndarray:
    """(L, F) scores of the last token's own set: |a| under the rule `magnitude`, else |a|*c."""
    place = {layer: number for number, layer in enumerate(reader.layers)}
    found = np.zeros((len(reader.layers), reader.n_neurons), np.float32)

    def receive(activation: Activation) -> None:
        a = activation.a[-1].float().abs()
        score = a if reader.rule.name == "magnitude" else a * activation.site.column_norms().to(a.device)
        found[place[activation.site.layer]] = score.cpu().numpy()

    with watch(reader.model, None, receive):
        reader.model.decoder(input_ids=ids[None, -1:], past_key_values=kept(past), use_cache=True)
    return found
