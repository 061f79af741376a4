"""Where a run is seen: the page, the part of it and the other choices of the link that show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.ui import cached, links, state, trinity_cached
from app.ui.places import PLACES
from moyu_core.queries import trinity
from moyu_core.store import Run


def place(run: Run) -> tuple[str, dict[str, Any]] | None:
    """Page and what its link holds to show the run; None where no page can."""
    beside = _beside(run)
    if beside is None or run.spec.study not in PLACES:
        return None
    page, key, part = PLACES[run.spec.study]
    return page, {**beside, **({key: run.id} if key else {}), **({"part": part} if part else {})}


def _beside(run: Run) -> Mapping[str, Any] | None:
    """What else has to be chosen for the run to be seen; None where there is nothing of that kind."""
    study = run.spec.study
    if study == "live":  # chosen by what it was asked for
        return {f"live_{name}": run.spec.parameters[name] for name in ("activation", "width", "seed")}
    if study == "speed":  # beside the quality of the same weights
        beside = (quality for quality in trinity_cached.runs() if run.id in [one.id for one in trinity_cached.speed_runs(quality)])
        return next(({"trinity_run": quality.id} for quality in beside), None)
    if study == "families":  # the page shows the newest
        shown = trinity_cached.families_run()
        return {} if trinity_cached.runs() and shown is not None and shown.id == run.id else None
    if study == "vocabulary":  # promoted tokens stand beside the neurons of the map
        captured = trinity.matching(state.activation_runs(), run.spec.model.weights, "capture")
        return {"run": captured[0].id} if captured else None
    return {}


def button(run: Run) -> str:
    """What a button says that shows the run; empty where no page can."""
    found = place(run)
    return "" if found is None else "Open map" if found[0] == "map" else "Open"


def show(run_id: str) -> None:
    """Callback: choose a run and go to the page that shows it, which `state.follow` does: a callback cannot change pages."""
    found = place(cached.find_run(run_id)) if cached.exists(run_id) else None
    if found is None:
        st.toast(f"{run_id}, or what it is shown beside, was deleted meanwhile.")
        return
    page, choices = found
    for other in ("prompt", "layer", "neuron", "part"):
        st.session_state.pop(other, None)
    links.forget()
    for key, value in choices.items():
        state.go_to(key, value)
    st.session_state["_go"] = page
