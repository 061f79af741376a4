"""What the study pages let choose alike: one of the study's runs, and a part of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from app.ui.links import linked
from moyu_core.store import Run


def choose_run(key: str, runs: Sequence[Run], name: Callable[[Run], str], label: str = "Run") -> Run:
    """One of the runs, the first unless the link says otherwise.

    Args:
        key: in the link; unlike on every page, for each has its own study.
        runs: at least one.
        name: how a run is called in the list.
        label: of the widget.
    """
    by_id = {run.id: run for run in runs}

    def draw() -> str:
        return st.selectbox(label, list(by_id), key=key, format_func=lambda run_id: name(by_id[run_id]))

    return by_id[linked(key, runs[0].id, draw, options=list(by_id))]


def choose_part(names: Mapping[str, str]) -> str:
    """A part of the page by its key in the link, the first unless the link says otherwise; `names` are shown."""
    options = list(names)

    def draw() -> str | None:
        return st.segmented_control(
            "Part", options, key="part", required=True, format_func=names.__getitem__, label_visibility="collapsed"
        )

    return str(linked("part", options[0], draw, options=options))
