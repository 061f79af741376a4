"""Figures of the page *Predictors*: curves against density, staleness, recall by layer and token, one colour a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from moyu_core.figures.style import INACTIVE, MAGNITUDE, layout
from moyu_core.figures.text import escaped

COLOURS = {
    "oracle": "#6a6a6a", "native": "#6a6a6a", "cett": "#8c6d31", "token-table": "#b8437f", "token-table-prompt": "#e377c2",
    "tda": "#d9961a", "tda-contribution": "#f2bd4e", "griffin": "#12846a", "dejavu": "#2f6fb5", "dejavu-threshold": "#6aa6ec",
    "dejavu-block": "#17becf", "dejavu-previous": "#0b7285", "cats": "#7a5bc4", "moefication": "#e0701a", "static": "#7f7f7f",
    "magnitude": "#b0b0b0", "magnitude-down": "#999999", "random": "#c7c7c7",
}
"""A method's colour on every page. A method without an entry gets that of its family's marker in grey."""
SYMBOLS = {"oracle": "star", "TDA": "diamond", "RODA": "circle", "RIDA": "square", "sRIDA": "triangle-up",
           "RODA + sRIDA": "hexagon", "static": "x"}
"""A family's marker, so that lines can be told apart without colour."""
PANEL_COLUMNS = 2
MEASURE_TITLES = {"recall": "recall", "energy": "captured energy", "precision": "precision", "jaccard": "Jaccard",
                  "squares": "share of sum (|a|c)²"}

Facts = Mapping[str, Mapping[str, Any]]


def colour(method: str) -> str:
    """The method's colour, grey for one that nobody chose a colour for."""
    return COLOURS.get(method, INACTIVE)


def symbol(facts: Mapping[str, Any]) -> str:
    """The marker of the method's family."""
    return SYMBOLS.get(str(facts["family"]), "cross")


def curves(frame: Any, facts: Facts, measure: str, chosen: Sequence[str]) -> go.Figure:
    """The measure against the share of neurons that was really kept, 95 % intervals over units; chance as a dotted line.

    Args:
        frame: of `queries.predictors.curves`.
        facts: of `queries.predictors.methods`.
        measure: its name.
        chosen: methods drawn strongly and named in the legend; the others are thin, and named on hover: fifteen names would
            leave a phone no room for the lines.
    """
    figure = go.Figure()
    for method in facts:
        rows: Any = frame[frame["method"] == method].drop_duplicates("predicted").sort_values("predicted")
        strong = method in chosen
        above, below = rows["high"] - rows["mean"], rows["mean"] - rows["low"]
        figure.add_scatter(
            x=rows["predicted"], y=rows["mean"], mode="lines+markers", name=facts[method]["title"], showlegend=strong,
            error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 2,
                     "visible": strong},
            marker={"symbol": symbol(facts[method]), "size": 9 if strong else 6}, opacity=1.0 if strong else 0.35,
            line={"color": colour(method), "width": 2.5 if strong else 1},
            hovertemplate=f"{facts[method]['title']}<br>|Â|/F %{{x:.3f}}<br>{MEASURE_TITLES[measure]} %{{y:.3f}}<extra></extra>")
    if measure == "recall":
        figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": INACTIVE}, name="chance |Â|/F",
                           hoverinfo="skip")
    layout(figure, height=430, x_title="share of neurons kept, |Â|/F", y_title=MEASURE_TITLES[measure])
    figure.update_xaxes(range=[0, max(0.55, float(frame["predicted"].max()) + 0.03)])
    return _legend(figure)


def staleness(frame: Any, facts: Facts, measure: str, chosen: Sequence[str]) -> go.Figure:
    """The measure by tokens since the end of the prompt, with bands over units for the chosen methods."""
    figure = go.Figure()
    for method in chosen:
        rows: Any = frame[frame["method"] == method].sort_values("offset")
        if rows.empty:
            continue
        edge = pd.concat([rows["high"], rows["low"][::-1]])
        figure.add_scatter(x=pd.concat([rows["offset"], rows["offset"][::-1]]), y=edge, fill="toself", mode="none", opacity=0.15,
                           fillcolor=colour(method), hoverinfo="skip", showlegend=False)
        figure.add_scatter(
            x=rows["offset"], y=rows["mean"], mode="lines+markers", name=facts[method]["title"],
            marker={"symbol": symbol(facts[method]), "size": 5}, line={"color": colour(method), "width": 2,
                                                                      "dash": "solid" if facts[method]["frozen"] else "dot"},
            hovertemplate=f"{facts[method]['title']}<br>%{{x}} tokens after the prompt<br>%{{y:.3f}}<extra></extra>")
    layout(figure, height=360, x_title="tokens since the end of the prompt", y_title=MEASURE_TITLES[measure])
    return _legend(figure)


def _legend(figure: go.Figure) -> go.Figure:
    """A legend under the chart, where it leaves the width to the lines."""
    figure.update_layout(showlegend=True, legend={"orientation": "h", "yanchor": "top", "y": -0.28, "x": 0, "font": {"size": 11}})
    return figure


def by_layer_and_token(
    frame: Any, facts: Facts, measure: str, chosen: Sequence[str], tokens: Sequence[str], prompt_tokens: int,
    columns: int = PANEL_COLUMNS,
) -> go.Figure:
    """Small multiples: one heat map of layers x positions a method, on one colour scale; a line marks the end of the prompt.

    Args:
        frame: of `queries.predictors.by_layer_and_token`.
        facts: of `queries.predictors.methods`.
        measure: recall or energy.
        chosen: the methods, in order.
        tokens: texts by position, sink token first.
        prompt_tokens: length of the prompt part.
        columns: panels side by side.
    """
    known = set(frame["method"])
    shown = [method for method in chosen if method in known]
    rows = -(-len(shown) // columns)
    figure = make_subplots(rows, columns, shared_xaxes=True, shared_yaxes=True, horizontal_spacing=0.02,
                           vertical_spacing=min(0.09, 0.3 / max(rows, 1)),
                           subplot_titles=[_panel_title(frame, facts, method, measure) for method in shown])
    for place, method in enumerate(shown):
        rows_of: Any = frame[frame["method"] == method]
        pivot: Any = rows_of.pivot_table(index="layer", columns="position", values=measure)
        words = [escaped(tokens[int(position)]) for position in pivot.columns]
        where: dict[str, Any] = {"row": place // columns + 1, "col": place % columns + 1}
        figure.add_trace(go.Heatmap(
            z=pivot.to_numpy(np.float32), x=pivot.columns.to_numpy(), y=pivot.index.to_numpy(), coloraxis="coloraxis",
            customdata=np.broadcast_to(np.asarray(words), pivot.shape),
            hovertemplate=f"layer %{{y}}, position %{{x}} %{{customdata}}<br>{MEASURE_TITLES[measure]} %{{z:.3f}}<extra></extra>"),
            **where)
        figure.add_vline(x=prompt_tokens - 0.5, line={"width": 1, "dash": "dash", "color": "#ffffff"}, **where)
    layout(figure, height=90 + 140 * rows, x_title="", y_title="")
    figure.update_yaxes(title_text="layer", title_standoff=4, col=1)
    for column in range(1, columns + 1):
        figure.update_xaxes(title_text="position", title_standoff=4, row=rows, col=column)
    bar = {"title": {"text": MEASURE_TITLES[measure], "side": "right"}, "thickness": 10}
    figure.update_layout(coloraxis={"colorscale": MAGNITUDE, "cmin": 0, "cmax": 1, "colorbar": bar}, margin={"t": 30})
    figure.update_annotations(font_size=12)
    return figure


def _panel_title(frame: Any, facts: Facts, method: str, measure: str) -> str:
    mean = float(frame.loc[frame["method"] == method, measure].mean())
    return f"{str(facts[method]['title']).split(' (')[0]}: {mean:.2f}"
