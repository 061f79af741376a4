"""One prompt in one layer, token by token: the map of hits, the chosen token under every method, and the schemes."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.components.neuron_map import MapSelection, neuron_map
from app.ui import cached, exports, predictors_cached, predictors_scheme, state
from app.ui.links import integer, linked
from app.ui.predictors_place import Place
from moyu_core.export.tables import overlay_table
from moyu_core.export.view import Canvas
from moyu_core.figures.text import percent, visible
from moyu_core.queries import predictors as queries
from moyu_core.store import Run


def draw(run: Run, place: Place) -> None:
    """The map, the chosen token, and the schemes with its numbers."""
    left, right = st.columns([17, 9], gap="medium")
    with left:
        pinned = _map(run, place)
    with right:
        position = _position(run, place, pinned)
        _panel(run, place, position, pinned)
    st.subheader("The four schemes, with this token's numbers", divider="gray")
    predictors_scheme.draw(run, place, position)


def _map(run: Run, place: Place) -> MapSelection:
    payload = predictors_cached.overlay_bytes(run.id, place.prompt_id, place.condition, place.main, place.density, place.layer)
    found = neuron_map(payload, key="pmap", height=560)
    how_to_read = (
        "How to read this: rows are tokens, columns neurons, those needed most often at the left. Solid: hit; cross: miss; "
        "hatched: false alarm. Where columns are too narrow for marks, zoom in (+), or go by lightness: a hit stands out most "
        "from the ground, a false alarm least. The bars are the token's recall. Reference: "
        f"{run.spec.set_rule.label()}."
    )
    st.caption(how_to_read)
    place_of = (run.id, place.prompt_id, place.condition, place.main, place.density, place.layer)
    exports.offer(
        f"Needed and kept neurons of {place.prompt_id}, layer {place.layer}, {place.main} at {percent(place.density)}",
        table=lambda: overlay_table(predictors_cached.overlay(*place_of)),
        how_to_read=how_to_read,
        notebook="from moyu_core.export.tables import overlay_table\nfrom moyu_core.queries import predictors\n"
        f"found = predictors.overlay(run, {place.prompt_id!r}, {place.main!r}, {place.density!r}, {place.layer}, "
        f"{place.condition!r})\ntable = overlay_table(found)\ntable",
        canvas=Canvas("pmap", payload),
    )
    return found


def _position(run: Run, place: Place, pinned: MapSelection) -> int:
    """The token that panel and diagrams are about: the pinned row, or the slider."""
    tokens = predictors_cached.token_texts(run.id, place.prompt_id, place.condition)
    table: Any = predictors_cached.prompts(run.id).set_index(["prompt_id", "condition"])
    start = int(table.at[(place.prompt_id, place.condition), "prompt_tokens"])
    default = min(start, len(tokens) - 1)
    if pinned.pins and pinned.pins[-1] != st.session_state.get("_ppin"):
        st.session_state["_ppin"] = pinned.pins[-1]
        st.session_state["ppos"] = pinned.pins[-1][0] + 1
    return int(
        linked(
            "ppos",
            default,
            lambda: st.slider("Token (position)", 1, len(tokens) - 1, key="ppos", help="A click on the map chooses it too."),
            decode=integer(1, len(tokens) - 1),
        )
    )


def _panel(run: Run, place: Place, position: int, pinned: MapSelection) -> None:
    """The chosen token under every method, and the way to a neuron."""
    texts = predictors_cached.token_texts(run.id, place.prompt_id, place.condition)
    st.markdown(f"**{visible(texts[position])}** at position {position}, layer {place.layer}")
    if place.some_chosen():
        _methods(run, place, position)
    prompt_tokens = int(
        predictors_cached.overlay(run.id, place.prompt_id, place.condition, place.main, place.density, place.layer).prompt_tokens
    )
    if position < prompt_tokens:
        st.caption("This token belongs to the prompt: frozen methods had not chosen yet; what is shown is what they chose later.")
    _neuron(run, place, pinned)


def _methods(run: Run, place: Place, position: int) -> None:
    """What each chosen method kept at the token."""
    frame: Any = predictors_cached.by_token(run.id, place.prompt_id, place.condition, place.density)
    rows = frame[(frame["layer"] == place.layer) & (frame["position"] == position)].set_index("method")
    facts = queries.methods(run)
    shown = [name for name in place.methods if name in rows.index]
    st.dataframe(
        pd.DataFrame(
            {
                "method": [facts[name]["title"].split(" (")[0] for name in shown],
                "hits": [int(rows.loc[name, "hits"]) for name in shown],
                "misses": [int(rows.loc[name, "needed"] - rows.loc[name, "hits"]) for name in shown],
                "extra": [int(rows.loc[name, "kept"] - rows.loc[name, "hits"]) for name in shown],
                "energy": [f"{rows.loc[name, 'energy']:.2f}" for name in shown],
            }
        ),
        hide_index=True,
        alt="The token under each method: hits, misses, false alarms (extra), captured energy",
        column_config={
            "method": st.column_config.Column(width=126),
            **{name: st.column_config.Column(width=44) for name in ("hits", "extra")},
            **{name: st.column_config.Column(width=52) for name in ("misses", "energy")},
        },
    )


def _neuron(run: Run, place: Place, pinned: MapSelection) -> None:
    if not pinned.pins:
        st.caption("Click a cell of the map to see its neuron.")
        return
    row, neuron = pinned.pins[-1]
    found = predictors_cached.overlay(run.id, place.prompt_id, place.condition, place.main, place.density, place.layer)
    word = predictors_cached.CATEGORIES[int(found.cells[row, neuron])].label
    st.markdown(f"Neuron **{neuron}**: {word}; needed by {percent(float(found.needed[:, neuron].mean()))} of this prompt's tokens.")
    capture = next(
        (
            other
            for other in state.activation_runs()
            if other.spec.model.weights == run.spec.model.weights and place.layer in other.manifest["layers"]
        ),
        None,
    )
    if capture is None or "map" not in state.PAGES:
        st.caption("Capture this prompt with this model to open the neuron on the map.")
        return
    known = cached.prompts(capture.id)["prompt_id"].tolist()
    query = {"run": capture.id, "layer": str(place.layer), "neuron": str(neuron)}
    query |= {"prompt": place.prompt_id} if place.prompt_id in known else {}
    st.page_link(state.PAGES["map"], label=f"Open neuron {neuron} on the activation map", query_params=query)
