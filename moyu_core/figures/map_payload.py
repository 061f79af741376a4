"""The token x neuron map as bytes: what the browser component draws (payload version 1).

    b"MOYU" | uint32 length of the header | header: JSON, utf-8, padded with spaces | blocks, each at a multiple of 4

Everything is little-endian. `blocks` of the header says for each block where it starts (counted from the end of the
header), how many bytes it has and of which type. All that is per neuron is indexed by neuron id; `order` says which
neuron each column shows. Raw cells are sent, never a sample: the browser pools them to the pixels it has.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moyu_core.companding import LEVELS_PER_OCTAVE
from moyu_core.errors import InputError

MAGIC = b"MOYU"
PAYLOAD_VERSION = 1
KINDS = ("values", "set", "compare")
SHOWS = ("signed", "abs", "contribution", "relative", "set")
COLOURS = ("hit", "miss", "false_alarm", "stay", "out", "in", "neither")
PATTERNS = ("none", "dot", "hatch", "cross")
_DTYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "f16": "<f2", "f32": "<f4"}
_TEXTS = ("title", "caption", "alt", "unit", "value_label", "show", "scope", "group", "order_label", "profile_label", "rates_label",
          "bar_label", "bar_unit")
_HALF_PRECISION_ERROR = 1e-3  # a share shown with three digits survives half precision


@dataclass(frozen=True)
class Category:
    """One state of a comparison: its label, a colour key (COLOURS) and a pattern (PATTERNS) that survives greyscale."""

    label: str
    colour: str
    pattern: str = "none"


@dataclass(frozen=True)
class MapPicture:
    """Everything a map shows. T rows (tokens), F neurons; arrays per neuron are indexed by neuron id.

    Attributes:
        kind: values, set or compare.
        cells: uint8. values: (T, F) companded codes; set: (T, ceil(F/8)) packed bits, least significant bit first;
            compare: (T, F) index into `categories`.
        n_neurons: F.
        tokens: T token texts as they are, whitespace included.
        positions: (T,) integers, place in the sequence; None = 0..T-1.
        token_ids: (T,) integers, vocabulary ids; None = unknown.
        sink_rows: rows that hold the sink token; marked, and left out of the colour scale.
        scale: (T,) float32, the unit of the codes, in `unit`; for values.
        norms: (F,) float32, column norms c; needed for show = contribution.
        order: (F,) permutation, column -> neuron id; None = as numbered (or the order of the map's group).
        profile: (F,) float32, drawn on top and told on hover; a share in [0, 1], unit 1.
        rates: (F,) float32, a second share told on hover.
        bars: (T,) float32, one statistic per token in `bar_unit`, drawn at the right; NaN = none.
        categories: for compare, most telling first (drawn first where a pixel holds several); the last is background.
        show: for values: signed (a), abs (|a|), contribution (|a|*c), relative (|a| / norm of the row's a).
        unit: unit of the shown value, "" = none.
        value_label: what the values are, where `show` does not say it: those of a difference, say; "" = the formula of `show`.
        title, caption, alt: heading; run and set rule; what a person who cannot see the map should know.
        order_label, profile_label, rates_label, bar_label, bar_unit: words for the axes.
        marks: (neuron, name) pairs flagged on top.
        pins: (row, neuron) pairs that are pinned.
        scope: what pins and brushes refer to (run, prompt, layer); those of another scope are dropped.
        group: maps of one page with the same group share order, zoom and crosshair; "" = alone.
    """

    kind: str
    cells: np.ndarray
    n_neurons: int
    tokens: Sequence[str]
    title: str
    alt: str
    positions: Sequence[int] | None = None
    token_ids: Sequence[int] | None = None
    sink_rows: Sequence[int] = ()
    scale: np.ndarray | None = None
    norms: np.ndarray | None = None
    order: np.ndarray | None = None
    profile: np.ndarray | None = None
    rates: np.ndarray | None = None
    bars: np.ndarray | None = None
    categories: Sequence[Category] = ()
    show: str = ""
    unit: str = ""
    value_label: str = ""
    caption: str = ""
    order_label: str = ""
    profile_label: str = ""
    rates_label: str = ""
    bar_label: str = ""
    bar_unit: str = ""
    marks: Sequence[tuple[int, str]] = ()
    pins: Sequence[tuple[int, int]] = ()
    scope: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if not self.show:
            object.__setattr__(self, "show", "set" if self.kind == "set" else "abs" if self.kind == "values" else "")
        _check_kind(self)
        _check_shapes(self)
        _check_indices(self)

    @property
    def n_rows(self) -> int:
        """T, the number of tokens."""
        return len(self.tokens)


def _require(fine: bool, expected: str, received: Any) -> None:
    if not fine:
        raise InputError(f"Map picture: expected {expected}, received {received}.")


def _check_kind(picture: MapPicture) -> None:
    """Kind, show, categories and the blocks that they need fit together."""
    _require(picture.kind in KINDS, f"kind to be one of {', '.join(KINDS)}", repr(picture.kind))
    shows = {"values": SHOWS[:4], "set": ("set",), "compare": ("",)}[picture.kind]
    _require(picture.show in shows, f"show of {picture.kind} to be one of {', '.join(shows)}", repr(picture.show))
    _require(picture.kind != "values" or picture.scale is not None, "a scale for kind values", "none")
    _require(picture.show != "contribution" or picture.norms is not None, "norms for show contribution", "none")
    if picture.kind == "compare":
        _require(2 <= len(picture.categories) <= 16, "2 to 16 categories for kind compare", len(picture.categories))
        for category in picture.categories:
            _require(category.colour in COLOURS, f"a colour key of {', '.join(COLOURS)}", repr(category.colour))
            _require(category.pattern in PATTERNS, f"a pattern of {', '.join(PATTERNS)}", repr(category.pattern))


def _check_shapes(picture: MapPicture) -> None:
    """Every array has the shape that T and F ask for, and a type that travels."""
    rows, neurons = picture.n_rows, picture.n_neurons
    _require(rows > 0 and neurons > 0, "at least one token and one neuron", f"{rows} and {neurons}")
    width = (neurons + 7) // 8 if picture.kind == "set" else neurons
    cells = np.asarray(picture.cells)
    _require(cells.dtype == np.uint8 and cells.shape == (rows, width), f"uint8 cells of shape ({rows}, {width})",
             f"{cells.dtype} {cells.shape}")
    lengths = {"positions": rows, "token_ids": rows, "scale": rows, "bars": rows,
               "norms": neurons, "order": neurons, "profile": neurons, "rates": neurons}
    for name, length in lengths.items():
        value = getattr(picture, name)
        if value is not None:
            _require(np.shape(value) == (length,), f"{name} of shape ({length},)", np.shape(value))
    for name in ("scale", "norms", "profile", "rates"):
        value = getattr(picture, name)
        if value is not None:
            _require(bool((np.isfinite(value) & (np.asarray(value) >= 0)).all()), f"{name} finite and not negative",
                     "other values")


def _check_indices(picture: MapPicture) -> None:
    """Everything that points into rows, neurons or categories points inside."""
    rows, neurons = picture.n_rows, picture.n_neurons
    if picture.kind == "compare":
        top = int(np.max(picture.cells))
        _require(top < len(picture.categories), f"cells below {len(picture.categories)}, the categories", top)
    if picture.order is not None:
        order = np.asarray(picture.order)
        fine = order.dtype.kind in "iu" and np.array_equal(np.sort(order), np.arange(neurons))
        _require(fine, f"order to be a permutation of 0..{neurons - 1}", "something else")
    for name, pairs in (("pins", picture.pins), ("marks", [(0, neuron) for neuron, _ in picture.marks])):
        outside = [pair for pair in pairs if not (0 <= pair[0] < rows and 0 <= pair[1] < neurons)]
        _require(not outside, f"{name} inside {rows} rows and {neurons} neurons", outside[:3])
    outside_rows = [row for row in picture.sink_rows if not 0 <= row < rows]
    _require(not outside_rows, f"sink rows inside {rows} rows", outside_rows[:3])


def _share_block(values: np.ndarray | None) -> np.ndarray | None:
    """Shares in half precision where three digits survive it, else in single precision."""
    if values is None:
        return None
    values = np.asarray(values, dtype="<f4")
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    near = np.abs(half.astype("<f4") - values) <= _HALF_PRECISION_ERROR * values
    return half if near.all() else values


def _order_block(order: np.ndarray | None) -> np.ndarray | None:
    """The smallest integer type that holds the neuron ids; None when the order is that of the ids."""
    if order is None or np.array_equal(order, np.arange(len(order))):
        return None
    return np.asarray(order).astype("<u2" if len(order) <= 1 << 16 else "<u4")


def _blocks(picture: MapPicture) -> dict[str, np.ndarray]:
    """Name -> array in the type it travels in; absent ones left out."""

    def single(values: Any) -> np.ndarray | None:
        return None if values is None else np.asarray(values, dtype="<f4")

    blocks = {
        "cells": np.asarray(picture.cells), "scale": single(picture.scale), "norms": single(picture.norms),
        "order": _order_block(picture.order), "profile": _share_block(picture.profile),
        "rates": _share_block(picture.rates), "bars": single(picture.bars),
    }
    return {name: block for name, block in blocks.items() if block is not None}


def _token_header(picture: MapPicture) -> dict[str, Any]:
    """Tokens as parallel lists; consecutive positions as their first number."""
    tokens: dict[str, Any] = {"text": list(picture.tokens)}
    positions = [int(p) for p in (range(picture.n_rows) if picture.positions is None else picture.positions)]
    if positions == list(range(positions[0], positions[0] + len(positions))):
        tokens["first"] = positions[0]
    else:
        tokens["position"] = positions
    if picture.token_ids is not None:
        tokens["id"] = [int(i) for i in picture.token_ids]
    if len(picture.sink_rows):
        tokens["sink"] = [int(row) for row in picture.sink_rows]
    return tokens


def _header(picture: MapPicture) -> dict[str, Any]:
    """The header without the blocks; empty fields are left out to keep it short."""
    header: dict[str, Any] = {
        "version": PAYLOAD_VERSION, "kind": picture.kind, "rows": picture.n_rows, "cols": picture.n_neurons,
    }
    header |= {name: getattr(picture, name) for name in _TEXTS if getattr(picture, name)}
    if picture.kind == "values":
        header["levels_per_octave"] = LEVELS_PER_OCTAVE
    if picture.categories:
        header["categories"] = [[c.label, c.colour, c.pattern] for c in picture.categories]
    if picture.marks:
        header["marks"] = [[int(neuron), name] for neuron, name in picture.marks]
    if picture.pins:
        header["pins"] = [[int(row), int(neuron)] for row, neuron in picture.pins]
    header["tokens"] = _token_header(picture)
    return header


def encode(picture: MapPicture) -> bytes:
    """The payload of a picture; the same picture gives the same bytes."""
    header, parts, offset = _header(picture), [], 0
    header["blocks"] = {}
    for name, block in _blocks(picture).items():
        raw = np.ascontiguousarray(block).tobytes()
        dtype = block.dtype.kind + str(8 * block.dtype.itemsize)
        header["blocks"][name] = {"offset": offset, "length": len(raw), "dtype": dtype}
        if name == "order":
            header["order_id"] = zlib.crc32(raw)  # lets the browser see that two maps have the same columns
        padding = -len(raw) % 4
        parts += [raw, bytes(padding)]
        offset += len(raw) + padding
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 4)
    return b"".join([MAGIC, len(text).to_bytes(4, "little"), text, *parts])


def _header_end(payload: bytes) -> int:
    if len(payload) < 8 or payload[:4] != MAGIC:
        raise InputError(f"Map payload: expected it to start with {MAGIC!r}, received {bytes(payload[:4])!r}.")
    end = 8 + int.from_bytes(payload[4:8], "little")
    if end > len(payload):
        raise InputError(f"Map payload: expected a header of {end - 8} bytes, received {len(payload) - 8}.")
    return end


def read_header(payload: bytes) -> dict[str, Any]:
    """The header of a payload, checked for magic and version."""
    try:
        header = json.loads(payload[8 : _header_end(payload)].decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise InputError(f"Map payload: expected a JSON header, received damaged text ({error}).") from error
    if not isinstance(header, dict) or header.get("version") != PAYLOAD_VERSION:
        received = header.get("version") if isinstance(header, dict) else type(header).__name__
        raise InputError(f"Map payload: expected version {PAYLOAD_VERSION}, received {received}.")
    return header


def _read_block(payload: bytes, start: int, name: str, block: Mapping[str, Any]) -> np.ndarray:
    first = start + block["offset"]
    if first + block["length"] > len(payload):
        raise InputError(f"Map payload: expected block {name} to end at byte {first + block['length']}, "
                         f"received {len(payload)} bytes.")
    return np.frombuffer(payload, _DTYPES[block["dtype"]], block["length"] * 8 // int(block["dtype"][1:]), first)


def decode(payload: bytes) -> MapPicture:
    """The picture a payload holds; shares may have been rounded to half precision."""
    header, start = read_header(payload), _header_end(payload)
    blocks: dict[str, Any] = {name: _read_block(payload, start, name, b) for name, b in header["blocks"].items()}
    rows, tokens = header["rows"], header["tokens"]
    texts: dict[str, Any] = {name: header[name] for name in _TEXTS if name in header}
    for name in ("profile", "rates"):
        if name in blocks:
            blocks[name] = blocks[name].astype(np.float32)
    positions = tokens.get("position") or list(range(tokens["first"], tokens["first"] + rows))
    return MapPicture(
        kind=header["kind"], cells=blocks.pop("cells").reshape(rows, -1), n_neurons=header["cols"],
        tokens=tokens["text"], positions=positions, token_ids=tokens.get("id"), sink_rows=tokens.get("sink", ()),
        categories=tuple(Category(*parts) for parts in header.get("categories", ())),
        marks=tuple((n, name) for n, name in header.get("marks", ())),
        pins=tuple((row, n) for row, n in header.get("pins", ())),
        title=texts.pop("title", ""), alt=texts.pop("alt", ""), **texts, **blocks,
    )
