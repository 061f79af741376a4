"""Which methods can be run on which architectures: a matrix told by colour and by sign, families grouped by kind of FFN."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from moyu_core.figures.style import ACTIVE, drawn
from moyu_core.figures.trinity import short

STATES = ("nothing", "quality", "both")
"""What can be measured: nothing, quality alone, quality and speed."""
SIGNS = {"nothing": "–", "quality": "◐", "both": "●"}
WORDS = {"nothing": "cannot be run", "quality": "quality alone", "both": "quality and speed"}
SHADES = ("#aab3bd", "#d9b26b", ACTIVE)
GROUPS = ("gated", "not gated", "experts")
"""Kinds of FFN; in a mixture a router chooses among experts already."""
ROW, HEADER = 17, 125
"""Pixels of a family, and of the names of the methods."""


def group(row: Mapping[str, Any]) -> str:
    """The kind of FFN of a family."""
    return GROUPS[2] if row["experts"] else GROUPS[0] if row["gated"] else GROUPS[1]


def state(row: Mapping[str, Any]) -> str:
    """One of STATES."""
    return STATES[2] if row["gathered"] else STATES[1] if row["masked"] else STATES[0]


def matrix(frame: Any, names: Mapping[str, str]) -> go.Figure:
    """Methods by architectures.

    Args:
        frame: family, activation, gated, experts, method, masked, gathered, reason; from `queries.trinity.families`.
        names: method -> name.
    """
    cells = {(row["family"], row["method"]): row for row in frame.to_dict("records")}
    families, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    lines: list[tuple[str, list[Mapping[str, Any] | None]]] = []
    for kind in GROUPS:
        members = [family for family in families if group(cells[family, columns[0]]) == kind]
        if members:
            lines.append((f"<b>{kind}</b>", [None] * len(columns)))
            lines += [(family, [cells[family, method] for method in columns]) for family in members]
    heat = go.Heatmap(
        x=[short(names[method]) for method in columns],
        y=[name for name, _ in lines],
        z=[[None if row is None else STATES.index(state(row)) for row in line] for _, line in lines],
        text=[["" if row is None else SIGNS[state(row)] for row in line] for _, line in lines],
        customdata=[["" if row is None else _said(row) for row in line] for _, line in lines],
        texttemplate="%{text}",
        hovertemplate="%{x}<br>%{customdata}<extra></extra>",
        hoverongaps=False,
        colorscale=_steps(),
        zmin=-0.5,
        zmax=2.5,
        showscale=False,
        xgap=1,
        ygap=1,
    )
    return drawn(
        [heat],
        height=HEADER + ROW * len(lines),
        x_title="",
        y_title="",
        x={"side": "top", "tickangle": -55, "showgrid": False, "dtick": 1, "tickfont": {"size": 11}},
        y={"autorange": "reversed", "showgrid": False, "dtick": 1, "tickfont": {"size": 11}},
    )


def _steps() -> list[list[Any]]:
    """A colour scale of three flat steps."""
    return [[(place + end) / 3, shade] for place, shade in enumerate(SHADES) for end in (0, 1)]


def _said(row: Mapping[str, Any]) -> str:
    """A cell in words: family, its FFN, what can be measured, and why no more."""
    experts = f", {row['experts']} experts" if row["experts"] else ""
    kind = f"{row['activation']}{', gated' if row['gated'] else ''}{experts}"
    reason = "".join(f"<br>{line}" for line in wrap(str(row["reason"]), 60))
    return f"{row['family']}: {kind}<br>{WORDS[state(row)]}{reason}"
