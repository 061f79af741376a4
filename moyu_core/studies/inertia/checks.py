"""Feeding a sequence token by token must give the activations of one prefill: candidate meaning (ii) of the paper's par and seq."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from moyu_core import sets
from moyu_core.sites import Activation, watch
from moyu_core.studies.inertia.conditions import Text, sequence_ids
from moyu_core.studies.inertia.units import Reader

TEXTS = 2


@torch.inference_mode()
def token_by_token(reader: Reader, texts: Sequence[Text]) -> dict[str, float]:
    """Largest relative difference of activations and mean overlap of sets, prefill against one token at a time with a KV cache."""
    worst, overlaps = 0.0, []
    for text in texts[:TEXTS]:
        reader.report("token by token", 0, 0)
        ids = torch.from_numpy(sequence_ids(text, [reader.model.sink_token_id])[0])[None].to(reader.model.device)
        whole = _activations(reader, ids, None)
        single = _activations(reader, ids, 1)
        for layer, a in whole.items():
            worst = max(worst, float((a - single[layer]).abs().max() / a.abs().max()))
            packed = [
                reader.reduce(Activation(_site(reader, layer), rows), np.arange(1, len(rows)))[0] for rows in (a, single[layer])
            ]
            overlaps.append(float(np.nanmean(sets.overlap(*packed))))
        reader.tokens += 2 * ids.shape[1]
    return {"largest_difference": worst, "mean_overlap": float(np.mean(overlaps)), "texts": float(min(TEXTS, len(texts)))}


def _site(reader: Reader, layer: int) -> Any:
    return next(site for site in reader.model.sites if site.layer == layer)


def _activations(reader: Reader, ids: torch.Tensor, step: int | None) -> dict[int, torch.Tensor]:
    """(T, F) activations by layer, `step` tokens at a time; None = all at once."""
    seen: dict[int, list[torch.Tensor]] = {layer: [] for layer in reader.layers}
    cache: Any = None
    with watch(reader.model, None, lambda activation: seen[activation.site.layer].append(activation.a.clone())):
        for start in range(0, ids.shape[1], step or ids.shape[1]):
            part = ids[:, start : start + (step or ids.shape[1])]
            cache = reader.model.decoder(input_ids=part, past_key_values=cache, use_cache=True).past_key_values
    return {layer: torch.cat(rows) for layer, rows in seen.items()}
