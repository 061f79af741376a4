"""The proof that a site is one: activation x down projection (+ bias) is what the FFN puts out."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moyu_core import moe
from moyu_core.errors import ModelError
from moyu_core.sites import Site

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest |a W_down (+ b) - output| / max |output| that passes: rounding only; a wrong site is off by about 1."""


@torch.inference_mode()
def check_identity(model: LoadedModel) -> float:
    """Proves on a dummy input that activation x W_down (+ bias) is what each site puts out.

    Two sequences of four tokens, one forward pass. Dense: against the projection's own output (BLOOM's and MPT's FFN
    modules add the residual to it). Mixtures: sum_k w_k (a_k W_down[e_k]^T) against the experts' output as
    transformers computes it by itself.

    Returns:
        the largest relative error over sites, max |difference| / max |output|.

    Raises:
        ModelError: a site was not reached, or is off by more than `TOLERANCE`.
    """
    errors: dict[str, float] = {}
    ids = torch.linspace(0, max(model.vocab_size // 2, 1), 8, device=model.device).long().view(2, 4)
    with ExitStack() as stack:
        for site in model.sites:
            handle = site.module.register_forward_hook(partial(_compare, site, ids.numel(), errors), with_kwargs=True)
            stack.callback(handle.remove)
        model.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    tolerance = TOLERANCE[model.dtype]
    for site in model.sites:
        if site.name not in errors:
            raise ModelError(f"Site {site.name} of {model.identity.name} was not reached by a forward pass.")
        if not errors[site.name] <= tolerance:  # NaN fails too
            raise ModelError(f"At {site.name} of {model.identity.name} activation x down projection differs from the "
                             f"output by {errors[site.name]:.2g} of its maximum (allowed {tolerance:g}).")
    return max(errors.values())


def _compare(
    site: Site, rows: int, errors: dict[str, float], module: nn.Module, args: Any, kwargs: Any, output: Tensor
) -> None:
    """Forward hook: notes the relative error of one site."""
    if site.experts:
        hidden, index, weights = (*args, *kwargs.values())
        expected = moe.combine(module, moe.activations(module, hidden, index).float(), index, weights)
    else:
        a = args[0].reshape(-1, site.n_neurons).float()
        bias = site.bias()
        expected = site.down(a) if bias is None else site.down(a) + bias.float()
    if len(expected) != rows:
        raise ModelError(f"Site {site.name} saw {len(expected)} rows for {rows} tokens.")
    output = output.reshape(expected.shape).float()
    scale = output.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    errors[site.name] = float((expected - output).abs().max() / scale)
