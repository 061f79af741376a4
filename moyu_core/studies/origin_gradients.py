"""dL/da in a real model, with the final norm's scale free and fixed, and what the closed form says of it.

For the last layer the stream in front of the final norm is h = h0 + W a. With the entries of W independent N(0, s^2),
independent of everything else, Stein's lemma gives for any loss (our derivation; `theory` has the case without a norm)

    E[dL/da_i] = s^2 a_i E[div G],    G = dL/dh,

and with z = norm(h) of unit scale, m dimensions that the norm leaves (d, or d - 1 where it takes the mean out), f = U z, pi =
softmax(f), T = tr(U^T (diag pi - pi pi^T) U) inside the tangent space of z, and D = <z, dL/dz> = <pi, f> - f_y

    scale fixed (a constant for the gradient)    div G = (T - D / d) / r^2
    scale free  (the model as it is)             div G = (T - (m - 1) D / d) / r^2        = Laplacian of L in h

with r the norm's divisor. Fixed, T > 0 decides: descent shrinks |a| as in the theorem. Free, L does not change along h, so its
Laplacian averages to 0 over directions of h: the effect is absent rather than hidden, unless h knows U (tied embeddings).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moyu_core.errors import ModelError
from moyu_core.models import LoadedModel
from moyu_core.studies.vocabulary import final_norm
from moyu_core.training.measures import captured

INITIALISER = 0.02
"""Standard deviation of a weight where the configuration names none; transformers' own default."""


def initialiser(model: Any) -> float:
    """s, the standard deviation of every matrix entry that `initialise` draws."""
    return float(getattr(model.config, "initializer_range", None) or INITIALISER)


def initialise(model: Any, seed: int) -> None:
    """Draws every matrix anew, entries N(0, s^2) as the theorem wants them; vectors become 1 (scales) or 0 (biases)."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim > 1:
            weight.data.copy_(initialiser(model) * torch.randn(weight.shape, generator=generator))
        else:
            weight.data.fill_(0.0 if name.endswith("bias") else 1.0)


@contextmanager
def turned(model: LoadedModel) -> Iterator[None]:
    """The last down projection with its sign turned: as good a draw as the one it had.

    The mean over both is what seeds are averaged over: the part of the gradient that is odd in W, by far the largest and of
    mean zero, cancels exactly, so that a few texts do where thousands would be needed.
    """
    weight: Any = model.sites[-1].module.weight
    weight.data.neg_()
    try:
        yield
    finally:
        weight.data.neg_()


@dataclass(frozen=True)
class Gradients:
    """What one text gives; L is the cross-entropy summed over its tokens.

    Attributes:
        a: layer -> (T, F) activations, of all layers or the last alone.
        free: layer -> dL/da, (T, F), the final norm as it is.
        fixed: dL/da of the last layer, (T, F), the final norm's divisor a constant for the gradient.
        divergence: scale -> div G of the closed form, (T,); empty where the logits are no linear map of the norm's output.
    """

    a: dict[int, Tensor]
    free: dict[int, Tensor]
    fixed: Tensor
    divergence: dict[str, Tensor]


def gradients(model: LoadedModel, ids: Tensor, last_only: bool = False) -> Gradients:
    """One forward and one backward pass, nothing kept for the weights.

    Args:
        model: a loaded dense model; its weights need no gradient.
        ids: (T + 1,) the sequence with the token behind it.
        last_only: leaves out all layers but the last, and with them nearly the whole backward pass.

    Raises:
        ModelError: the model has experts or no final norm.
    """
    sites = model.sites[-1:] if last_only else model.sites
    if any(site.experts for site in model.sites):
        raise ModelError(f"{model.identity.name} is a mixture of experts; the sign measure is made for dense FFNs only.")
    norm = final_norm(model.decoder)
    with _traced(model, norm, last_only) as trace, captured([site.module for site in sites]) as seen, torch.enable_grad():
        logits = model.model(input_ids=ids[None, :-1], use_cache=False).logits.float()
        loss = functional.cross_entropy(logits[0], ids[1:], reduction="sum")
        (outer,) = torch.autograd.grad(loss, trace.z, retain_graph=True)
        (inner,) = torch.autograd.grad(fixed(norm, trace.h), trace.h, outer, retain_graph=True)
        (last,) = torch.autograd.grad(trace.h, seen[-1:], inner, retain_graph=True)
        free = torch.autograd.grad(trace.z, seen, outer)
    rows = {site.layer: a.detach().reshape(-1, site.n_neurons) for a, site in zip(seen, sites, strict=True)}
    return Gradients(rows, {site.layer: g.reshape(-1, site.n_neurons) for g, site in zip(free, sites, strict=True)},
                     last.reshape(-1, sites[-1].n_neurons),
                     divergences(model, norm, trace.h.detach()[0], logits.detach()[0], ids[1:]))


class _traced:
    """Keeps the final norm's input `h` and output `z` with their graph.

    The graph begins at the embedding or, where only the last layer is wanted, at what enters its down projection.
    """

    def __init__(self, model: LoadedModel, norm: nn.Module, last_only: bool) -> None:
        self.start = model.sites[-1].module if last_only else model.model.get_input_embeddings()
        self.last_only, self.norm = last_only, norm
        self.h: Any = None
        self.z: Any = None

    def __enter__(self) -> _traced:
        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if self.h is None:  # the norm is called again to be looked at
                self.h, self.z = args[0], output

        if self.last_only:
            begin = self.start.register_forward_pre_hook(lambda _, args: (args[0].detach().requires_grad_(True), *args[1:]))
        else:
            begin = self.start.register_forward_hook(lambda _module, _args, output: output.detach().requires_grad_(True))
        self.handles = [begin, self.norm.register_forward_hook(keep)]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def takes_mean(norm: nn.Module, width: int, like: Tensor) -> bool:
    """Whether a norm takes the mean out (LayerNorm) or not (RMSNorm): the first sends a constant to its bias."""
    ones = torch.ones(1, 1, width, dtype=like.dtype, device=like.device)
    return not bool((norm(ones) - norm(-ones)).any())


def fixed(norm: nn.Module, h: Tensor) -> Tensor:
    """The norm's output with its divisor a constant for the gradient; the value does not change."""
    x = h - h.mean(dim=-1, keepdim=True) if takes_mean(norm, h.shape[-1], h) else h
    bias = getattr(norm, "bias", None)
    with torch.no_grad():
        offset = torch.zeros_like(h) if bias is None else bias.expand_as(h)
        ratio = torch.where(x == 0, 0.0, (norm(h) - offset) / x)
    return x * ratio + offset


def divergences(model: LoadedModel, norm: nn.Module, h: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """div G of either scale for every token, (T,); empty where the closed form does not hold.

    Args:
        model: whose final norm has unit scale and whose FFNs no norm behind them.
        norm: the final norm.
        h: (T, d) its input.
        logits: (T, K).
        labels: (T,).
    """
    readout = model.model.get_output_embeddings()
    z = norm(h[None])[0]
    linear = torch.allclose(z @ readout.weight.T, logits, rtol=1e-3, atol=1e-4)
    scale: Any = norm.weight
    if model.architecture.norm_after or not linear or bool((scale != 1).any()):
        return {}
    mean_out = takes_mean(norm, h.shape[-1], h)
    u = readout.weight - readout.weight.mean(dim=1, keepdim=True) if mean_out else readout.weight
    x = h - h.mean(dim=1, keepdim=True) if mean_out else h
    square = (x.double() ** 2).sum(dim=1) / (z.double() ** 2).sum(dim=1)  # r^2
    trace, radial = _curvature(u, logits), _curvature_along(logits, z)
    d, left = h.shape[1], h.shape[1] - int(mean_out)
    slope = (logits.softmax(dim=1) * logits).sum(dim=1) - logits.gather(1, labels[:, None])[:, 0]
    tangent = (trace - radial).double()
    return {"fixed": (tangent - slope / d) / square, "free": (tangent - (left - 1) * slope / d) / square}


def _curvature(u: Tensor, logits: Tensor) -> Tensor:
    """tr(U^T (diag pi - pi pi^T) U), (T,)."""
    share = logits.softmax(dim=1)
    return share @ (u**2).sum(dim=1) - ((share @ u) ** 2).sum(dim=1)


def _curvature_along(logits: Tensor, z: Tensor) -> Tensor:
    """The same quadratic form along z / |z|: the variance of the logits under pi, divided by |z|^2, (T,)."""
    share = logits.softmax(dim=1)
    variance = (share * logits**2).sum(dim=1) - (share * logits).sum(dim=1) ** 2
    return variance / (z**2).sum(dim=1)
