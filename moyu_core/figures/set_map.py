"""The active sets of a prompt as an ordinary heat map, for reports and notebooks; the page draws them on a canvas of its own."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from moyu_core.figures.style import ACTIVE, layout
from moyu_core.figures.text import escaped


def set_map(mask: np.ndarray, tokens: list[str]) -> go.Figure:
    """Rows are tokens, columns are neurons; a filled cell is an active neuron.

    Args:
        mask: (T, F) booleans.
        tokens: T texts.
    """
    figure = go.Figure(
        go.Heatmap(
            z=mask.astype(np.uint8),
            colorscale=[[0, "rgb(243,245,248)"], [1, ACTIVE]],
            zmin=0,
            zmax=1,
            showscale=False,
            hovertemplate="position %{y}, neuron %{x}: %{z}<extra></extra>",
        )
    )
    layout(figure, height=max(240, 120 + 14 * len(tokens)), x_title="neuron", y_title="position (token)")
    figure.update_yaxes(
        autorange="reversed",
        tickvals=list(range(len(tokens))),
        ticktext=[f"{place} {escaped(token)}" for place, token in enumerate(tokens)],
    )
    return figure
