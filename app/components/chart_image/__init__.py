"""Buttons that save a chart of the page as PNG or SVG, as the browser draws it: with Plotly's own export, without a server."""

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
