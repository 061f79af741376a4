"""Figures of the page History: shares by layer, kinds and lengths, transplants, predictors, drift. Numbers in, figures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from moyu_core.figures.inertia import line
from moyu_core.figures.style import ACTIVE, INACTIVE, MAGNITUDE, drawn
from moyu_core.schema.history import CONTROLS, KINDS, OWN_KIND, SOURCES

ORANGE, GREEN, PURPLE = "#d9822b", "#3a9d6e", "#8a6bb8"
KIND_NAMES = {name: name.replace("_", " ") for name in (*CONTROLS, *KINDS)} | {
    "other_language": "another language",
    OWN_KIND: "own histories",
}
"""Kinds of history in words; own kinds that have a name are called as the user called them."""
STYLES: dict[str, tuple[str, str, str, str]] = {
    "uncertainty": ("U, uncertainty", ACTIVE, "solid", "circle"),
    "history_share": ("history share", ORANGE, "dash", "square"),
    "interaction": ("interaction", INACTIVE, "dot", "diamond"),
    "uncertainty_energy": ("U, energy-weighted", GREEN, "dash", "square"),
    "uncertainty_entropy": ("U by entropy", PURPLE, "dot", "diamond"),
    "variance_token": ("token", ACTIVE, "solid", "circle"),
    "variance_history": ("history", ORANGE, "dash", "square"),
    "variance_interaction": ("interaction", INACTIVE, "dot", "diamond"),
}
"""measure -> name, colour, dash, marker: each differs in more than colour."""
UNIT = (-0.05, 1.05)
"""Axis of shares, the same for every model so that columns can be compared; unbiased shares may fall below 0."""
SMALLEST_NATS = 1e-3
"""Where the logarithmic axis of transplants ends; what is smaller is drawn there and told in full on hover."""
BRIGHT = 0.5
"""Where on the colour scale black begins to stand out more than white."""
DENSITY_STYLES = ((ACTIVE, "circle"), (GREEN, "square"), (PURPLE, "diamond"))


def kind_name(kind: str) -> str:
    """A kind of history in words."""
    return KIND_NAMES.get(kind, kind)


def shares(frames: dict[str, pd.DataFrame], y_title: str) -> go.Figure:
    """Measures by layer, each with its simultaneous band; frames of `queries.history.by_layer` by measure."""
    traces = [trace for measure, rows in frames.items() for trace in line(rows, "layer", "value", *STYLES[measure])]
    return drawn(traces, height=320, x_title="layer", y_title=y_title, y={"range": UNIT}, named=True)


def kinds_and_lengths(rows: pd.DataFrame, kinds: Sequence[str], label: str) -> go.Figure:
    """Heat map of one measure, mean over layers: kinds of history by number of tokens, the number written in each field.

    Args:
        rows: kind, length, value, low, high.
        kinds: rows of the map, from the top.
        label: name of the measure.
    """
    lengths = sorted(rows["length"].unique())
    table, low, high = (
        rows.pivot(index="kind", columns="length", values=c).reindex(index=list(kinds), columns=lengths).to_numpy(float)
        for c in ("value", "low", "high")
    )
    heat = go.Heatmap(
        z=table,
        x=[str(length) for length in lengths],
        y=[kind_name(kind) for kind in kinds],
        colorscale=MAGNITUDE,
        zmin=0,
        zmax=1,
        customdata=np.dstack([low, high]),
        hoverongaps=False,
        hovertemplate="%{y}, %{x} tokens<br>" + label + " %{z:.3f}<br>from %{customdata[0]:.3f} to %{customdata[1]:.3f}"
        "<extra></extra>",
        colorbar={"title": {"text": label, "side": "right"}, "thickness": 10},
    )
    columns, names = np.meshgrid([str(length) for length in lengths], [kind_name(kind) for kind in kinds])
    known = ~np.isnan(table)
    numbers = go.Scatter(
        x=columns[known],
        y=names[known],
        mode="text",
        text=[f"{value:.2f}" for value in table[known]],
        textfont={"color": np.where(table[known] < BRIGHT, "white", "black")},
        hoverinfo="skip",
    )
    x, y = {"type": "category"}, {"autorange": "reversed"}
    return drawn([heat, numbers], height=80 + 38 * len(kinds), x_title="history tokens", y_title="", x=x, y=y)


def ladder(rows: pd.DataFrame, largest: float) -> go.Figure:
    """What each source of a set costs, on a logarithmic axis up to `largest` nats; one marker a density, with intervals."""
    traces = []
    for (density, part), (colour, symbol) in zip(rows.groupby("density"), DENSITY_STYLES, strict=False):
        mean, low, high = (np.maximum(part[name].to_numpy(float), SMALLEST_NATS) for name in ("mean", "low", "high"))
        traces.append(
            go.Scatter(
                x=mean,
                y=[SOURCES[source] for source in part["source"]],
                mode="markers",
                name=f"density {density:g}",
                marker={"color": colour, "symbol": symbol, "size": 10},
                error_x={
                    "type": "data",
                    "array": high - mean,
                    "arrayminus": mean - low,
                    "thickness": 1.5,
                },
                customdata=part[["mean", "low", "high"]],
                hovertemplate="%{y}<br>%{customdata[0]:.3g} nats<br>95 %: %{customdata[1]:.3g} to "
                "%{customdata[2]:.3g}<extra>density " + f"{density:g}</extra>",
            )
        )
    x = {"type": "log", "dtick": 1, "range": [np.log10(SMALLEST_NATS) - 0.1, np.log10(largest) + 0.1]}
    y = {"categoryorder": "array", "categoryarray": list(SOURCES.values())[::-1]}
    return drawn(traces, height=380, x_title="KL(dense || masked) (nats)", y_title="", x=x, y=y, named=True)


def predictor(rows: pd.DataFrame, chance: pd.DataFrame, y_title: str, largest: float) -> go.Figure:
    """A measure against the number of training domains, seen and unseen, with t intervals over seeds; chance recall dotted.

    Args:
        rows, chance: of `queries.history.predictor`.
        y_title: name of the measure.
        largest: end of its axis.
    """
    traces = []
    for seen, name, colour, dash, marker in (
        (True, "domains it has seen", ACTIVE, "solid", "circle"),
        (False, "domains it has not", ORANGE, "dash", "square"),
    ):
        traces += line(rows.loc[rows["seen"] == seen], "trained_on", "value", name, colour, dash, marker)
        if not chance.empty:
            base = chance.loc[chance["seen"] == seen]
            traces.append(
                go.Scatter(
                    x=base["trained_on"],
                    y=base["value"],
                    mode="lines",
                    name=f"chance, {name}",
                    line={"color": colour, "dash": "dot", "width": 1},
                    hovertemplate="chance %{y:.3f}<extra></extra>",
                )
            )
    numbers = sorted(rows["trained_on"].unique())
    x = {"type": "log", "tickvals": numbers, "ticktext": [str(k) for k in numbers]}
    title = "domains trained on, at equal total tokens"
    return drawn(traces, height=340, x_title=title, y_title=y_title, x=x, y={"range": [0, largest]}, named=True)


def along_text(frames: dict[str, pd.DataFrame]) -> go.Figure:
    """Cancellation up to each position, by quantity; chance for signs drawn at random is dotted."""
    styles = {"increment": ("a · dL/da", ACTIVE, "solid", "circle"), "literal": ("|V| · dL/da", ORANGE, "dash", "square")}
    traces = [trace for name, rows in frames.items() for trace in line(rows, "position", "value", *styles[name])]
    positions = next(iter(frames.values()))["position"].to_numpy(float)
    chance = go.Scatter(
        x=positions,
        y=1 / np.sqrt(positions),
        mode="lines",
        name="1 / √n",
        line={"color": INACTIVE, "dash": "dot"},
        hoverinfo="skip",
    )
    x = {"type": "log", "tickvals": positions, "ticktext": [f"{p:.0f}" for p in positions]}
    y_title = "|sum| / sum of |·| (1 = one sign)"
    return drawn([*traces, chance], height=320, x_title="positions so far", y_title=y_title, x=x, y={"range": [0, 1]}, named=True)


def two_lines(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str], y_title: str) -> go.Figure:
    """Two shares by layer with their bands, or one where the other has no rows; columns layer, value, low, high."""
    styles = ((first, names[0], ACTIVE, "solid", "circle"), (second, names[1], ORANGE, "dash", "square"))
    traces = [trace for rows, *style in styles if not rows.empty for trace in line(rows, "layer", "value", *style)]
    return drawn(traces, height=320, x_title="layer", y_title=y_title, y={"range": UNIT}, named=True)
