"""The token x neuron map as an SVG file: cells as an exact raster inside it, everything around them as lines and text.

At most MAX_COLUMNS x MAX_ROWS pixels of cells: where there are more, pixels hold several cells, every one of which is
looked at (`map_pooling`), and the file says so. It needs no script, no font and no network, and stays below about 4 MB.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from xml.etree.ElementTree import Element, tostring

import numpy as np

from moyu_core.figures.indexed_png import indexed_png
from moyu_core.figures.map_colours import Inks, inks, palette
from moyu_core.figures.map_payload import MapPicture, decode
from moyu_core.figures.map_pooling import Pooled, pooled
from moyu_core.figures.map_svg_legend import legend, note
from moyu_core.figures.map_svg_parts import MONO, PATTERNS, clean, cut, label, nice_step, rect, shape, width_of, wrapped
from moyu_core.figures.text import number, percent, visible

MAX_COLUMNS, MAX_ROWS = 2048, 1024
MAX_MARKS = 20_000
"""Patterns on single cells; a map with more of them is told apart by lightness alone."""
_WIDTH, _HEIGHT = 1100, 1200  # pixels that the cells fill, unless one pixel a cell needs more
_TALLEST, _WIDEST = 16, 24
_PAD, _PROFILE, _BARS, _TOKEN = 16, 44, 96, 32


@dataclass(frozen=True)
class _Frame:
    """Places in pixels: left and top of the cells, size of one and of all, right end of everything and of the row numbers."""

    x: int
    y: int
    cell: tuple[int, int]
    width: int
    height: int
    right: int
    numbers: int


def map_svg(payload: bytes, dark: bool = False) -> str:
    """The SVG of what `map_payload.encode` made.

    Args:
        payload: as the component on the page gets it.
        dark: colours of the dark theme instead of the light one.
    """
    picture, ink = decode(payload), inks(dark)
    found = pooled(picture, MAX_ROWS, MAX_COLUMNS)
    frame, tokens = _frame(picture, found), [clean(cut(visible(token), _TOKEN)) for token in picture.tokens]
    parts = [*_heading(picture, frame, ink), _raster(picture, found, frame, dark)]
    parts += [*_patterns(picture, found, frame, ink), *_profile(picture, found, frame, ink), *_bars(picture, found, frame, ink)]
    parts += [*_rows(picture, found, frame, ink, tokens), *_axis(picture, found, frame, ink), *_marks(picture, found, frame, ink)]
    end = frame.y + frame.height + 46
    below, bottom = legend(picture, found, ink, _PAD, end, frame.right)
    lines = wrapped(note(picture, found), frame.right - _PAD)
    parts += below + [label(_PAD, bottom + 16 + 16 * at, line, ink.muted) for at, line in enumerate(lines)]
    return _document(picture, parts, frame.right + _PAD, bottom + 16 * len(lines) + _PAD + 8, ink)


def _document(picture: MapPicture, parts: list[Element], width: float, height: float, ink: Inks) -> str:
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "xmlns:xlink": "http://www.w3.org/1999/xlink", "role": "img",
                           "width": f"{width:g}", "height": f"{height:g}", "viewBox": f"0 0 {width:g} {height:g}",
                           "font-family": "system-ui, sans-serif", "font-size": "12"})
    for name, text in (("title", picture.title), ("desc", picture.alt)):
        element = Element(name)
        element.text = clean(text)
        root.append(element)
    root.append(rect(0, 0, width, height, ink.back))
    root.extend(parts)
    return tostring(root, encoding="unicode")


def _frame(picture: MapPicture, found: Pooled) -> _Frame:
    rows, columns = found.index.shape
    cell = (min(_WIDEST, max(1, _WIDTH // columns)), min(_TALLEST, max(2, _HEIGHT // rows)))
    width, height = cell[0] * columns, cell[1] * rows
    places = max(len(str(place)) for place in _positions(picture)) * 7
    words = max(width_of(cut(visible(token), _TOKEN), MONO) for token in picture.tokens)
    x = _PAD + max(int(places + words) + 36, 110)
    lines = _heading_lines(picture, max(width, 560))
    y = _PAD + 20 * len(lines[0]) + 16 * len(lines[1]) + (_PROFILE if picture.profile is not None else 0) + 40
    right = x + max(width + (_BARS + 12 if picture.bars is not None else 0), 560)
    return _Frame(x, y, cell, width, height, right, _PAD + places)


def _positions(picture: MapPicture) -> list[int]:
    return [int(place) for place in (range(picture.n_rows) if picture.positions is None else picture.positions)]


def _heading_lines(picture: MapPicture, width: float) -> tuple[list[str], list[str]]:
    return wrapped(clean(picture.title), width * 12 / 15), wrapped(clean(picture.caption), width)


def _heading(picture: MapPicture, frame: _Frame, ink: Inks) -> list[Element]:
    """Title, and under it run and set rule."""
    title, caption = _heading_lines(picture, max(frame.width, 560))
    below = _PAD + 20 * len(title)
    return [
        *(label(_PAD, _PAD + 12 + 20 * at, line, ink.text, size=15, bold=True) for at, line in enumerate(title)),
        *(label(_PAD, below + 10 + 16 * at, line, ink.muted) for at, line in enumerate(caption)),
    ]


def _raster(picture: MapPicture, found: Pooled, frame: _Frame, dark: bool) -> Element:
    """The cells: one pixel each or one for several, enlarged without smoothing."""
    png = base64.b64encode(indexed_png(found.index, palette(picture, dark))).decode()
    return Element("image", {"x": str(frame.x), "y": str(frame.y), "width": str(frame.width), "height": str(frame.height),
                             "preserveAspectRatio": "none", "image-rendering": "optimizeSpeed",
                             "style": "image-rendering:pixelated", "xlink:href": f"data:image/png;base64,{png}"})


def _patterns(picture: MapPicture, found: Pooled, frame: _Frame, ink: Inks) -> list[Element]:
    """Marks on single cells, where they are large enough: of categories, of values that are not finite or off the scale."""
    (width, height), single = frame.cell, found.index.shape == found.cells.shape
    if not single or min(width, height) < 5:
        return []
    where: list[tuple[str, np.ndarray]] = []
    if picture.kind == "compare":
        where = [(each.pattern, found.cells == code) for code, each in enumerate(picture.categories) if each.pattern != "none"]
    elif found.scale is not None:
        level = (found.cells & 127) + found.scale.col_offset + found.scale.row_offset[:, None]
        over = (found.cells & 127 > 0) & (level > found.scale.clip_level + 0.5)
        where = [("cross", found.cells == 128), ("dot", over)]
    if sum(int(cells.sum()) for _, cells in where) > MAX_MARKS:
        return []
    on = "#10131a" if picture.kind == "values" and picture.show != "signed" else ink.back
    parts = []
    for pattern, cells in where:
        path = "".join(PATTERNS[pattern](frame.x + width * column, frame.y + height * row, width, height)
                       for row, column in np.argwhere(cells).tolist())
        if path:
            parts.append(shape(path, on, pattern))
    return parts


def _profile(picture: MapPicture, found: Pooled, frame: _Frame, ink: Inks) -> list[Element]:
    """The share of each column on top: the largest of those that share a pixel."""
    if picture.profile is None:
        return []
    values = np.asarray(picture.profile)
    values = values if picture.order is None else values[np.asarray(picture.order)]
    shown, base = np.maximum.reduceat(values, found.columns[:-1]), frame.y - 14
    top = float(values.max()) or 1.0
    steps = "".join(f"V{base - value / top * (_PROFILE - 4):.1f}h{frame.cell[0]}" for value in shown.tolist())
    name = clean(picture.profile_label or "rate")
    return [
        Element("path", {"d": f"M{frame.x} {base}{steps}V{base}z", "fill": ink.accent, "fill-opacity": "0.65"}),
        rect(frame.x, base, frame.width, 1, ink.line),
        label(frame.x - 9, base - _PROFILE + 12, percent(top), ink.muted, size=10, anchor="end"),
        label(frame.x - 9, base, cut(name, 26), ink.muted, size=10, anchor="end"),
    ]


def _bars(picture: MapPicture, found: Pooled, frame: _Frame, ink: Inks) -> list[Element]:
    """One bar a token at the right; the sink's is hollow and does not stretch the scale. Of rows that share a pixel the largest."""
    if picture.bars is None:
        return []
    values = np.asarray(picture.bars, dtype=np.float64)
    sink = np.isin(np.arange(picture.n_rows), picture.sink_rows) & (picture.n_rows > 1)
    usual = values[np.isfinite(values) & ~sink]
    top = float(usual.max(initial=0)) or 1.0
    x, height = frame.x + frame.width + 12, frame.cell[1]
    paths = {True: "", False: ""}
    for row, (start, stop) in enumerate(zip(found.rows[:-1].tolist(), found.rows[1:].tolist(), strict=True)):
        some = values[start:stop][np.isfinite(values[start:stop])]
        if len(some):
            wide, tall = min(1.0, max(0.0, float(some.max()) / top)) * _BARS, max(1.0, 0.7 * height)
            y = frame.y + height * row + (height - tall) / 2
            paths[bool(sink[start:stop].all())] += f"M{x} {y:.1f}h{wide:.1f}v{tall:.1f}h{-wide:.1f}z"
    unit = f" {picture.bar_unit}" if picture.bar_unit and picture.bar_unit != "1" else ""
    lines = wrapped(clean(picture.bar_label or "per token"), _BARS)[:3]
    below = frame.y + frame.height + 14
    return [
        Element("path", {"d": paths[False], "fill": ink.muted}),
        Element("path", {"d": paths[True], "fill": "none", "stroke": ink.muted}),
        rect(x - 1, frame.y, 1, frame.height, ink.line),
        *(label(x, frame.y - 8 - 12 * at, line, ink.muted, size=10) for at, line in enumerate(reversed(lines))),
        label(x, below, "0", ink.muted, size=10),
        label(x + _BARS, below, clean(number(top) + unit), ink.muted, size=10, anchor="end"),
    ]


def _rows(picture: MapPicture, found: Pooled, frame: _Frame, ink: Inks, tokens: list[str]) -> list[Element]:
    """Position and token of the rows that have room, each beside its own; the sink with a diamond."""
    positions, height, parts = _positions(picture), frame.cell[1], []
    step = -(-11 // height)
    for row in range(0, len(found.rows) - 1, step):
        token, y = int(found.rows[row]), frame.y + height * (row + 0.5)
        mark = "\u25c7 " if token in picture.sink_rows else ""
        words, on = mark + tokens[token], ink.muted if mark else ink.text
        if step > 1:
            parts.append(rect(frame.x - 5, y - 0.5, 4, 1, ink.line))
        parts.append(label(frame.x - 9, y + 4, words, on, size=11, anchor="end", mono=True))
        parts.append(label(frame.numbers, y + 4, str(positions[token]), ink.muted, size=10, anchor="end"))
    return parts


def _axis(picture: MapPicture, found: Pooled, frame: _Frame, ink: Inks) -> list[Element]:
    """Ticks of the columns: neuron ids, or places in an order of their own."""
    y, width, parts = frame.y + frame.height, frame.width, []
    per = found.cells.shape[1] / (len(found.columns) - 1)
    step = max(1, int(nice_step(picture.n_neurons * 70 / max(width, 70))))
    for column in range(0, picture.n_neurons, step):
        x = frame.x + (column / per + 0.5) * frame.cell[0]
        parts += [rect(x - 0.5, y, 1, 4, ink.line), label(x, y + 16, str(column), ink.muted, size=10, anchor="middle")]
    plain = picture.order is None or np.array_equal(picture.order, np.arange(picture.n_neurons))
    what = "neuron" if plain else f"place in order ({picture.order_label or 'an order of its own'})"
    words = f"{what}, 0 to {number(picture.n_neurons - 1)}"
    parts.append(label(frame.x, y + 32, clean(words), ink.muted, size=11))
    return parts


def _marks(picture: MapPicture, found: Pooled, frame: _Frame, ink: Inks) -> list[Element]:
    """Flagged neurons as triangles, named where the names do not collide; pinned cells framed."""
    order = np.arange(picture.n_neurons) if picture.order is None else np.asarray(picture.order)
    column = np.searchsorted(found.columns, np.argsort(order), side="right") - 1
    row = np.searchsorted(found.rows, np.arange(picture.n_rows), side="right") - 1
    parts, free = [], frame.x - 6
    for neuron, name in sorted(picture.marks, key=lambda mark: int(column[mark[0]])):
        x, text = frame.x + (int(column[neuron]) + 0.5) * frame.cell[0], clean(cut(name, 20))
        parts.append(shape(f"M{x - 3.5} {frame.y - 8}h7l-3.5 5.5z", ink.text, "dot"))
        if x >= free and x + 6 + width_of(text, 6) <= frame.x + frame.width:
            parts.append(label(x + 6, frame.y - 3, text, ink.text, size=10))
            free = x + 16 + width_of(text, 6)
    for pin, neuron in picture.pins:
        x, y = frame.x + int(column[neuron]) * frame.cell[0], frame.y + int(row[pin]) * frame.cell[1]
        parts.append(Element("rect", {"x": str(x - 1), "y": str(y - 1), "width": str(frame.cell[0] + 2), "fill": "none",
                                      "height": str(frame.cell[1] + 2), "stroke": ink.accent, "stroke-width": "2"}))
    return parts
