"""Legend of a token x neuron map as SVG, and the sentence that says what a pixel of it is."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import numpy as np

from moyu_core.figures.map_colours import NAN, Inks, as_hex, category_colour, set_colour, stops
from moyu_core.figures.map_payload import MapPicture
from moyu_core.figures.map_pooling import Pooled, Scale
from moyu_core.figures.map_svg_parts import PATTERNS, clean, label, nice_step, rect, shape, width_of
from moyu_core.figures.text import number, percent

_FORMULAS = {"signed": "a", "abs": "|a|", "contribution": "|a|\u00b7c", "relative": "|a| / \u2016a\u2016"}
_RAMP = 220


def legend(picture: MapPicture, found: Pooled, ink: Inks, x: float, y: float, right: float) -> tuple[list[Element], float]:
    """Its elements from (x, y) on, and where it ends below."""
    if found.scale is not None:
        return _ramp(picture, found.scale, ink, x + 24, y), y + 32
    return _swatches(_states(picture, found, ink), ink, x, y, right)


def note(picture: MapPicture, found: Pooled) -> str:
    """How many tokens and neurons there are, how many share a pixel, and which of them is seen."""
    rows, columns = (int(np.diff(edges).max()) for edges in (found.rows, found.columns))
    order = clean(picture.order_label or "neurons")
    words = f"{picture.n_rows} row{'s' * (picture.n_rows > 1)} (position, token), {number(picture.n_neurons)} columns ({order})."
    if picture.sink_rows:
        words += " \u25c7 sink token, outside the scale." if found.scale is not None else " \u25c7 sink token."
    if rows == columns == 1:
        words += " Every cell has a pixel of its own."
    else:
        which = {"values": "the strongest of them is shown", "set": "the stronger its tone, the more of them are active",
                 "compare": f"{', then '.join(clean(each.label) for each in picture.categories[:-1])} is shown before the rest"}
        words += f" A pixel holds up to {rows} x {columns} cells (tokens x neurons): {which[picture.kind]}; none is left out."
    if picture.kind == "compare":
        words += " Where cells are too narrow for the marks of the legend, the states differ in lightness."
    return words


def _states(picture: MapPicture, found: Pooled, ink: Inks) -> list[tuple[str, str, str]]:
    """(colour, pattern, words) of each state with its share of all cells."""
    shares = np.bincount(found.cells.ravel(), minlength=16) / found.cells.size
    if picture.kind == "compare":
        return [(category_colour(each.colour, ink.dark), each.pattern, f"{clean(each.label)} {percent(float(shares[code]))}")
                for code, each in enumerate(picture.categories)]
    most = int(np.diff(found.rows).max() * np.diff(found.columns).max())
    states = [(0.0, f"not active {percent(float(shares[0]))}"), (1.0, f"active {percent(float(shares[1]))}")]
    if most > 1:
        states = [states[0], (1 / most, f"one of {most} active"), (1.0, f"all active (of the cells {percent(float(shares[1]))})")]
    return [(as_hex(set_colour(share, ink.dark)), "none", words) for share, words in states]


def _swatches(states: list[tuple[str, str, str]], ink: Inks, x: float, y: float, right: float) -> tuple[list[Element], float]:
    parts, at = [], x
    for colour, pattern, words in states:
        wide = 20 + width_of(words) + 14
        if at > x and at + wide > right:
            at, y = x, y + 20
        parts.append(rect(at + 0.5, y + 0.5, 13, 11, colour, ink.line))
        if pattern != "none":
            parts.append(shape(PATTERNS[pattern](at, y, 14, 12), ink.back, pattern))
        parts.append(label(at + 20, y + 10, words, ink.text))
        at += wide
    return parts, y + 14


def _ramp(picture: MapPicture, scale: Scale, ink: Inks, x: float, y: float) -> list[Element]:
    """Colours on a square-root scale with ticks, ends that are clipped, and the mark of cells that are not finite."""
    colours, signed = stops(picture.show, ink.dark), picture.show == "signed"
    gradient = Element("linearGradient", {"id": "scale"})
    for at, colour in enumerate(colours):
        SubElement(gradient, "stop", {"offset": f"{at / (len(colours) - 1):.6g}", "stop-color": colour})
    parts = [gradient, rect(x, y, _RAMP, 11, "url(#scale)")]
    if scale.clips:
        parts.append(shape(f"M{x + _RAMP:g} {y:g}l7 5.5l-7 5.5z", colours[-1], "dot"))
        if signed:
            parts.append(shape(f"M{x:g} {y:g}l-7 5.5l7 5.5z", colours[0], "dot"))
    zero, reach = (x + _RAMP / 2, _RAMP / 2) if signed else (x, _RAMP)
    for value in (0.0, nice_step(scale.clip / 4), scale.clip):
        for side in (1, -1) if signed and value else (1,):
            at = zero + side * float(np.sqrt(value / scale.clip)) * reach
            parts += [rect(at - 0.5, y + 11, 1, 3, ink.line),
                      label(at, y + 25, number(side * value).replace("-", "\u2212"), ink.muted, size=10, anchor="middle")]
    formula = clean(picture.value_label) or _FORMULAS[picture.show]
    unit = f" ({clean(picture.unit)})" if picture.unit not in ("", "1", formula) else ""
    left = x + _RAMP + 30
    clipped = percent(scale.clipped_share) + " of the cells above it" if scale.clipped_share else "only the sink above it"
    parts += [label(left, y + 10, formula + unit, ink.text, bold=True),
              label(left, y + 25, "square-root scale" + (f", {clipped}" if scale.clips else ""), ink.muted, size=11)]
    if scale.not_finite:
        at = left + width_of(formula + unit) + 24
        parts += [rect(at, y, 12, 11, NAN), shape(PATTERNS["cross"](at, y, 12, 11), ink.back, "cross"),
                  label(at + 18, y + 10, f"not finite ({number(scale.not_finite)})", ink.text)]
    return parts
