"""Figures of the page Origin: expected gradient by pre-activation, curves along training, the sign measure in a real model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from moyu_core.figures.style import ACCENT, INACTIVE, layout

NAMES = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "swiglu": "SwiGLU"}
COLOURS = {"relu": "#3f78c4", "gelu": "#d9822b", "silu": "#3a9d6e", "swiglu": "#3a9d6e"}
"""One colour an activation function, the same in every figure; line styles differ too."""
DASHES = {"relu": "solid", "gelu": "dash", "silu": "dot", "swiglu": "dot"}
ZERO_STEP = 0.5
"""Where step 0 stands on a logarithmic axis."""
BAND_OPACITY = 0.18

DRIFT_TIP = "p %{x:.2f}<br>%{y:.3g}"

Points = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pre-activations, Monte Carlo means and their standard errors."""


def _faint(colour: str) -> str:
    """A colour for bands, as rgba."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND_OPACITY})"


def drift(grid: np.ndarray, expected: Mapping[str, np.ndarray], sampled: Mapping[str, Points], p: float) -> go.Figure:
    """E[dL/dp] over the pre-activation, and below it the part under 0 enlarged: closed forms as lines, Monte Carlo as points.

    Args:
        grid: (n,) pre-activations of the lines.
        expected: activation -> (n,) closed form.
        sampled: activation -> points, drawn with three standard errors.
        p: the chosen pre-activation.
    """
    figure = make_subplots(rows=2, cols=1, vertical_spacing=0.14)
    for row in (1, 2):
        for name, line in expected.items():
            style = {"color": COLOURS[name], "dash": DASHES[name], "width": 2}
            curve = go.Scatter(x=grid, y=line, name=NAMES[name], line=style, showlegend=row == 1, hovertemplate=DRIFT_TIP)
            figure.add_trace(curve, row=row, col=1)
            figure.add_trace(_sampled(name, sampled[name]), row=row, col=1)
    figure.add_hline(y=0, line={"width": 1, "color": INACTIVE})
    figure.add_vline(x=p, line={"width": 1, "dash": "dot", "color": ACCENT})
    layout(figure, height=460, x_title="", y_title="E[dL/dp]")
    below = [line[grid < 0] for line in expected.values()]
    low, high = min(line.min() for line in below), max(line.max() for line in below)
    figure.update_yaxes(range=[1.6 * low, 2.2 * high], row=2, col=1)
    figure.update_xaxes(range=[grid[0], 0.1], title="pre-activation p", row=2, col=1)
    return _legend(figure)


def _sampled(name: str, points: Points) -> go.Scatter:
    x, mean, error = points
    bars = {"array": 3 * error, "color": COLOURS[name], "thickness": 1}
    return go.Scatter(x=x, y=mean, mode="markers", marker={"color": COLOURS[name], "size": 6}, showlegend=False, error_y=bars,
                      name=f"{NAMES[name]}, Monte Carlo", hovertemplate=DRIFT_TIP)


def along_training(frame: pd.DataFrame, label: str, by_seed: pd.DataFrame | None = None, zero_line: bool = False,
                   to: int | None = None) -> go.Figure:
    """One measure by step on a log axis: mean over seeds as a line, its 95 % interval as a band where there are seeds.

    Args:
        frame: activation, step, mean, low, high, from `queries.origin.over_seeds`.
        label: of the measure, with its unit.
        by_seed: activation, seed, step, value; thin lines where given.
        zero_line: whether 0 is drawn and values below it are shown, for measures with a sign.
        to: last step of the axis, where the training is still under way; None = that of the data.
    """
    traces: list[go.Scatter] = []
    for name in [name for name in COLOURS if name in set(frame["activation"])]:
        group = frame.loc[frame["activation"] == name]
        x = _steps(group["step"])
        if np.isfinite(group["low"].to_numpy()).any():
            traces.append(_band(x, group, COLOURS[name]))
        if by_seed is not None:
            traces.append(_seeds(by_seed.loc[by_seed["activation"] == name], COLOURS[name]))
        traces.append(go.Scatter(
            x=x, y=group["mean"], name=NAMES[name], mode="lines+markers", customdata=group["step"], marker={"size": 4},
            line={"color": COLOURS[name], "dash": DASHES[name], "width": 2}, hovertemplate="step %{customdata}<br>%{y:.3g}"))
    figure = go.Figure(traces)
    figure.update_yaxes(exponentformat="e", rangemode="normal" if zero_line else "nonnegative")  # a row of zeros: 0 to 1
    if zero_line:
        figure.add_hline(y=0, line={"width": 1, "color": INACTIVE})
    layout(figure, height=300, x_title="optimizer step (log scale; 0 at the left)", y_title=label)
    _log_axis(figure, to or int(np.max(frame["step"])))
    return _legend(figure)


def _steps(steps: Any) -> np.ndarray:
    return np.maximum(np.asarray(steps, float), ZERO_STEP)


def _seeds(frame: pd.DataFrame, colour: str) -> go.Scatter:
    """One thin line a seed, as one trace with gaps: a trace costs more than its points."""
    lines = [(_steps(seed["step"]), seed["value"].to_numpy()) for _, seed in frame.groupby("seed")]
    x, y = (np.concatenate([part for line in lines for part in (line[axis], [np.nan])])[:-1] for axis in (0, 1))
    return go.Scatter(x=x, y=y, mode="lines", line={"color": _faint(colour), "width": 1}, hoverinfo="skip", showlegend=False)


def _band(x: np.ndarray, frame: pd.DataFrame, colour: str) -> go.Scatter:
    """The area between `low` and `high`."""
    low, high = frame["low"].to_numpy(), frame["high"].to_numpy()
    return go.Scatter(x=np.r_[x, x[::-1]], y=np.r_[high, low[::-1]], mode="lines", fill="toself", fillcolor=_faint(colour),
                      line={"width": 0}, hoverinfo="skip", showlegend=False)


def _log_axis(figure: go.Figure, last: int) -> None:
    ticks = [ZERO_STEP, *(10**n for n in range(len(str(last)))), last]
    names = ["0", *(f"{tick:,}".replace(",", "\u2009") for tick in ticks[1:])]
    close = len(ticks) > 2 and last < 3 * ticks[-2]  # the last step's label would lie on its neighbour's
    kept = [number for number in range(len(ticks)) if not (close and number == len(ticks) - 2)]
    ends = [np.log10(ZERO_STEP) - 0.05, np.log10(last) + 0.05]
    figure.update_xaxes(type="log", range=ends, tickvals=[ticks[n] for n in kept], ticktext=[names[n] for n in kept])


def sign_by_layer(parts: Mapping[str, pd.DataFrame]) -> go.Figure:
    """The sign measure by layer with simultaneous 95 % bands, one line a condition.

    Args:
        parts: condition ("initial", "trained") -> layer, mean, low, high from `queries.origin.sign_by_layer`.
    """
    look = {"initial": (ACCENT, "solid", "at initialisation"), "trained": (COLOURS["gelu"], "dash", "as trained")}
    figure = go.Figure()
    for name, frame in parts.items():
        colour, dash, label = look[name]
        figure.add_trace(_band(frame["layer"].to_numpy(), frame, colour))
        figure.add_trace(go.Scatter(x=frame["layer"], y=frame["mean"], name=label, mode="lines+markers", marker={"size": 4},
                                    line={"color": colour, "dash": dash, "width": 2},
                                    hovertemplate="layer %{x}<br>%{y:.3g}"))
    figure.add_hline(y=0, line={"width": 1, "color": INACTIVE})
    layout(figure, height=300, x_title="layer", y_title="sign(a)·dL/da, share of |dL/da|")
    return _legend(figure)


def effects(labels: Sequence[str], means: Sequence[float], lows: Sequence[float], highs: Sequence[float],
            smallest: float) -> go.Figure:
    """Measured effects as points with intervals; 1 = the closed form in full, dotted = the smallest effect that matters."""
    middle = np.asarray(means)
    figure = go.Figure(go.Scatter(
        x=middle, y=list(labels), mode="markers", marker={"color": ACCENT, "size": 10, "symbol": "diamond"},
        error_x={"array": np.asarray(highs) - middle, "arrayminus": middle - np.asarray(lows), "color": ACCENT},
        hovertemplate="%{x:.3f}<extra></extra>"))
    for value, dash in ((0.0, "solid"), (1.0, "solid"), (smallest, "dot")):
        figure.add_vline(x=value, line={"width": 1, "dash": dash, "color": INACTIVE})
    layout(figure, height=60 + 60 * len(labels), x_title="measured / theorem", y_title="")
    figure.update_yaxes(range=[len(labels) - 0.5, -0.5])
    return figure


def _legend(figure: go.Figure) -> go.Figure:
    figure.update_layout(showlegend=True, margin={"t": 28}, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return figure
