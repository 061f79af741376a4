"""Figures of the page Trinity: quality against density and speed, the three axes, speed beside its bound, where a method holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from moyu_core.figures.style import INACTIVE, drawn

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
WIDE_TICKS = (1, 3, 10, 30, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000)
WIDE_FROM = 20
HEIGHT, LEGEND_HEIGHT = 430, 124
"""Pixels: of a figure with lines, and of the names below it, two columns of six."""
AXES = ("performance", "speed", "applicability")
HOVER = "%{text}<br>density %{customdata[0]:.2f}<br>%{y:.4g} [%{customdata[1]:.4g}, %{customdata[2]:.4g}]<extra></extra>"


def colour(method: str) -> str:
    """The colour of a method, grey for one without its own."""
    return COLOURS.get(method, INACTIVE)


def short(name: str) -> str:
    """A name without what stands in brackets, for legends; hovering and tables say it whole."""
    return name.partition(" (")[0]


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
    traces = [_line(str(method), group, group["kept"], measure, names) for method, group in frame.groupby("method", sort=False)]
    shapes = [] if chosen is None else [_upright(chosen, dash="dot")]
    return _curves(traces, frame, measure, "density: share of neurons kept", [*shapes, *_limit(measure, budget)])


def against_speed(frame: Any, measure: str, names: Mapping[str, str], budget: float | None) -> go.Figure:
    """Quality by measured speed, one line a method along its densities; both with 95 % intervals; noisy speeds are hollow."""
    timed, traces = frame.dropna(subset=["speed"]), []
    for method, group in timed.groupby("method", sort=False):
        filled = MARKS.get(str(method), "circle").removesuffix("-open")
        speed, low, high = (group[name].to_numpy() for name in ("speed", "speed_low", "speed_high"))
        across = _error(high - speed, speed - low, str(method))
        symbols = [f"{filled}{'-open' if noisy else ''}" for noisy in group["noisy"]]
        traces.append(_line(str(method), group, group["speed"], measure, names, symbols, error_x=across))
    title = "decoding speed, sparse / dense (right of 1 = faster)"
    return _curves(traces, timed, measure, title, [_upright(1), *_limit(measure, budget)])


def _line(
    method: str, group: Any, x: Any, measure: str, names: Mapping[str, str], symbols: Sequence[str] | None = None, **more: Any
) -> go.Scatter:
    y, low, high = (group[name].to_numpy() for name in (measure, f"{measure}_low", f"{measure}_high"))
    style: Any = look(method)
    return go.Scatter(
        x=x.to_numpy(),
        y=y,
        name=short(names[method]),
        mode="lines+markers",
        line=style["line"],
        marker={**style["marker"], **({"symbol": symbols} if symbols else {})},
        text=[names[method]] * len(group),
        customdata=np.c_[group["kept"] if "kept" in group else group["density"], low, high],
        hovertemplate=HOVER,
        error_y=_error(high - y, y - low, method),
        **more,
    )


def _error(above: Any, below: Any, method: str) -> dict[str, Any]:
    """An interval as a bar without ends."""
    return {"array": above, "arrayminus": below, "color": colour(method), "thickness": 1, "width": 0}


def _upright(x: float, **line: Any) -> dict[str, Any]:
    """A line over the whole height."""
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "y domain", "line": {"width": 1, "color": INACTIVE, **line}}


def _limit(measure: str, budget: float | None) -> list[dict[str, Any]]:
    """The budget as a line over the whole width, where perplexity is shown."""
    if measure != "ratio" or budget is None:
        return []
    line = {"width": 1, "dash": "dash", "color": INACTIVE}
    return [{"type": "line", "x0": 0, "x1": 1, "xref": "x domain", "y0": 1 + budget, "y1": 1 + budget, "line": line}]


def _curves(traces: Sequence[go.Scatter], frame: Any, measure: str, x_title: str, shapes: list[dict[str, Any]]) -> go.Figure:
    """Lines of quality; a logarithmic axis where values span decades."""
    y: dict[str, Any] = {"type": "log"} if measure in ("ratio", "kl") else {}
    if measure == "ratio":
        top = frame["ratio"].max() if len(frame) else 1
        ticks = WIDE_TICKS if top > WIDE_FROM else RATIO_TICKS
        y |= {"tickvals": ticks, "ticktext": [f"{tick:,}".replace(",", "\u2009") for tick in ticks]}
    return drawn(traces, height=HEIGHT, x_title=x_title, y_title=LABELS[measure], y=y, more={"shapes": shapes, **_legend(52)})


def speeds(frame: Any, names: Mapping[str, str]) -> go.Figure:
    """Measured speed-up of each method at one density as bars, with intervals; the bytes-per-token bound as a mark beside each.

    Args:
        frame: method, ratio, ratio_low, ratio_high, bound, noisy; one row a method.
        names: method -> name.
    """
    labels = [short(names[method]) for method in frame["method"]]
    above, below = frame["ratio_high"] - frame["ratio"], frame["ratio"] - frame["ratio_low"]
    bars = go.Bar(
        y=labels,
        x=frame["ratio"],
        orientation="h",
        name="measured",
        hovertemplate="%{y}<br>measured %{x:.2f} x dense<extra></extra>",
        marker={
            "color": [colour(method) for method in frame["method"]],
            "pattern": {"shape": ["/" if n else "" for n in frame["noisy"]]},
        },
        error_x={"array": above, "arrayminus": below, "color": INACTIVE},
    )
    bounds = go.Scatter(
        y=labels,
        x=frame["bound"],
        mode="markers",
        name="bound by bytes",
        hovertemplate="%{y}<br>bound %{x:.2f} x<extra></extra>",
        marker={"symbol": "line-ns-open", "size": 22, "color": INACTIVE, "line": {"width": 3}},
    )
    return drawn(
        [bars, bounds],
        height=70 + 30 * len(frame),
        x_title="decoding speed, sparse / dense",
        y_title="",
        y={"autorange": "reversed"},
        more={"shapes": [_upright(1)]},
    )


def three_axes(frame: Any, names: Mapping[str, str]) -> go.Figure:
    """Performance, speed and applicability as three upright axes, one line a method; a gap where an axis was not measured.

    Args:
        frame: method, performance (dense / sparse perplexity, 0 to 1), speed (x dense), applicability (0 to 1, NaN = unknown).
        names: method -> name.
    """
    top = max(1.2, 1.05 * float(frame["speed"].max(skipna=True))) if frame["speed"].notna().any() else 1.2
    dense = {"type": "line", "x0": 0.9, "x1": 1.1, "y0": 1 / top, "y1": 1 / top, "line": {"width": 2, "color": INACTIVE}}
    return drawn(
        [_over_axes(row, names, top) for row in frame.to_dict("records")],
        height=HEIGHT,
        x_title="",
        y_title="",
        y={"visible": False, "range": [-0.05, 1.08]},
        more={"shapes": [*map(_upright, range(len(AXES))), dense], "annotations": _axis_labels(top), **_legend(28)},
    )


def _over_axes(row: Mapping[str, Any], names: Mapping[str, str], top: float) -> go.Scatter:
    """One method as a line over the three axes."""
    name = names[row["method"]]
    return go.Scatter(
        x=AXES,
        y=[row["performance"], row["speed"] / top, row["applicability"]],
        name=short(name),
        mode="lines+markers",
        **look(row["method"]),
        connectgaps=False,
        customdata=[row["performance"], row["speed"], row["applicability"]],
        hovertemplate=name + "<br>%{x} %{customdata:.3g}<extra></extra>",
    )


def _axis_labels(top: float) -> list[dict[str, Any]]:
    """Ticks of the three axes; `top` is the speed at the height 1."""
    ticks = [(axis, tick, f"{100 * tick:g} %") for axis in ("performance", "applicability") for tick in (0, 0.5, 1)]
    ticks += [("speed", tick / top, f"{tick:g} ×") for tick in _ticks(top)]
    font = {"size": 11, "color": INACTIVE}
    return [{"x": axis, "y": y, "text": text, "showarrow": False, "xshift": -26, "font": font} for axis, y, text in ticks]


def _ticks(top: float) -> Sequence[float]:
    return [0.0, *(float(step) for step in range(1, math.floor(top) + 1))] if top < 6 else [0.0, 1.0, float(math.floor(top))]


def _legend(labels: int) -> dict[str, Any]:
    """Names below the figure in two columns, however narrow it is.

    They hang at a fixed distance below the plot, whatever its size, so that they never meet the title of the axis.

    Args:
        labels: pixels of what stands between plot and names: ticks, title.
    """
    below = labels + LEGEND_HEIGHT
    legend = {"orientation": "h", "yref": "container", "y": LEGEND_HEIGHT / HEIGHT, "yanchor": "top", "xref": "container", "x": 0}
    fitted = {"font": {"size": 10}, "entrywidth": 0.49, "entrywidthmode": "fraction", "maxheight": LEGEND_HEIGHT}
    return {"showlegend": True, "margin": {"l": 8, "r": 8, "t": 8, "b": below}, "legend": {**legend, **fitted}}
