"""What all Plotly figures share: colours with one meaning everywhere, margins, hover, the scale of a magnitude."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType

ACCENT = "#2a6592"
"""The one accent colour: what is selected."""
ACTIVE = "#3f78c4"
"""Active neurons; always also shown by position, label or shape."""
INACTIVE = "#9aa5b1"
MAGNITUDE = "Viridis"
"""Colour scale of magnitudes. Magma and Inferno are drawn wrong by Streamlit's colour replacement."""
SIGNED = "RdBu_r"
HEATMAP_ROW = 9
"""Pixels of one row in a heat map of layers."""


LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": {"text": ""}}
"""Names above the figure."""
_LAYOUT = {
    "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
    "showlegend": False,
    "hoverlabel": {"font": {"family": "monospace"}},
    "dragmode": False,
}
_NAMED = {"showlegend": True, "legend": LEGEND, "margin": {"l": 8, "r": 8, "t": 36, "b": 8}}
_AXIS = {"automargin": True, "zeroline": False}


def layout(figure: go.Figure, *, height: int, x_title: str, y_title: str) -> go.Figure:
    """Apply the shared layout; titles carry units. Colours of text and paper come from the page's theme."""
    figure.update_layout(height=height, **_LAYOUT)
    figure.update_xaxes(title=x_title, **_AXIS)
    figure.update_yaxes(title=y_title, **_AXIS)
    return figure


def drawn(
    traces: Iterable[BaseTraceType],
    *,
    height: int,
    x_title: str,
    y_title: str,
    x: dict[str, Any] | None = None,
    y: dict[str, Any] | None = None,
    named: bool = False,
    more: dict[str, Any] | None = None,
) -> go.Figure:
    """A figure with the shared layout, made in one step: Plotly then checks it once, which takes a third of the time.

    Args:
        traces: what is drawn.
        height: pixels.
        x_title, y_title: titles of the axes, with units.
        x, y: what else the axes have.
        named: whether the traces' names stand above the figure.
        more: what else the layout has, such as `shapes`.
    """
    axes = {
        "xaxis": {"title": {"text": x_title}, **_AXIS, **(x or {})},
        "yaxis": {"title": {"text": y_title}, **_AXIS, **(y or {})},
    }
    return go.Figure(list(traces), {"height": height, **_LAYOUT, **(_NAMED if named else {}), **axes, **(more or {})})
