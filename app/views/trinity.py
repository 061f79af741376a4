"""Page: performance, speed, applicability - what dynamic activation keeps, what it brings, and where."""

import streamlit as st

from app.ui import exports, parts, state, trinity_card, trinity_chat, trinity_form, trinity_speed, trinity_trade, trinity_where
from app.ui import trinity_cached as reads
from app.ui.choices import choose_part, choose_run
from moyu_core.store import Run

HOW_TO_READ = """
The paper's **impossible trinity**: dynamic activation cannot keep the model's *performance*, make it really *faster* and be
*applicable* to every model, all at once. Here the three are measured for every method.

- **Performance**: the prompt of each text runs dense, then the model reads on with the chosen neurons only. Perplexity is
  compared with the dense model's on the same tokens; intervals are over documents that nothing was fitted on.
- **Speed**: tokens a second with the unchosen weights really not read, measured in turn with the same loop dense. The *bound*
  is what the bytes a token reads would allow; it is no measurement.
- **Applicability**: on how many of the models at hand a method stays within the budget, and on which architectures it can run
  at all.
- **Density** = share of neurons kept. The *oracle* knows the activations beforehand and cannot be built; *static* and *random*
  decide nothing.
"""
PARTS = {
    "trade": ("Trade-off", trinity_trade.draw),
    "speed": ("Speed and operating points", trinity_speed.draw),
    "where": ("Where it holds", trinity_where.draw),
    "chat": ("Try it", trinity_chat.draw),
    "own": ("Your model", trinity_form.draw),
}


def _label(run: Run) -> str:
    model, scope = run.manifest["model"], run.manifest["scope"]
    prompt = "" if run.spec.parameters["prompt"] == "dense" else " · prompt masked"
    return f"{model['name']} · {model['activation']} · {scope['documents']} documents{prompt}"


def main() -> None:
    """Draw the page."""
    state.follow()
    parts.header(
        "Trinity",
        "What does leaving neurons out cost, how much faster is it really, and on which models does that hold?",
        HOW_TO_READ,
    )
    runs = list(reads.runs())
    if not runs:
        trinity_chat.empty()
        parts.guarded(trinity_form.draw)
        return
    left, right = st.columns(2)
    with left:
        run = choose_run("trinity_run", runs, _label, "Model")
    speeds = reads.speed_runs(run)
    with right:
        speed = choose_run("speed_run", speeds, reads.machine, "Speed measured on") if speeds else None
    exports.shows_run(run.id)
    if speed is not None:
        exports.shows_run(speed.id)
    parts.finding(trinity_card.sentence(run, speed))
    chosen = choose_part({key: name for key, (name, _) in PARTS.items()})
    parts.guarded(lambda: PARTS[chosen][1](run, speed))


main()
