# pyright: reportMissingImports=false, reportIndexIssue=false
"""One pass over an activation: packed active set and statistics of each row, without leaving the chip.

The scores of a row stay in registers, in two parts of a power of two each (11,008 neurons as 8,192 + 4,096 instead of
16,384). The k-th largest score is found by bisection over the scores' bit patterns, which are
in the order of the numbers for numbers >= 0, helped by a guess and by interpolation; it ends as soon as exactly k scores reach
the border, after about ten counts.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from moyu_core.kernels import STATISTICS

BY_PRODUCT, BY_MAGNITUDE, BY_THRESHOLD, POSITIVE = range(4)
"""Set rules: k largest |a|*c, k largest |a|, |a|*c at least a threshold, a > 0."""

FIRE = {"ROWS": 512, "STEP": 16, "BYTES": 64, "num_warps": 4}
"""Shape of a program of the firing counts; fewer than 256 steps."""

_MAGNITUDE, _THRESHOLD, _POSITIVE = (tl.constexpr(rule) for rule in (BY_MAGNITUDE, BY_THRESHOLD, POSITIVE))
_COMPILED = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")
_INFINITE = tl.constexpr(0x7F800000)
"""Bits of infinity: those of every number that is not finite, without its sign, are at least this."""


@triton.jit
def _total(first, second, SECOND: tl.constexpr):
    """Sum over both parts of a row; each thread adds up its own numbers before the threads meet."""
    total = tl.sum(first, axis=0)
    if SECOND > 0:
        total += tl.sum(second, axis=0)
    return tl.sum(total, axis=0)


@triton.jit
def _largest(first, second, SECOND: tl.constexpr):
    """Maximum over both parts."""
    largest = tl.max(first, axis=0)
    if SECOND > 0:
        largest = tl.maximum(largest, tl.max(second, axis=0))
    return tl.max(largest, axis=0)


@triton.jit
def _reaching(bits, bits2, border, SECOND: tl.constexpr):
    """How many scores are at least the border: all but the sign bits of score - border, which add up faster than comparisons."""
    below = ((bits - border).to(tl.uint32) >> 31).to(tl.int32)
    below2 = ((bits2 - border).to(tl.uint32) >> 31).to(tl.int32)
    count = bits.shape[0] * bits.shape[1]
    if SECOND > 0:
        count += bits2.shape[0] * bits2.shape[1]
    return count - _total(below, below2, SECOND)


@triton.jit
def _read(activation, neuron, n_neurons):
    """(values, bits of their magnitudes) of one part of a row; 0 beyond its end."""
    value = tl.load(activation + neuron, mask=neuron < n_neurons, other=0.0).to(tl.float32)
    return value, value.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _score(value, size, norms, neuron, n_neurons, RULE: tl.constexpr):
    """Bits of the scores: 0 for what is never active (exact zeros, what lies beyond the end)."""
    if RULE == _POSITIVE:
        return tl.where(value > 0.0, size, 0)
    if RULE == _MAGNITUDE:
        return size
    norm = tl.load(norms + neuron, mask=neuron < n_neurons, other=0.0)
    return (size.to(tl.float32, bitcast=True) * norm).to(tl.int32, bitcast=True)


@triton.jit
def _drop_ties(bits, bits2, neuron, neuron2, low, k, n_neurons, SECOND: tl.constexpr):
    """Scores with 0 for those at the border `low` whose index is too high; the index is found by bisection."""
    room = k - _reaching(bits, bits2, low + 1, SECOND)
    cut = 0
    end = n_neurons + cut
    while end - cut > 1:
        middle = cut + (end - cut) // 2
        before = ((bits == low) & (neuron < middle)).to(tl.int32)
        before2 = ((bits2 == low) & (neuron2 < middle)).to(tl.int32)
        fits = _total(before, before2, SECOND) <= room
        cut = tl.where(fits, middle, cut)
        end = tl.where(fits, end, middle)
    return tl.where((bits == low) & (neuron >= cut), 0, bits), tl.where((bits2 == low) & (neuron2 >= cut), 0, bits2)


@triton.jit
def _pack(packed, mask, first, n_bytes, PART: tl.constexpr, WIDTH: tl.constexpr):
    """Eight neurons to a byte, least significant bit first."""
    eights = tl.reshape(mask.to(tl.int32), (PART, WIDTH // 8, 8)) << tl.arange(0, 8)[None, None, :]
    byte = (first + tl.arange(0, PART)[:, None] * WIDTH) // 8 + tl.arange(0, WIDTH // 8)[None, :]
    tl.store(packed + byte, tl.sum(eights, axis=2).to(tl.uint8), mask=byte < n_bytes)


@triton.jit
def _log2(x):
    """The processor's own logarithm, within 2^-22; the precise one costs more than all the rest of the statistics."""
    if _COMPILED:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return tl.log2(x)


@triton.jit
def _energy(activation, neuron, n_neurons, scale):
    """p and p log2 p / 2 of one part, p = (a * scale)^2; read again, out of the cache, so that no register holds it till here."""
    value = tl.load(activation + neuron, mask=neuron < n_neurons, other=0.0).to(tl.float32)
    relative = tl.abs(value) * scale
    relative = tl.where(relative < 8.0, relative, 0.0)  # at most 4 unless NaN or infinite
    square = relative * relative
    return square, square * _log2(tl.maximum(relative, 1e-30))


@triton.jit
def _reduce(
    activation, row_stride, norms, experts, packed, statistics, n_rows, n_neurons, n_bytes, k, threshold,
    RULE: tl.constexpr, BY_EXPERT: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    activation += row.to(tl.int64) * row_stride
    packed += row.to(tl.int64) * n_bytes
    if BY_EXPERT:
        norms += tl.load(experts + row).to(tl.int64) * n_neurons
    neuron = tl.arange(0, FIRST)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    neuron2 = neuron
    value, size = _read(activation, neuron, n_neurons)
    value2, size2 = value, size
    if SECOND > 0:
        neuron2 = FIRST * WIDTH + tl.arange(0, SECOND)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        value2, size2 = _read(activation, neuron2, n_neurons)
    largest = _largest(size, size2, SECOND)
    odd = 0
    if largest >= _INFINITE:
        odd = _reaching(size, size2, _INFINITE, SECOND)
        size = tl.where(size < _INFINITE, size, 0)
        value = tl.where(size > 0, value, 0.0)
        size2 = tl.where(size2 < _INFINITE, size2, 0)
        value2 = tl.where(size2 > 0, value2, 0.0)
        largest = _largest(size, size2, SECOND)

    bits = _score(value, size, norms, neuron, n_neurons, RULE)
    bits2 = bits
    if SECOND > 0:
        bits2 = _score(value2, size2, norms, neuron2, n_neurons, RULE)
    low = tl.full((), 1, tl.int32)
    reached = _reaching(bits, bits2, low, SECOND)
    zeros = 0
    if reached < n_neurons:
        zeros = n_neurons - odd - _reaching(size, size2, 1, SECOND)
    if RULE == _THRESHOLD:
        low = tl.maximum(low, tl.maximum(threshold, 0.0).to(tl.float32).to(tl.int32, bitcast=True))
        reached = _reaching(bits, bits2, low, SECOND)

    # `low` is reached by `reached` scores, k or more unless fewer are not zero; `high` by `beyond`, fewer than k.
    if reached > k:
        high = _largest(bits, bits2, SECOND) + 1
        beyond = 0
        sum_of_scores = _total(bits.to(tl.float32, bitcast=True), bits2.to(tl.float32, bitcast=True), SECOND)
        middle = (2.0 * sum_of_scores / n_neurons).to(tl.int32, bitcast=True)  # near the border of a tenth, if not it is bisected
        middle = tl.where((middle > low) & (middle < high), middle, low + (high - low) // 2)
        turn = 0
        while (high - low > 1) & (reached > k):
            count = _reaching(bits, bits2, middle, SECOND)
            enough = count >= k
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle)
            reached = tl.where(enough, count, reached)
            beyond = tl.where(enough, beyond, count)
            turn += 1
            width = high - low
            share = (reached - k + 0.5) / (reached - beyond)  # counts are nearly linear within two octaves; every fourth
            between = tl.where((width < 1 << 24) & (turn % 4 != 0), share, 0.5)  # step halves, so no distribution can stall it
            middle = low + tl.minimum(tl.maximum((width * between).to(tl.int32), 1), tl.maximum(width - 1, 1))
        if reached > k:  # scores tie at the border
            bits, bits2 = _drop_ties(bits, bits2, neuron, neuron2, low, k, n_neurons, SECOND)
            reached = tl.full((), 0, tl.int32) + k

    _pack(packed, bits >= low, 0, n_bytes, FIRST, WIDTH)
    if SECOND > 0:
        _pack(packed, bits2 >= low, FIRST * WIDTH, n_bytes, SECOND, WIDTH)

    # A power of two near the largest value keeps the squares within float32, and scaling by it is exact.
    unit = tl.minimum(tl.maximum(largest & _INFINITE, 0x00800000), 0x7E800000)
    scale = (0x7F000000 - unit).to(tl.float32, bitcast=True)
    square, weighted = _energy(activation, neuron, n_neurons, scale)
    square2, weighted2 = square, weighted
    if SECOND > 0:
        square2, weighted2 = _energy(activation, neuron2, n_neurons, scale)
    energy = _total(square, square2, SECOND)
    entropy = tl.log2(energy) - 2.0 * _total(weighted, weighted2, SECOND) / energy
    tl.store(statistics + row, reached.to(tl.float32, bitcast=True))
    tl.store(statistics + n_rows + row, unit.to(tl.float32, bitcast=True) * tl.sqrt(energy))
    tl.store(statistics + 2 * n_rows + row, largest.to(tl.float32, bitcast=True))
    tl.store(statistics + 3 * n_rows + row, tl.where(energy > 0.0, tl.exp2(entropy), 0.0))
    tl.store(statistics + 4 * n_rows + row, (zeros + 0.0) / n_neurons)
    tl.store(statistics + 5 * n_rows + row, (odd + reached * 0).to(tl.float32, bitcast=True))


@cache
def layout(n_neurons: int) -> dict[str, int]:
    """How a row is laid out on a program's threads: FIRST + SECOND lines of WIDTH neurons, powers of two, 8 to a thread.

    Warps and registers are such that two rows or more are worked on at a time by every multiprocessor.
    """
    warps = min(max(triton.next_power_of_2(n_neurons) // 2048, 4), 16)
    width = max(min(256 * warps, triton.next_power_of_2(n_neurons)), 16)
    lines = triton.cdiv(n_neurons, width)
    first = triton.next_power_of_2(lines)
    second = 0
    if first > 1 and lines <= first // 2 + first // 4:
        first, second = first // 2, triton.next_power_of_2(lines - first // 2)
    more = {"maxnreg": 128} if warps >= 8 else {}
    return {"FIRST": first, "SECOND": second, "WIDTH": width, "num_warps": warps, **more}


def reduce_rows(
    rows: Tensor,
    norms: Tensor,
    rule: int,
    k: int,
    threshold: float,
    experts: Tensor | None = None,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Active sets and statistics of rows, launched on the current stream; nothing waits.

    Args:
        rows: (N, F) any floating dtype, neurons contiguous; computed in float32.
        norms: (F,) float32 column norms, or (E, F) with `experts`.
        rule: BY_PRODUCT, BY_MAGNITUDE, BY_THRESHOLD or POSITIVE.
        k: neurons kept by the first two rules; F for the others.
        threshold: for BY_THRESHOLD.
        experts: (N,) int64, whose norms a row takes.
        packed: (N, ceil(F/8)) uint8, contiguous, to write the sets into; None makes one.

    Returns:
        (N, ceil(F/8)) uint8 packed sets, and (6, N) float32 in the order of STATISTICS.
    """
    n_rows, n_neurons = rows.shape
    n_bytes = (n_neurons + 7) // 8
    if packed is None:
        packed = torch.empty(n_rows, n_bytes, dtype=torch.uint8, device=rows.device)
    statistics = torch.empty(len(STATISTICS), n_rows, dtype=torch.float32, device=rows.device)
    if n_rows:
        with torch.cuda.device_of(rows):
            _reduce[(n_rows,)](
                rows, rows.stride(0), norms, experts, packed, statistics, n_rows, n_neurons, n_bytes, k, threshold,
                RULE=rule, BY_EXPERT=experts is not None, **layout(n_neurons),
            )  # fmt: skip
    return packed, statistics


@triton.jit
def _fire(
    packed, kept, counts, n_rows, n_neurons, n_bytes, ROWS: tl.constexpr, STEP: tl.constexpr, BYTES: tl.constexpr
):  # fmt: skip
    byte = tl.program_id(1) * BYTES + tl.arange(0, BYTES)
    low = tl.zeros((STEP, BYTES), tl.int32)
    high = tl.zeros((STEP, BYTES), tl.int32)
    for start in range(0, ROWS, STEP):
        row = tl.program_id(0) * ROWS + start + tl.arange(0, STEP)
        keep = tl.load(kept + row, mask=row < n_rows, other=0) != 0
        place = row.to(tl.int64)[:, None] * n_bytes + byte[None, :]
        block = tl.load(packed + place, mask=keep[:, None] & (byte < n_bytes)[None, :], other=0).to(tl.int32)
        low += ((block & 15) * 0x00204081) & 0x01010101  # four bits into four bytes, which count up to 255 rows
        high += ((block >> 4) * 0x00204081) & 0x01010101
    for place in tl.static_range(4):
        neuron = byte * 8 + place
        count = tl.sum((low >> (8 * place)) & 255, axis=0)
        tl.atomic_add(counts + neuron, count, mask=neuron < n_neurons, sem="relaxed")
        count = tl.sum((high >> (8 * place)) & 255, axis=0)
        tl.atomic_add(counts + neuron + 4, count, mask=neuron + 4 < n_neurons, sem="relaxed")


def add_firing(packed: Tensor, kept: Tensor, counts: Tensor) -> None:
    """Add to `counts` (F,) int32 how often each neuron is active in the rows of `packed` where `kept` (N,) is not 0."""
    n_rows, n_bytes = packed.shape
    grid = (triton.cdiv(n_rows, FIRE["ROWS"]), triton.cdiv(n_bytes, FIRE["BYTES"]))
    with torch.cuda.device_of(packed):
        _fire[grid](packed, kept, counts, n_rows, len(counts), n_bytes, **FIRE)
