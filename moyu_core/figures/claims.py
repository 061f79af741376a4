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
ROW, LABEL = 46, 16
"""Pixels of a row, and how far above its mark its name stands: beside the marks, names would leave a phone no room for them."""


def forest(claims: Sequence[Claim]) -> go.Figure:
    """A forest plot of the claims that have an interval and a smallest effect above rounding."""
    figure = go.Figure()
    shown = [claim for claim in claims if claim.effect.known and claim.smallest_effect > 1e-9][::-1]
    for place, claim in enumerate(shown):
        figure.add_trace(_row(claim, place))
        figure.add_annotation(text=_name(claim), x=0, xref="paper", xanchor="left", y=place, yshift=LABEL, showarrow=False)
    layout(figure, height=100 + ROW * len(shown), x_title="effect / smallest that matters", y_title="")
    figure.update_layout(margin_l=8)
    figure.update_yaxes(range=[-0.5, len(shown) - 0.3], showticklabels=False, showgrid=False, zeroline=False)
    figure.add_vline(x=1, line={"dash": "dash", "width": 1, "color": INACTIVE})
    figure.add_vline(x=0, line={"width": 1, "color": INACTIVE})
    return figure


def _name(claim: Claim) -> str:
    return claim.name if claim.model in claim.name else f"{claim.name} \u00b7 {claim.model}"


def _row(claim: Claim, place: int) -> go.Scatter:
    mean, low, high = (value / claim.smallest_effect for value in (claim.effect.mean, claim.effect.low, claim.effect.high))
    at = min(max(mean, -LIMIT), LIMIT)
    color = INACTIVE if claim.verdict == NOT_APPLICABLE else ACCENT
    return go.Scatter(
        x=[at],
        y=[place],
        error_x=None if at != mean else {"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low]},
        mode="markers+text",
        text=["" if at == mean else "\u2192" if mean > 0 else "\u2190"],
        textposition="middle left" if mean > 0 else "middle right",
        textfont={"color": color},
        marker={"symbol": SYMBOLS[claim.verdict], "size": 11, "color": color},
        hovertemplate=f"{_name(claim)}<br>{claim.endpoint}<br>{claim.effect.text(3)}, {claim.units}<br>"
                      f"<b>{claim.verdict}</b><extra></extra>",
    )  # fmt: skip
