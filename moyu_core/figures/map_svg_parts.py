"""Small pieces of an SVG: text that cannot break out, rectangles, the patterns of cells, widths without a font."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from xml.etree.ElementTree import Element

SANS, MONO = 6.3, 6.7
"""Pixels of a letter at 12 px sans-serif and 11 px monospace; an estimate on the wide side, as no font is known."""
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Text without the characters that XML cannot hold, even escaped; `<`, `&` and quotes are the writer's business."""
    return _NO_XML.sub("\ufffd", text)


def cut(text: str, most: int) -> str:
    """At most so many characters, with an ellipsis where some are missing."""
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def width_of(text: str, letter: float = SANS) -> float:
    """Estimated pixels of a text; East Asian wide characters and emoji count twice."""
    return letter * sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def wrapped(text: str, width: float) -> list[str]:
    """Lines of at most about `width` pixels at 12 px; a longer word stays whole."""
    lines: list[str] = []
    for word in text.split():
        if lines and width_of(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least` (above 0)."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999999)


def label(
    x: float, y: float, text: str, ink: str, *, size: int = 12, anchor: str = "start", bold: bool = False, mono: bool = False
) -> Element:
    """A line of text on its baseline; its own writing direction does not turn what stands around it."""
    element = Element("text", {"x": f"{x:g}", "y": f"{y:g}", "fill": ink, "font-size": str(size), "text-anchor": anchor,
                               "style": "unicode-bidi:isolate;white-space:pre"})
    if bold:
        element.set("font-weight", "600")
    if mono:
        element.set("font-family", "ui-monospace, monospace")
    element.text = text
    return element


def rect(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> Element:
    """A filled rectangle."""
    return Element("rect", {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}", "fill": fill,
                            "stroke": stroke})


def shape(path: str, ink: str, pattern: str) -> Element:
    """A path: dots filled, lines drawn."""
    if pattern == "dot":
        return Element("path", {"d": path, "fill": ink})
    return Element("path", {"d": path, "fill": "none", "stroke": ink, "stroke-width": "1.5", "stroke-linecap": "round"})


def _dot(x: float, y: float, w: float, h: float) -> str:
    radius = min(3.0, max(1.0, min(w, h) * 0.16))
    half = f"a{radius:g} {radius:g} 0 1 0"
    return f"M{x + w / 2 - radius:g} {y + h / 2:g}{half} {2 * radius:g} 0{half} {-2 * radius:g} 0"


def _hatch(x: float, y: float, w: float, h: float) -> str:
    half = min(w, h) * 0.3
    return f"M{x + w / 2 - half:g} {y + h / 2 + half:g}l{2 * half:g} {-2 * half:g}"


def _cross(x: float, y: float, w: float, h: float) -> str:
    half = min(w, h) * 0.28
    return f"M{x + w / 2 - half:g} {y + h / 2 - half:g}l{2 * half:g} {2 * half:g}m0 {-2 * half:g}l{-2 * half:g} {2 * half:g}"


PATTERNS: dict[str, Callable[[float, float, float, float], str]] = {
    "none": lambda x, y, w, h: "", "dot": _dot, "hatch": _hatch, "cross": _cross,
}
"""Path of a pattern in a cell of w x h at (x, y)."""
