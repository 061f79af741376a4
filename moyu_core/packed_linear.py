"""Linear layers of a model on the processor, with their weights laid out as oneDNN multiplies them.

torch gives float32 products to MKL, which takes every weight as it lies. On AMD's processors a forward pass takes 13 %
less time when its weights were packed before (benchmarks/README.md). The packed copies are made when a model is first
captured with, and go when the model goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from llvmlite.binding import get_host_cpu_name
from torch import Tensor, nn

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

SMALLEST = 300_000
"""Numbers of a weight below which it stays plain: so small a model is done at once, and packed its peak memory creeps up by a
tenth over 1,000 prompts (1.6 % with the default model)."""
MOST_BYTES = 2 << 30
"""Of all weights together; the copies of a larger model would not fit a laptop's memory beside it."""
ROWS = 512
"""Rows of a product that oneDNN chooses the layout for; it takes any number."""


@dataclass(frozen=True)
class _Packed:
    """What stands in for a layer's `forward`."""

    weight: Tensor
    bias: Tensor | None
    source: ReferenceType[Tensor]
    state: tuple[int, int]
    """Of the plain weight when it was packed: where it lay, and how often it had been written to."""

    def __call__(self, input: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")


_kept: WeakKeyDictionary[nn.Module, _Packed] = WeakKeyDictionary()


@contextmanager
def packed(model: LoadedModel) -> Iterator[None]:
    """Within the block the model's large linear layers multiply with packed weights; results differ in rounding (1e-6).

    Nothing changes on other devices, in other dtypes, on other processors, where the layers hold more than MOST_BYTES, or for
    a layer that something else has given a `forward` of its own. A weight that was changed since is packed again.
    """
    layers = _layers(model) if pays() else []
    try:
        for layer in layers:
            layer.forward = _of(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


@cache
def pays() -> bool:
    """Whether packed products are faster here: on AMD's Zen processors, where that was measured."""
    return get_host_cpu_name().startswith("znver") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _layers(model: LoadedModel) -> list[nn.Linear]:
    """The layers to pack."""
    if model.device.type != "cpu":
        return []
    found = [
        module
        for module in model.decoder.modules()
        if type(module) is nn.Linear
        and module.weight.dtype == torch.float32
        and module.weight.numel() >= SMALLEST
        and not module.weight.is_inference()  # those do not tell when they are written to
        and "forward" not in vars(module)
    ]
    return found if sum(layer.weight.nbytes for layer in found) <= MOST_BYTES else []


def _of(layer: nn.Linear) -> _Packed:
    """The layer's packed form, made the first time and when its weight has changed."""
    state = (layer.weight.data_ptr(), layer.weight._version)
    kept = _kept.get(layer)
    if kept is None or kept.source() is not layer.weight or kept.state != state or kept.bias is not layer.bias:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        kept = _kept[layer] = _Packed(weight, layer.bias, ref(layer.weight), state)
    return kept
