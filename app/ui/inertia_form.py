"""Page Inertia, own sentences or a prompt set: a form that queues the study as a job."""

from __future__ import annotations

import streamlit as st

from app.ui import asking, cached, job_list, parts, prompt_sets, visitors
from app.ui.links import integer, kept, linked, linked_number, linked_several
from moyu_core import estimate, registry
from moyu_core.errors import InputError, MoyuError
from moyu_core.figures.text import beginning
from moyu_core.prompts import Prompt, PromptSet, clean, make_prompt
from moyu_core.studies.inertia.request import MAX_TEXTS, PARTS, InertiaRequest

EXAMPLE = """sea: The tide had gone out and left the boats lying on their sides in the mud.
sea: Sailors say that a harbour is safe only until the wind turns to the north.
kitchen: Stir the onions slowly until they are soft and then add the rice.
kitchen: A good broth needs bones, cold water and the patience to wait for it.
law: The court held that a promise without consideration cannot be enforced at all.
law: Either party may end the contract by giving notice in writing one month before."""
PART_NAMES = {
    "lag": "lag curve",
    "carrier": "carrier and transplants",
    "switch": "topic switch",
    "regression": "regression",
    "hitters": "heavy hitters",
}
MAX_SEED = 9_999
LABEL = 40
PASSES = 24
"""Tokens that go through the model for each token of the texts, all conditions and controls, without the optional parts."""
PASSES_OF_PART = {"lag": 12, "carrier": 30, "switch": 5, "regression": 0, "hitters": 6}
"""The same for the optional parts; the demonstration run counted them."""


def draw() -> None:
    """Draw the form and the jobs."""
    found = prompt_sets.choose("Texts", "inertia_set", "The domain of a prompt is its topic.", instead="written here")
    text = "" if found else _written()
    left, middle = st.columns([2, 3])
    with left:
        model = prompt_sets.choose_model("inertia_model", prompt_sets.models(), "Model")
        words = linked_number("inertia_words", InertiaRequest.words, "Words of each text", 2, 64)
    with middle:
        chosen = linked_several("inertia_parts", [], _parts, options=list(PARTS))
        seed = linked(
            "inertia_seed", 0, lambda: st.number_input("Seed", 0, MAX_SEED, key="inertia_seed"), decode=integer(0, MAX_SEED)
        )
    if model is None:
        return
    if found:
        _say_set(found)
    texts = [prompt.text for prompt in found.prompts] if found else [text]
    _need(model, "\n".join(texts), tuple(chosen))
    if asking.button("Measure", "inertia", asking.known(model.name, texts), "measure sentences of your own"):
        _submit(found, text, model.name, int(words), tuple(chosen), int(seed))
    job_list.draw()


def _parts() -> list[str]:
    return st.pills(
        "More than overlaps and index", list(PARTS), selection_mode="multi", key="inertia_parts", format_func=PART_NAMES.__getitem__
    )


def _written() -> str:
    return kept(
        "_inertia_text",
        EXAMPLE,
        lambda: st.text_area(
            "Your sentences",
            height=190,
            key="_inertia_text",
            help="One text a line. A word and a colon in front name its topic; texts of one topic are one unit. "
            "Without topics each text is its own.",
        ),
    )


def _say_set(found: PromptSet) -> None:
    topics = len({prompt.domain or prompt.id for prompt in found.prompts})
    st.caption(
        f"All {prompt_sets.count_of(len(found.prompts))} of {found.name}, {topics} topic{'' if topics == 1 else 's'}, the units of "
        f"intervals. At most {MAX_TEXTS} texts."
    )


def read(text: str) -> tuple[Prompt, ...]:
    """One prompt a line, `topic: text`; a colon further inside belongs to the text.

    Raises:
        InputError: no text, or too many.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError("There is no sentence; write one a line, such as `sea: The tide had gone out.`")
    if len(lines) > MAX_TEXTS:
        raise InputError(f"At most {MAX_TEXTS} sentences can be measured at once, and there are {len(lines)}; leave some out.")
    prompts = []
    for number, line in enumerate(lines, 1):
        label, colon, rest = line.partition(":")
        named = bool(colon and rest.strip() and label.strip().isprintable() and len(label) <= LABEL and " " not in label.strip())
        cleaned, _ = clean(rest.strip() if named else line)
        prompts.append(make_prompt(cleaned, f"text {number}", label.strip() if named else ""))
    return tuple(prompts)


def _need(model: registry.ModelFacts, text: str, chosen: tuple[str, ...]) -> None:
    """Say what it will cost, before it is started."""
    tokens = estimate.tokens(model, text)
    need = estimate.capture(model, (tokens or 0) * (PASSES + sum(PASSES_OF_PART[part] for part in chosen)), False, cached.runs()[0])
    if need and tokens:
        st.caption(f"Estimated: {need.seconds:.0f} s ({need.basis})." + (f" Note: {model.note}." if model.note else ""))


def _submit(found: PromptSet | None, text: str, model: str, words: int, chosen: tuple[str, ...], seed: int) -> None:
    try:
        limits = visitors.limits()
        if limits is not None and len(text) > limits.max_characters:
            raise InputError(f"A text here has at most {limits.max_characters:,} characters; shorten it.")
        prompts = found.prompts if found else read(text)
        title = found.name if found else "Own sentences: " + beginning(prompts[0].text, 40)
        request = InertiaRequest(model, prompts, seed=seed, words=words, parts=chosen, shown=min(4, len(prompts)), title=title)
        job = cached.jobs().submit("inertia", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.error(str(error))
        return
    st.session_state["_watched"] = job.id
    st.toast("Queued. When it is done, *Open* below shows it.")


def empty() -> None:
    """What is shown where there is no run of the study."""
    parts.empty(
        "There is no run of the inertia study yet. `moyu study inertia` makes one from the shipped texts; the form "
        "below from your own.",
        "runs",
        "See the runs",
    )
