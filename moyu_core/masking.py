"""The masked forward: run a model with only some of its FFN neurons, on any architecture, by hooks.

    with masked(model, lambda activation: masks[activation.site.layer]):
        logits = model.model(input_ids=ids).logits

A neuron that is left out contributes nothing: its coordinate of the down projection's input becomes 0, bias and residual
stay, attention keeps keys and values of every head. It costs what the dense pass costs: this measures quality, not speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from moyu_core import moe, sets
from moyu_core.sites import Activation, Site, chosen_sites

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

Choose = Callable[[Activation], Tensor | None]
"""Takes what enters a down projection, returns the neurons to keep: bool, broadcastable to its `a`; None keeps all."""


@contextmanager
def masked(model: LoadedModel, choose: Choose, layers: Sequence[int] | None = None) -> Iterator[None]:
    """Runs the model with the chosen neurons only while the block lasts; layers come in order within a forward pass.

    Later layers see what the masked earlier ones made, so `choose` sees their changed activations, not the dense ones.

    Args:
        model: a loaded model.
        choose: called once per layer and forward pass, with all rows (N, F), batch major; (N, K, F) in mixture layers.
        layers: layers that are masked, None = all; the others stay dense.

    Raises:
        InputError: a layer does not exist.
    """
    sites = chosen_sites(model, layers)
    mixture = {site.module: partial(_mask_experts, site, choose) for site in sites if site.experts}
    with ExitStack() as stack:
        if mixture:
            stack.enter_context(moe.watching(model.model, mixture))
        for site in sites:
            if not site.experts:
                handle = site.module.register_forward_pre_hook(_hook(site, choose))
                stack.callback(handle.remove)
        yield


def fixed(masks: Mapping[int, Tensor]) -> Choose:
    """The same neurons for every row: layer -> bool, (F,) or any shape that broadcasts to the rows; absent layers are dense."""
    return lambda activation: masks.get(activation.site.layer)


def from_packed(packed: sets.Packed, n_neurons: int, device: torch.device | str = "cpu") -> Tensor:
    """Packed sets (..., ceil(F/8)) as a bool tensor (..., F)."""
    return torch.from_numpy(np.ascontiguousarray(sets.unpack(packed, n_neurons))).to(device)


def _hook(site: Site, choose: Choose) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
    """A forward pre-hook whose value replaces the down projection's input."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        a = args[0]
        keep = choose(Activation(site, a.detach().reshape(-1, site.n_neurons)))
        if keep is None:
            return None
        rows = a.reshape(-1, site.n_neurons)  # OPT has dropped the batch axis already
        return (torch.where(keep.to(a.device), rows, 0).to(a.dtype).view(a.shape), *args[1:])

    return hook


def _mask_experts(site: Site, choose: Choose, a: Tensor, experts: Tensor, weights: Tensor) -> Tensor | None:
    keep = choose(Activation(site, a.detach(), experts, weights.detach()))
    return None if keep is None else torch.where(keep.to(a.device), a, 0).to(a.dtype)


def kl_divergence(dense: Tensor, sparse: Tensor) -> Tensor:
    """KL(dense || sparse) of next-token distributions in nats, at least 0: logits (..., V) each -> (...), float64."""
    p, q = (torch.log_softmax(logits.double(), dim=-1) for logits in (dense, sparse))
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(dim=-1).clamp_min(0)
