"""The layer sweep: one statistic of one prompt over all layers and tokens; also the picker of the layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from moyu_core.figures.style import ACCENT, HEATMAP_ROW, MAGNITUDE, layout
from moyu_core.figures.text import escaped

MARGIN = {"l": 56, "r": 96, "t": 8, "b": 92}
"""Pixels around the heat map; fixed, so that the page knows where its rows are."""


@dataclass(frozen=True)
class Statistic:
    """How a statistic is called and read. `unit` "" = a share."""

    label: str
    unit: str
    meaning: str

    @property
    def axis(self) -> str:
        """Label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


STATISTICS = {
    "density": Statistic("density", "", "share of neurons in the active set, |A| / F"),
    "l2_norm": Statistic("L2 norm", "activation", "length of the activation vector"),
    "abs_max": Statistic("largest |a|", "activation", "the strongest neuron"),
    "effective_neurons": Statistic("effective neurons", "neurons", "exp of the entropy of a\u00b2/\u03a3a\u00b2"),
    "zero_share": Statistic("exact zeros", "", "share of neurons that are exactly 0"),
    "cett": Statistic("CETT", "", "norm of what the inactive neurons would have added / norm of the FFN output"),
}


def layer_sweep(frame: pd.DataFrame, statistic: str, tokens: list[str]) -> go.Figure:
    """Heat map of layers (rows) by positions (columns), with an invisible point on every cell that can be clicked.

    Args:
        frame: rows = layers, columns = positions, from `query.sweep`.
        statistic: key of `STATISTICS`.
        tokens: text by position.
    """
    about = STATISTICS[statistic]
    positions, layers = frame.columns.to_numpy(), frame.index.tolist()
    values = frame.to_numpy(np.float32)
    behind_sink = values[:, positions > 0]
    low, high = _range(behind_sink)
    text = np.array([escaped(tokens[position]) for position in positions])
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=positions,
            y=frame.index,
            colorscale=MAGNITUDE,
            zmin=low,
            zmax=high,
            hoverinfo="skip",
            colorbar={"title": {"text": about.axis, "side": "right"}, "thickness": 10, "len": 1.0},
        )
    )
    figure.add_trace(_targets(frame, values, text, about))
    layout(figure, height=_height(len(frame)), x_title="position (token)", y_title="layer")
    figure.update_layout(margin={**MARGIN, "autoexpand": False})
    step = max(1, len(positions) // 16)
    figure.update_xaxes(
        tickvals=positions[::step],
        ticktext=text[::step],
        tickangle=-45,
        showgrid=False,
        automargin=False,
        range=[positions.min() - 0.5, positions.max() + 0.5],
    )
    figure.update_yaxes(showgrid=False, automargin=False, range=[min(layers) - 0.5, max(layers) + 0.5])
    return figure


def frame_style(layers: list[int], selected: int, selector: str) -> str:
    """CSS that frames one layer's row of the heat map inside the element `selector`.

    The frame lies over the figure and is no part of it: a new layer then redraws nothing, where a redrawn figure held the
    whole page up for 0.2 s.
    """
    rows = max(layers) - min(layers) + 1
    row = (_height(len(layers)) - MARGIN["t"] - MARGIN["b"]) / rows
    top = MARGIN["t"] + (max(layers) - selected) * row
    place = f"top:{top:.1f}px;height:{row:.1f}px;left:{MARGIN['l']}px;right:{MARGIN['r']}px"
    return (
        f"<style>{selector} [data-testid=stPlotlyChart]{{position:relative}}"
        f'{selector} [data-testid=stPlotlyChart]::after{{content:"";position:absolute;pointer-events:none;{place};'
        f"outline:2px solid {ACCENT};box-shadow:0 0 0 4px rgb(255,255,255)}}</style>"
    )


def _height(layers: int) -> int:
    """Pixels of the whole figure."""
    return MARGIN["t"] + MARGIN["b"] + max(160, HEATMAP_ROW * layers)


def _targets(frame: pd.DataFrame, values: np.ndarray, text: np.ndarray, about: Statistic) -> go.Scatter:
    """Transparent squares: heat maps report no clicks to the page, points do."""
    layers, positions = np.meshgrid(frame.index.to_numpy(), frame.columns.to_numpy(), indexing="ij")
    return go.Scatter(
        x=positions.ravel(),
        y=layers.ravel(),
        mode="markers",
        marker={"opacity": 0, "size": 9, "symbol": "square"},
        customdata=np.column_stack([layers.ravel(), values.ravel()]),
        text=np.tile(text, len(frame)),
        hovertemplate="layer %{customdata[0]}<br>%{x} %{text}<br>" + about.label + " %{customdata[1]:.3g}<extra></extra>",
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    """Colour limits without the sink token, whose norms are hundreds of times larger than all others."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(np.quantile(finite, 0.995))
    return (low, high) if high > low else (low, low + 1e-6 + abs(low) * 0.01)
