"""Stepped drawings as inline SVG: boxes, arrows, and the strip of hits, misses and false alarms under the last step.

What a step adds has a thick outline, what comes later is dashed, so a drawing can be read without colour.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 760, 330
BINS = 64


@dataclass(frozen=True)
class Box:
    """A box of a drawing: where, its lines of text, and the step (from 0) that it belongs to."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]
    step: int
    router: bool = False


@dataclass(frozen=True)
class Arrow:
    """A polyline with a head at its end, belonging to a step."""

    points: tuple[tuple[float, float], ...]
    step: int


@dataclass(frozen=True)
class Scheme:
    """A drawing and what is said at each step."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    steps: tuple[str, ...]


def svg(drawing: Scheme, step: int, name: str, title: str, under: str = "") -> str:
    """The drawing after a step, counted from 0, as an SVG element; its title and description say the same in words.

    Args:
        drawing: what is drawn.
        step: steps outside the drawing mean its ends.
        name: of its ids on the page.
        title: what the scheme is called; escaped here, as all words of the drawing are.
        under: SVG that is added at the last step, see `strip`.
    """
    last = len(drawing.steps) - 1
    step = min(max(step, 0), last)
    parts = [_arrow(arrow, step) for arrow in drawing.arrows] + [_box(box, step) for box in drawing.boxes]
    if step == last:
        parts.append(under)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d" style="width:100%;max-width:1000px;'
        f'height:auto;color:inherit;font-family:inherit" xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{name}-t">{html.escape(title)}, step {step + 1} of {last + 1}</title>'
        f'<desc id="{name}-d">{html.escape(drawing.steps[step])}</desc>'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="11" markerHeight="11" '
        'markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker>'
        '<pattern id="stripes" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="1.6" height="4" fill="currentColor"/></pattern></defs>' + "".join(parts) + "</svg>"
    )


def _box(box: Box, step: int) -> str:
    now, later = box.step == step, box.step > step
    style = 'stroke-dasharray="4 4" opacity="0.35"' if later else ""
    radius = 14 if box.router else 3
    width = 3 if now else 1.2
    fill = "rgba(128,128,128,.16)" if now else "none"
    shape = (f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="{radius}" fill="{fill}" '
             f'stroke="currentColor" stroke-width="{width}" {_now(now)}{style}/>')
    middle = box.y + box.height / 2 - 7.5 * (len(box.lines) - 1) + 4
    faded = ' opacity="0.45"' if later else ""
    lines = "".join(
        f'<text x="{box.x + box.width / 2}" y="{middle + 15 * place}" text-anchor="middle" font-size="12.5" fill="currentColor"'
        f'{faded}{" font-weight=" + chr(34) + "600" + chr(34) if place == 0 else ""}>{html.escape(line)}</text>'
        for place, line in enumerate(box.lines))
    return shape + lines


def _arrow(arrow: Arrow, step: int) -> str:
    points = " ".join(f"{x},{y}" for x, y in arrow.points)
    now, later = arrow.step == step, arrow.step > step
    style = 'stroke-dasharray="4 4" opacity="0.35"' if later else ""
    return (f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="{2.6 if now else 1.2}" '
            f'marker-end="url(#head)" {_now(now)}{style}/>')


def _now(now: bool) -> str:
    """Marks what a step adds, so that a narrow page can bring it into view."""
    return 'data-now="yes" ' if now else ""


def strip(needed: NDArray[np.bool_], kept: NDArray[np.bool_]) -> str:
    """All neurons in bins: hits as solid bars upwards, misses as hollow ones on top of them, false alarms striped downwards."""
    left, wide, base, above, below = 30.0, (WIDTH - 60) / BINS, 262.0, 44.0, 40.0
    hit, miss, alarm = (binned(mask) for mask in (needed & kept, needed & ~kept, kept & ~needed))
    unit = min(above / max(1, int((hit + miss).max())), below / max(1, int(alarm.max())))  # one scale for all three
    parts = [f'<line x1="{left}" y1="{base}" x2="{WIDTH - 30}" y2="{base}" stroke="currentColor" stroke-width="0.8"/>']
    for place in range(BINS):
        x = left + place * wide + 1
        solid, hollow, striped = hit[place] * unit, miss[place] * unit, alarm[place] * unit
        parts.append(_bar(x, base - solid, wide - 2, solid, 'fill="currentColor"'))
        parts.append(_bar(x, base - solid - hollow, wide - 2, hollow, 'fill="none" stroke="currentColor" stroke-width="1"'))
        parts.append(_bar(x, base, wide - 2, striped, 'fill="url(#stripes)"'))
    words = (f"{len(needed)} neurons from left to right: {hit.sum()} hits (solid), {miss.sum()} misses (hollow), "
             f"{alarm.sum()} false alarms (striped, downwards)")
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle" font-size="12.5" fill="currentColor">{words}'
                 "</text>")
    return "".join(parts)


def _bar(x: float, y: float, width: float, height: float, style: str) -> str:
    if height <= 0:
        return ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}/>'


def binned(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Members of a set in BINS equal stretches of the neurons."""
    edges = np.linspace(0, len(mask), BINS + 1).round().astype(int)
    return np.diff(np.concatenate([[0], np.cumsum(mask)])[edges])
