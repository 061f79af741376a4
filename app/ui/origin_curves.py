"""Page Origin, along training: the matched models side by side, seeds as bands, and what exact zeros mean for history."""

from __future__ import annotations

import streamlit as st

from app.ui import cached, parts, state
from app.ui import origin_cached as reads
from app.ui.links import linked
from moyu_core import theory
from moyu_core.figures.origin import NAMES
from moyu_core.figures.text import number, percent
from moyu_core.store import Run

MEASURES = {
    "zero_share": "exact zeros (share of activations)",
    "cett_density": "density at CETT 0.2 (share of neurons)",
    "effective_neurons": "effective neurons",
    "sign_gradient": "mean sign(a)·dL/da (nats per unit of a)",
}
MEANINGS = {
    "zero_share": "Share of activations that are exactly 0. GELU's few come from float32, which rounds GELU of a very negative "
    "number to 0.",
    "cett_density": "Share of neurons needed so that leaving out the rest changes the FFN's output by 20 %.",
    "effective_neurons": "exp of the entropy of a²/Σa²: how many neurons share the work. The gated layer has 2/3 of the neurons.",
    "sign_gradient": "Positive: descent shrinks |a| on average. At the start the theorem speaks, afterwards nothing says what to "
    "expect.",
}
MEAN = "mean"


def draw() -> None:
    """Draw the part."""
    runs = reads.runs_of("training")
    if not runs:
        parts.empty("There is no run of curves along training; `moyu train tiny` makes one.", "runs", "See the runs")
        return
    run = runs[0]
    layer = _layer(run)
    _charts(run, layer)
    _maps()
    _limits(run)


def _layer(run: Run) -> int | None:
    options = [MEAN, *map(str, reads.layers(run.id))]
    chosen = linked("curve_layer", MEAN, lambda: st.segmented_control(
        "Layer", options, key="curve_layer", required=True,
        format_func=lambda key: "all layers, mean" if key == MEAN else key), options=options)
    return None if chosen == MEAN else int(chosen)


def _charts(run: Run, layer: int | None) -> None:
    where = "mean over layers" if layer is None else f"layer {layer}"
    for number_, (measure, label) in enumerate(MEASURES.items()):
        if number_ % 2 == 0:
            columns = st.columns(2, gap="medium")  # a row each, so that neighbours stand level
        with columns[number_ % 2]:
            st.markdown(f"**{label[0].upper()}{label[1:]}**, {where}")
            parts.chart(reads.training_figure(run.id, measure, label, layer),
                        f"{label} along training for ReLU, GELU and SwiGLU", MEANINGS[measure], key=f"origin-{measure}")
    scope = run.manifest["scope"]
    st.caption(
        f"How to read this: the line is the mean over {scope['seeds']} seeds, the band its 95 % t interval at that step (seeds "
        f"are the units), thin lines are the seeds. {scope['steps']:,} steps of AdamW with weight decay on the same text in the "
        f"same order. Run {run.id}.")


def _maps() -> None:
    """Links to the ReLU model's map beside those of the others, where the same texts were captured."""
    by_model = {(run.manifest["model"]["name"], run.spec.prompts_hash): run for run in reversed(state.activation_runs())}
    texts = [texts for model, texts in reversed(by_model) if model == "tiny-relu"]
    pairs = [(by_model["tiny-relu", text], by_model[f"tiny-{other}", text], NAMES[other])
             for text in texts[:1] for other in ("gelu", "swiglu") if (f"tiny-{other}", text) in by_model]
    if not pairs or "map" not in state.PAGES:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("The same text through these models, neuron by neuron:", width="content")
        for relu, other, name in pairs:
            query = {"run": relu.id, "show": "signed", "compare": "True", "other_run": other.id}
            st.page_link(state.PAGES["map"], label=f"ReLU beside {name}", query_params=query)


def _limits(run: Run) -> None:
    st.subheader("Why exact zeros make history matter less", divider="gray")
    zeros, effective = (reads.at_the_end(run.id, measure) for measure in ("zero_share", "effective_neurons"))
    gelu, silu = theory.turning_point("gelu"), theory.turning_point("silu")
    st.markdown(
        f"An exact zero has an exactly zero gradient. Of the ReLU model's activations {percent(zeros['relu'].mean)} are such "
        "zeros: no update of what a text teaches passes through them, and what passes through the others pushes one way. A "
        "running sum of such updates, which a predictor trained on past text estimates, keeps its ranking. GELU and SwiGLU have "
        f"{percent(zeros['gelu'].mean)} and {percent(zeros['swiglu'].mean)}: nearly every neuron gets an update from every "
        f"token, and its sign turns with p (at {gelu:.2f} for GELU, {silu:.2f} for SiLU), so past and present can cancel. The "
        f"work is concentrated in all three: {number(effective['relu'].mean)}, {number(effective['gelu'].mean)} and "
        f"{number(effective['swiglu'].mean)} effective neurons. This is our reading of the paper's *history-related activation "
        "uncertainty*; whether it holds is measured, not derived here.")
    with st.container(horizontal=True):
        for page, label in (("history", "Limit 1: history"), ("inertia", "Limit 2: inertia")):
            if page in state.PAGES:
                st.page_link(state.PAGES[page], label=label)
    if not cached.read_only():
        st.caption("`moyu train tiny` trains these models again from public text; `moyu study training` collects the curves.")
