"""Page Trinity, your model and texts: queue the study of quality as a job."""

from __future__ import annotations

import streamlit as st

from app.ui import cached, job_list, prompt_sets
from moyu_core import registry
from moyu_core.errors import InputError, MoyuError
from moyu_core.prompts import PromptSet
from moyu_core.store import Run
from moyu_core.studies.trinity.requests import BUDGET, DENSITIES, FEWEST_DOCUMENTS, METHODS, PROMPT_TOKENS, TrinityRequest

FIRST = "evaluation"
"""The shipped set that is chosen at first; it stands for the study's own texts, so its runs need no name of their own."""


def draw(run: Run | None = None, speed: Run | None = None) -> None:
    """Draw the form and the jobs."""
    del run, speed
    models = {model.name: model for model in registry.known_models(cached.home()) if model.installed}
    left, middle, right = st.columns(3)
    with left:
        name = st.selectbox(
            "Model",
            list(models),
            key="_trinity_model",
            accept_new_options=True,
            format_func=lambda key: models[key].title if key in models else key,
            help="Type a Hugging Face id or a folder to judge another causal language model (safetensors only).",
        )
        methods = st.multiselect(
            "Methods",
            list(METHODS),
            list(METHODS),
            key="_trinity_methods",
            help="Methods with a fitted part need `moyu fit` for this model first; without it the run says so.",
        )
    with middle:
        densities = st.multiselect(
            "Densities", [round(0.1 * n, 1) for n in range(1, 11)], list(DENSITIES), key="_trinity_densities"
        )
        found = prompt_sets.choose(
            "Evaluation texts",
            "trinity_set",
            f"Texts of at least {PROMPT_TOKENS + 2} tokens, the first {PROMPT_TOKENS} of which are the prompt; those whose ids "
            "agree up to a / are one document.",
            FIRST,
        )
        count = st.number_input(
            "How many of them",
            FEWEST_DOCUMENTS,
            1_000,
            24,
            key="_trinity_texts",
            help="The first ones. The more, the smaller the loss that can be resolved.",
        )
    with right:
        budget = st.number_input("Budget, % perplexity", 0.1, 100.0, 100 * BUDGET, 0.1, key="_trinity_budget")
        prompt = st.segmented_control(
            "Prompt",
            ["dense", "masked"],
            default="dense",
            required=True,
            key="_trinity_prompt",
            help="Masked: methods that decide by token leave neurons out in the prompt too.",
        )
    if st.button("Measure quality", type="primary", disabled=cached.read_only() or not name):
        _submit(str(name), found, int(count), tuple(methods), tuple(sorted(densities)), budget / 100, str(prompt))
    if cached.read_only():
        st.caption("This is a read-only installation; install the project to measure models of your own.")
    st.caption(
        "Speed is measured with `moyu study speed --model NAME` on a machine that does nothing else meanwhile: beside this page "
        "it would measure the page too."
    )
    job_list.draw()


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
