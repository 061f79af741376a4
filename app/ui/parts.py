"""Parts that look the same on every page: header, finding card, chart frame, error box."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.ui import exports, state
from app.ui.links import full_link, notes
from moyu_core.errors import MoyuError

CHART_CONFIG = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"scale": 2},
}

# A finger does not hover, so that Plotly would leave its tool bar on the chart for good, over legend and first rows; pictures
# come from "Download this view", which presses the hidden button.
_CSS = """
<style>
.block-container {padding-top: 3rem; padding-bottom: 3rem; max-width: 1700px;}
h1 {font-size: 1.7rem !important; padding-bottom: .1rem !important;}
.moyu-finding {border-left: 3px solid var(--st-primary-color, #2a6592); padding: .35rem .8rem; margin: .1rem 0 .6rem 0;
  background: rgba(128,128,128,.08); border-radius: 0 4px 4px 0; font-size: .95rem;}
@media (hover: none) {.js-plotly-plot .modebar-container {display: none !important;}}
@media (max-width: 640px) {.block-container {padding-left: .8rem; padding-right: .8rem;}}
</style>
"""


def styles() -> None:
    """The few style rules beyond the theme."""
    st.html(_CSS)


def guarded(draw: Callable[[], None]) -> None:
    """Run a page; errors that a user can mend are shown as one sentence, everything else stays a defect with its traceback."""
    try:
        draw()
    except MoyuError as error:
        st.error(str(error), icon="\u26a0\ufe0f")


def header(title: str, sentence: str, how_to_read: str) -> None:
    """Title, one sentence on what the page answers, and, always in the same place, help, download and link."""
    exports.begin(title, sentence)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        st.title(title)
        st.caption(sentence)
    st.session_state["_note_place"] = st.empty()
    with right, st.container(horizontal=True, horizontal_alignment="right"):
        with st.popover("How to read this", type="tertiary"):
            st.markdown(how_to_read)
        with st.popover("Download this view", type="tertiary"):
            download_place = st.container()
        with st.popover("Copy link", type="tertiary"):
            st.caption("Opens exactly this view, also where the defaults differ, on any machine that has the run.")
            link_place = st.empty()
    st.session_state["_link_place"], st.session_state["_download_place"] = link_place, download_place


def finish() -> None:
    """Fill in link and downloads, and what was wrong with the opened link, when every widget of the page has been drawn."""
    missing, note_place = notes(), st.session_state.pop("_note_place", None)
    if missing and note_place is not None:
        note_place.warning(missing)
    place = st.session_state.pop("_link_place", None)
    if place is not None:
        place.code(full_link(), language=None, wrap_lines=True)
    downloads = st.session_state.pop("_download_place", None)
    if downloads is not None:
        with downloads:
            exports.draw(full_link())


def finding(text: str) -> None:
    """The card that says in one sentence, from the numbers, what is to be seen. `text` is Markdown made by the program."""
    exports.finding(text)
    st.markdown(f'<div class="moyu-finding">{text}</div>', unsafe_allow_html=True)


def chart(
    figure: go.Figure, alt: str, how_to_read: str, *, table: pd.DataFrame | None = None, notebook: str = "", **options: object
) -> object:
    """A Plotly chart with its text alternative and a line that says how to read it, offered for download.

    Args:
        figure, alt: what is drawn, and in one line what it shows.
        how_to_read: the line under it.
        table: its numbers as they shall be downloaded; without them those that the figure holds.
        notebook: Python that rebuilds `figure` from `run`, see `exports.offer`.
        **options: of `st.plotly_chart`.
    """
    exports.offer(alt, table, figure, how_to_read, notebook)
    event = st.plotly_chart(figure, config=CHART_CONFIG, alt=alt, **options)  # pyright: ignore[reportCallIssue,reportArgumentType]
    st.caption(how_to_read)
    return event


def empty(what: str, page: str, label: str) -> None:
    """An empty state: what is missing, and a button that leads to where it is made."""
    st.info(what)
    if page in state.PAGES:
        st.page_link(state.PAGES[page], label=label)
