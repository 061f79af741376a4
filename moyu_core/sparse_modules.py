"""What `sparse_ffn` puts in the place of an FFN's projections: linear maps that read the weights of chosen neurons only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from moyu_core import kernels


@dataclass
class Choice:
    """The neurons of one layer that the next forward pass uses.

    Attributes:
        neurons: (k,) int64 on the layer's device, each once; None = all.
        settled: whether they were chosen before the layer in front runs, as where they stay for many tokens (`gated.whole`).
    """

    neurons: Tensor | None = None
    settled: bool = False


def neuron_major(module: Any) -> Tensor:
    """Weight of an input projection with one row a neuron, a view: (F, d), or (2 F, d) where gate and up are one."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def all_blocks(neurons: Tensor, n_neurons: int, rows: int) -> Tensor:
    """Row numbers of the neurons in a projection that may hold gate and up one above the other."""
    return torch.cat([neurons + first for first in range(0, rows, n_neurons)])


class Compact(nn.Module):
    """A linear map with a plain weight (out, in)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, False), None if bias is None else nn.Parameter(bias, False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


class GatheredInput(nn.Module):
    """Chosen outputs of an input projection: (..., d) -> (..., k), or (..., 2 k) where gate and up are one."""

    def __init__(self, module: Any, n_neurons: int, choice: Choice) -> None:
        super().__init__()
        weight = neuron_major(module)
        self.weight, self.bias = nn.Parameter(weight.contiguous(), False), module.bias
        self._n_neurons = n_neurons
        self._choice = choice

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> what the chosen neurons make of it."""
        if self._choice.neurons is None:
            return linear(x, self.weight, self.bias)
        rows = all_blocks(self._choice.neurons, self._n_neurons, len(self.weight))
        if x.numel() == x.shape[-1] and kernels.usable(x):
            from moyu_core.kernels import ffn

            found = ffn.inner(x.contiguous(), self.weight, rows, self.bias, x.dtype)
            return found.view(*x.shape[:-1], -1)
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return linear(x, self.weight.index_select(0, rows), bias)


class GatheredDown(nn.Module):
    """The down projection from chosen neurons: (..., k) -> (..., d)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, choice: Choice) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, False), bias  # (F, d), one row a neuron
        self._choice = choice

    def forward(self, a: Tensor) -> Tensor:
        """(..., k) -> (..., d)."""
        neurons = self._choice.neurons
        return linear(a, self.weight.T, self.bias) if neurons is None else outward(a, self.weight, neurons, self.bias)


def outward(a: Tensor, weight: Tensor, neurons: Tensor, bias: Tensor | None) -> Tensor:
    """The down projection from chosen neurons; a single token goes through a kernel where there is one.

    Args:
        a: (..., k) their activations.
        weight: (F, d), one row a neuron, contiguous.
        neurons: (k,) indices.
        bias: (d,) or None.

    Returns:
        (..., d).
    """
    if a.numel() == a.shape[-1] and kernels.usable(a):
        from moyu_core.kernels import ffn

        return ffn.outer(a.contiguous(), weight, neurons, bias, a.dtype).view(*a.shape[:-1], -1)
    return linear(a, weight.index_select(0, neurons).T, bias)


class Fused:
    """Forward pass of a gated FFN: one token through the kernels, anything else through the module's own code."""

    def __init__(self, parent: Any, activation: str, choice: Choice) -> None:
        self._parent, self._activation, self._choice = parent, activation, choice
        self._otherwise = parent.forward

    def __call__(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        neurons = self._choice.neurons
        if neurons is None or x.numel() != x.shape[-1] or not kernels.usable(x):
            return self._otherwise(x)
        from moyu_core.kernels import gated

        up, gate, down = self._parent.up_proj, self._parent.gate_proj, self._parent.down_proj
        weights, biases = (up.weight, gate.weight, down.weight), (up.bias, gate.bias, down.bias)
        chosen = (neurons, self._activation, *biases, self._choice.settled)
        return gated.whole(x.flatten().contiguous(), *weights, *chosen).view(x.shape)
