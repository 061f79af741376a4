# pyright: reportMissingImports=false, reportIndexIssue=false
"""One token through the chosen neurons of a projection: their rows are read where they lie, nothing else is.

Weights are neuron-major, (F, d): a neuron is d neighbouring numbers in every matrix. `inner` is an input projection, `outer` adds
up the chosen columns of the down projection. For FFNs that `gated` does not fit, and methods that decide between the projections.
At batch 1 both only move bytes, so the floor is k * d * bytes of a number / memory bandwidth.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

INNER = {"ROWS": 4, "COLUMNS": 256, "STAGES": 4, "num_warps": 2}
OUTER = {"ROWS": 8, "COLUMNS": 1024, "SPLITS": 32, "STAGES": 3, "num_warps": 4}
"""Shapes of the two kernels' tiles, found by measuring on an H200 (benchmarks/README.md)."""

_counters: dict[torch.device, Tensor] = {}


@triton.jit
def _inner(
    x, weight, bias, neurons, result, n_chosen, width,
    BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        gdc_launch_dependents()
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    chosen = place < n_chosen
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in tl.range(0, width, COLUMNS, num_stages=STAGES):
        column = start + tl.arange(0, COLUMNS)
        inside = column < width
        value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        total += _rows_of(weight, neurons, place, chosen, column, inside, width).to(tl.float32) * value
    inner = tl.sum(total, axis=1)
    if BIASED:
        neuron = tl.load(neurons + place, mask=chosen, other=0).to(tl.int64)
        inner += tl.load(bias + neuron, mask=chosen, other=0.0).to(tl.float32)
    tl.store(result + place, inner.to(result.dtype.element_ty), mask=chosen)


@triton.jit
def _rows_of(weight, neurons, place, chosen, column, inside, width):
    """Some columns of some chosen neurons' rows; 0 where nothing is chosen."""
    neuron = tl.load(neurons + place, mask=chosen, other=0).to(tl.int64)
    where = neuron[:, None] * width + column[None, :]
    return tl.load(weight + where, mask=chosen[:, None] & inside[None, :], other=0.0, eviction_policy="evict_first")


@triton.jit
def _outer(
    a, down, bias, neurons, partial, counters, result, n_chosen, width, share,
    BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
    STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    split = tl.program_id(1)
    place = split * share + tl.arange(0, ROWS)
    weights = _rows_of(down, neurons, place, place < n_chosen, column, inside, width)
    if EARLY:
        gdc_wait()  # up to here nothing depends on the kernel before, which makes `a`
    total = weights.to(tl.float32) * tl.load(a + place, mask=place < n_chosen, other=0.0).to(tl.float32)[:, None]
    for start in tl.range(ROWS, share, ROWS, num_stages=STAGES):
        place = split * share + start + tl.arange(0, ROWS)
        weights = _rows_of(down, neurons, place, place < n_chosen, column, inside, width)
        total += weights.to(tl.float32) * tl.load(a + place, mask=place < n_chosen, other=0.0).to(tl.float32)[:, None]
    tl.store(partial + split * width + column, tl.sum(total, axis=0), mask=inside)
    tl.debug_barrier()  # every thread has stored before the program says that it is done
    if tl.atomic_add(counters + tl.program_id(0), 1, sem="acq_rel") == SPLITS - 1:
        rows = tl.arange(0, SPLITS)
        reads = partial + rows[:, None] * width + column[None, :]
        parts = tl.load(reads, mask=inside[None, :], other=0.0, cache_modifier=".cg")
        whole = tl.sum(parts, axis=0)  # always in this order, so the same input gives the same bits
        if BIASED:
            whole += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(result + column, whole.to(result.dtype.element_ty), mask=inside)
        tl.atomic_xchg(counters + tl.program_id(0), 0, sem="relaxed")


def inner(x: Tensor, weight: Tensor, neurons: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """An input projection's outputs for the chosen neurons: (k,) of `dtype`.

    Args:
        x: (d,) contiguous.
        weight: (F, d) contiguous.
        neurons: (k,) int32 or int64.
        bias: (F,) or None.
        dtype: of the result; sums are float32.
    """
    result = torch.empty(len(neurons), dtype=dtype, device=x.device)
    if len(neurons):
        with torch.cuda.device_of(x):
            _inner[(triton.cdiv(len(neurons), INNER["ROWS"]),)](
                x, weight, bias, neurons, result, len(neurons), weight.shape[1],
                BIASED=bias is not None, EARLY=early(x.device), **INNER,
            )  # fmt: skip
    return result


def outer(a: Tensor, down: Tensor, neurons: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Sum over the chosen neurons of a_i times their row of `down`, plus the whole bias: (d,) of `dtype`.

    Args:
        a: (k,) activations of the chosen neurons.
        down: (F, d) contiguous, the transposed weight of the down projection.
        neurons: (k,) int32 or int64.
        bias: (d,) or None.
        dtype: of the result; sums are float32.
    """
    width = down.shape[1]
    blocks, splits, rows = triton.cdiv(width, OUTER["COLUMNS"]), OUTER["SPLITS"], OUTER["ROWS"]
    partial = torch.empty(splits, width, dtype=torch.float32, device=a.device)
    result = torch.empty(width, dtype=dtype, device=a.device)
    share = triton.cdiv(max(len(neurons), 1), splits * rows) * rows
    with torch.cuda.device_of(a):
        _outer[(blocks, splits)](
            a, down, bias, neurons, partial, _zeros(a.device, blocks), result, len(neurons), width, share,
            BIASED=bias is not None, EARLY=early(a.device), launch_pdl=early(a.device), **OUTER,
        )  # fmt: skip
    return result


@cache
def early(device: torch.device) -> bool:
    """Whether `outer` may start while `inner` ends, and fetch its first weights (from compute capability 9.0 on)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def _zeros(device: torch.device, count: int) -> Tensor:
    """Counters that every launch leaves at 0, shared by the launches of a device's stream."""
    if device not in _counters or len(_counters[device]) < count:
        _counters[device] = torch.zeros(count, dtype=torch.int32, device=device)
    return _counters[device]
