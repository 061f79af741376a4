"""Page: do the same neurons keep firing within a sequence, whatever the meaning?"""

import streamlit as st

from app.ui import (
    exports,
    inertia_card,
    inertia_causes,
    inertia_distance,
    inertia_form,
    inertia_layers,
    inertia_neurons,
    inertia_panels,
    parts,
    state,
)
from app.ui import inertia_cached as reads
from app.ui.choices import choose_part, choose_run
from app.ui.links import linked
from moyu_core.figures.text import number
from moyu_core.store import Run

HOW_TO_READ = """
**Inertia** is the paper's word for the claim that within a sequence the same neurons keep firing, whatever the current word means,
so that a set chosen from the prompt would do for all that follows.

- **Content**: a sentence, the same words shuffled, random English words, random tokens. **History**: all words in one
  *sequence*, or each word *alone* behind the sink token. The same words in both, so what differs is the history.
- **Overlap** of two words: share of one's active set that is in the other's. **W** within a text, **X** across texts.
- **Inertia index** I: what sharing a context adds to the overlap over what the words themselves bring along. Overlap alone is not
  inertia: neurons that always fire make every pair of words overlap.
- Intervals resample topics; bands hold for all layers (or words) at once.
"""
PARTS = {
    "panels": ("Panels", inertia_panels.draw),
    "layers": ("All layers", inertia_layers.draw),
    "distance": ("Distance", inertia_distance.draw),
    "causes": ("Causes", inertia_causes.draw),
    "neurons": ("Neurons", inertia_neurons.draw),
}
OWN = "own"


def _label(run: Run) -> str:
    scope = run.manifest["scope"]
    return f"{run.manifest.get('title') or run.id} · {run.manifest['model']['name']} · {number(scope['texts'])} texts"


def _layer(run: Run) -> int:
    layers = run.manifest["layers"]
    if len(layers) == 1:
        return layers[0]
    return linked(
        "panel_layer",
        layers[len(layers) // 2],
        lambda: st.select_slider("Layer", layers, key="panel_layer", help="Of panels, neurons and single-layer curves."),
        options=layers,
        decode=int,
    )


def _about(run: Run) -> None:
    scope, model = run.manifest["scope"], run.manifest["model"]
    note = f" Note: {model['note']}." if model.get("note") else ""
    st.caption(
        f"{number(scope['texts'])} texts of {number(scope['topics'])} topics, {scope['words']} words each, "
        f"{run.spec.set_rule.label()}, {model['name']}.{note} Run {run.id}."
    )
    for line in run.manifest["notes"]:
        st.caption(f"Note: {line}")


def main() -> None:
    """Draw the page."""
    state.follow()
    parts.header("Inertia", "Do the same neurons keep firing within a sequence, whatever the words mean?", HOW_TO_READ)
    runs = list(reads.runs_of_inertia())
    if not runs:
        inertia_form.empty()
        parts.guarded(inertia_form.draw)
        return
    left, right = st.columns([3, 2], gap="large", vertical_alignment="bottom")
    with left:
        run = choose_run("inertia_run", runs, _label)
    with right:
        layer = _layer(run)
    exports.shows_run(run.id)
    parts.finding(inertia_card.sentence(run))
    _about(run)
    names = {**{key: name for key, (name, _) in PARTS.items()}, OWN: "Your sentences"}
    chosen = choose_part(names)
    if chosen == OWN:
        parts.guarded(inertia_form.draw)
    else:
        parts.guarded(lambda: PARTS[chosen][1](run, layer))


main()
