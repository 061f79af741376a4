"""A picture of at most 256 colours as PNG, exactly: one byte a pixel and a palette."""

from __future__ import annotations

import zlib

import numpy as np

from moyu_core.errors import InputError


def indexed_png(index: np.ndarray, palette: np.ndarray) -> bytes:
    """The file.

    Args:
        index: (H, W) uint8, both at least 1.
        palette: (n, 3) uint8 with n at most 256, red, green, blue; every index is below n.
    """
    if index.ndim != 2 or not index.size or index.dtype != np.uint8:
        raise InputError(f"PNG: expected (H, W) uint8 pixels, received {index.dtype} {index.shape}.")
    if palette.shape[1:] != (3,) or not int(index.max()) < len(palette) <= 256:
        raise InputError(f"PNG: expected a palette of {int(index.max()) + 1} to 256 colours, received shape {palette.shape}.")
    height, width = index.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = index
    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 3, 0, 0, 0])
    body = zlib.compress(lines.tobytes(), 6)
    parts = ((b"IHDR", head), (b"PLTE", palette.astype(np.uint8).tobytes()), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)
