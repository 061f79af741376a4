"""What all Plotly figures share: colours with one meaning everywhere, margins, hover, the scale of a magnitude."""

from __future__ import annotations

import plotly.graph_objects as go

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


def layout(figure: go.Figure, *, height: int, x_title: str, y_title: str) -> go.Figure:
    """Apply the shared layout; titles carry units. Colours of text and paper come from the page's theme."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=False,
        hoverlabel={"font": {"family": "monospace"}},
        dragmode=False,
    )
    figure.update_xaxes(title=x_title, automargin=True, zeroline=False)
    figure.update_yaxes(title=y_title, automargin=True, zeroline=False)
    return figure
