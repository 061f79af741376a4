# ruff: noqa: F722 (shapes are strings)
"""FFN sites of a loaded model: finding them, and watching what enters their down projection.

    with watch(model, layers=[0, 5], receive=reducer):
        model.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from moyu_core import moe
from moyu_core.architectures import TABLE, Architecture, Shape
from moyu_core.errors import InputError, ModelError

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

@dataclass(eq=False)
class Site:
    """One FFN of one layer.

    Attributes:
        layer: decoder layer, from 0.
        name: module path of `module` in the model.
        module: the down projection (Linear or Conv1D); in mixture layers the stack of experts.
        n_neurons: F, width of what enters the down projection (of one expert in mixture layers).
        gated: whether the activation is act(gate) * up.
        experts: experts in the layer, 0 = dense.
        slots: experts a token is routed to, 1 = dense.
    """

    layer: int
    name: str
    module: nn.Module
    n_neurons: int
    gated: bool
    experts: int = 0
    slots: int = 1
    _norms: tuple[tuple[int, int], Tensor] | None = field(default=None, repr=False)

    def weight(self) -> Tensor:
        """W_down as a view, (d, F) in every layout; (E, d, F) in mixture layers."""
        if self.experts:
            return moe.down_weight(self.module)
        weight: Any = self.module.weight
        return weight.T if isinstance(self.module, Conv1D) else weight

    def bias(self) -> Tensor | None:
        """Bias of the down projection, (d,), or (E, d) in mixture layers; None where there is none."""
        bias: Any = getattr(self.module, "down_proj_bias" if self.experts else "bias", None)
        return bias

    def column_norms(self) -> Float[Tensor, "*experts F"]:
        """L2 norm of each neuron's down-projection column, float32: what one unit of it adds. (F,), MoE (E, F)."""
        weight = self.weight().detach()
        state = (weight.data_ptr(), weight._version)
        if self._norms is None or self._norms[0] != state:  # a pass over all weights; captures ask again and again
            self._norms = (state, torch.linalg.vector_norm(weight.float(), dim=-2))
        return self._norms[1]

    def down(self, a: Tensor, experts: Tensor | None = None) -> Tensor:
        """What rows of activations add to the stream: a @ W_down^T without bias, in the wider of the two dtypes.

        Args:
            a: (..., F).
            experts: (...), the expert of each row; mixture layers need it, dense ones ignore it.

        Returns:
            (..., d).
        """
        if self.experts:
            if experts is None:
                raise ValueError(f"{self.name} is a mixture layer: down() needs the expert of every row.")
            return moe.down(self.module, a, experts)
        weight = self.weight()
        dtype = torch.promote_types(a.dtype, weight.dtype)
        return a.to(dtype) @ weight.to(dtype).T


@dataclass(eq=False)
class Activation:
    """What one layer held in one forward pass; a view of the model's own tensor, so copy before keeping or changing.

    Attributes:
        site: where.
        a: (N, F) in the model's dtype, N = batch * time rows, batch major; (N, K, F) in mixture layers.
        experts: (N, K) int64, which expert held each slot; None in dense layers.
        weights: (N, K) router weights; None in dense layers.
    """

    site: Site
    a: Tensor
    experts: Int[Tensor, "N K"] | None = None
    weights: Float[Tensor, "N K"] | None = None


def find_sites(model: Any, row: Architecture, shape: Shape) -> list[Site]:
    """The FFN sites of a transformers model, one a layer, in order.

    Raises:
        ModelError: a layer holds neither the experts nor the down projection that the row names.
    """
    modules = dict(model.named_modules())
    return [_site(modules, row, shape, layer) for layer in range(shape.layers)]


def _site(modules: dict[str, nn.Module], row: Architecture, shape: Shape, layer: int) -> Site:
    """The site of one layer; mixture rows fall back to a dense layer, as Qwen3-MoE may have some."""
    name = row.experts.format(layer)
    if row.experts and moe.is_experts(modules.get(name)):
        experts, _, n_neurons = moe.down_weight(modules[name]).shape
        return Site(layer, name, modules[name], n_neurons, row.gated, experts, shape.slots)
    name = row.down.format(layer)
    module = modules.get(name)
    if isinstance(module, Conv1D):
        return Site(layer, name, module, module.weight.shape[0], row.gated)
    if isinstance(module, nn.Linear):
        return Site(layer, name, module, module.in_features, row.gated)
    found = "nothing" if module is None else type(module).__name__
    raise ModelError(f"{row.family} should have a Linear or Conv1D at {name!r} (or experts); found {found} there. "
                     f"{look_alikes(modules)}")


def look_alikes(modules: dict[str, nn.Module]) -> str:
    """A sentence that names the first layer's modules that narrow their input, as a down projection does."""
    found = []
    for name, module in modules.items():
        parts = name.split(".")
        linear = isinstance(module, nn.Linear) and module.in_features > module.out_features
        narrow = linear or (isinstance(module, Conv1D) and module.weight.shape[0] > module.weight.shape[1])
        if (narrow or moe.is_experts(module)) and ("0" in parts) and not any("attn" in p or p == "att" for p in parts):
            found.append(name)
    if not found:
        return "No module of the first layer looks like a down projection."
    return f"Modules of the first layer that look like a down projection: {', '.join(found[:6])}."


def unknown_architecture(model_type: str | None, model: Any) -> ModelError:
    """The error for a model without a row: names what came, what is known, and what looks like an FFN in it."""
    return ModelError(f"Architecture {model_type!r} is not in the table of moyu_core/architectures.py (known: "
                      f"{', '.join(sorted(TABLE))}). {look_alikes(dict(model.named_modules()))}")


class _AllSeen(Exception):
    """The last activation that is wanted of a forward pass has been received."""


@contextmanager
def watch(
    model: LoadedModel, layers: Sequence[int] | None, receive: Callable[[Activation], None], *, ends_pass: bool = False
) -> Iterator[None]:
    """Calls `receive` with each activation of the chosen layers while the block runs the model.

    Within one forward pass layers come in order. Everything is removed at the end, also after an exception.

    Args:
        model: a loaded model.
        layers: layers to watch, None = all; the others are not hooked.
        receive: must not change the activation.
        ends_pass: whether a forward pass ends with the last chosen layer's activation: neither its down projection nor
            what follows is computed, and `model.decoder` returns None. Watches that were entered before see what this one sees.

    Raises:
        InputError: a layer does not exist, or none is asked for.
    """
    sites = chosen_sites(model, layers)
    if ends_pass:
        with _may_end(model.decoder), watch(model, layers, partial(_receive_until, sites[-1], receive)):
            yield
        return
    dense = [site for site in sites if not site.experts]
    mixture = {site.module: partial(_receive_experts, site, receive) for site in sites if site.experts}
    with ExitStack() as stack:
        if mixture:
            stack.enter_context(moe.watching(model.model, mixture))
        for site in dense:
            handle = site.module.register_forward_pre_hook(_pre_hook(site, receive))
            stack.callback(handle.remove)
        yield


def _receive_until(last: Site, receive: Callable[[Activation], None], activation: Activation) -> None:
    receive(activation)
    if activation.site is last:
        raise _AllSeen


@contextmanager
def _may_end(decoder: nn.Module) -> Iterator[None]:
    """Lets `_AllSeen` end a forward pass like any other: the decoder's hooks are called, the caller has nothing to catch."""
    whole, own = decoder.forward, "forward" in vars(decoder)  # a model spread over devices has a forward of its own

    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            return whole(*args, **kwargs)
        except _AllSeen:
            return None

    decoder.forward = forward
    try:
        yield
    finally:
        if own:
            decoder.forward = whole
        else:
            del decoder.forward


def chosen_sites(model: LoadedModel, layers: Sequence[int] | None) -> list[Site]:
    """The sites of the named layers, each once, in layer order."""
    if layers is None:
        return list(model.sites)
    missing = sorted(set(layers) - {site.layer for site in model.sites})
    if missing or not layers:
        what = f"layer {', '.join(map(str, missing))} does not exist" if missing else "no layer was asked for"
        raise InputError(f"{model.identity.name} has layers 0 to {len(model.sites) - 1}; {what}.")
    return [site for site in model.sites if site.layer in set(layers)]


def _pre_hook(site: Site, receive: Callable[[Activation], None]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A forward pre-hook. It returns nothing: a value would replace the module's input."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # OPT has dropped the batch axis already; everyone else gives (B, T, F).
        receive(Activation(site, args[0].detach().reshape(-1, site.n_neurons)))

    return hook


def _receive_experts(
    site: Site, receive: Callable[[Activation], None], a: Tensor, experts: Tensor, weights: Tensor
) -> None:
    receive(Activation(site, a.detach(), experts, weights.detach()))
