"""The reduction of a row on a processor, compiled by Numba: each row is read from memory once and stays in the cache.

The largest k of a row are found without sorting: floats >= 0 are in the order of their bits, so the k-th largest score is
the integer b that k scores reach, and counting how many reach a guess is one pass of vector instructions. The row before
gives the first guess, the counts the next ones; about five passes find it.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64, njit, uint8, uint64

_SUMS = {"reassoc", "contract", "nsz", "arcp", "nnan"}
"""What the compiler may do with sums so that they use vectors. Rows with NaN are noticed by their bits and done elsewhere."""
_INFINITY = 0x7F800000
_NO_SIGN = 0x7FFFFFFF
_ROOT_HALF = 0x3F3504F3
_MANTISSA = 23
FIRST_GUESS = 0x3F800000
"""Bits of 1.0."""
_STEP = 1 << 15
"""How far the second guess goes for each neuron too many or too few: the usual distance of neighbours near a border."""
_GUESSES = 8
"""Guesses by the counts before the interval is halved, which always ends."""
_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
"""log(1 + m) = m - m^2/2 + m^3 P(m) for m in [sqrt(1/2) - 1, sqrt(2) - 1], relative error below 1e-7 (Cephes, logf)."""
_LOG2_E = 1.4426950408889634


@njit(nogil=True, cache=True)
def reduce_rows(a, norms, count, border, positive, active, energy, weighted_log, top, zeros):
    """Sets and sums of some rows.

    Args:
        a: (N, F) float32.
        norms: (1, F) or (N, F) float32, what |a| is multiplied with to make the score.
        count: k of the rule top; 0 where `border` decides.
        border: bits of the smallest active score, at least 1.
        positive: whether a itself, not the score, has to reach the border.
        active: out, (N, ceil(F/8)) packed sets.
        energy: out, (N,) float32 sum of a^2.
        weighted_log: out, (N,) float32 sum of a^2 log2 a^2.
        top: out, (N,) int32 bits of the largest |a|; those of infinity or more where a value is not finite: then the row's
            other results mean nothing.
        zeros: out, (N,) int32 number of exact zeros.
    """
    n_neurons = a.shape[1]
    score = np.empty(n_neurons, np.float32)
    mantissa = np.empty(n_neurons, np.float32)
    flags = np.zeros((n_neurons + 7) // 8 * 8, np.uint8)
    bits, score_bits = a.view(np.int32), score.view(np.int32)
    guess = int32(FIRST_GUESS)
    for row in range(a.shape[0]):
        top[row], energy[row], zeros[row] = _sums(a[row], bits[row], norms[row if len(norms) > 1 else 0], score)
        weighted_log[row] = _weighted_log(a[row], bits[row], mantissa)
        if top[row] >= _INFINITY:
            continue
        if count == 0:
            _flag(bits[row] if positive else score_bits, border, flags)
        else:
            guess = _border(score_bits, count, guess)
            lowest = max(guess, int32(1))
            _flag(score_bits, lowest, flags)
            if _reaching(score_bits, lowest) > count:
                _break_ties(score_bits, guess, count, flags)
        _pack(flags, active[row])


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _sums(row, bits, norms, score):
    """(bits of the largest |a|, sum of a^2, number of zeros); `score` is filled."""
    top, energy, zeros = int32(0), float32(0), int32(0)
    for j in range(row.shape[0]):
        magnitude = bits[j] & int32(_NO_SIGN)
        top = max(top, magnitude)
        zeros += int32(magnitude == 0)
        energy += row[j] * row[j]
        score[j] = abs(row[j]) * norms[j]
    return top, energy, zeros


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
    """Bits that exactly `count` scores reach; where ties leave no such bits, the largest that more reach."""
    low, high = int64(0), int64(_INFINITY + 1)
    above, below = bits.shape[0], 0
    if above <= count:
        return int32(0)
    t, step = int64(max(guess, int32(1))), 0
    while high - low > 1:
        found = _reaching(bits, int32(t))
        if found == count:
            return int32(t)
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
    return int32(low)


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
