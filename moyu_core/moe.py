# ruff: noqa: F722 (shapes are strings)
"""Mixtures of experts, whose weights are 3-D parameters without a Linear to hook.

transformers lets a model's experts run through a registered function. Ours computes every (token, slot) once, expert by
expert, hands the activations to whoever watches, and returns the same output (7e-8 from the built-in ones in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

IMPLEMENTATION = "moyu"

Receiver = Callable[[Tensor, Tensor, Tensor], Tensor | None]
"""Takes activations (N, K, F), experts (N, K) and router weights (N, K) of one layer; what it returns replaces the activations."""

_receivers: WeakKeyDictionary[nn.Module, list[Receiver]] = WeakKeyDictionary()


def is_experts(module: Any) -> bool:
    """Whether a module is a stack of experts in the layout that transformers 5 uses."""
    weight = getattr(module, "down_proj", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 3


def down_weight(module: Any) -> Float[Tensor, "experts d F"]:
    """Down projections of all experts, a view (gpt-oss stores them transposed)."""
    return module.down_proj.transpose(1, 2) if module.is_transposed else module.down_proj


def activations(
    module: Any, hidden: Float[Tensor, "N d"], index: Int[Tensor, "N K"]
) -> Float[Tensor, "N K F"]:
    """What enters the down projection of each routed expert: one row per (token, slot).

    Loops over the experts that were hit, because indexing the weights by (token, slot) would copy them N*K times; on a GPU
    a grouped product does them all without asking which were hit.
    """
    up = module.gate_up_proj if module.has_gate else module.up_proj
    bias = getattr(module, "gate_up_proj_bias" if module.has_gate else "up_proj_bias", None)
    if _can_group(hidden, up):
        order, ends = _by_expert(index.flatten(), len(up))
        inner = nn.functional.grouped_mm(hidden[order // index.shape[1]], up if module.is_transposed else up.mT, offs=ends)
        inner = inner if bias is None else inner + bias[index.flatten()[order]]
        return _back(module._apply_gate(inner) if module.has_gate else module.act_fn(inner), order).view(*index.shape, -1)
    result = None
    for expert in index.unique().tolist():
        token, slot = torch.where(index == expert)
        weight = up[expert].T if module.is_transposed else up[expert]
        inner = nn.functional.linear(hidden[token], weight, None if bias is None else bias[expert])
        a = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
        if result is None:
            result = a.new_zeros((*index.shape, a.shape[-1]))
        result[token, slot] = a
    assert result is not None, "a forward pass without tokens"
    return result


def down(module: Any, a: Float[Tensor, "*rows F"], experts: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows d"]:
    """Rows a @ W_down[expert]^T, row by row, without bias, in the wider of the two dtypes."""
    weight = down_weight(module)
    if _can_group(a, weight):
        order, ends = _by_expert(experts.flatten(), len(weight))
        rows = nn.functional.grouped_mm(a.flatten(0, -2)[order], weight.mT, offs=ends)
        return _back(rows, order).view(*experts.shape, -1)
    dtype = torch.promote_types(a.dtype, weight.dtype)
    result = a.new_zeros((*experts.shape, weight.shape[1]), dtype=dtype)
    for expert in experts.unique().tolist():
        rows = experts == expert
        result[rows] = a[rows].to(dtype) @ weight[expert].to(dtype).T
    return result


def _can_group(rows: Tensor, weight: Tensor) -> bool:
    return rows.is_cuda and rows.dtype == weight.dtype == torch.bfloat16 and hasattr(nn.functional, "grouped_mm")


def _by_expert(experts: Int[Tensor, " rows"], n_experts: int) -> tuple[Tensor, Tensor]:
    """(order that sorts rows by expert, end of each expert's rows as int32); nothing waits for the device."""
    order = experts.argsort(stable=True)
    ends = torch.searchsorted(experts[order], torch.arange(n_experts, device=experts.device), right=True)
    return order, ends.to(torch.int32)


def _back(rows: Tensor, order: Tensor) -> Tensor:
    """Rows in the order they had before `order` sorted them."""
    result = torch.empty_like(rows)
    result[order] = rows
    return result


def combine(
    module: Any, a: Float[Tensor, "N K F"], experts: Int[Tensor, "N K"], weights: Float[Tensor, "N K"]
) -> Float[Tensor, "N d"]:
    """Output of the layer: sum over slots of w_k * (a_k W_down[e_k]^T + bias of e_k)."""
    each = down(module, a, experts)
    bias = getattr(module, "down_proj_bias", None)
    if bias is not None:
        each = each + bias[experts].to(each.dtype)
    return (each * weights.unsqueeze(-1).to(each.dtype)).sum(dim=1)


def _run_experts(module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The registered experts function."""
    a = activations(module, hidden, index)
    for receive in _receivers.get(module, ()):
        changed = receive(a, index, weights)
        a = a if changed is None else changed
    return combine(module, a, index, weights).to(hidden.dtype)


@contextmanager
def watching(model: Any, receivers: Mapping[nn.Module, Receiver]) -> Iterator[None]:
    """Runs the model's experts through our function and restores the former one, whatever happens.

    Args:
        model: a transformers model.
        receivers: by experts module; the others run through the same function unseen.
    """
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _run_experts)
    former = model.get_experts_implementation()
    for module, receive in receivers.items():
        _receivers.setdefault(module, []).append(receive)
    try:
        model.set_experts_implementation(IMPLEMENTATION)
        yield
    finally:
        model.set_experts_implementation(former)
        for module, receive in receivers.items():
            _receivers[module].remove(receive)
