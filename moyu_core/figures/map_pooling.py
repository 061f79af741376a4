"""Cells of a token x neuron map -> one index a pixel, the way the browser's canvas does it: every cell is looked at.

values: the strongest cell of a pixel, on the scale that ends where 99.5 % of the non-zero cells end (sink left out);
set: the share of the pixel's cells that are active, never nothing where one is; compare: the first category that occurs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from moyu_core import sets
from moyu_core.companding import LEVELS_PER_OCTAVE, NOT_FINITE, TOP_LEVEL, level_table
from moyu_core.figures.map_colours import SET_TONES
from moyu_core.figures.map_payload import MapPicture

CLIP_SHARE = 0.995
_NEVER = -1e6  # the logarithm of a row or column that is all zero


@dataclass(frozen=True)
class Scale:
    """The colour scale of a map of values, in levels (see `companding`).

    Attributes:
        row_offset: (T,), what turns a row's level into one of the map's.
        col_offset: (F,) in column order, the same for column norms; 0 where the map shows none.
        clip_level, clip: the end of the scale, as level and as value.
        clipped_share: share of the non-zero cells above it, sink left out.
        clips: whether any cell lies above it, the sink's too.
        not_finite: cells that are NaN or infinite.
    """

    row_offset: np.ndarray
    col_offset: np.ndarray
    clip_level: float
    clip: float
    clipped_share: float
    clips: bool
    not_finite: int


@dataclass(frozen=True)
class Pooled:
    """What is drawn.

    Attributes:
        index: (R, W) uint8, into `map_colours.palette`.
        rows, columns: edges of the pixels, (R + 1,) and (W + 1,) integers: pixel i holds edges[i] to edges[i + 1] - 1.
        scale: of a map of values, else None.
        cells: (T, F) uint8 in column order: code, 0 / 1, or category.
    """

    index: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    scale: Scale | None
    cells: np.ndarray


def pooled(picture: MapPicture, max_rows: int, max_columns: int) -> Pooled:
    """The map in at most `max_rows` x `max_columns` pixels; a cell a pixel where there is room."""
    cells = in_order(picture)
    rows, columns = edges(picture.n_rows, max_rows), edges(picture.n_neurons, max_columns)
    if picture.kind == "values":
        scale = measure(picture, cells)
        return Pooled(_strongest(cells, scale, rows, columns), rows, columns, scale, cells)
    if picture.kind == "set":
        active = np.add.reduceat(np.add.reduceat(cells.astype(np.int32), columns[:-1], axis=1), rows[:-1], axis=0)
        share = active / np.outer(np.diff(rows), np.diff(columns))
        index = np.where(active > 0, np.maximum(1, np.floor(SET_TONES * share + 0.5)), 0).astype(np.uint8)
        return Pooled(index, rows, columns, None, cells)
    index = np.minimum.reduceat(np.minimum.reduceat(cells, columns[:-1], axis=1), rows[:-1], axis=0)
    return Pooled(index, rows, columns, None, cells)


def edges(count: int, most: int) -> np.ndarray:
    """Borders of at most `most` runs of nearly equal length over 0..count."""
    pixels = min(count, most)
    return np.arange(pixels + 1, dtype=np.int64) * count // pixels


def in_order(picture: MapPicture) -> np.ndarray:
    """(T, F) uint8, one a cell, columns as they are shown."""
    cells = np.asarray(picture.cells)
    if picture.kind == "set":
        cells = sets.unpack(cells, picture.n_neurons).astype(np.uint8)
    return cells if picture.order is None else cells[:, np.asarray(picture.order)]


def measure(picture: MapPicture, cells: np.ndarray) -> Scale:
    """The scale of a map of values; `cells` (T, F) codes in column order."""
    counts = np.stack([np.bincount(row, minlength=256) for row in cells])
    levels = counts[:, :128] + counts[:, 128:]
    levels[:, 0] = 0
    factor = np.asarray(picture.scale, dtype=np.float64)
    if picture.show == "relative":
        norm = np.sqrt(levels @ level_table()[:128].astype(np.float64) ** 2)
        factor = 1 / np.where(norm > 0, norm, 1.0)
    row_offset, col_offset = _offset(factor), np.zeros(picture.n_neurons)
    if picture.show == "contribution":
        norms = np.asarray(picture.norms, dtype=np.float64)
        col_offset = _offset(norms if picture.order is None else norms[np.asarray(picture.order)])
    found, number, top = _histogram(picture, cells, levels, row_offset, col_offset)
    total = int(number.sum())
    if not total:
        return Scale(row_offset, col_offset, TOP_LEVEL, 1.0, 0.0, top > TOP_LEVEL, int(counts[:, NOT_FINITE].sum()))
    clip = found[int(np.argmax(np.cumsum(number) >= CLIP_SHARE * total))]
    if found[-1] - clip < 4:  # less than a third of an octave is not worth a clipped end
        clip = found[-1]
    value = float(np.exp2((clip - TOP_LEVEL) / LEVELS_PER_OCTAVE))
    over = int(number[found > clip].sum()) / total
    return Scale(row_offset, col_offset, float(clip), value, over, top > clip, int(counts[:, NOT_FINITE].sum()))


def _offset(factor: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(factor > 0, LEVELS_PER_OCTAVE * np.log2(factor), _NEVER)


def _histogram(
    picture: MapPicture, cells: np.ndarray, levels: np.ndarray, row_offset: np.ndarray, col_offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Rounded levels of the map with their counts, sink rows left out, and the highest level of all rows."""
    skipped = set(picture.sink_rows) if picture.n_rows > 1 else set()
    parts, top = [], -np.inf
    for row in range(picture.n_rows):
        if col_offset.any():
            shown = np.floor((cells[row] & 127) + col_offset + 0.5)[(cells[row] & 127 > 0) & (col_offset > _NEVER)]
            level, number = np.unique(shown, return_counts=True)
        else:
            level = np.flatnonzero(levels[row]).astype(np.float64)
            number = levels[row][levels[row] > 0]
        if len(level) and row_offset[row] > _NEVER:
            level = np.floor(level + row_offset[row] + 0.5)
            top = max(top, float(level[-1]))
            if row not in skipped:
                parts.append((level, number))
    if not parts:
        return np.empty(0), np.empty(0, np.int64), top
    found, inverse = np.unique(np.concatenate([level for level, _ in parts]), return_inverse=True)
    return found, np.bincount(inverse, np.concatenate([number for _, number in parts])).astype(np.int64), top


def _strongest(cells: np.ndarray, scale: Scale, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(R, W) uint8: level of the pixel's strongest cell below the end of the scale, its sign in the highest bit."""
    plus, minus, odd = (np.stack(part) for part in zip(*_row_tops(cells, scale, columns), strict=True))
    plus, minus = (np.maximum.reduceat(part, rows[:-1], axis=0) for part in (plus, minus))
    odd = np.logical_or.reduceat(odd, rows[:-1], axis=0)
    level = np.floor(np.maximum(plus, minus) - scale.clip_level + TOP_LEVEL + 0.5)
    index = np.clip(level, 0, TOP_LEVEL).astype(np.uint8)
    index |= ((minus > plus) & (index > 0)).astype(np.uint8) << 7
    index[odd] = NOT_FINITE
    return index


def _row_tops(cells: np.ndarray, scale: Scale, columns: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each row and pixel the highest positive level, the highest negative one, and whether a cell is not finite."""
    starts = columns[:-1]
    for row, offset in zip(cells, scale.row_offset, strict=True):
        level = np.where(row & 127 > 0, (row & 127) + scale.col_offset + offset, -np.inf)
        negative = row > NOT_FINITE
        yield (
            np.maximum.reduceat(np.where(negative, -np.inf, level), starts),
            np.maximum.reduceat(np.where(negative, level, -np.inf), starts),
            np.logical_or.reduceat(row == NOT_FINITE, starts),
        )
