"""One neuron along one prompt."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from moyu_core.figures.style import ACTIVE, INACTIVE, layout
from moyu_core.figures.text import escaped


def along_prompt(values: np.ndarray | None, active: np.ndarray, tokens: list[str], selected: int | None) -> go.Figure:
    """Bars of a neuron's activation by position, filled where it belongs to the active set, hollow elsewhere.

    Args:
        values: (T,) activations, or None where the run keeps none (bars then show membership alone).
        active: (T,) booleans.
        tokens: T texts.
        selected: position that is marked, or None.
    """
    heights = active.astype(float) if values is None else np.asarray(values, float)
    figure = go.Figure(
        go.Bar(
            x=np.arange(len(tokens)),
            y=heights,
            marker={
                "color": np.where(active, ACTIVE, "rgba(0,0,0,0)"),
                "line": {"color": np.where(active, ACTIVE, INACTIVE), "width": 1},
            },
            text=[escaped(token) for token in tokens],
            textposition="none",
            customdata=np.where(active, "active", "not active"),
            hovertemplate="%{x} %{text}<br>%{y:.3g}, %{customdata}<extra></extra>",
        )
    )
    if selected is not None:
        figure.add_vline(x=selected, line={"width": 1, "dash": "dot", "color": INACTIVE})
    layout(figure, height=180, x_title="position", y_title="in the active set" if values is None else "a")
    if values is None:
        figure.update_yaxes(tickvals=[0, 1], ticktext=["no", "yes"], range=[0, 1.05])
    return figure
