"""Many continuations of one history in one pass: its keys and values are computed once and not copied for each of them.

The tokens of all continuations stand in one row; a 4-D attention mask lets each see the history, the tokens before it in its own
continuation, and itself, and its position is that of its continuation. Whether an architecture takes such a mask is found out by
running both ways on a dummy input; where it does not, each continuation gets a copy of the history (`branched`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from moyu_core.models import LoadedModel

_SUPPORTED: WeakKeyDictionary[LoadedModel, bool] = WeakKeyDictionary()
TOLERANCE = 1e-3
"""Largest relative difference of the two ways on the dummy input that passes; a mask that is ignored is off by about 1."""


@torch.inference_mode()
def history(model: LoadedModel, ids: Tensor) -> Any:
    """Keys and values of a dense pass over (B, T) tokens: what later tokens can see of them."""
    return model.decoder(input_ids=ids, use_cache=True).past_key_values


@torch.inference_mode()
def extended(model: LoadedModel, past: Any, ids: Tensor) -> Any:
    """`past` with (B, T) more tokens in it; it is changed in place and returned."""
    return model.decoder(input_ids=ids, past_key_values=past, use_cache=True).past_key_values


def kept(past: Any) -> Any:
    """A copy to be written to: layers replace their tensors and never write into them, so the tensors are shared."""
    cache = copy.copy(past)
    cache.layers = [copy.copy(layer) for layer in past.layers]
    return cache


def branched(past: Any, sequences: Sequence[int]) -> Any:
    """A copy of a history of B sequences for a batch whose row i continues sequence `sequences[i]`; the original stays as it is."""
    cache = kept(past)
    cache.batch_select_indices(torch.as_tensor(sequences, device=past.layers[0].keys.device))
    return cache


def fits(model: LoadedModel, past: Any, tokens: int) -> bool:
    """Whether so many tokens of continuations can go in one pass: the architecture takes the mask, and no window slides."""
    if model not in _SUPPORTED:
        _SUPPORTED[model] = _takes_masks(model)
    windows = [layer.sliding_window for layer in past.layers if getattr(layer, "is_sliding", False)]
    return _SUPPORTED[model] and all(past.get_seq_length() + tokens < window for window in windows)


@torch.inference_mode()
def together(model: LoadedModel, past: Any, ids: Tensor, offsets: Tensor, sees: Tensor, head: bool = False) -> Any:
    """One pass over the tokens of all continuations, behind each of B histories; `fits` must have said yes.

    Args:
        model: a loaded model.
        past: of B histories of the same length; it is not changed.
        ids: (m,) the tokens.
        offsets: (m,) place of each in its continuation, from 0.
        sees: (m, m) bool, sees[i, k] = token i may look at token k; true on the diagonal.
        head: whether logits are wanted.

    Returns:
        what the model (with head) or the decoder returns; rows are (B, m).
    """
    batch, before = past.layers[0].keys.shape[0], past.get_seq_length()
    mask = torch.zeros(len(ids), before + len(ids), dtype=model.dtype, device=model.device)
    mask[:, before:].masked_fill_(~sees.to(model.device), torch.finfo(model.dtype).min)
    return (model.model if head else model.decoder)(
        input_ids=ids.to(model.device).expand(batch, -1),
        attention_mask=mask.expand(batch, 1, *mask.shape),
        position_ids=(before + offsets.to(model.device)).expand(batch, -1),
        past_key_values=kept(past),
        use_cache=True,
    )


def _takes_masks(model: LoadedModel) -> bool:
    """Both ways on two short histories and three continuations, one of two tokens."""
    last = max(model.vocab_size - 1, 1)
    ids = torch.arange(10, device=model.device).view(2, 5) * 7 % last
    ids[:, 0] = model.sink_token_id
    tokens = torch.tensor([3 % last, 4 % last, 5 % last, 6 % last], device=model.device)
    sees = torch.eye(4, dtype=torch.bool)
    sees[3, 2] = True
    past = history(model, ids)
    try:
        found = together(model, past, tokens, torch.tensor([0, 0, 0, 1]), sees).last_hidden_state
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    expected = torch.empty_like(found)
    for number, path in enumerate(([3], [4], [5], [5, 6])):
        rows = (torch.tensor(path, device=model.device) % last).expand(2, -1)
        with torch.inference_mode():
            output = model.decoder(input_ids=rows, past_key_values=kept(past), use_cache=True)
        expected[:, number] = output.last_hidden_state[:, -1]
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
