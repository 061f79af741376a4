"""A prompt as running text, each token tinted by one statistic; HTML without scripts, all text escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np

from moyu_core.figures.text import escaped, number

_STYLE = (
    "display:inline-block;padding:1px 3px;margin:1px 0;border-radius:3px;font-family:monospace;font-size:0.86rem;"
    "white-space:pre;border-bottom:2px solid "
)

_UNDERLINES = ("solid", "dotted", "dashed", "double")


def token_strip(
    tokens: list[str],
    values: np.ndarray,
    label: str,
    sink: np.ndarray,
    selected: int | None = None,
    notes: Mapping[int, str] | None = None,
) -> str:
    """HTML of the strip. The tint (accent, 0 to 75 % opaque) runs from the smallest to the largest value behind the sink.

    Args:
        tokens: T texts.
        values: (T,) the statistic.
        label: its name with unit, shown in each token's tooltip.
        sink: (T,) booleans; sink tokens are hatched grey and left out of the scale.
        selected: position that is underlined, or None.
        notes: position -> words added to its tooltip; such positions are underlined too, each kind of words in a style of its own.
    """
    notes = notes or {}
    styles = dict(zip(dict.fromkeys(notes.values()), _UNDERLINES, strict=False))
    rest = values[~sink & np.isfinite(values)]
    low, high = (float(rest.min()), float(rest.max())) if rest.size else (0.0, 1.0)
    spans = []
    for position, (token, value) in enumerate(zip(tokens, values, strict=True)):
        share = 0.0 if high <= low or not np.isfinite(value) else min(max((value - low) / (high - low), 0), 1)
        tint = (
            "repeating-linear-gradient(45deg,rgba(128,128,128,.35) 0 3px,transparent 3px 6px)"
            if sink[position]
            else (f"rgba(58,124,176,{0.75 * share:.2f})")
        )
        line = "currentColor" if position == selected or position in notes else "transparent"
        style = f";border-bottom-style:{styles[notes[position]]}" if position in notes else ""
        title = f"{position} &middot; {html.escape(label)} {number(float(value))}" + (
            " &middot; sink token, left out of every statistic" if sink[position] else ""
        )
        title += f" &middot; {html.escape(notes[position])}" if position in notes else ""
        spans.append(f'<span style="{_STYLE}{line};background:{tint}{style}" title="{title}">{escaped(token)}</span>')
        if "\n" in token:
            spans.append("<br>")
    return '<div style="line-height:1.9" class="moyu-strip">' + "".join(spans) + "</div>"
