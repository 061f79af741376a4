"""The four schemes, stepped: one drawing at a time, with the numbers of the chosen token and layer."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.components.stepped_drawing import stepped_drawing
from app.ui import predictors_cached
from app.ui.links import linked
from app.ui.predictors_place import Place
from moyu_core.figures import predictors_schemes as schemes
from moyu_core.figures import scheme_drawing
from moyu_core.queries import predictors as queries
from moyu_core.store import Run


def draw(run: Run, place: Place, position: int) -> None:
    """Which scheme, its drawing in steps, and how to read it."""
    facts = queries.methods(run)
    available = schemes.shown(list(facts))
    if not available:
        st.caption("None of the four schemes' methods is part of this run.")
        return
    method = str(
        linked(
            "pscheme",
            available[0],
            lambda: st.segmented_control(
                "Scheme", available, key="pscheme", required=True, format_func=lambda name: schemes.SCHEMES[name].split(":")[0]
            ),
            options=available,
        )
    )
    values = scheme_values(run, place, method, position, facts[method])
    st.markdown(f"**{schemes.SCHEMES[method]}**, here by {facts[method]['title']}")
    steps = schemes.scheme(values).steps
    stepped_drawing([schemes.svg(values, step) for step in range(len(steps))], steps, key="pdrawing")
    st.caption(
        "How to read this: rounded boxes are routers; what a step adds has a thick outline, what comes later is "
        "dashed. Numbers are "
        f"those of position {values.position} in layer {values.layer} of this prompt; at the last step all neurons are drawn in "
        f"{scheme_drawing.BINS} groups. Arrow keys step while the drawing has the focus."
    )


def scheme_values(run: Run, place: Place, method: str, position: int, facts: dict[str, Any]) -> schemes.SchemeValues:
    """The numbers of one token."""
    found = predictors_cached.overlay(run.id, place.prompt_id, place.condition, method, place.density, place.layer)
    row = min(max(position - 1, 0), len(found.tokens) - 1)
    tokens: Any = predictors_cached.by_token(run.id, place.prompt_id, place.condition, place.density)
    chosen = tokens[(tokens["method"] == method) & (tokens["layer"] == place.layer) & (tokens["position"] == row + 1)]
    recipe = (facts.get("part") or {}).get("recipe", {})
    model = run.manifest["model"]
    return schemes.SchemeValues(
        method,
        found.tokens[row],
        row + 1,
        place.layer,
        found.prompt_tokens,
        int(model["d_model"]),
        3 if model["gated"] else 2,
        found.needed[row],
        found.kept[row],
        float(chosen["energy"].iloc[0]),
        float(facts["cost"]["choosing_macs"]),
        int(recipe.get("rank", 0)),
        predictors_cached.experts(run.id, place.layer),
    )
