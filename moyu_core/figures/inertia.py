"""Figures of the page Inertia: the index by layer, curves by distance and by word, overlap matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from moyu_core.figures.style import INACTIVE, LEGEND, MAGNITUDE, layout
from moyu_core.figures.text import escaped

CONTENTS = {"sentence": "sentence", "shuffled": "shuffled words", "random_words": "random words", "random_tokens": "random tokens"}
COLOURS = {"sentence": "#3f78c4", "shuffled": "#d9822b", "random_words": "#3a9d6e", "random_tokens": "#8a6bb8"}
"""One colour a content, the same in every figure of the page; markers differ too."""
MARKERS = {"sentence": "circle", "shuffled": "square", "random_words": "diamond", "random_tokens": "cross"}
BAND_OPACITY = 0.16


def faint(colour: str, opacity: float = BAND_OPACITY) -> str:
    """A colour for bands, as rgba."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def band(x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> go.Scatter:
    """A shaded band; places without bounds are left out."""
    known = np.isfinite(low) & np.isfinite(high)
    x, low, high = x[known], low[known], high[known]
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=faint(colour),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        mode="lines",
    )


def where(rows: pd.DataFrame, **equals: str) -> pd.DataFrame:
    """The rows whose columns have these values."""
    chosen = np.ones(len(rows), bool)
    for name, value in equals.items():
        chosen &= rows[name].to_numpy() == value
    return rows.loc[chosen]


def line(
    rows: pd.DataFrame, x: str, y: str, name: str, colour: str, dash: str = "solid", marker: str | None = None
) -> list[go.Scatter]:
    """A curve with its band where there is one; columns x, y, low, high."""
    places, values = rows[x].to_numpy(float), rows[y].to_numpy(float)
    low, high = (rows[bound].to_numpy(float) for bound in ("low", "high"))
    traces = [band(places, low, high, colour)] if np.isfinite(low).any() else []
    bounds = np.column_stack([low, high])
    tip = f"{name}<br>{x} %{{x}}: %{{y:.3f}}" + ("<br>95 %: %{customdata[0]:.3f} to %{customdata[1]:.3f}" if traces else "")
    traces.append(
        go.Scatter(
            x=places,
            y=values,
            name=name,
            mode="lines+markers" if marker else "lines",
            customdata=bounds,
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": marker or "circle", "size": 6, "color": colour},
            hovertemplate=tip + "<extra></extra>",
        )
    )
    return traces


def legend(figure: go.Figure) -> go.Figure:
    """Show the names above the figure."""
    figure.update_layout(showlegend=True, legend=LEGEND, margin={"t": 36})
    return figure


def index_sweep(rows: pd.DataFrame, selected: int | None) -> go.Figure:
    """The inertia index over layers, one line a content, with simultaneous bands.

    Args:
        rows: content, layer, index, low, high of the layers.
        selected: layer that is marked.
    """
    figure = go.Figure()
    for content in [content for content in CONTENTS if content in set(rows["content"])]:
        part = where(rows, content=content)
        for trace in line(part, "layer", "index", CONTENTS[content], COLOURS[content], marker=MARKERS[content]):
            figure.add_trace(trace)
    figure.add_hline(y=0, line={"width": 1, "color": INACTIVE})
    if selected is not None:
        figure.add_vline(x=selected, line={"width": 1, "dash": "dot", "color": INACTIVE})
    return legend(layout(figure, height=380, x_title="layer", y_title="inertia index I"))


def overlap_sweep(rows: pd.DataFrame, content: str) -> go.Figure:
    """W and X over layers of one content, in sequence and alone, with chance and the marginal level."""
    figure = go.Figure()
    styles = {
        ("sequence", "within"): ("W, in sequence", "solid"),
        ("sequence", "across"): ("X, in sequence", "dash"),
        ("parallel", "within"): ("W, alone", "dashdot"),
        ("parallel", "across"): ("X, alone", "dot"),
    }
    for (history, column), (name, dash) in styles.items():
        part = where(rows, content=content, history=history)
        colour = COLOURS[content] if history == "sequence" else "#777777"
        figure.add_trace(
            go.Scatter(x=part["layer"], y=part[column], name=name, mode="lines", line={"color": colour, "dash": dash, "width": 2})
        )
    part = where(rows, content=content, history="sequence")
    for column, name in (("marginal", "marginal, in sequence"), ("chance", "chance")):
        figure.add_trace(go.Scatter(x=part["layer"], y=part[column], name=name, mode="lines", line={"color": INACTIVE, "width": 1}))
    figure.update_yaxes(rangemode="tozero")
    return legend(layout(figure, height=340, x_title="layer", y_title="mean overlap"))


def lag_curves(rows: pd.DataFrame, contents: Sequence[str]) -> go.Figure:
    """Overlap by distance: in sequence solid, words alone dotted."""
    figure = go.Figure()
    for content in contents:
        for history, dash in (("sequence", "solid"), ("parallel", "dot")):
            part = where(rows, content=content, history=history).sort_values("lag")
            name = f"{CONTENTS[content]}{', alone' if history == 'parallel' else ''}"
            for trace in line(part, "lag", "overlap", name, COLOURS[content], dash):
                figure.add_trace(trace)
    return legend(layout(figure, height=420, x_title="distance d (words)", y_title="overlap of the sets d words apart"))


def highest(grids: Iterable[np.ndarray]) -> float:
    """The largest overlap of several matrices, the end of their one colour scale; 1 where no pair counts."""
    return max((float(np.nanmax(grid)) for grid in grids if np.isfinite(grid).any()), default=1.0)


def matrices(
    grids: Sequence[np.ndarray], titles: Sequence[str], words: Sequence[list[str]], border: int | None, top: float
) -> go.Figure:
    """Word x word overlap matrices one below the other.

    Args:
        grids: (n, n) overlaps each, NaN where a pair does not count.
        titles: of each matrix.
        words: of each matrix.
        border: where the second text begins; lines are drawn there. None = one text.
        top: end of the colour scale, which starts at 0.
    """
    figure = make_subplots(rows=len(grids), cols=1, subplot_titles=list(titles), vertical_spacing=0.08)
    for row, grid in enumerate(grids, 1):
        text = [escaped(word) for word in words[row - 1]]
        figure.add_trace(
            go.Heatmap(
                z=grid.astype(np.float32),
                coloraxis="coloraxis",
                customdata=np.array([[f"{a} × {b}" for b in text] for a in text]),
                hovertemplate="%{customdata}: %{z:.2f}<extra></extra>",
            ),
            row=row,
            col=1,
        )
        if border is not None:
            for draw in (figure.add_hline, figure.add_vline):
                draw(border - 0.5, line={"width": 1, "color": "#ffffff"}, row=row, col=1)  # pyright: ignore[reportArgumentType]
    layout(figure, height=90 + 300 * len(grids), x_title="", y_title="")
    bar = {"title": {"text": "overlap", "side": "right"}, "orientation": "h", "thickness": 10, "y": 0, "yanchor": "top"}
    figure.update_layout(coloraxis={"colorscale": MAGNITUDE, "cmin": 0, "cmax": top, "colorbar": bar}, margin={"t": 30, "b": 60})
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False)
    figure.update_yaxes(showticklabels=False, ticks="", showgrid=False, autorange="reversed")
    figure.update_annotations(font={"size": 12})
    return figure
