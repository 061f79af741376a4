"""A comparison of one's own: a text or a prompt set, model, methods and density, queued as a job."""

from __future__ import annotations

import streamlit as st

from app.ui import asking, cached, job_list, prompt_sets
from app.ui.links import kept, linked, linked_number, linked_several, real
from moyu_core import estimate, prompt_library, registry
from moyu_core.errors import MoyuError
from moyu_core.figures.text import beginning
from moyu_core.methods import catalog
from moyu_core.prompts import Prompt, PromptSet, clean, make_prompt
from moyu_core.schema import DEFAULT_DENSITY
from moyu_core.spec import SetRule
from moyu_core.studies.predictors.request import LEFT_OUT, PredictorsRequest

EXAMPLE = (
    "The keys to the cabinet by the window are on the table, and nobody has asked for them since the spring, when the "
    "locksmith moved away and left his cat to the neighbours."
)
DETAILED = 4
"""Prompts of a set whose sets and tables by token are kept."""


def reasons(model: registry.ModelFacts | None) -> dict[str, str]:
    """Method -> why it does not apply to this model, from what is known without loading it."""
    if model is None:
        return {}
    mixture = model.shape.experts > 0
    found = {}
    if not model.gated:
        found["cats"] = "an FFN without a gate has nothing to look at beforehand"
    if mixture:
        found |= {
            "cett": "its FFNs are mixtures of experts",
            "moefication": "it has experts already",
            "cats": "its neurons stand behind a router",
            "magnitude": "its FFNs are mixtures of experts",
            "magnitude-down": "its FFNs are mixtures of experts",
        }
    else:
        found["native"] = "its FFNs are dense"
    return found


def draw() -> None:
    """The form; nothing is lost when something in it cannot be used."""
    st.subheader("Compare on your own texts", divider="gray")
    if cached.read_only():
        st.caption("This installation only shows finished comparisons.")
        return
    reference = prompt_sets.choose_reference("Texts", "predictors_set", instead="written here")
    found = prompt_library.load(cached.home(), reference) if reference else None
    text = EXAMPLE if found else _text()
    left, middle, right = st.columns(3)
    with left:
        model = prompt_sets.choose_model("own_model", prompt_sets.models(), "Model")
    with middle:
        density = linked_number(
            "own_density", DEFAULT_DENSITY, "Density", 0.0, 1.0, step=0.01, format="%g", help="Kept share; above 0."
        )
    with right:
        share = linked(
            "own_share",
            PredictorsRequest.prompt_share,
            lambda: st.slider("Share that is the prompt", 0.1, 0.9, step=0.1, key="own_share"),
            decode=real(0.1, 0.9),
        )
    if found:
        _say_set(found)
    blocked, titles = reasons(model), catalog.titles()
    usable = [method for method in titles if method not in blocked]
    chosen = linked_several(
        "own_methods",
        [method for method in usable if method not in LEFT_OUT],
        lambda: st.multiselect("Methods", usable, key="own_methods", format_func=titles.__getitem__),
        options=usable,
    )
    if blocked:
        st.caption("Not applicable here: " + "; ".join(f"~~{titles[method]}~~ ({why})" for method, why in blocked.items()) + ".")
    st.caption(
        "Predictors that were never fitted for this model are fitted first, which takes some minutes on two cores; the job "
        "shows its stage, and the next comparison finds them."
    )
    counts = prompt_sets.token_counts(reference, model) if found else [estimate.tokens(model, text) or 0]
    _need(model, counts or [], len(chosen))
    name = model.name if model else ""
    texts = [prompt.text for prompt in found.prompts] if found else [text]
    if asking.button("Compare", "predictors", asking.known(name, texts), ready=bool(chosen and model)):
        _submit(found, text, name, float(density), float(share), tuple(chosen))
    job_list.draw()


def _text() -> str:
    return kept(
        "_ptext",
        EXAMPLE,
        lambda: st.text_area(
            "Your text", height=120, key="_ptext", help="The first part is the prompt, the rest its continuation."
        ),
    )


def _say_set(found: PromptSet) -> None:
    kept = min(DETAILED, len(found.prompts))
    st.caption(
        f"All {prompt_sets.count_of(len(found.prompts))} of {found.name} are compared, each up to {PredictorsRequest.max_tokens} "
        f"tokens; the map and the tables by token show the first {kept}."
    )


def _need(model: registry.ModelFacts | None, counts: list[int], methods: int) -> None:
    """Say what it will cost, before it is started; nothing where there is no comparison whose speed is known."""
    tokens = sum(min(count, PredictorsRequest.max_tokens) for count in counts)
    need = estimate.comparison(model, tokens, methods, 1, cached.runs()[0])
    if model and need and tokens and methods:
        note = f" Note: {model.note}." if model.note else ""
        st.caption(f"Estimated: {need.in_words()}, {tokens:,} tokens; fits of missing predictors come on top.{note}")


def _prompts(found: PromptSet | None, text: str) -> tuple[tuple[Prompt, ...], str, tuple[str, ...]]:
    """(prompts, title of the run, notes on what was changed) of the set or of the text."""
    if found:
        return found.prompts, found.name, ()
    cleaned, notes = clean(text, cut=True)
    return (make_prompt(cleaned),), beginning(cleaned, 40), tuple(notes)


def _submit(found: PromptSet | None, text: str, model: str, density: float, share: float, methods: tuple[str, ...]) -> None:
    """Queue the job, or say in one sentence what cannot be used."""
    try:
        prompts, title, notes = _prompts(found, text)
        rule = SetRule("top", density=density)
        detail = tuple(dict.fromkeys(prompt.id for prompt in prompts))[:DETAILED]
        request = PredictorsRequest(model, prompts, methods, rule, (density,), detail, (density,), share, title=title)
        job = cached.jobs().submit("predictors", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.error(str(error), icon="\u26a0\ufe0f")
        return
    for note in notes:
        st.caption(f"Note: {note}.")
    st.session_state["_watched"] = job.id
    st.success("Queued. Its progress is shown below; when it is done, *Open* shows it.")
