"""Buttons that save a chart of the page as PNG or SVG, or a map as PNG, as the browser draws it and without a server."""

from __future__ import annotations

from pathlib import Path

import streamlit.components.v2 as components

_HERE = Path(__file__).parent
_COMPONENT = components.component(
    "moyu_chart_image",
    html='<div class="row"><button type="button" data-format="png">PNG</button><button type="button" data-format="svg">SVG</button>'
    '<output aria-live="polite"></output></div>',
    css=(_HERE / "style.css").read_text(encoding="utf-8"),
    js=(_HERE / "image.js").read_text(encoding="utf-8"),
)


def chart_image(alt: str, file: str) -> None:
    """Offer the chart with this text alternative.

    Args:
        alt: `alt` of the `st.plotly_chart` that is saved.
        file: name of the file without its ending.
    """
    _COMPONENT(key="chart-image", data={"alt": alt, "file": file}, height="content")


def map_image(key: str) -> None:
    """Offer a map as PNG, as it stands on the page: with its zoom and pins, by the button of its own tool bar.

    Args:
        key: of the `neuron_map` that is saved.
    """
    _COMPONENT(key="chart-image", data={"map": key}, height="content", width="content")
