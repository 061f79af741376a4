"""Claims side by side: each effect with its interval, in units of the smallest effect that matters to it."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from moyu_core.claims import NOT_APPLICABLE, NOT_RESOLVED, NOT_SUPPORTED, SUPPORTED, Claim
from moyu_core.figures.style import ACCENT, INACTIVE, layout

SYMBOLS = {SUPPORTED: "circle", NOT_SUPPORTED: "x", NOT_RESOLVED: "circle-open", NOT_APPLICABLE: "line-ns-open"}
"""One shape a verdict, so that it can be read without colour."""
LIMIT = 20.0
"""Effects beyond so many smallest effects are drawn at the border, with an arrow; their figure stands in the table."""


def forest(claims: Sequence[Claim]) -> go.Figure:
    """A forest plot of the claims that have an interval and a smallest effect above rounding."""
    figure = go.Figure()
    shown = [claim for claim in claims if claim.effect.known and claim.smallest_effect > 1e-9][::-1]
    for claim in shown:
        figure.add_trace(_row(claim))
    layout(figure, height=90 + 34 * len(shown), x_title="effect / smallest effect that matters", y_title="")
    figure.add_vline(x=1, line={"dash": "dash", "width": 1, "color": INACTIVE})
    figure.add_vline(x=0, line={"width": 1, "color": INACTIVE})
    return figure


def _row(claim: Claim) -> go.Scatter:
    mean, low, high = (value / claim.smallest_effect for value in (claim.effect.mean, claim.effect.low, claim.effect.high))
    at = min(max(mean, -LIMIT), LIMIT)
    outside = at != mean
    return go.Scatter(
        x=[at],
        y=[f"{claim.name} · {claim.model}"],
        error_x=None if outside else {"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low]},
        mode="markers",
        marker={"symbol": "triangle-right" if outside else SYMBOLS[claim.verdict], "size": 11,
                "color": INACTIVE if claim.verdict == NOT_APPLICABLE else ACCENT},
        hovertemplate=f"{claim.endpoint}<br>{claim.effect.text(3)}, {claim.units}<br><b>{claim.verdict}</b><extra></extra>",
    )
