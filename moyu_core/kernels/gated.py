# pyright: reportMissingImports=false, reportIndexIssue=false
"""One token through the chosen neurons of a gated FFN: down(act(gate x) * (up x)), a neuron from its first byte to its last.

A program takes its neurons one after the other: their rows of all three matrices are on the way while the one before is summed
up, so nothing is read twice and nothing waits between the projections. A second, small launch adds up what the programs found,
always in the same order. Launches overlap (programmatic dependent launch, compute capability 9.0): where the choice was made
early enough, the first rows are fetched before the kernel in front has ended. Decoding at batch 1 only moves bytes.
The width of the 7B and 8B shapes has kernels of its own on Hopper GPUs (`hopper`).
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from moyu_core.kernels import ACTIVATIONS, hopper
from moyu_core.kernels.ffn import early

ROWS = 1
STAGES = 4
"""Neurons that a program has on the way, as far as SHARED bytes of a multiprocessor's own memory allow."""
SHARED = 150_000
SUM = {"ROWS": 128, "COLUMNS": 32, "num_warps": 8}
"""Shapes found by measuring on an H200 (benchmarks/README.md)."""


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        x = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == 3:
        x = x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    elif ACTIVATION == 4:
        x = tl.maximum(x, 0.0)
    elif ACTIVATION == 5:
        x = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    return x


@triton.jit
def _add_pairs(a, b, c, d):
    return a + c, b + d


@triton.jit
def _rows(weight, neuron, chosen, column, inside, width):
    """(ROWS, WIDTH) of a matrix; 0 where nothing is chosen."""
    where = neuron[:, None] * width + column[None, :]
    return tl.load(weight + where, mask=chosen[:, None] & inside[None, :], other=0.0, eviction_policy="evict_first")


@triton.jit
def _whole(
    x, up, gate, down, up_bias, gate_bias, neurons, partial, n_chosen, turns, width,
    BIASED: tl.constexpr, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
    EARLY: tl.constexpr, SETTLED: tl.constexpr,
):  # fmt: skip
    if EARLY:
        gdc_launch_dependents()
        if not SETTLED:
            gdc_wait()
    column = tl.arange(0, WIDTH)
    inside = column < width
    total = tl.zeros((WIDTH,), tl.float32)
    for turn in tl.range(0, turns, num_stages=STAGES):
        place = (turn * tl.num_programs(0) + tl.program_id(0)) * ROWS + tl.arange(0, ROWS)
        chosen = place < n_chosen
        neuron = tl.load(neurons + place, mask=chosen, other=0).to(tl.int64)
        up_rows = _rows(up, neuron, chosen, column, inside, width).to(tl.float32)
        gate_rows = _rows(gate, neuron, chosen, column, inside, width).to(tl.float32)
        down_rows = _rows(down, neuron, chosen, column, inside, width).to(tl.float32)
        if EARLY and SETTLED:
            gdc_wait()  # in the loop, so that the first rows are asked for before; from the second time on it is no wait
        value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        inner, opening = tl.reduce((up_rows * value, gate_rows * value), 1, _add_pairs)
        if BIASED:
            inner += tl.load(up_bias + neuron, mask=chosen, other=0.0).to(tl.float32)
            opening += tl.load(gate_bias + neuron, mask=chosen, other=0.0).to(tl.float32)
        a = tl.where(chosen, inner * _activate(opening, ACTIVATION), 0.0)
        total += tl.sum(a[:, None] * down_rows, axis=0)
    tl.store(partial + tl.program_id(0) * width + column, total, mask=inside)


@triton.jit
def _sum(
    partial, bias, result, programs, width, BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    parts = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, programs, ROWS):
        row = start + tl.arange(0, ROWS)
        reads = partial + row[:, None] * width + column[None, :]
        parts += tl.load(reads, mask=(row < programs)[:, None] & inside[None, :], other=0.0, cache_modifier=".cg")
    whole = tl.sum(parts, axis=0)
    if BIASED:
        whole += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + column, whole.to(result.dtype.element_ty), mask=inside)


def whole(
    x: Tensor,
    up: Tensor,
    gate: Tensor,
    down: Tensor,
    neurons: Tensor,
    activation: str,
    up_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    bias: Tensor | None = None,
    settled: bool = False,
) -> Tensor:
    """Sum over the chosen neurons of act(gate_i x) * (up_i x) * down_i, plus the whole bias: (d,) of x's dtype; sums are float32.

    Args:
        x: (d,) contiguous.
        up, gate, down: (F, d) contiguous, a row a neuron; `down` is the transposed weight of the down projection.
        neurons: (k,) int32 or int64.
        activation: a key of kernels.ACTIVATIONS.
        up_bias, gate_bias: (F,), both or neither.
        bias: (d,) of the down projection, or None.
        settled: whether `neurons` were there before the kernel in front of this one was launched; then their first rows are
            fetched while it still runs.
    """
    if hopper.fits(x, up, gate, down):
        return hopper.whole(x, (up, gate, down), (up_bias, gate_bias, bias), neurons, activation, settled)
    width = up.shape[1]
    columns = triton.next_power_of_2(width)
    turns = triton.cdiv(len(neurons), _processors(x.device) * ROWS)
    programs = triton.cdiv(len(neurons), turns * ROWS) if turns else 0
    partial = torch.empty(max(programs, 1), width, dtype=torch.float32, device=x.device)
    result = torch.empty(width, dtype=x.dtype, device=x.device)
    soon = {"EARLY": True, "launch_pdl": True} if early(x.device) else {"EARLY": False}
    stages = max(1, min(STAGES, SHARED // (3 * ROWS * columns * up.element_size())))
    with torch.cuda.device_of(x):
        if programs:
            _whole[(programs,)](
                x, up, gate, down, up_bias, gate_bias, neurons, partial, len(neurons), turns, width,
                BIASED=up_bias is not None, ACTIVATION=ACTIVATIONS[activation], ROWS=ROWS, WIDTH=columns, STAGES=stages,
                SETTLED=settled, num_warps=4 if columns <= 4096 else 8, **soon,
            )  # fmt: skip
        _sum[(triton.cdiv(width, SUM["COLUMNS"]),)](
            partial, bias, result, programs, width, BIASED=bias is not None, **SUM, **soon
        )  # fmt: skip
    return result


@cache
def _processors(device: torch.device) -> int:
    """Multiprocessors: programs that run at a time; a few where the kernel is interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
