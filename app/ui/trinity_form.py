"""Page Trinity, your model: queue the study of quality or of speed as a job."""

from __future__ import annotations

import streamlit as st

from app.ui import cached, job_list
from moyu_core import registry
from moyu_core.errors import MoyuError
from moyu_core.store import Run
from moyu_core.studies.trinity.requests import BUDGET, DENSITIES, METHODS, TrinityRequest, evaluation_prompts


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
        count = st.number_input(
            "Evaluation texts", 4, 225, 24, key="_trinity_texts", help="The more, the smaller the loss that can be resolved."
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
        _submit(str(name), int(count), tuple(methods), tuple(sorted(densities)), budget / 100, str(prompt))
    if cached.read_only():
        st.caption("This is a read-only installation; install the project to measure models of your own.")
    st.caption(
        "Speed is measured with `moyu study speed --model NAME` on a machine that does nothing else meanwhile: beside this page "
        "it would "
        "measure the page too."
    )
    job_list.draw()


def _submit(model: str, count: int, methods: tuple[str, ...], densities: tuple[float, ...], budget: float, prompt: str) -> None:
    try:
        texts = evaluation_prompts(cached.home(), count)
        request = TrinityRequest(model, texts, methods, densities, round(budget, 6), reading=(), prompt=prompt)
        cached.jobs().submit("trinity", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.error(str(error))
