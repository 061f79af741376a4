"""One byte a neuron: the sign and the logarithm of |a| / scale, so that small values keep their relative precision.

    code       meaning
    0          exact 0, or below half of the smallest level
    1..127     +scale * 2**((level - 127) / LEVELS_PER_OCTAVE), level = code
    128        not finite (NaN or infinite)
    129..255   -scale * 2**((level - 127) / LEVELS_PER_OCTAVE), level = code - 128

`scale` is the row's largest finite |a|, so level 127 is met exactly and decode(encode(decode(x))) == decode(x).
Eleven levels an octave: a relative error of at most 2**(0.5 / 11) - 1 = 3.2 % over 11.5 octaves (a factor of 2,800).
"""

from __future__ import annotations

import numpy as np

from moyu_core.errors import InputError

LEVELS_PER_OCTAVE = 11
TOP_LEVEL = 127
NOT_FINITE = 128
MAX_RELATIVE_ERROR = 2 ** (0.5 / LEVELS_PER_OCTAVE) - 1
"""Largest relative error of a value between the smallest level and the scale."""

_BLOCK_CELLS = 1 << 18  # rows are worked off in blocks whose float32 temporaries stay in the processor's cache


def level_table() -> np.ndarray:
    """(256,) float32: what each code means in units of the row's scale; NaN at 128."""
    levels = np.arange(128, dtype=np.float64)
    relative = np.exp2((levels - TOP_LEVEL) / LEVELS_PER_OCTAVE)
    relative[0] = 0.0
    table = np.concatenate([relative, -relative]).astype(np.float32)
    table[NOT_FINITE] = np.nan
    return table


_TABLE = level_table()


def _matrix(name: str, array: np.ndarray) -> np.ndarray:
    """The argument as a 2-D array, or an `InputError` that says what came instead."""
    array = np.asarray(array)
    if array.ndim != 2:
        raise InputError(f"{name} must have two axes (rows, neurons), not shape {array.shape}.")
    return array


def _encode_block(a: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> None:
    """Fill `codes` (n, F) and `scale` (n,) from a block `a` (n, F) float32."""
    magnitude = np.abs(a)
    finite = np.isfinite(magnitude)
    whole = bool(finite.all())
    if not whole:
        magnitude[~finite] = 0.0
    scale[:] = magnitude.max(axis=1, initial=0.0)
    unit = np.where(scale > 0, scale, np.float32(1.0))
    with np.errstate(divide="ignore"):  # log2(0) = -inf, which falls to level 0 below
        level = np.log2(magnitude / unit[:, None])
    level *= np.float32(LEVELS_PER_OCTAVE)
    level += np.float32(TOP_LEVEL)
    kept = level >= np.float32(1 - LEVELS_PER_OCTAVE)  # half of level 1 is one octave, 11 levels, below it
    np.rint(level, out=level)
    np.clip(level, 1.0, TOP_LEVEL, out=level)
    codes[:] = level.astype(np.uint8)
    codes[:] *= kept
    codes[:] |= ((a < 0) & kept).view(np.uint8) << 7
    if not whole:
        codes[~finite] = NOT_FINITE


def encode(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compand activations to one byte each.

    Args:
        a: (N, F) floats, one row a token.

    Returns:
        codes: (N, F) uint8.
        scale: (N,) float32, the row's largest finite |a|; 0 for a row that is all zero or has no finite value.
    """
    a = _matrix("a", a)
    rows, neurons = a.shape
    codes = np.empty((rows, neurons), dtype=np.uint8)
    scale = np.empty(rows, dtype=np.float32)
    step = max(1, _BLOCK_CELLS // max(1, neurons))
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is marked as such
        for start in range(0, rows, step):
            block = slice(start, start + step)
            _encode_block(a[block].astype(np.float32, copy=False), codes[block], scale[block])
    return codes, scale


def decode(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Undo `encode`.

    Args:
        codes: (N, F) uint8.
        scale: (N,) float32.

    Returns:
        (N, F) float32, NaN where the activation was not finite.
    """
    codes = _matrix("codes", codes)
    scale = np.asarray(scale, dtype=np.float32)
    if codes.dtype != np.uint8 or scale.shape != codes.shape[:1]:
        raise InputError(
            f"Expected uint8 codes (N, F) and a scale (N,), received {codes.dtype} {codes.shape} and {scale.shape}."
        )
    values = _TABLE[codes]
    values *= scale[:, None]
    return values
