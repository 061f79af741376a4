"""Page: every dynamic-activation method on the same tokens: what it kept, what was needed, and what that costs."""

from collections.abc import Callable

import streamlit as st

from app.ui import (
    parts,
    predictors_answers,
    predictors_cached,
    predictors_card,
    predictors_form,
    predictors_measures,
    predictors_place,
    predictors_tokens,
    predictors_trial,
    prompt_sets,
    state,
)
from app.ui.choices import choose_part
from app.ui.predictors_place import Place
from moyu_core.figures.text import number
from moyu_core.store import Run

HOW_TO_READ = """
Each text is cut into a **prompt** and its **continuation**. Methods may look at the prompt; all are judged on the continuation, in
one dense pass, so on the same activations. The **reference** is the set that was really needed (its rule stands under every chart).
A neuron is a **hit** (needed and kept), a **miss** (needed, left out) or a **false alarm** (kept, not needed).

**Recall** is the share of needed neurons that were kept; a random set of the same size gets |Â|/F, a set that only knows each
neuron's own rate gets the marginal level. **Captured energy** is 1 - ‖what is missing of the layer's output‖ / ‖output‖: the
fairest single number, because swaps among equal neurons cost nothing in it. Intervals are 95 % t intervals over kinds of text,
never over tokens.
"""


def _trial(run: Run, place: Place) -> None:
    predictors_trial.draw(run.spec.model.weights)
    predictors_answers.draw_ours(run, place.density)


PARTS: dict[str, tuple[str, Callable[[Run, Place], None]]] = {
    "tokens": ("Token by token", predictors_tokens.draw),
    "layers": ("By layer", predictors_measures.multiples),
    "density": ("All measures", predictors_measures.density),
    "stale": ("Staleness", predictors_measures.staleness),
    "trial": ("Token table on trial", _trial),
    "questions": ("Three questions", lambda run, place: predictors_answers.draw(run, place.density)),
    "own": ("Your own text", lambda run, place: parts.guarded(predictors_form.draw)),
}
NEED_SETS = ("tokens", "layers")


def main() -> None:
    """Draw the page."""
    state.follow()
    parts.header("Predictors", "Which neurons would each method have kept, and which were needed?", HOW_TO_READ)
    found = predictors_cached.runs()
    if not found:
        parts.empty("There is no comparison yet. `moyu study predictors` makes one, or use the form below.", "", "")
        if predictors_cached.trials(""):
            predictors_trial.draw("")
        parts.guarded(predictors_form.draw)
        return
    run = predictors_place.choose_run(found)
    place = predictors_place.choose(run)
    assert place is not None
    parts.finding(predictors_card.finding(run, place.density))
    notes = [*filter(None, [run.manifest["model"].get("note")]), *run.manifest.get("notes", [])]
    scope = run.manifest["scope"]
    st.caption(
        f"{run.manifest['model']['name']}: {number(scope['tokens'])} tokens in {prompt_sets.count_of(scope['prompts'])}, "
        f"{scope['methods']} method{'' if scope['methods'] == 1 else 's'}" + "".join(f"; {note}" for note in notes)
    )
    names = {key: name for key, (name, _) in PARTS.items() if place.prompt_id or key not in NEED_SETS}
    if not place.prompt_id:
        st.info("This comparison keeps no sets, so there is no map; the curves and the table below are complete.")
    PARTS[choose_part(names)][1](run, place)


main()
