"""Page: how the set of active neurons of a token changes with what came before it."""

import streamlit as st

from app.ui import exports, history_card, history_flips, history_form, history_layers, history_parts, parts, state
from app.ui import history_cached as reads
from app.ui.choices import choose_part, choose_run
from moyu_core.figures.history import kind_name
from moyu_core.queries import history
from moyu_core.store import Run

HOW_TO_READ = """
**Limit 1** of the paper: which neurons are active depends on the history before the token, so a predictor trained on other
histories cannot know it.

- A **probe** is a fixed token, a **history** what stands before it. Every probe stands behind every history, at exact token
  counts, always behind the sink token.
- **U**, our definition: of what tells the sets of two different tokens behind two different histories apart, the share that is
  left when the token is the same. 0 = the token alone decides, 1 = the token says nothing. **History share**: what the history
  alone tells.
- **Set transplant**: the current token keeps, in all layers, a set that was taken from elsewhere. The decisive test: what does a
  wrong history cost?
- Intervals are over probes and histories, never over tokens of one text.
"""
PARTS = {
    "flips": ("Neuron by neuron", history_flips.draw),
    "layers": ("By layer", history_layers.layers),
    "kinds": ("Kind and length", history_parts.kinds),
    "transplant": ("Transplants", history_parts.transplant),
    "predictor": ("Predictors", history_parts.predictor),
    "drift": ("Importance drift", history_parts.drift),
}
OWN = "own"


def _label(run: Run) -> str:
    return f"{run.manifest.get('title') or run.id} · {run.manifest['scope']['probes']} probes"


def _about(run: Run, models: list[str]) -> None:
    first = history.facts(run, models[0])["primary"]
    counts = reads.counts(run.id, models[0])
    many = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    st.caption(
        f"{run.manifest['scope']['probes']} probes, {many} histories of each kind, {run.spec.set_rule.label()}; claims are about "
        f"histories of the kind “{kind_name(first['kind'])}”, {first['length']} tokens. Run {run.id}."
    )
    said: dict[str, list[str]] = {}
    for model in models:
        facts = history.facts(run, model)
        for note in [*([facts["note"]] if facts.get("note") else []), *facts["notes"]]:
            said.setdefault(note.rstrip("."), []).append(model)
    if said:
        st.caption(" ".join(f"Note on {', '.join(names)}: {note}." for note, names in said.items()))


def main() -> None:
    """Draw the page."""
    state.follow()
    parts.header("History", "How much of a token's active set is decided by what came before it?", HOW_TO_READ)
    runs = list(reads.runs_of_history())
    if not runs:
        parts.empty(
            "There is no run of the history study yet. `moyu study history` makes one from the shipped texts; the form below "
            "from your own.",
            "runs",
            "See the runs",
        )
        parts.guarded(history_form.draw)
        return
    run = choose_run("history_run", runs, _label)
    models = history.models(run)
    exports.shows_run(run.id)
    parts.finding(history_card.sentence(run, models))
    _about(run, models)
    names = {**{key: name for key, (name, _) in PARTS.items()}, OWN: "Your probes"}
    chosen = choose_part(names)
    if chosen == OWN:
        parts.guarded(history_form.draw)
    else:
        parts.guarded(lambda: PARTS[chosen][1](run, models))


main()
