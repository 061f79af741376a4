"""Figures of the page Inertia: carrier, set transplants, topic switch, what explains overlap, heavy hitters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from moyu_core.figures.inertia import COLOURS, CONTENTS, MARKERS, legend, line, where
from moyu_core.figures.style import INACTIVE, layout

CONTINUATIONS = {"true": "the text goes on", "unrelated": "unrelated sentence", "random_words": "random words"}
CONTINUATION_COLOURS = {"true": "#3f78c4", "unrelated": "#d9822b", "random_words": "#3a9d6e"}
SOURCES = {"own": "own set", "prefix": "prefix (GRIFFIN)", "static": "static (other topics)", "random": "random"}
TERMS = {
    "same_token": "same token",
    "similarity": "semantic similarity",
    "same_sequence": "same sequence",
    "distance": "log distance, within",
}
TERM_COLOURS = {"same_token": "#3f78c4", "similarity": "#d9822b", "same_sequence": "#3a9d6e", "distance": "#8a6bb8"}
_WIDTH = 0.2


def carrier_curves(rows: pd.DataFrame) -> go.Figure:
    """Overlap with the prefix's set by word after the join: own prefix solid, other topics' prefixes dotted."""
    figure = go.Figure()
    for name, label in CONTINUATIONS.items():
        for prefix, dash in (("own", "solid"), ("other", "dot")):
            part = where(rows, continuation=name, prefix=prefix).sort_values("word")
            title = label if prefix == "own" else f"{label}, other prefixes"
            for trace in line(part, "word", "overlap", title, CONTINUATION_COLOURS[name], dash):
                figure.add_trace(trace)
    return legend(layout(figure, height=400, x_title="word after the join", y_title="overlap with the prefix's GRIFFIN set"))


def kl_ladder(rows: pd.DataFrame, density: float) -> go.Figure:
    """KL of the set transplants at one density: a point with interval for each source and continuation."""
    figure = go.Figure()
    chosen = rows.loc[np.isclose(rows["density"].to_numpy(), density)]
    for number, (name, label) in enumerate(CONTINUATIONS.items()):
        part = where(chosen, continuation=name).set_index("source").reindex(list(SOURCES))
        low, high = part["mean"] - part["low"], part["high"] - part["mean"]
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(SOURCES)) + (number - 1) * _WIDTH,
                y=part["mean"],
                name=label,
                mode="markers",
                marker={"color": CONTINUATION_COLOURS[name], "size": 9, "symbol": ("circle", "square", "diamond")[number]},
                error_y={"type": "data", "array": high, "arrayminus": low, "thickness": 1.5},
                hovertemplate=f"{label}: %{{y:.3f}} nats<extra></extra>",
            )
        )
    legend(layout(figure, height=380, x_title="where the set comes from", y_title="KL(dense || masked) (nats)"))
    figure.update_xaxes(tickvals=list(range(len(SOURCES))), ticktext=list(SOURCES.values()))
    figure.update_yaxes(rangemode="tozero")
    return figure


def switch_curves(rows: pd.DataFrame) -> go.Figure:
    """Overlap with the topic's set by word after the switch, with and without a switch, and with the old topic's set."""
    figure = go.Figure()
    styles = {
        ("other", "new"): ("after a switch", "#d9822b", "solid"),
        ("same", "new"): ("no switch, same words", "#3f78c4", "dash"),
        ("other", "old"): ("after a switch, old topic's set", "#777777", "dot"),
    }
    for (before, target), (name, colour, dash) in styles.items():
        part = where(rows, before=before, target=target).sort_values("word")
        for trace in line(part, "word", "overlap", name, colour, dash):
            figure.add_trace(trace)
    return legend(layout(figure, height=400, x_title="word after the switch", y_title="overlap with the topic's GRIFFIN set"))


def coefficients(rows: pd.DataFrame) -> go.Figure:
    """Coefficient plot: one row a term, one marker a content, with intervals where there are some."""
    figure = go.Figure()
    terms = list(TERMS)
    for number, content in enumerate([content for content in CONTENTS if content in set(rows["content"])]):
        part = where(rows, content=content).set_index("term").reindex(terms)
        figure.add_trace(
            go.Scatter(
                x=part["coefficient"],
                y=np.arange(len(terms)) + (number - 0.5) * _WIDTH,
                name=CONTENTS[content],
                mode="markers",
                marker={"color": COLOURS[content], "symbol": MARKERS[content], "size": 9},
                error_x={
                    "type": "data",
                    "array": part["high"] - part["coefficient"],
                    "arrayminus": part["coefficient"] - part["low"],
                    "thickness": 1.5,
                },
                hovertemplate="%{x:.4f}<extra></extra>",
            )
        )
    figure.add_vline(x=0, line={"width": 1, "color": INACTIVE})
    legend(layout(figure, height=320, x_title="change of overlap for one unit of the term", y_title=""))
    figure.update_yaxes(tickvals=list(range(len(terms))), ticktext=list(TERMS.values()), autorange="reversed")
    return figure


def shapley_shares(rows: pd.DataFrame, content: str) -> go.Figure:
    """Shapley shares of R^2 by layer, stacked, so that their sum is R^2."""
    figure = go.Figure()
    chosen = where(rows, content=content).dropna(subset=["layer"])
    for term, label in TERMS.items():
        part = where(chosen, term=term)
        figure.add_trace(
            go.Bar(
                x=part["layer"],
                y=part["share"],
                name=label,
                marker={"color": TERM_COLOURS[term]},
                hovertemplate=f"{label}: %{{y:.3f}}<extra></extra>",
            )
        )
    figure.update_layout(barmode="relative", bargap=0.15)
    return legend(layout(figure, height=320, x_title="layer", y_title="share of R²"))


def flocking_blocked(rows: pd.DataFrame) -> go.Figure:
    """W - X of sentences by layer, attention whole and with positions blocked."""
    figure = go.Figure()
    styles = {
        "none": ("nothing blocked", "#777777", "solid"),
        "heavy": ("heavy hitters blocked", "#d9822b", "dash"),
        "matched": ("matched positions blocked", "#3f78c4", "dot"),
    }
    for what, (name, colour, dash) in styles.items():
        part = where(rows, blocked=what)
        figure.add_trace(
            go.Scatter(
                x=part["layer"],
                y=part["within"] - part["across"],
                name=name,
                mode="lines",
                line={"color": colour, "dash": dash, "width": 2},
            )
        )
    figure.add_hline(y=0, line={"width": 1, "color": INACTIVE})
    return legend(layout(figure, height=340, x_title="layer", y_title="W - X, in sequence"))
