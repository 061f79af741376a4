"""Two prompts, two runs or two models side by side, with the signed difference where the neurons are the same ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app.components.neuron_map import neuron_map
from app.ui import cached, exports, pictures, state
from app.ui.links import boolean, linked
from app.ui.pictures import Place
from app.ui.state import Selection
from moyu_core import sets
from moyu_core.export.view import Canvas
from moyu_core.figures.text import percent, visible
from moyu_core.query import Slice
from moyu_core.store import Run


def draw(selection: Selection, show: str) -> None:
    """Draw the comparison; nothing is read while it is closed."""
    st.subheader("Side by side", divider="gray")
    boxes = []

    def draw_box() -> bool:
        boxes.append(st.expander("Compare with another prompt, run or model", key="compare", on_change="rerun"))
        return bool(boxes[0].open)

    if linked("compare", False, draw_box, decode=boolean):
        with boxes[0]:
            _open(selection, show)


def _open(selection: Selection, show: str) -> None:
    runs = {run.id: run for run in state.activation_runs()}
    left, right = st.columns(2)
    with left:
        run_ids = [selection.run.id, *(run_id for run_id in runs if run_id != selection.run.id)]
        other = runs[
            linked(
                "other_run",
                selection.run.id,
                lambda: st.selectbox(
                    "Other run", run_ids, format_func=lambda run_id: state.run_label(runs[run_id]), key="other_run"
                ),
                options=run_ids,
            )
        ]
    table = cached.prompts(other.id)
    labels = {state.prompt_key(row["condition"], row["prompt_id"]): row for row in table.to_dict("records")}
    same = state.prompt_key(selection.condition, selection.prompt_id)
    options = list(labels)
    start = options.index(same) if same in labels and other.id != selection.run.id else min(1, len(options) - 1)
    with right:
        row = labels[
            linked(
                "other_prompt",
                options[start],
                lambda: st.selectbox("Other prompt", options, key="other_prompt"),
                options=options,
            )
        ]
    layer = min(other.manifest["layers"], key=lambda candidate: abs(candidate - selection.layer))
    if layer != selection.layer:
        st.caption(f"The other run has no layer {selection.layer}; its nearest, {layer}, is shown.")
    first = selection.place
    second = (other.id, row["prompt_id"], row["condition"], layer)
    _maps(first, second, show)
    _difference(selection.run, other, first, second)


def _maps(first: Place, second: Place, show: str) -> None:
    """Both maps on one scale of meaning: as sets where either lacks values."""
    runs = [cached.find_run(place[0]) for place in (first, second)]
    group = "compare" if len({run.manifest["model"]["n_neurons"] for run in runs}) == 1 else ""
    bare = [place for place in (first, second) if cached.piece(*place).codes is None]
    shown = "set" if bare else show
    for column, place, run, name in zip(st.columns(2, gap="small"), (first, second), runs, ("first", "second"), strict=True):
        caption = f"{run.manifest['model']['name']}, run {run.id}, {run.spec.set_rule.label()}"
        with column:
            payload = pictures.map_bytes(place, None, shown, "index", "l2_norm", (), caption, group)
            neuron_map(payload, key=f"compare-{name}", height=420)
            exports.offer(f"Side by side, {name}: {place[1]}, layer {place[3]}", canvas=Canvas(f"compare-{name}", payload))
    if shown != show:
        st.caption(f"Shown as active sets: {bare[0][1]} was captured without values.")


def _drawn_difference(payload: bytes, name: str, height: int) -> None:
    """The map of a difference, offered for download."""
    neuron_map(payload, key="compare-difference", height=height)
    exports.offer(f"{name}, second - first", canvas=Canvas("compare-difference", payload))


def _difference(run: Run, other: Run, first: Place, second: Place) -> None:
    if run.spec.model.weights != other.spec.model.weights:
        st.caption(
            "These are different models: neuron 7 of one has nothing to do with neuron 7 of the other, so no difference is "
            "drawn. Compare densities, norms and overlaps instead."
        )
        return
    a, b = (cached.piece(*place) for place in (first, second))
    sources = ", ".join(dict.fromkeys(f"run {each.id}, {each.spec.set_rule.label()}" for each in (run, other)))
    caption = f"{first[1]} (first) and {second[1]} (second), layer {first[3]}, {sources}"
    same_tokens = a.frame["token_id"].tolist() == b.frame["token_id"].tolist()
    if same_tokens and a.codes is not None and b.codes is not None and first != second:
        st.markdown("**Signed difference of the activations**, second - first, token by token")
        _drawn_difference(pictures.difference_bytes(first, second, caption, "compare"), "Difference of the activations", 420)
        return
    st.markdown("**Signed difference of the firing rates**, second - first")
    _drawn_difference(pictures.rate_difference_bytes(first, second, caption, "compare"), "Difference of the rates", 320)
    _table(a, b)


def _table(a: Slice, b: Slice) -> None:
    """The neurons whose rates differ most."""
    rates = [sets.rates(piece.active[~piece.frame["is_sink"].to_numpy()], piece.n_neurons) for piece in (a, b)]
    difference = rates[1] - rates[0]
    order = np.argsort(-np.abs(difference))[:12]
    st.dataframe(
        pd.DataFrame(
            {
                "neuron": order,
                "rate, first": [percent(share) for share in rates[0][order].tolist()],
                "rate, second": [percent(share) for share in rates[1][order].tolist()],
                "difference": [percent(share) for share in difference[order].tolist()],
            }
        ),
        hide_index=True,
        alt="Neurons whose rates differ most between the two prompts",
    )
    first, last = visible(str(a.frame["token"].iloc[-1])), visible(str(b.frame["token"].iloc[-1]))
    overlap = float(sets.overlap(a.active[-1], b.active[-1]))
    st.caption(
        f"How to read this: red neurons fire more often in the second prompt, blue ones in the first. The sets of the two last "
        f"tokens ({first}, {last}) overlap by {percent(overlap)}."
    )
