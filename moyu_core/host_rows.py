"""The reduction of a row on a processor, compiled by Numba: each row is read from memory once and stays in the cache.

The largest k of a row are found without sorting: floats >= 0 are in the order of their bits, so the k-th largest score is
the integer b that k scores reach, and counting how many reach a guess is one pass of vector instructions. The row before
gives the first guess, the counts the next ones; about five passes find it.

Rows are shared among torch's own threads (`reduce_shared`): between two steps of a forward pass those wait for work without
sleeping, so that other threads would only take the cores from them. Numba's OpenMP layer binds to the OpenMP library that
torch has loaded, where the threads that wait are the ones that get the rows.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module

import numpy as np
from numba import config, float32, get_num_threads, int32, int64, prange, set_num_threads, uint8, uint64

from moyu_core.jit import njit
from moyu_core.statistics import TINY_ENERGY

ODD = -1
"""What `nonfinite` says of a row that has to be done again."""

_SUMS = {"reassoc", "contract", "nsz", "arcp", "nnan"}
"""What the compiler may do with sums so that they use vectors. Rows with NaN are noticed by their bits and done elsewhere."""
_INFINITY = 0x7F800000
_NO_SIGN = 0x7FFFFFFF
_ROOT_HALF = 0x3F3504F3
_MANTISSA = 23
_STEP = 1 << 15
"""How far the second guess goes for each neuron too many or too few: the usual distance of neighbours near a border."""
_GUESSES = 8
"""Guesses by the counts before the interval is halved, which always ends."""
_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
"""log(1 + m) = m - m^2/2 + m^3 P(m) for m in [sqrt(1/2) - 1, sqrt(2) - 1], relative error below 1e-7 (Cephes, logf)."""
_LOG2_E = 1.4426950408889634
_ROWS_A_THREAD = 16
"""Fewer rows are not worth waking a thread for."""


def threads(n_rows: int) -> int:
    """How many threads to share the rows of one call among: at most as many as torch uses."""
    from torch import get_num_threads

    return max(1, min(get_num_threads(), _cores(), n_rows // _ROWS_A_THREAD)) if _openmp() else 1


def _cores() -> int:
    return config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]


@cache
def _openmp() -> bool:
    """Whether Numba shares OpenMP's threads; any other pool would stand beside torch's and slow both down."""
    with suppress(ImportError):
        import_module("numba.np.ufunc.omppool")
        config.THREADING_LAYER = "omp"  # pyright: ignore[reportAttributeAccessIssue]
        return True
    return False


def reduce_shared(a, *others):
    """`reduce_rows` by several threads; the same results."""
    parts = threads(len(a))
    if parts == 1:
        return reduce_rows(a, *others)
    if get_num_threads() != parts:
        set_num_threads(parts)
    return _reduce_parts(parts, a, *others)


@njit(nogil=True, cache=True, parallel=True)
def _reduce_parts(parts, a, norms, count, border, positive, active, sizes, l2_norm, abs_max, effective, zero_share, nonfinite):
    odd = 0
    for part in prange(parts):
        low, high = part * len(a) // parts, (part + 1) * len(a) // parts
        own = norms[low:high] if len(norms) > 1 else norms
        odd += reduce_rows(a[low:high], own, count, border, positive, active[low:high], sizes[low:high], l2_norm[low:high],
                           abs_max[low:high], effective[low:high], zero_share[low:high], nonfinite[low:high])  # fmt: skip
    return odd


@njit(nogil=True, cache=True)
def reduce_rows(a, norms, count, border, positive, active, sizes, l2_norm, abs_max, effective, zero_share, nonfinite):
    """Sets and statistics of some rows; returns how many rows are odd.

    A row is odd that holds NaN or an infinity, or whose squares leave float32: its `nonfinite` is ODD, and its other
    results mean nothing.

    Args:
        a: (N, F) float32.
        norms: (1, F) or (N, F) float32, what |a| is multiplied with to make the score.
        count: k of the rule top; 0 where `border` decides.
        border: bits of the smallest active score, at least 1.
        positive: whether a itself, not the score, has to reach the border.
        active: out, (N, ceil(F/8)) packed sets.
        sizes: out, (N,) int32 number of active neurons.
        l2_norm, abs_max, effective, zero_share: out, (N,) float32 statistics (`schema.activation_columns`).
        nonfinite: out, (N,) int32, 0 or ODD.
    """
    n_neurons = a.shape[1]
    score = np.empty(n_neurons, np.float32)
    mantissa = np.empty(n_neurons, np.float32)
    flags = np.zeros((n_neurons + 7) // 8 * 8, np.uint8)
    bits, score_bits, top_bits = a.view(np.int32), score.view(np.int32), abs_max.view(np.int32)
    guess, total = np.ones(1, np.float32), float32(0)
    odd = 0
    for row in range(a.shape[0]):
        before = total
        top, energy, zeros, total = _sums(a[row], bits[row], norms[row if len(norms) > 1 else 0], score)
        weighted_log = _weighted_log(a[row], bits[row], mantissa)
        nonfinite[row] = 0
        if top >= _INFINITY or not TINY_ENERGY < energy < np.inf or not abs(weighted_log) < np.inf:
            nonfinite[row] = ODD
            odd += 1
            total = before
            continue
        top_bits[row], l2_norm[row], zero_share[row] = top, np.sqrt(energy), float32(zeros / n_neurons)
        effective[row] = np.exp2(np.log2(energy) - weighted_log / energy)
        if count == 0:
            reached = bits[row] if positive else score_bits
            _flag(reached, border, flags)
            sizes[row] = _reaching(reached, border)
        else:
            if before > 0:
                guess[0] *= total / before
            sizes[row] = _largest(score_bits, count, guess.view(np.int32), flags)
        _pack(flags, active[row])
    return odd


@njit(nogil=True, cache=True)
def _largest(bits, count, guess, flags):
    """Flag the k largest of a row, exact zeros never; returns how many. `guess` becomes what was found."""
    guess[0], found = _border(bits, count, guess[0])
    if guess[0] == 0:
        _flag(bits, int32(1), flags)
        return _reaching(bits, int32(1))
    _flag(bits, guess[0], flags)
    if found > count:
        _break_ties(bits, guess[0], count, flags)
    return count


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _sums(row, bits, norms, score):
    """(bits of the largest |a|, sum of a^2, number of zeros, sum of the scores); `score` is filled."""
    top, energy, zeros, total = int32(0), float32(0), int32(0), float32(0)
    for j in range(row.shape[0]):
        magnitude = bits[j] & int32(_NO_SIGN)
        top = max(top, magnitude)
        zeros += int32(magnitude == 0)
        energy += row[j] * row[j]
        score[j] = abs(row[j]) * norms[j]
        total += score[j]
    return top, energy, zeros, total


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _weighted_log(row, bits, mantissa):
    """Sum of a^2 log2 |a|, twice: the logarithm by exponent and polynomial, in two loops that both become vectors."""
    mantissa_bits = mantissa.view(np.int32)
    for j in range(row.shape[0]):
        magnitude = bits[j] & int32(_NO_SIGN)
        mantissa_bits[j] = magnitude - ((magnitude - int32(_ROOT_HALF)) & int32(-(1 << _MANTISSA)))
    total = float32(0)
    for j in range(row.shape[0]):
        exponent = ((bits[j] & int32(_NO_SIGN)) - int32(_ROOT_HALF)) >> int32(_MANTISSA)
        m = mantissa[j] - float32(1)
        p = float32(_LOG[0])
        for term in range(1, 9):
            p = p * m + float32(_LOG[term])
        square = m * m
        log = m - float32(0.5) * square + square * m * p
        total += row[j] * row[j] * (float32(exponent) + log * float32(_LOG2_E))
    return total * float32(2)


@njit(nogil=True, cache=True)
def _reaching(bits, border):
    found = int32(0)
    for j in range(bits.shape[0]):
        found += int32(bits[j] >= border)
    return found


@njit(nogil=True, cache=True)
def _border(bits, count, guess):
    """(border, how many scores reach it): exactly `count`; where ties leave no such border, the largest that more reach."""
    low, high = int64(0), int64(_INFINITY + 1)
    above, below = bits.shape[0], 0
    if above <= count:
        return int32(0), int32(above)
    t, step = int64(max(guess, int32(1))), 0
    while high - low > 1:
        found = _reaching(bits, int32(t))
        if found == count:
            return int32(t), found
        if found > count:
            low, above = t, found
        else:
            high, below = t, found
        step += 1
        if step > _GUESSES:
            t = low + ((high - low) >> 1)
        elif low == 0 or high > _INFINITY:
            t += int64(found - count) * _STEP * step
        else:
            t = low + int64((high - low) * ((above - count) / (above - below)))
        if t <= low or t >= high:
            t = low + ((high - low) >> 1)
    return int32(low), int32(above)


@njit(nogil=True, cache=True)
def _flag(bits, border, flags):
    """One byte a neuron: whether it reaches the border."""
    for j in range(bits.shape[0]):
        flags[j] = uint8(bits[j] >= border)


@njit(nogil=True, cache=True)
def _break_ties(bits, border, count, flags):
    """Of the neurons that stand exactly at the border, keep the first."""
    room = count - _reaching(bits, border + int32(1))
    for j in range(bits.shape[0]):
        if bits[j] == border:
            flags[j] = uint8(room > 0)
            room -= 1


@njit(nogil=True, cache=True)
def _pack(flags, packed):
    """Eight bytes that hold 0 or 1 to the bits of one, the first to the lowest: by a multiplication."""
    words = flags.view(np.uint64)
    for j in range(packed.shape[0]):
        packed[j] = uint8((words[j] * uint64(0x0102040810204080)) >> uint64(56))
