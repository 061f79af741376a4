"""Decoding with weights really left out: what a set of neurons saves in time, beside `masking`, which measures what it costs.

    with frozen(model, {layer: neurons}):              # compacted copies, the same set for every token
        model.model(ids)
    with gathered(model) as choices:                   # rows and columns picked anew for every token
        choices[0].neurons = torch.tensor([3, 5, 9])
        model.model(ids)

Both put other modules in the place of the FFN's projections, so the model's own code runs between them, in every dense
architecture of the table. They equal the masked forward pass with the same sets up to the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from moyu_core import kernels
from moyu_core.architectures import shape
from moyu_core.errors import InputError, ModelError
from moyu_core.sites import Site, chosen_sites
from moyu_core.sparse_modules import Choice, Compact, Fused, GatheredDown, GatheredInput, all_blocks, neuron_major

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

_INPUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "down_proj": (("gate_proj", "up_proj"), ("gate_up_proj",), ("up_proj",)),
    "c_proj": (("c_fc",),),
    "fc2": (("fc1",),),
    "fc_out": (("fc_in",),),
    "dense_4h_to_h": (("dense_h_to_4h",),),
}
"""Name of the down projection -> names that its input projections may have beside it, the first that is there counts."""


@dataclass(frozen=True)
class Ffn:
    """The parts of one FFN.

    Attributes:
        site: its down projection.
        parent: module that holds the projections.
        inputs: attribute names of the projections that make the activation; gate before up.
        down: attribute name of the down projection.
    """

    site: Site
    parent: Any
    inputs: tuple[str, ...]
    down: str


def ffn_of(model: LoadedModel, site: Site) -> Ffn:
    """Finds the projections around a site.

    Raises:
        InputError: a mixture layer, whose experts are chosen by a router already.
        ModelError: nothing beside the down projection has the right name and width.
    """
    if site.experts:
        raise InputError(f"{site.name} is a mixture of experts; sparse decoding works on dense FFNs only.")
    path, _, name = site.name.rpartition(".")
    parent = model.model.get_submodule(path)
    for inputs in _INPUTS.get(name, ()):
        modules = [getattr(parent, attribute, None) for attribute in inputs]
        if all(isinstance(module, nn.Linear | Conv1D) for module in modules):
            widths = sum(neuron_major(module).shape[0] for module in modules)
            if widths == site.n_neurons * (2 if site.gated else 1):
                return Ffn(site, parent, inputs, name)
    raise ModelError(f"The projections that feed {site.name} were not found beside it; "
                     f"name them in moyu_core/sparse_ffn.py.")  # fmt: skip


@contextmanager
def frozen(model: LoadedModel, neurons: Mapping[int, Tensor]) -> Iterator[None]:
    """Runs the named layers on copies of the chosen neurons' weights while the block lasts; the others stay dense.

    Args:
        model: a loaded model.
        neurons: layer -> (k,) indices, each once, at least one.

    Raises:
        InputError: a layer does not exist or is a mixture, or the indices are not neurons of it.
    """
    with ExitStack() as stack:
        for site in chosen_sites(model, sorted(neurons)):
            ffn, chosen = ffn_of(model, site), checked(site, neurons[site.layer])
            for name in ffn.inputs:
                module = getattr(ffn.parent, name)
                rows = all_blocks(chosen, site.n_neurons, neuron_major(module).shape[0])
                bias = None if module.bias is None else module.bias[rows]
                _swap(stack, ffn.parent, name, Compact(neuron_major(module)[rows], bias))
            down = site.weight()[:, chosen].contiguous()
            _swap(stack, ffn.parent, ffn.down, Compact(down, site.bias()))
        yield


@contextmanager
def gathered(model: LoadedModel, layers: Sequence[int] | None = None) -> Iterator[dict[int, Choice]]:
    """Runs layers on whatever their `Choice` names at the moment, read out of the whole weights: layer -> Choice.

    The down projection is held a second time, neuron by neuron. On CUDA a single token goes through one fused kernel where
    the FFN is a plain gated one, and through one kernel a projection elsewhere; all else selects rows and multiplies.

    Raises:
        InputError: a layer does not exist or is a mixture.
    """
    with ExitStack() as stack:
        choices = {}
        for site in chosen_sites(model, layers):
            ffn, choice = ffn_of(model, site), Choice()
            choices[site.layer] = choice
            down = GatheredDown(site.weight().T.contiguous(), site.bias(), choice)
            for name in ffn.inputs:
                module = getattr(ffn.parent, name)
                _swap(stack, ffn.parent, name, GatheredInput(module, site.n_neurons, choice))
            _swap(stack, ffn.parent, ffn.down, down)
            activation = shape(model.model.config.to_dict()).activation
            if _fusible(ffn, activation):
                _swap_forward(stack, ffn.parent, Fused(ffn.parent, activation, choice))
        yield choices


def checked(site: Site, neurons: Tensor) -> Tensor:
    """The indices as int64 on the site's device, after a look at them (this waits for a GPU)."""
    found = neurons.to(site.weight().device, torch.int64).flatten()
    if not len(found) or found.min() < 0 or found.max() >= site.n_neurons or len(found.unique()) < len(found):
        raise InputError(f"Layer {site.layer} needs different neurons from 0 to {site.n_neurons - 1}, at least one.")
    return found


def _swap(stack: ExitStack, parent: Any, name: str, module: nn.Module) -> None:
    """Put a module in another's place until the stack closes."""
    former = getattr(parent, name)
    setattr(parent, name, module)
    stack.callback(setattr, parent, name, former)


def _swap_forward(stack: ExitStack, module: Any, forward: Any) -> None:
    """Put another forward pass in place of a module's until the stack closes."""
    own = "forward" in vars(module)  # accelerate sets one for models that are spread over devices
    former = module.forward
    module.forward = forward
    stack.callback(setattr, module, "forward", former) if own else stack.callback(delattr, module, "forward")


def _fusible(ffn: Ffn, activation: str) -> bool:
    """Whether an FFN is down(act(gate(x)) * up(x)) and nothing else, on a device that has the kernels."""
    plain = {name for name, child in ffn.parent.named_children() if not isinstance(child, nn.Dropout)}
    return (
        kernels.installed()
        and ffn.inputs == ("gate_proj", "up_proj")
        and activation in kernels.ACTIVATIONS
        and plain <= {"gate_proj", "up_proj", "down_proj", "act_fn"}
    )
