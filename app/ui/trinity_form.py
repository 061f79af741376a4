"""Page Trinity, your model and texts: queue the study of quality as a job."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from app.ui import asking, cached, job_list, prompt_sets, visitors
from app.ui.links import linked, linked_number, linked_several
from moyu_core import estimate
from moyu_core.errors import InputError, MoyuError
from moyu_core.methods import catalog
from moyu_core.prompts import Prompt, PromptSet
from moyu_core.store import Run
from moyu_core.studies.trinity.requests import (
    BUDGET,
    DENSITIES,
    FEWEST_DOCUMENTS,
    MAX_TOKENS,
    METHODS,
    PROMPT_TOKENS,
    TrinityRequest,
)

FIRST = "evaluation"
"""The shipped set that is chosen at first; it stands for the study's own texts, so its runs need no name of their own."""
OFFERED = tuple(round(0.1 * n, 1) for n in range(1, 11))
PROMPTS = ("dense", "masked")
MOST_DOCUMENTS = 1_000
LOOKS = 1
"""Passes over all texts that the search for a method's operating point takes: about two looks at one half, one at the other."""
ROW_BYTES, TABLE_BYTES = 24, 16_000
"""Of a run on disk: a row a text and setting, packed, and what its five tables take at least."""


def draw(run: Run | None = None, speed: Run | None = None) -> None:
    """Draw the form and the jobs."""
    del run, speed
    left, middle, right = st.columns(3)
    with left:
        name = _model()
    with middle:
        densities = linked_several(
            "trinity_densities",
            DENSITIES,
            lambda: st.multiselect("Densities", OFFERED, key="trinity_densities"),
            options=OFFERED,
        )
        found = prompt_sets.choose(
            "Evaluation texts",
            "trinity_set",
            f"Texts of at least {PROMPT_TOKENS + 2} tokens, the first {PROMPT_TOKENS} of which are the prompt; those whose ids "
            "agree up to a / are one document.",
            FIRST,
        )
        count = linked_number("trinity_texts", 24, "How many of them", FEWEST_DOCUMENTS, MOST_DOCUMENTS,
                              help="The first ones. The more, the smaller the loss that can be resolved.")  # fmt: skip
    with right:
        budget = linked_number("trinity_budget", 100 * BUDGET, "Budget, % perplexity", 0.1, 100.0, step=0.1)
        prompt = linked("trinity_prompt", PROMPTS[0], _prompt, options=PROMPTS)
    methods = linked_several("trinity_methods", METHODS, _methods, options=METHODS)
    texts = found.prompts[: int(count)] if found else ()
    _need(name, texts, len(methods), len(densities))
    known = asking.known(name, (text.text for text in texts))
    if asking.button("Measure quality", "trinity", known, "measure models of your own", ready=bool(name)):
        _submit(name, found, int(count), tuple(methods), tuple(densities), budget / 100, str(prompt))
    st.caption(
        "Speed is measured with `moyu study speed --model NAME` on a machine that does nothing else meanwhile: beside this page "
        "it would measure the page too."
    )
    job_list.draw()


def _model() -> str:
    """The name that was chosen, or typed where that is allowed."""
    models, typing = prompt_sets.models(), visitors.limits() is None
    typed = str(st.session_state.get("trinity_model") or st.query_params.get("trinity_model") or "")
    options = list(dict.fromkeys([*models, *([typed] if typed and typing else [])]))
    default = prompt_sets.DEFAULT_MODEL if prompt_sets.DEFAULT_MODEL in models else next(iter(models), None)
    chosen = linked(
        "trinity_model",
        default,
        lambda: st.selectbox(
            "Model",
            options,
            key="trinity_model",
            accept_new_options=typing,
            format_func=lambda key: models[key].title if key in models else key,
            help="Type a Hugging Face id or a folder to judge another causal language model (safetensors only).",
        ),
        options=None if typing else options,
    )
    return str(chosen or "")


def _methods() -> list[str]:
    return st.multiselect(
        "Methods",
        METHODS,
        key="trinity_methods",
        format_func=catalog.titles().__getitem__,
        help="What a method has to learn from calibration text is fitted first where it never was for this model: some minutes on "
        "two cores, once. Where it cannot be, the run says why.",
    )


def _prompt() -> str | None:
    return st.segmented_control(
        "Prompt",
        PROMPTS,
        key="trinity_prompt",
        required=True,
        help="Masked: methods that decide by token leave neurons out in the prompt too.",
    )


def _need(name: str, texts: tuple[Prompt, ...], methods: int, densities: int) -> None:
    """Say what it will cost, before it is started: the dense pass, one a method and density, and the search for the point."""
    model = prompt_sets.models().get(name)
    if model is None:
        st.caption("This model is not on this machine yet; what it takes can be told once it has been fetched.")
        return
    passes = 1 + methods * (densities + LOOKS)
    need = estimate.capture(model, len(texts) * MAX_TOKENS * passes, False, cached.runs()[0])
    if need and texts:
        need = replace(need, size=TABLE_BYTES + ROW_BYTES * len(texts) * (passes - 1))
        st.caption(f"Estimated: {need.in_words()}, {passes} passes over the texts; fits of missing parts come on top.")


def _submit(
    model: str,
    found: PromptSet | None,
    count: int,
    methods: tuple[str, ...],
    densities: tuple[float, ...],
    budget: float,
    prompt: str,
) -> None:
    try:
        if found is None:
            raise InputError("There is no prompt set to judge methods on; import one on the Prompts page.")
        texts = found.prompts[:count]
        title = "" if found.name == FIRST else f"{model} on {found.name}"
        request = TrinityRequest(model, texts, methods, densities, round(budget, 6), reading=(), prompt=prompt, title=title)
        job = cached.jobs().submit("trinity", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.error(str(error))
        return
    st.session_state["_watched"] = job.id
    st.toast("Queued. When it is done, *Open* below shows it.")
