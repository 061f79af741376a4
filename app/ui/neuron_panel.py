"""The panel of one neuron: along the prompt, over the run, what it writes, how often it fires, its mark."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app.ui import asking, cached, corpus_cached, marks
from app.ui.links import integer, linked
from app.ui.parts import chart
from app.ui.state import Selection
from moyu_core import query, sets
from moyu_core.errors import MoyuError
from moyu_core.figures.neuron import along_prompt
from moyu_core.figures.text import number, percent, visible


def draw(selection: Selection, active: np.ndarray) -> None:
    """Draw the panel. `active` is the (T, ceil(F/8)) packed sets that the map shows."""
    n_neurons = query.n_neurons(selection.run)
    neuron = linked(
        "neuron",
        None,
        lambda: st.number_input(
            "Neuron",
            0,
            n_neurons - 1,
            value=None,
            step=1,
            key="neuron",
            placeholder="click a cell, or type a number",
            help=f"0 to {n_neurons - 1}",
            persist_state="session",
        ),
        decode=integer(0, n_neurons - 1),
    )
    if neuron is None:
        st.caption(
            "Click a cell of the map to see its neuron here: its values along the prompt, the tokens that drive it over "
            "the whole run, and the tokens it writes for."
        )
        return
    neuron = int(neuron)
    piece = cached.piece(*selection.place)
    facts = cached.neurons(selection.run.id, selection.layer).loc[neuron]
    mask = sets.unpack(active, n_neurons)[:, neuron]
    sink = piece.frame["is_sink"].to_numpy()
    rate = float(mask[~sink].mean()) if (~sink).any() else float("nan")
    left, right = st.columns(2)
    left.metric("rate, this prompt", percent(rate), help="share of the tokens (sink left out) on which it is active")
    right.metric(
        "rate, whole run",
        percent(float(facts["rate"])),
        help=f"under {selection.run.spec.set_rule.label()}; column norm c = {number(float(facts['column_norm']))}",
    )
    values = piece.values[:, neuron] if piece.codes is not None else None
    chart(
        along_prompt(values, mask, piece.frame["token"].tolist(), st.session_state.get("_pinned_row")),
        alt=f"Neuron {neuron} of layer {selection.layer} along the prompt",
        key=f"neuron-{selection.scope}-{neuron}",
        how_to_read="How to read this: filled bars = active, hollow = not.",
    )
    _top_tokens(selection, neuron)
    _vocabulary(selection, neuron)
    _mark(selection.layer, neuron)


def _top_tokens(selection: Selection, neuron: int) -> None:
    source = corpus_cached.source_of_tokens(selection.run, selection.layer)
    hits = cached.top_tokens(source.id, selection.layer, neuron)
    tokens = f"{source.manifest['counts']['tokens']:,} tokens"
    st.markdown("**Strongest tokens of the run**" if source is selection.run else f"**Strongest tokens of a corpus of {tokens}**")
    if not hits:
        st.caption("No prompt of this run has values stored.")
        return
    st.dataframe(
        pd.DataFrame(
            {
                "token": [visible(hit.token) for hit in hits],
                "a": [number(hit.value) for hit in hits],
                "prompt": [hit.prompt_id for hit in hits],
                "position": [hit.position for hit in hits],
            }
        ),
        hide_index=True,
        height=180,
        alt=f"Tokens on which neuron {neuron} is largest",
    )


def _vocabulary(selection: Selection, neuron: int) -> None:
    st.markdown("**Tokens it writes for**")
    run = cached.vocabulary_run(selection.run.spec.model.weights)
    if run is None:
        st.caption("Not computed for this model yet; it depends on the weights alone and takes about a minute for a small model.")
        model = selection.run.spec.model.name
        reason = asking.refusal("vocabulary", {"model": model}, "compute it")
        st.button("Compute for this model", on_click=_ask_vocabulary, args=(model,), disabled=bool(reason), help=reason or None)
        return
    frame = cached.vocabulary(run.id, selection.layer, neuron)
    for sign, label in ((1, "promotes"), (-1, "suppresses")):
        tokens = frame.loc[frame["sign"] == sign].sort_values(by="rank")["token"]
        st.markdown(f"{label} (a > 0): " + " ".join(f"`{visible(token).replace('`', chr(0x2BB))}`" for token in tokens))
    st.caption("Direct effect of its output column on the logits, final norm's scale folded in. With a < 0 the two change places.")


def _ask_vocabulary(model: str) -> None:
    from moyu_core.studies.requests import VocabularyRequest

    try:
        cached.jobs().submit("vocabulary", VocabularyRequest(model).as_json(), run_exists=cached.exists)
        st.toast("Queued; see New capture for its progress.")
    except MoyuError as error:
        st.toast(str(error))


def _mark(layer: int, neuron: int) -> None:
    known = {mark[:2]: mark[2] for mark in marks.parse(st.session_state.get("marks") or "")}
    with st.popover("Marked: " + known[layer, neuron] if (layer, neuron) in known else "Mark this neuron"):
        name = st.text_input("Name", known.get((layer, neuron), ""), max_chars=marks.MAX_NAME, key=f"_name-{layer}-{neuron}")
        st.button("Save mark", on_click=marks.add, args=(layer, neuron, name or ""))
        if (layer, neuron) in known:
            st.button("Remove mark", on_click=marks.remove, args=(layer, neuron))
    text = linked(
        "marks",
        "",
        lambda: st.text_input("Marks", key="marks", persist_state="session", help="layer.neuron name; they travel with the link"),
    )
    bad = marks.unreadable(text or "")
    if bad:
        st.caption(f"Not a mark: {bad[0]!r}. Write `layer.neuron name`, parted by semicolons.")
