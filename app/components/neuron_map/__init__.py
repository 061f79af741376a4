"""The token x neuron map on a page: a canvas in the browser, no build step.

The browser part is plain JavaScript in parts of one concern each; they are joined in a fixed order into one module when
the component is registered, so nothing is bundled and nothing is fetched from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from streamlit.components import v2

from moyu_core.figures.map_payload import read_header

_HERE = Path(__file__).parent
_PARTS = (
    "payload",
    "format",
    "model",
    "cells",
    "colour",
    "pool",
    "layout",
    "paint_cells",
    "paint_frame",
    "legend",
    "overlay",
    "tip",
    "dom",
    "export",
    "pointer",
    "keys",
    "link",
    "main",
)
_FRAME = 215  # px for everything but the rows: heading, profile, axis, legend, status, caption
_TALLEST_ROW = 40  # px; a short prompt gets a low map, not rows like bricks


class MapSelection(NamedTuple):
    """What is selected on a map.

    Attributes:
        pins: (row, neuron) pairs, the first one is the reference; at most two.
        brush: columns [start, stop) of the shown order, or None.
    """

    pins: tuple[tuple[int, int], ...] = ()
    brush: tuple[int, int] | None = None


def script() -> str:
    """The parts as one JavaScript module."""
    return "\n".join((_HERE / f"{part}.js").read_text(encoding="utf-8") for part in _PARTS)


_COMPONENT = v2.component(
    "moyu_neuron_map", html='<div class="nm"></div>', css=(_HERE / "style.css").read_text(encoding="utf-8"), js=script()
)


def _nothing() -> None:
    """Streamlit delivers a state only when it has a callback."""


def _is_pair(value: Any, first: int, second: int) -> bool:
    """Whether a value from the browser is a pair of integers below the given bounds."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(part) is int for part in value):
        return False
    return 0 <= value[0] < first and 0 <= value[1] < second


def _current(state: Any, header: dict[str, Any]) -> Any:
    """The value of a state that belongs to this picture's scope and is no leftover of another; else None."""
    if not hasattr(state, "get") or state.get("scope") != header.get("scope", ""):
        return None
    return state.get("value")


def read_selection(header: dict[str, Any], pins: Any, brush: Any) -> MapSelection:
    """What the browser sent, checked against the picture it is about.

    Args:
        header: of the payload.
        pins: state `pins` {scope, order, value: [[row, neuron], ...]}; None or of another scope: those of the header.
        brush: state `brush` {scope, order, value: [start, stop]}; dropped when scope or order of the columns changed.
    """
    rows, neurons = header["rows"], header["cols"]
    items = _current(pins, header)
    items = items if isinstance(items, list) else header.get("pins", [])
    kept = tuple((pin[0], pin[1]) for pin in items[:2] if _is_pair(pin, rows, neurons))
    span = _current(brush, header)
    # A map without an order of its own follows its group's, which only the browser knows.
    follows = "order_id" not in header and "group" in header
    if not _is_pair(span, neurons, neurons + 1) or not (follows or brush.get("order") == header.get("order_id", 0)):
        return MapSelection(kept)
    start, stop = span
    return MapSelection(kept, (start, stop) if start < stop else None)


def neuron_map(picture_bytes: bytes, *, key: str, height: int = 520, on_pin: Callable[[], None] | None = None) -> MapSelection:
    """Draw a map and say what is selected on it.

    Args:
        picture_bytes: from `moyu_core.figures.map_payload.encode`.
        key: identity of the map on its page; keeps zoom and selection over reruns.
        height: pixels at most; maps of few tokens are lower.
        on_pin: called before the rerun that a changed pin starts.

    Returns:
        Pins and brush; pins of the picture itself until someone clicks.
    """
    header = read_header(picture_bytes)
    state = _COMPONENT(
        key=key,
        data=picture_bytes,
        height=min(height, _FRAME + _TALLEST_ROW * header["rows"]),
        on_pins_change=on_pin or _nothing,
        on_brush_change=_nothing,
    )
    return read_selection(header, state.get("pins"), state.get("brush"))
