"""The set transplant: at the current token only, keep in every layer a set that was taken from elsewhere.

The decisive test of both limits. The history runs dense once and leaves its keys and values; the current token
then runs once per set, all sets in one batch, so a transplant costs one token and not one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moyu_core.branching import branched, fits, history, together
from moyu_core.errors import InputError
from moyu_core.masking import fixed, kl_divergence, masked
from moyu_core.models import LoadedModel

BATCH_ROWS = 32
"""Sets that go through the model at a time; the logits of each are held, and where need be a copy of the keys and values."""


@torch.inference_mode()
def transplant(model: LoadedModel, token_ids: Sequence[int] | Tensor, masks: Mapping[int, Tensor], past: Any = None) -> Tensor:
    """KL(dense || masked) of the next-token distribution after the last token, for each of S sets.

    Args:
        model: a loaded model with dense FFNs.
        token_ids: (T,) the history and, last, the current token; sink token first; at least 2.
        masks: layer -> (S, F) bool, the neurons that the current token keeps there; absent layers stay dense.
        past: what `history` made of the tokens before the last, to save that pass; it is not changed.

    Returns:
        (S,) nats, float64, on the CPU.

    Raises:
        InputError: a mixture-of-experts model, whose neurons differ from expert to expert; fewer than two tokens.
    """
    if any(site.experts for site in model.sites):
        raise InputError(f"{model.identity.name} is a mixture of experts; sets of one expert mean nothing in another.")
    ids = torch.as_tensor(token_ids, dtype=torch.long, device=model.device)[None]
    if ids.shape[1] < 2:
        raise InputError("A transplant needs the sink token and at least one more token.")
    if not masks:
        return torch.zeros(0, dtype=torch.float64)
    past = history(model, ids[:, :-1]) if past is None else past
    count = len(next(iter(masks.values())))
    parts = [
        _chunk(model, ids[:, -1:], past, {layer: mask[start : start + BATCH_ROWS] for layer, mask in masks.items()})
        for start in range(0, count, BATCH_ROWS)
    ]
    return torch.cat(parts)


def _chunk(model: LoadedModel, token: Tensor, past: Any, masks: dict[int, Tensor]) -> Tensor:
    """One batch of sets; its first row is dense, so that both distributions come out of the same arithmetic."""
    rows = 1 + len(next(iter(masks.values())))
    whole = {layer: torch.cat([mask.new_ones(1, mask.shape[1]), mask]) for layer, mask in masks.items()}
    one_pass = fits(model, past, rows)  # asked outside the mask: the first answer runs a dummy input
    with masked(model, fixed(whole)):
        if one_pass:
            same = torch.zeros(rows, dtype=torch.long)
            logits = together(model, past, token[0].expand(rows), same, torch.eye(rows, dtype=torch.bool), head=True).logits[0]
        else:
            cache = branched(past, [0] * rows)
            logits = model.model(input_ids=token.expand(rows, 1), past_key_values=cache, use_cache=True).logits[:, -1]
    return kl_divergence(logits[:1], logits[1:]).cpu()


__all__ = ["history", "transplant"]
