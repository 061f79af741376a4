"""One byte a neuron: precision, marks and a slow recomputation of the same rule."""

import math

import numpy as np
import pytest

from moyu_core.companding import LEVELS_PER_OCTAVE, MAX_RELATIVE_ERROR, NOT_FINITE, decode, encode
from moyu_core.errors import InputError

SMALLEST = 2.0 ** ((1 - 127) / LEVELS_PER_OCTAVE)


def heavy_tailed(rows=37, neurons=501, seed=0):
    rng = np.random.default_rng(seed)
    spread = np.exp(1.5 * rng.standard_normal((rows, neurons)))
    return (rng.standard_normal((rows, neurons)) * spread).astype(np.float32)


def slow_code(value, scale):
    """The rule in words, one float64 at a time; also how far the level was from a rounding boundary."""
    if not math.isfinite(value):
        return NOT_FINITE, 0.5
    if value == 0 or abs(value) < 0.5 * SMALLEST * scale:
        return 0, 0.5
    exact = 127 + LEVELS_PER_OCTAVE * math.log2(abs(value) / scale)
    level = max(1, round(exact))
    return level + (128 if value < 0 else 0), abs(exact - math.floor(exact) - 0.5)


def test_relative_error_is_within_half_a_level():
    a = heavy_tailed()
    back = decode(*encode(a))
    inside = np.abs(a) >= SMALLEST * np.abs(a).max(axis=1, keepdims=True)
    error = np.abs(back - a)[inside] / np.abs(a)[inside]
    assert inside.mean() > 0.85
    assert error.max() <= MAX_RELATIVE_ERROR + 1e-5
    assert error.max() > 0.9 * MAX_RELATIVE_ERROR, "the bound is tight; a much smaller error would be another rule"


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
def test_decoding_is_idempotent(size):
    once = decode(*encode(heavy_tailed() * np.float32(size)))
    np.testing.assert_array_equal(decode(*encode(once)), once)


def test_sign_and_scale_are_kept():
    a = heavy_tailed(seed=1)
    codes, scale = encode(a)
    np.testing.assert_array_equal(scale, np.abs(a).max(axis=1))
    back = decode(codes, scale)
    kept = back != 0
    np.testing.assert_array_equal(np.sign(back[kept]), np.sign(a[kept]))
    assert ((codes >= 128) == (back < 0)).all()
    row, column = np.unravel_index(np.abs(a).argmax(), a.shape)
    assert back[row, column] == a[row, column], "the largest value is exact"


def test_not_finite_values_are_marked_and_do_not_set_the_scale():
    a = np.array([[1.0, np.nan, -np.inf, 0.5], [np.nan, np.inf, np.nan, np.nan], [1e300, 2.0, 0, 0]])
    codes, scale = encode(a)
    np.testing.assert_array_equal(codes[0, 1:3], [NOT_FINITE, NOT_FINITE])
    np.testing.assert_array_equal(scale, [1.0, 0.0, 2.0])
    np.testing.assert_array_equal(np.isnan(decode(codes, scale)), (~np.isfinite(a)) | (a > 1e38))


def test_zero_rows_and_values_below_the_smallest_level():
    a = np.zeros((2, 6), dtype=np.float32)
    a[1] = [1.0, SMALLEST, 0.51 * SMALLEST, 0.49 * SMALLEST, -0.51 * SMALLEST, -0.49 * SMALLEST]
    codes, scale = encode(a)
    np.testing.assert_array_equal(codes[0], 0)
    np.testing.assert_array_equal(codes[1], [127, 1, 1, 0, 129, 0])
    np.testing.assert_array_equal(decode(codes, scale)[0], 0.0)


def test_same_codes_as_a_slow_recomputation():
    a = heavy_tailed(rows=9, neurons=300, seed=2)
    a[0, :3], a[4], a[5, 7] = [0.0, np.nan, np.inf], 0.0, 1e-12
    codes, scale = encode(a)
    for row in range(len(a)):
        for column in range(a.shape[1]):
            code, clearance = slow_code(float(a[row, column]), float(scale[row]))
            if clearance > 1e-4:  # float32 may round a tie the other way
                assert codes[row, column] == code, (row, column, a[row, column])


def test_many_rows_are_the_same_as_one_at_a_time():
    a = heavy_tailed(rows=700, neurons=1536, seed=3)
    codes, scale = encode(a)
    one = [encode(a[row : row + 1]) for row in (0, 170, 171, 699)]
    for (code, unit), row in zip(one, (0, 170, 171, 699), strict=True):
        np.testing.assert_array_equal(code[0], codes[row])
        assert unit[0] == scale[row]


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"two axes.*\(3,\)"):
        encode(np.zeros(3))
    with pytest.raises(InputError, match=r"int64.*\(2,\)"):
        decode(np.zeros((1, 2), dtype=np.int64), np.zeros(2))
    assert encode(np.zeros((0, 4)))[0].shape == (0, 4)
    assert encode(np.zeros((3, 0)))[1].tolist() == [0, 0, 0]
