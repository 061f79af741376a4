"""Figures of the page Trinity: quality against density and speed, the three axes, speed beside its bound, where a method holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from moyu_core.figures.style import INACTIVE, layout

COLOURS = {
    "oracle": "#6b7785",
    "cett": "#8c5fb0",
    "token-table": "#b3531f",
    "token-table-prompt": "#d9822b",
    "tda": "#1b7f8c",
    "griffin": "#3a9d6e",
    "dejavu": "#3f78c4",
    "moefication": "#c2527f",
    "cats": "#a58a1c",
    "static": "#5a5f66",
    "random": "#9aa5b1",
}
"""One colour a method; marks and dashes differ too, so that no line is told by colour alone."""
DASHES = {"oracle": "dot", "static": "dash", "random": "dash", "cett": "dot", "token-table": "dashdot"}
MARKS = {
    "oracle": "diamond",
    "cett": "star",
    "token-table": "square",
    "token-table-prompt": "square-open",
    "tda": "triangle-up",
    "griffin": "circle",
    "dejavu": "cross",
    "moefication": "x",
    "cats": "triangle-down",
    "static": "circle-open",
    "random": "diamond-open",
}
LABELS = {
    "ratio": "perplexity, sparse / dense",
    "kl": "KL(dense || sparse), nats a token",
    "agreement": "tokens that stay the same",
    "reading": "questions answered",
}
RATIO_TICKS = (1, 1.2, 1.5, 2, 3, 5, 10, 20)
WIDE_TICKS = (1, 3, 10, 30, 100, 1000, 10_000, 100_000)
WIDE_FROM = 20
HOVER = "%{text}<br>density %{customdata[0]:.2f}<br>%{y:.4g} [%{customdata[1]:.4g}, %{customdata[2]:.4g}]<extra></extra>"


def colour(method: str) -> str:
    """The colour of a method, grey for one without its own."""
    return COLOURS.get(method, INACTIVE)


def look(method: str) -> dict[str, object]:
    """Line and marker of a method."""
    return {
        "line": {"color": colour(method), "dash": DASHES.get(method, "solid"), "width": 2},
        "marker": {"color": colour(method), "symbol": MARKS.get(method, "circle"), "size": 8},
    }


def against_density(
    frame: Any, measure: str, names: Mapping[str, str], chosen: float | None, budget: float | None
) -> go.Figure:
    """Quality by kept density, one line a method, 95 % intervals as bars.

    Args:
        frame: method, density, kept, and `measure` with `_low` and `_high`; from `queries.trinity.curves`.
        measure: ratio, kl, agreement or reading.
        names: method -> name.
        chosen: density of the slider, drawn as a line.
        budget: perplexity that may be lost; its limit is drawn for `ratio`.
    """
    figure = go.Figure()
    for method, group in frame.groupby("method", sort=False):
        figure.add_trace(_line(str(method), group, group["kept"], measure, names))
    if chosen is not None:
        figure.add_vline(x=chosen, line={"width": 1, "dash": "dot", "color": INACTIVE})
    if measure == "ratio" and budget is not None:
        figure.add_hline(y=1 + budget, line={"width": 1, "dash": "dash", "color": INACTIVE})
    layout(figure, height=430, x_title="density: share of neurons kept", y_title=LABELS[measure])
    return _scaled(figure, measure)


def against_speed(frame: Any, measure: str, names: Mapping[str, str], budget: float | None) -> go.Figure:
    """Quality by measured speed, one line a method along its densities; both with 95 % intervals; noisy speeds are hollow."""
    figure = go.Figure()
    for method, group in frame.dropna(subset=["speed"]).groupby("method", sort=False):
        trace: Any = _line(str(method), group, group["speed"], measure, names)
        trace.error_x = {
            "array": group["speed_high"] - group["speed"],
            "arrayminus": group["speed"] - group["speed_low"],
            "color": colour(str(method)),
            "thickness": 1,
            "width": 0,
        }
        marks = [f"{MARKS.get(str(method), 'circle').removesuffix('-open')}{'-open' if noisy else ''}" for noisy in group["noisy"]]
        trace.marker.symbol = marks
        figure.add_trace(trace)
    figure.add_vline(x=1, line={"width": 1, "color": INACTIVE})
    if measure == "ratio" and budget is not None:
        figure.add_hline(y=1 + budget, line={"width": 1, "dash": "dash", "color": INACTIVE})
    layout(figure, height=430, x_title="decoding speed, sparse / dense (right of 1 = faster)", y_title=LABELS[measure])
    return _scaled(figure, measure)


def _line(method: str, group: Any, x: Any, measure: str, names: Mapping[str, str]) -> go.Scatter:
    y, low, high = group[measure], group[f"{measure}_low"], group[f"{measure}_high"]
    return go.Scatter(
        x=x,
        y=y,
        name=names[method],
        mode="lines+markers",
        **look(method),
        text=[names[method]] * len(group),
        customdata=np.c_[group["kept"] if "kept" in group else group["density"], low, high],
        hovertemplate=HOVER,
        error_y={"array": high - y, "arrayminus": y - low, "color": colour(method), "thickness": 1, "width": 0},
    )


def _scaled(figure: go.Figure, measure: str) -> go.Figure:
    """A logarithmic axis where values span decades."""
    if measure in ("ratio", "kl"):
        figure.update_yaxes(type="log")
    if measure == "ratio":
        traces: Any = figure.data
        top = max((max(trace.y) for trace in traces if len(trace.y)), default=1)
        ticks = WIDE_TICKS if top > WIDE_FROM else RATIO_TICKS
        figure.update_yaxes(tickvals=ticks, ticktext=[f"{tick:,}".replace(",", "\u2009") for tick in ticks])
    return _legend(figure)


def speeds(frame: Any, names: Mapping[str, str]) -> go.Figure:
    """Measured speed-up of each method at one density as bars, with intervals; the bytes-per-token bound as a mark beside each.

    Args:
        frame: method, ratio, ratio_low, ratio_high, bound, noisy; one row a method.
        names: method -> name.
    """
    labels = [names[method] for method in frame["method"]]
    figure = go.Figure(
        go.Bar(
            y=labels,
            x=frame["ratio"],
            orientation="h",
            name="measured",
            hovertemplate="%{y}<br>measured %{x:.2f} x dense<extra></extra>",
            marker={
                "color": [colour(method) for method in frame["method"]],
                "pattern": {"shape": ["/" if n else "" for n in frame["noisy"]]},
            },
            error_x={
                "array": frame["ratio_high"] - frame["ratio"],
                "arrayminus": frame["ratio"] - frame["ratio_low"],
                "color": INACTIVE,
            },
        )
    )
    figure.add_trace(
        go.Scatter(
            y=labels,
            x=frame["bound"],
            mode="markers",
            name="bound by bytes",
            hovertemplate="%{y}<br>bound %{x:.2f} x<extra></extra>",
            marker={"symbol": "line-ns-open", "size": 22, "color": INACTIVE, "line": {"width": 3}},
        )
    )
    figure.add_vline(x=1, line={"width": 1, "color": INACTIVE})
    layout(figure, height=70 + 30 * len(frame), x_title="decoding speed, sparse / dense", y_title="")
    figure.update_yaxes(autorange="reversed")
    return figure


def three_axes(frame: Any, names: Mapping[str, str], highlighted: str | None = None) -> go.Figure:
    """Performance, speed and applicability as three upright axes, one line a method; a gap where an axis was not measured.

    Args:
        frame: method, performance (dense / sparse perplexity, 0 to 1), speed (x dense), applicability (0 to 1, NaN = unknown).
        names: method -> name.
        highlighted: method drawn stronger.
    """
    axes = ["performance", "speed", "applicability"]
    top = max(1.2, 1.05 * float(frame["speed"].max(skipna=True))) if frame["speed"].notna().any() else 1.2
    figure = go.Figure()
    for row in frame.to_dict("records"):
        method, heights = row["method"], [row["performance"], row["speed"] / top, row["applicability"]]
        strong = highlighted in (None, method)
        style = look(method)
        figure.add_trace(
            go.Scatter(
                x=axes,
                y=heights,
                name=names[method],
                mode="lines+markers",
                opacity=1.0 if strong else 0.25,
                **style,
                connectgaps=False,
                customdata=[row["performance"], row["speed"], row["applicability"]],
                hovertemplate=names[method] + "<br>%{x} %{customdata:.3g}<extra></extra>",
            )
        )
    for axis, ticks in (("performance", (0, 0.5, 1)), ("speed", _ticks(top)), ("applicability", (0, 0.5, 1))):
        unit = top if axis == "speed" else 1.0
        for tick in ticks:
            text = f"{tick:g} ×" if axis == "speed" else f"{100 * tick:g} %"
            figure.add_annotation(
                x=axis,
                y=tick / unit,
                text=text,
                showarrow=False,
                xshift=-26,
                font={"size": 11, "color": INACTIVE},
            )
        figure.add_vline(x=axes.index(axis), line={"width": 1, "color": INACTIVE})
    figure.add_shape(type="line", x0=0.9, x1=1.1, y0=1 / top, y1=1 / top, line={"width": 2, "color": INACTIVE})
    layout(figure, height=430, x_title="", y_title="")
    figure.update_yaxes(visible=False, range=[-0.05, 1.08])
    return _legend(figure)


def _ticks(top: float) -> Sequence[float]:
    return [0.0, *(float(step) for step in range(1, math.floor(top) + 1))] if top < 6 else [0.0, 1.0, float(math.floor(top))]


def _legend(figure: go.Figure) -> go.Figure:
    """Names below the figure, narrow enough for two columns in half a page."""
    figure.update_layout(
        showlegend=True,
        margin={"t": 8, "b": 8},
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "font": {"size": 10}, "entrywidth": 146},
    )
    return figure
