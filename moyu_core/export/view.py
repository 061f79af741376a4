"""A view: the finding, the figures and the tables of a page, and where they come from. Pages fill it, exporters read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from moyu_core.export.map_table import MAX_CELLS, map_table

TEMPLATE = "plotly_white"


@dataclass(frozen=True)
class Canvas:
    """A token x neuron map that the browser draws on a canvas: its key on the page, and its bytes (`figures.map_payload`)."""

    key: str
    payload: bytes


@dataclass
class Item:
    """One figure or table of a page.

    Attributes:
        name: what it shows, one line, unique on the page.
        figure: the Plotly figure, or what makes one that the page does not draw itself; None for a table alone.
        table: its numbers, one row each, or what makes them; None = those that the figure holds.
        how_to_read: the line under it.
        notebook: Python that makes `figure` or `table` from `run` and `store`; "" = the figure travels in the notebook.
        canvas: the map, where the page shows one.
    """

    name: str
    figure: go.Figure | Callable[[], go.Figure] | None = None
    table: pd.DataFrame | Callable[[], pd.DataFrame] | None = None
    how_to_read: str = ""
    notebook: str = ""
    canvas: Canvas | None = None

    @property
    def drawn(self) -> bool:
        """Whether the page shows it as a chart, so that the browser can save a picture of it."""
        return isinstance(self.figure, go.Figure)

    def chart(self) -> go.Figure | None:
        """The figure, made where it is not there yet."""
        return self.figure() if callable(self.figure) else self.figure

    def numbers(self) -> pd.DataFrame:
        """The table, given or read off the map or the figure."""
        if callable(self.table):
            self.table = self.table()
        if self.table is None and self.canvas is not None:
            return map_table(self.canvas.payload)
        return self.table if self.table is not None else figure_table(self.chart() or go.Figure())


@dataclass
class View:
    """What a page shows.

    Attributes:
        title, sentence: of the page.
        link: the address that opens the view again.
        runs: ids of the runs it shows.
        findings: its sentences, as Markdown or simple HTML made by the program.
        items: figures and tables, in order.
        facts: further lines, label and value.
    """

    title: str
    sentence: str = ""
    link: str = ""
    runs: tuple[str, ...] = ()
    findings: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


def file_name(name: str) -> str:
    """A name for a file: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:60].strip("-") or "view"


def plain_text(markup: str) -> str:
    """A finding without its tags and Markdown marks."""
    text = re.sub(r"</?[a-zA-Z][^<>]*>", "", markup)
    text = re.sub(r"\*\*|`", "", text)
    return re.sub(r"\\([\\`*_{}\[\]()#+\-.!|<>~$:])", r"\1", text)


def portable(figure: go.Figure) -> go.Figure:
    """A copy that looks right outside the app, where the page's theme does not colour it."""
    made = figure.to_plotly_json()
    made.get("layout", {}).pop("template", None)
    copy = go.Figure(made)
    copy.update_layout(template=TEMPLATE, paper_bgcolor="white", plot_bgcolor="white")
    return copy


def figure_table(figure: go.Figure) -> pd.DataFrame:
    """The numbers of a figure in long form, one row a mark: trace, x, y, and what else its traces hold.

    Heat maps give a row a cell. Traces without numbers of their own (shapes, tables of text) are left out.
    """
    parts = [_trace_table(number, trace) for number, trace in enumerate(figure.data)]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame({"trace": []})
    return pd.concat(parts, ignore_index=True).dropna(axis="columns", how="all")


def _trace_table(number: int, trace: Any) -> pd.DataFrame:
    name = trace.name or f"{trace.type} {number}"
    if getattr(trace, "z", None) is not None and np.ndim(trace.z) == 2:
        return _cells(name, trace)
    columns: dict[str, Any] = {}
    for key in ("x", "y", "text", "base", "width"):
        values = _values(trace, key)
        if values is not None:
            columns[key] = values
    for axis in ("x", "y"):
        errors = getattr(trace, f"error_{axis}", None)
        for key in ("array", "arrayminus"):
            values = _values(errors, key) if errors is not None else None
            if values is not None:
                columns[f"error_{axis}" + ("_minus" if key == "arrayminus" else "")] = values
    length = max((len(values) for values in columns.values()), default=0)
    columns = {key: values for key, values in columns.items() if len(values) == length}
    return pd.DataFrame({"trace": [name] * length, **columns}) if length else pd.DataFrame()


def _cells(name: str, trace: Any) -> pd.DataFrame:
    z = np.asarray(trace.z)
    if z.size > MAX_CELLS:
        return pd.DataFrame()
    x = _values(trace, "x")
    y = _values(trace, "y")
    x = np.arange(z.shape[1]) if x is None or len(x) != z.shape[1] else x
    y = np.arange(z.shape[0]) if y is None or len(y) != z.shape[0] else y
    return pd.DataFrame({"trace": name, "x": np.tile(x, z.shape[0]), "y": np.repeat(y, z.shape[1]), "z": z.ravel()})


def _values(holder: Any, key: str) -> np.ndarray | None:
    """One sequence of a trace; None where it has none, or one value for all."""
    try:
        values = holder[key]
    except (KeyError, ValueError, TypeError):
        return None
    if values is None or isinstance(values, str) or np.ndim(values) != 1 or not len(values):
        return None
    return np.asarray(values)
