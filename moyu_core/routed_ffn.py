"""An FFN whose neurons are chosen while it runs, out of what is known at that moment: before it, at its gate, or at its end.

    with routed(model, method, Router(model, choice, density)):
        model.model(one_token, past_key_values=cache)

What a method reads decides how early it can decide (Method.needs_gate, needs_activation), and so what is left to be saved:
everything, all but the gate, or W_down only. The gathering itself is `sparse_ffn`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from moyu_core import sparse_ffn, sparse_modules
from moyu_core.errors import InputError
from moyu_core.methods.inputs import Front, fronts
from moyu_core.methods.protocol import Choice, Method, Rows
from moyu_core.sites import Site

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

BEFORE, GATE, ACTIVATION = "before", "gate", "activation"
"""When a method can decide: before the FFN starts, with its gate computed, or with the whole activation computed."""


def stage(method: Method) -> str:
    """The earliest moment at which a method knows all that it reads of the token at hand."""
    return ACTIVATION if method.needs_activation else GATE if method.needs_gate else BEFORE


class Router:
    """Asks a prompt's `Choice` for the neurons of each layer, one token at a time.

    Attributes:
        seconds: time spent choosing; only where `timed`, which waits for the device before and after.
        kept, asked: neurons chosen, and neurons there were, over all layers and tokens.
    """

    def __init__(self, model: LoadedModel, choice: Choice, density: float, timed: bool = False) -> None:
        self._choice, self._density, self._device, self._timed = choice, density, model.device, timed
        self._norms = {site.layer: site.column_norms().to(model.device).flatten() for site in model.sites}
        self._blank = {site.layer: torch.zeros(1, site.n_neurons, device=model.device) for site in model.sites}
        self.states: dict[str, Tensor] = {}
        self.tokens = torch.zeros(0, dtype=torch.long)
        self.seconds, self.kept, self.asked = 0.0, 0, 0

    def neurons(self, site: Site, a: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        """(k,) int64, the neurons of this layer for the token at hand; k may be 0 where a threshold decides."""
        began = self._now()
        blank = self._blank[site.layer] if a is None else a.reshape(1, -1).float()
        own_gate = None if gate is None else gate.reshape(1, -1)
        rows = Rows(site.layer, blank, self._norms[site.layer], self.tokens, self.states, own_gate)
        chosen = self._choice.choose(rows, self._density).flatten().nonzero().flatten()
        self.kept, self.asked = self.kept + len(chosen), self.asked + site.n_neurons
        self.seconds += self._now() - began
        return chosen

    def _now(self) -> float:
        if not self._timed:
            return 0.0
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@contextmanager
def routed(model: LoadedModel, method: Method, router: Router) -> Iterator[Router]:
    """Runs the model one token at a time on the neurons that the router names; nothing is left behind.

    Raises:
        InputError: a mixture layer, or a gate that cannot be read before the rest.
    """
    ffns = [sparse_ffn.ffn_of(model, site) for site in model.sites]  # before anything is swapped: these look for Linears
    found, moment = fronts(model), stage(method)
    with ExitStack() as stack:
        _watch_tokens(stack, model, router)
        if moment == ACTIVATION:
            for ffn in ffns:
                _put(stack, ffn.parent, ffn.down, _RoutedDown(ffn.site, router))
        else:
            choices = stack.enter_context(sparse_ffn.gathered(model))
            route = _route_gate if moment == GATE else partial(_route_before, model.d_model)
            for ffn in ffns:
                route(stack, ffn, found[ffn.site.layer], choices[ffn.site.layer], router)
        yield router


def _put(stack: ExitStack, parent: Any, name: str, module: nn.Module) -> None:
    former = getattr(parent, name)
    setattr(parent, name, module)
    stack.callback(setattr, parent, name, former)


def _watch_tokens(stack: ExitStack, model: LoadedModel, router: Router) -> None:
    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        router.tokens = (*args, *kwargs.values())[0].flatten()
        if len(router.tokens) != 1:
            raise InputError("A routed FFN takes one token at a time; run the prompt before it is opened.")
        router.states.clear()

    embedding = model.model.get_input_embeddings()
    stack.callback(embedding.register_forward_pre_hook(see, with_kwargs=True).remove)


def _route_before(
    d_model: int, stack: ExitStack, ffn: sparse_ffn.Ffn, front: Front, choice: sparse_modules.Choice, router: Router
) -> None:
    """Hooks that note the hidden states in front of the FFN and decide as soon as its input is known."""

    def first(args: Any, kwargs: Any) -> Tensor:
        return (*args, *kwargs.values())[0].reshape(1, d_model)

    def entered_block(module: nn.Module, args: Any, kwargs: Any) -> None:
        router.states["block"] = first(args, kwargs)
        router.states["previous"] = router.states.pop("residual", router.states["block"])

    def decide(x: Tensor, residual: Tensor) -> None:
        router.states["ffn"], router.states["residual"] = x, residual
        choice.neurons = router.neurons(ffn.site)

    def left_norm(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        decide(output.reshape(1, d_model), first(args, kwargs))

    def entered_ffn(module: nn.Module, args: Any, kwargs: Any) -> None:
        decide(first(args, kwargs), first(args, kwargs))

    stack.callback(front.block.register_forward_pre_hook(entered_block, with_kwargs=True).remove)
    if front.norm is not None:
        stack.callback(front.norm.register_forward_hook(left_norm, with_kwargs=True).remove)
    elif ffn.parent is not front.block:
        stack.callback(ffn.parent.register_forward_pre_hook(entered_ffn, with_kwargs=True).remove)
    else:
        raise InputError(
            f"The input of the FFN around {ffn.site.name} cannot be seen from outside, so nothing can be chosen before it."
        )


def _route_gate(stack: ExitStack, ffn: sparse_ffn.Ffn, front: Front, choice: sparse_modules.Choice, router: Router) -> None:
    """Puts a gate that decides in the place of the gathered one, and forgets the choice behind the down projection."""
    if front.act is None or not ffn.site.gated:
        raise InputError(f"The FFN around {ffn.site.name} has no gate that can be read before the rest.")
    _put(stack, ffn.parent, ffn.inputs[0], _RoutedGate(front.first[0], ffn.site, front.act, choice, router))

    def forget(module: nn.Module, args: Any, output: Any) -> None:
        choice.neurons = None  # or a fused kernel would take it for the next token's

    stack.callback(getattr(ffn.parent, ffn.down).register_forward_hook(forget).remove)


class _RoutedGate(nn.Module):
    """All gates, then the outputs of the chosen ones; where gate and up are one matrix, the chosen rows of up behind them."""

    def __init__(self, module: Any, site: Site, act: nn.Module, choice: sparse_modules.Choice, router: Router) -> None:
        super().__init__()
        weight = (module.weight.T if isinstance(module, Conv1D) else module.weight).detach()
        self._gate, self._up = weight[: site.n_neurons], weight[site.n_neurons :]
        bias = None if module.bias is None else module.bias.detach()
        self._gate_bias, self._up_bias = (None, None) if bias is None else (bias[: site.n_neurons], bias[site.n_neurons :])
        self._site, self._act, self._choice, self._router = site, act, choice, router

    def forward(self, x: Tensor) -> Tensor:
        opening = linear(x, self._gate, self._gate_bias)
        chosen = self._router.neurons(self._site, gate=self._act(opening))
        self._choice.neurons = chosen
        gate = opening.index_select(-1, chosen)
        if not len(self._up):
            return gate
        bias = None if self._up_bias is None else self._up_bias.index_select(0, chosen)
        return torch.cat([gate, linear(x, self._up.index_select(0, chosen), bias)], dim=-1)


class _RoutedDown(nn.Module):
    """Takes the whole activation, reads the chosen neurons' columns only."""

    def __init__(self, site: Site, router: Router) -> None:
        super().__init__()
        self.weight = nn.Parameter(site.weight().T.contiguous(), False)
        self.bias = site.bias()
        self._site, self._router = site, router

    def forward(self, a: Tensor) -> Tensor:
        chosen = self._router.neurons(self._site, a)
        return sparse_modules.outward(a.index_select(-1, chosen), self.weight, chosen, self.bias)
