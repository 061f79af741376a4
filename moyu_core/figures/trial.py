"""Figures of the trial: KL against density, and the token table's lead over each rival by genre."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from moyu_core.figures.predictors import colour
from moyu_core.figures.style import ACCENT, INACTIVE, layout

SYMBOLS = {"oracle": "star", "token-table": "circle", "token-table-prompt": "hexagon", "static": "x", "griffin": "triangle-up",
           "tda": "diamond", "dejavu": "square", "random": "cross"}
"""One marker a method, so that lines can be told apart without colour."""
COLUMNS = 2
LEAST_DOCUMENTS = 3
"""Intervals over fewer do not decide how far an axis reaches."""


def curves(frame: Any, titles: Mapping[str, str], strong: tuple[str, ...]) -> go.Figure:
    """KL(dense || sparse) against the share of neurons kept, on a logarithmic scale, 95 % intervals over documents.

    Args:
        frame: of `queries.trial.curves`.
        titles: method -> name for people, in order.
        strong: methods drawn strongly.
    """
    figure = go.Figure()
    for method, title in titles.items():
        rows: Any = frame[frame["method"] == method].sort_values("kept")
        error = {"type": "data", "symmetric": False, "array": rows["high"] - rows["mean"], "thickness": 1, "width": 3,
                 "arrayminus": rows["mean"] - rows["low"].clip(lower=rows["mean"] * 1e-3)}
        figure.add_scatter(
            x=rows["kept"], y=rows["mean"], mode="lines+markers", name=title, error_y=error,
            opacity=1 if method in strong else 0.75, marker={"symbol": SYMBOLS.get(method, "cross"), "size": 9},
            line={"color": colour(method), "width": 3 if method in strong else 1.5},
            hovertemplate=f"{title}<br>kept %{{x:.3f}}<br>KL %{{y:.3f}} nats a token<extra></extra>")
    layout(figure, height=430, x_title="share of neurons kept", y_title="KL(dense ‖ sparse), nats a token")
    figure.update_yaxes(type="log", dtick=1)
    figure.update_xaxes(range=[0, min(1.03, float(frame["kept"].max()) + 0.08)])
    figure.update_layout(showlegend=True, legend={"orientation": "h", "yanchor": "top", "y": -0.28, "x": 0, "font": {"size": 11}})
    return figure


def lead(frame: Any, titles: Mapping[str, str], smallest: float, whole: str) -> go.Figure:
    """The table's lead over each rival, in all genres together (filled) and in each (open): right of 0 the table is closer.

    Args:
        frame: of `queries.trial.gaps`.
        titles: method -> name for people.
        smallest: the smallest lead that matters, nats.
        whole: stands in the column `genre` where all of them are meant.
    """
    rivals, genres = list(dict.fromkeys(frame["rival"])), list(dict.fromkeys(frame["genre"]))
    rows = -(-len(rivals) // COLUMNS)
    figure = make_subplots(rows, COLUMNS, shared_yaxes=True, horizontal_spacing=0.04, vertical_spacing=0.24 / rows,
                           subplot_titles=[f"against {titles[rival].split(' (')[0]}" for rival in rivals])
    for number, rival in enumerate(rivals):
        where: dict[str, Any] = {"row": number // COLUMNS + 1, "col": number % COLUMNS + 1}
        own: Any = frame[frame["rival"] == rival].iloc[::-1]
        every = own["genre"] == whole
        figure.add_trace(go.Scatter(
            x=own["mean"], y=own["genre"], mode="markers", customdata=own["documents"],
            marker={"size": [11 if one else 8 for one in every], "color": colour(rival),
                    "symbol": ["circle" if one else "circle-open" for one in every]},
            error_x={"type": "data", "symmetric": False, "array": own["high"] - own["mean"], "thickness": 1.5, "width": 3,
                     "arrayminus": own["mean"] - own["low"]},
            hovertemplate="%{y}, %{customdata} documents<br>lead %{x:.3f} nats a token<extra></extra>"), **where)
        figure.update_xaxes(range=_range(own, smallest), **where)
        figure.add_vline(x=0, line={"width": 1, "color": INACTIVE}, **where)
        figure.add_vline(x=smallest, line={"width": 1, "dash": "dash", "color": ACCENT}, **where)
    layout(figure, height=60 + rows * (60 + 24 * len(genres)), x_title="", y_title="")
    for column in range(1, COLUMNS + 1):
        figure.update_xaxes(title_text="lead, nats a token", row=rows, col=column)
    figure.update_layout(margin={"t": 30})
    figure.update_annotations(font_size=12)
    return figure


def _range(rows: Any, smallest: float) -> list[float]:
    """The axis of one panel: all means, and all intervals over three documents or more; of two they would squeeze the others."""
    wide = rows[rows["documents"] >= LEAST_DOCUMENTS]
    ends = [*rows["mean"], *wide["low"].dropna(), *wide["high"].dropna(), 0.0, smallest]
    room = 0.05 * (max(ends) - min(ends))
    return [min(ends) - room, max(ends) + room]
