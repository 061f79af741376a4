"""What stands before an FFN: the hidden states that predictors read, the gate, and the weights of the first matrices.

    with observe(model, None, ("residual",), receive):
        model.decoder(input_ids=ids, use_cache=False)      # receive(rows) once a layer

Where these things are is found on a dummy input and not from a table: the block is the decoder layer around the site, the
first matrices are the FFN's own Linears of width F, the norm is the module whose output they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from moyu_core.errors import ModelError
from moyu_core.methods.protocol import Rows
from moyu_core.sites import Activation, Site, chosen_sites, watch

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

INPUTS = {
    "ffn": "the FFN's own input, after its norm",
    "residual": "the residual stream before the FFN's norm, same layer",
    "block": "the input of the layer, before its attention (half a layer ahead)",
    "previous": "the residual stream before the FFN's norm of the layer before (a whole layer ahead)",
}
"""Hidden states by name. "previous" of layer 0 is the layer's own input: nothing stands before it."""


@dataclass(eq=False)
class Front:
    """The modules in front of one down projection.

    Attributes:
        block: the decoder layer.
        first: what reads the FFN's input: gate and up, one fused matrix, or fc1; the experts in mixture layers.
        norm: the norm whose output they read; None where there is none.
        act: the activation module whose output is act(g); None where there is none to hook.
    """

    block: nn.Module
    first: list[nn.Module]
    norm: nn.Module | None
    act: nn.Module | None


_fronts: WeakKeyDictionary[LoadedModel, dict[int, Front]] = WeakKeyDictionary()


def fronts(model: LoadedModel, layers: Sequence[int] | None = None) -> dict[int, Front]:
    """The modules in front of each chosen layer's down projection, found once a model by running a dummy input.

    Raises:
        ModelError: a layer's first matrices cannot be found.
    """
    if model not in _fronts:
        _fronts[model] = _found(model)
    return {site.layer: _fronts[model][site.layer] for site in chosen_sites(model, layers)}


def _found(model: LoadedModel) -> dict[int, Front]:
    modules = dict(model.model.named_modules())
    found = {}
    for site in model.sites:
        names = site.name.split(".")
        number = next(place for place, name in enumerate(names) if name.isdigit())
        block, parent = modules[".".join(names[: number + 1])], modules[".".join(names[:-1])]
        first = [site.module] if site.experts else _first(parent, site, model.d_model)
        if not first:
            raise ModelError(f"The matrices in front of {site.name} of {model.identity.name} were not found, so no predictor can "
                             "read their input.")
        found[site.layer] = Front(block, first, None, None if site.experts else _activation_module(parent))
    _find_norms(model, found)
    return found


def _first(parent: nn.Module, site: Site, d: int) -> list[nn.Module]:
    """Children from width d to F, or to 2F where gate and up are one matrix."""
    sizes = (site.n_neurons, 2 * site.n_neurons)
    others = (child for child in parent.children() if child is not site.module)
    return [child for child in others if _shape(child)[0] == d and _shape(child)[1] in sizes]


def _shape(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a Linear or Conv1D, else (0, 0)."""
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, Conv1D):
        return weight.shape[0], weight.shape[1]
    return (weight.shape[1], weight.shape[0]) if isinstance(module, nn.Linear) else (0, 0)


def _activation_module(parent: nn.Module) -> nn.Module | None:
    """The child that holds the activation function: no weights, "act" in its name."""
    return next((child for name, child in parent.named_children() if "act" in name and not list(child.parameters())), None)


def _find_norms(model: LoadedModel, found: dict[int, Front]) -> None:
    """Fill in each front's norm: the module of the block whose output is the very tensor that the first matrix reads."""
    with ExitStack() as stack, torch.inference_mode():
        for front in found.values():
            outputs: dict[int, tuple[nn.Module, Tensor]] = {}
            for name, child in front.block.named_modules():
                if "norm" in name.lower() or "ln" in name.lower():
                    stack.callback(child.register_forward_hook(partial(_remember, outputs)).remove)
            stack.callback(front.first[0].register_forward_pre_hook(partial(_recognise, front, outputs), with_kwargs=True).remove)
        ids = torch.tensor([[model.sink_token_id, model.sink_token_id]], device=model.device)
        model.decoder(input_ids=ids, use_cache=False)


def _remember(outputs: dict[int, tuple[nn.Module, Tensor]], module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        outputs[output.data_ptr()] = (module, output)


def _recognise(front: Front, outputs: dict[int, tuple[nn.Module, Tensor]], module: nn.Module, args: Any, kwargs: Any) -> None:
    states = (*args, *kwargs.values())[0]
    front.norm = outputs.get(states.data_ptr(), (None,))[0]
    outputs.clear()


@contextmanager
def observe(
    model: LoadedModel,
    layers: Sequence[int] | None,
    inputs: Sequence[str],
    receive: Callable[[Rows], None],
    gate: bool = False,
) -> Iterator[Observer]:
    """Calls `receive` with each layer's rows, all sequences after each other, while the block runs the model.

    Args:
        model: a loaded model.
        layers: which layers, None = all.
        inputs: which hidden states (INPUTS).
        receive: gets rows whose tensors are views: copy before keeping.
        gate: whether act(g) is wanted.
    """
    observer = Observer(model, layers, frozenset(inputs), gate, receive)
    with observer.hooks(), watch(model, layers, observer.finish):
        yield observer


class Observer:
    """Collects what passes in front of a down projection until its activation completes the layer."""

    def __init__(
        self,
        model: LoadedModel,
        layers: Sequence[int] | None,
        inputs: frozenset[str],
        gate: bool,
        receive: Callable[[Rows], None] = lambda rows: None,
    ) -> None:
        self._model, self._receive, self._inputs, self._gate = model, receive, inputs, gate
        self._sites = chosen_sites(model, layers)
        self._norms = {site.layer: site.column_norms().to(model.device).flatten() for site in self._sites}
        self._states: dict[str, Tensor] = {}
        self._tokens = torch.zeros(0, dtype=torch.long)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hooks for what was asked for; none where only activations are."""
        with ExitStack() as stack:
            embedding = self._model.model.get_input_embeddings()
            stack.callback(embedding.register_forward_pre_hook(self._see_tokens, with_kwargs=True).remove)
            if self._inputs or self._gate:
                every = None if "previous" in self._inputs else [site.layer for site in self._sites]
                for front in fronts(self._model, every).values():
                    for handle in self._watch(front):
                        stack.callback(handle.remove)
            yield

    def _watch(self, front: Front) -> Iterator[Any]:
        yield front.block.register_forward_pre_hook(partial(self._keep, "block"), with_kwargs=True)
        yield front.first[0].register_forward_pre_hook(partial(self._keep, "ffn"), with_kwargs=True)
        if front.norm is not None:
            yield front.norm.register_forward_pre_hook(partial(self._keep, "norm"), with_kwargs=True)
        if self._gate and front.act is not None:
            yield front.act.register_forward_hook(self._keep_gate)

    def _see_tokens(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._tokens = (*args, *kwargs.values())[0].detach().flatten()
        self._states.clear()

    def _keep(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Notes a hidden state; the residual stream is what the norm reads, or the FFN's own input where there is no norm."""
        states = (*args, *kwargs.values())[0].detach().reshape(-1, self._model.d_model)
        if name == "block":
            self._states.pop("norm", None)
            if "residual" in self._states:
                self._states["previous"] = self._states.pop("residual")
        self._states[name] = states
        if name == "ffn":
            before = self._states.get("norm")
            self._states["residual"] = states if before is None else before

    def _keep_gate(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._states["gate"] = output.detach()

    def finish(self, activation: Activation) -> None:
        """The activation is the last thing that a layer makes: hand the rows over."""
        self._receive(self.rows(activation))

    def rows(self, activation: Activation) -> Rows:
        """The rows of the layer whose activation has just been made."""
        site = activation.site
        a, routed = flattened(activation)
        states = {name: self._states[name] for name in self._inputs if name in self._states}
        if "previous" in self._inputs and "previous" not in states:
            states["previous"] = self._states["block"]
        gate = self._states.get("gate") if self._gate and site.gated and not site.experts else None
        gate = None if gate is None else gate.reshape(-1, site.n_neurons)
        return Rows(site.layer, a, self._norms[site.layer], self._tokens, states, gate, routed)


def flattened(activation: Activation) -> tuple[Tensor, Tensor | None]:
    """(N, F) float32 activations and None; of a mixture layer (N, E*F) with router weights and which neurons were routed.

    Activations that are not finite count as 0, as in every statistic.
    """
    if activation.experts is None or activation.weights is None:
        a = activation.a.float()
        whole = bool(a.sum().isfinite())  # a pass over the data less than asking each one
        return (a if whole else torch.where(a.isfinite(), a, 0)), None
    site, experts = activation.site, activation.experts
    weighted = activation.a.float() * activation.weights.unsqueeze(-1).float()
    place = experts.unsqueeze(-1).expand_as(weighted)
    whole = weighted.new_zeros(len(weighted), site.experts, site.n_neurons).scatter_add_(1, place, weighted)
    routed = torch.zeros_like(whole, dtype=torch.bool).scatter_(1, place, torch.ones_like(place, dtype=torch.bool))
    return torch.where(whole.isfinite(), whole, 0).flatten(1), routed.flatten(1)


def down_weight(site: Site) -> Tensor:
    """W_down as (d, F) float32; of a mixture layer (d, E*F), the experts side by side as in `Rows.a`."""
    weight = site.weight().detach().float()
    return weight.permute(1, 0, 2).flatten(1) if site.experts else weight


def row_norms(model: LoadedModel, layer: int) -> tuple[Tensor, ...]:
    """L2 norm of each neuron's row in each first matrix with the norm's gain folded in: (gate, up), or (fc1,), (F,) each."""
    front = fronts(model, [layer])[layer]
    n_neurons = next(site.n_neurons for site in model.sites if site.layer == layer)
    found = []
    for module in front.first:
        weight: Any = module.weight
        matrix = (weight.T if isinstance(module, Conv1D) else weight).detach().float() * _gain(front.norm)
        found += matrix.norm(dim=1).split(n_neurons)
    return tuple(found)


def _gain(norm: nn.Module | None) -> Tensor | float:
    """What the norm multiplies each coordinate by; Gemma's and Nemotron's norms store it minus 1."""
    weight: Any = getattr(norm, "weight", None)
    if weight is None:
        return 1.0
    name = type(norm).__name__
    return weight.detach().float() + (1.0 if name.startswith("Gemma") or name.endswith("1P") else 0.0)
