"""What the page shows, collected while it is drawn, and offered for download in the header.

Charts drawn with `parts.chart` and findings are collected by themselves. A page that has more says so in one line:

    exports.offer("Overlap by layer", table=frame)
    exports.offer("Ladder", figure=figure, table=frame, notebook="figure = ladder(history.rows(run))")
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.components.chart_image import chart_image, map_image
from app.ui import visitors
from moyu_core.export.notebook import notebook as made_notebook
from moyu_core.export.report import report
from moyu_core.export.tables import as_csv, as_parquet
from moyu_core.export.view import Canvas, Item, View, file_name
from moyu_core.figures.map_svg import map_svg

_VIEW = "_view"
SIDEBAR_KEYS = ("run", "other_run")
"""Keys of the link that choose what the activation map shows; every page carries them."""
_RUN_ID = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{12}")


def begin(title: str, sentence: str) -> None:
    """A new page is drawn."""
    st.session_state[_VIEW] = View(title, sentence)


def offer(
    name: str,
    table: pd.DataFrame | Callable[[], pd.DataFrame] | None = None,
    figure: go.Figure | Callable[[], go.Figure] | None = None,
    how_to_read: str = "",
    notebook: str = "",
    canvas: Canvas | None = None,
) -> None:
    """Add a figure or table to what can be downloaded; the same name replaces the earlier one.

    Args:
        name: one line on what it shows. For a chart, its `alt`: by it the browser finds the chart.
        table: its numbers, or what makes them when they are asked for; without them the figure's own are taken.
        figure: the Plotly figure, if it is one; what makes it, if the page draws it some other way.
        how_to_read: the line under it.
        notebook: Python that rebuilds `figure` or `table` from `run` (open), `store` and `query`; without it the figure
            itself travels in the notebook.
        canvas: the map, if it is one, with the key under which `neuron_map` drew it.
    """
    view: View | None = st.session_state.get(_VIEW)
    if view is not None:
        item = Item(name, figure, table, how_to_read, notebook, canvas)
        names = [known.name for known in view.items]
        if name in names:
            view.items[names.index(name)] = item
        else:
            view.items.append(item)


def finding(text: str) -> None:
    """Add a sentence to the report."""
    view: View | None = st.session_state.get(_VIEW)
    if view is not None:
        view.findings.append(text)


def shows_run(run_id: str) -> None:
    """Name a run as the source of what is shown; without it those that the page's link names are taken."""
    view: View | None = st.session_state.get(_VIEW)
    if view is not None and run_id not in view.runs:
        view.runs = (*view.runs, run_id)


def draw(link: str) -> None:
    """The content of "Download this view": one item as picture or table, the whole view as report or notebook."""
    view: View | None = st.session_state.get(_VIEW)
    if view is None or not view.items:
        st.caption("This page shows nothing yet that could be downloaded.")
        return
    view.link, view.runs = link, view.runs or _runs_of_link()
    names = [item.name for item in view.items]
    # Not part of the link: it decides nothing that is seen.
    if st.session_state.get("_export") not in names:
        st.session_state["_export"] = names[0]
    name = st.selectbox("What", names, key="_export", label_visibility="collapsed") if len(names) > 1 else names[0]
    if len(names) == 1:
        st.caption(name)
    item = view.items[names.index(name)]
    stem = file_name(f"{view.title} {item.name}")
    if item.canvas is not None:
        _map_buttons(item.canvas, stem)
    elif item.drawn:
        chart_image(item.name, stem)
    with st.container(horizontal=True, gap="small"):
        _button("CSV", lambda: as_csv(item), f"{stem}.csv", "text/csv")
        _button("Parquet", lambda: as_parquet(item, view), f"{stem}.parquet", "application/vnd.apache.parquet")
    st.caption("The whole view, with its finding and sources:")
    whole = file_name(view.title)
    with st.container(horizontal=True, gap="small"):
        _button("Report (HTML)", lambda: report(view).encode(), f"{whole}.html", "text/html")
        _button("Notebook", lambda: made_notebook(view).encode(), f"{whole}.ipynb", "application/x-ipynb+json")
    if visitors.limits() is not None:
        st.caption("What you download holds your own texts where the view shows them.")


def _map_buttons(canvas: Canvas, stem: str) -> None:
    """A map as the browser shows it, or whole; the SVG is made when it is asked for, in the colours of the page."""
    dark = st.context.theme.type == "dark"
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        map_image(canvas.key)
        _button("SVG", lambda: map_svg(canvas.payload, dark).encode(), f"{stem}.svg", "image/svg+xml")
    st.caption("PNG: the map as it stands, with zoom and pins. SVG: all its tokens and neurons.")


def _runs_of_link() -> tuple[str, ...]:
    """The runs that the link names: on the map those of sidebar and comparison, on another page its own choice, if it has one."""
    link: dict[str, str] = st.session_state.get("_link", {})
    found = {key: value for key, value in link.items() if _RUN_ID.fullmatch(value)}
    on_map = st.session_state.get("_page") in ("", "map")
    return tuple(dict.fromkeys(value for key, value in found.items() if on_map == (key in SIDEBAR_KEYS)))


def _button(label: str, data: Callable[[], bytes], file: str, mime: str) -> None:
    st.download_button(label, data=data, file_name=file, mime=mime, on_click="ignore", key=f"_download-{label}")
