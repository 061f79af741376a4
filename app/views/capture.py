"""Page: a prompt or a set of one's own, from the text to its run; and the jobs that are under way."""

import streamlit as st

from app.components.character_count import character_count
from app.ui import asking, cached, job_list, parts, prompt_sets, state, visitors
from app.ui.links import boolean, integer, kept, linked, linked_number, real
from moyu_core import estimate, model_sources, prompt_library, registry
from moyu_core.errors import MoyuError
from moyu_core.figures.text import beginning, number
from moyu_core.prompts import MAX_CHARACTERS, Prompt, clean, make_prompt
from moyu_core.schema import DEFAULT_CETT_TARGET, DEFAULT_DENSITY, SET_RULES
from moyu_core.spec import SetRule
from moyu_core.studies.requests import CaptureRequest

HOW_TO_READ = """
A **capture** runs your text once through the model and keeps, for every token and layer, which FFN neurons are active and a few
statistics; with *values*, also every activation to about 3 %. It becomes a **run** that stays until you delete it. Asking for the
same capture again costs nothing: it is found by its fingerprint. A **prompt set** is captured as one run.
"""
EXAMPLE = "The keys to the cabinet by the window are on the table."
RULE_LABELS = {"top": "top by |a|·c", "magnitude": "top by |a|", "cett": "CETT threshold", "positive": "a > 0"}
SOURCES = {"text": "A text", "set": "A prompt set"}
LONGEST = 4096


def _model() -> tuple[str, registry.ModelFacts | None]:
    """The name that was chosen or typed, and what is known of it without loading."""
    allowed = visitors.limits()
    facts = {
        model.name: model
        for model in registry.known_models(cached.home())
        if (model.installed or model.name not in model_sources.SOURCES or not model_sources.SOURCES[model.name].terms)
        and (allowed is None or model.name in allowed.models)
    }
    typed = str(st.session_state.get("new_model") or st.query_params.get("new_model") or "")
    options = list(dict.fromkeys([*facts, *([typed] if typed and allowed is None else [])]))
    name = linked(
        "new_model",
        prompt_sets.DEFAULT_MODEL if prompt_sets.DEFAULT_MODEL in facts else options[0],
        lambda: st.selectbox(
            "Model",
            options,
            key="new_model",
            accept_new_options=allowed is None,
            format_func=lambda key: facts[key].title if key in facts else key,
            help="Type a Hugging Face id or a folder to use another causal language model (safetensors only)."
            if allowed is None
            else f"This public installation runs {', '.join(allowed.models)}; install the project to use any other.",
        ),
        options=None if allowed is None else options,
    )
    if name in facts:
        return name, facts[name]
    folder = registry.on_disk(name, cached.home())
    return name, registry.model_facts(folder) if folder else None


def _rule() -> SetRule:
    name = linked(
        "new_rule",
        "top",
        lambda: st.selectbox(
            "Active set",
            list(RULE_LABELS),
            format_func=RULE_LABELS.__getitem__,
            key="new_rule",
            help="\n\n".join(f"**{RULE_LABELS[rule]}**: {text}" for rule, text in SET_RULES.items()),
        ),
        options=list(RULE_LABELS),
    )
    if name == "cett":
        target = linked(
            "new_target",
            DEFAULT_CETT_TARGET,
            lambda: st.slider("CETT target", 0.02, 0.6, step=0.02, key="new_target"),
            decode=real(0.02, 0.6),
        )
        return SetRule("cett", target=target)
    if name == "positive":
        return SetRule("positive")
    density = linked(
        "new_density",
        int(100 * DEFAULT_DENSITY),
        lambda: st.slider("Density", 1, 100, step=1, format="%d %%", key="new_density"),
        decode=integer(1, 100),
    )
    return SetRule(name, density=density / 100)


def _limit() -> int:
    allowed = visitors.limits()
    most = LONGEST if allowed is None else allowed.max_tokens
    return linked_number("new_limit", min(1024, most), "Longest sequence (tokens)", 2, most, step=64)


def _switch(key: str, default: bool, label: str, help: str) -> bool:
    return linked(key, default, lambda: st.toggle(label, key=key, help=help), decode=boolean)


def _most_characters() -> int:
    allowed = visitors.limits()
    return MAX_CHARACTERS if allowed is None else min(MAX_CHARACTERS, allowed.max_characters)


def _counts(text: str, model: registry.ModelFacts | None, limit: int) -> int | None:
    """Say how long the text is and what would be cut, before anything is started; returns the tokens, if they can be told."""
    tokens, most = estimate.tokens(model, text), _most_characters()
    if tokens is not None:
        st.caption(f"{tokens:,} of {limit:,} tokens, the sink token counted")
    if len(text) > most:
        st.warning(f"The text is {len(text):,} characters long. The first {most:,} would be captured, the rest left out.")
    elif tokens is not None and tokens > limit:
        st.warning(f"The text has {tokens:,} tokens. The first {limit:,} would be captured, the rest left out.")
    return tokens


def _one_text(text: str) -> tuple[Prompt, ...]:
    cleaned, notes = clean(text[: _most_characters()] if visitors.limits() else text, cut=True)
    for note in notes:
        st.caption(f"Note: {note}.")
    return (make_prompt(cleaned),)


def _text() -> str:
    text = kept(
        "_text",
        EXAMPLE,
        lambda: st.text_area(
            "Your text",
            height=150,
            key="_text",
            placeholder="Write or paste a text.",
            help="Captured as it is, behind the model's sink token. Ctrl+Enter counts its tokens.",
        ),
    )
    character_count("_text", _most_characters())
    return text


def _set_tokens(reference: str, prompts: tuple[Prompt, ...], model: registry.ModelFacts | None, limit: int) -> int | None:
    """Tokens of a set that would be captured; says how many prompts would be cut."""
    counts = prompt_sets.token_counts(reference, model)
    if counts is None:
        return None
    cut = sum(count > limit for count in counts)
    st.caption(f"{number(sum(counts))} tokens in {len(prompts):,} prompts, sink tokens counted.")
    if cut:
        st.warning(f"{cut:,} of {len(prompts):,} prompts have more than {limit:,} tokens. Their first {limit:,} would be captured.")
    return sum(min(count, limit) for count in counts)


def _form() -> None:
    source = linked(
        "source",
        "text",
        lambda: st.segmented_control(
            "What to capture", list(SOURCES), key="source", required=True, format_func=SOURCES.__getitem__
        ),
        options=list(SOURCES),
    )
    reference = prompt_sets.choose_reference("Prompt set", "captured_set") if source == "set" else ""
    text = _text() if source == "text" else ""
    left, middle, right = st.columns(3)
    with left:
        name, model = _model()
    with middle:
        rule = _rule()
    with right:
        limit = _limit()
        values = _switch(
            "new_values",
            True,
            "Keep values",
            "One byte a neuron: shows a and |a|·c, and lets the density move afterwards. "
            "Without them only sets and statistics are kept.",
        )
        cett = _switch(
            "new_cett",
            False,
            "Compute CETT",
            "How much of the FFN's output the inactive neurons would have added; one more down projection per layer.",
        )
    found = prompt_library.load(cached.home(), reference) if reference else None
    tokens = _set_tokens(reference, found.prompts, model, limit) if found else _counts(text, model, limit)
    need = estimate.capture(model, (tokens or 0) if found else min(tokens or 0, limit), values, cached.runs()[0])
    if need is None:
        st.caption("This model is not on this machine yet; what it takes can be told once it has been fetched.")
    elif tokens:
        st.caption(f"Estimated: {need.in_words()}.{f' Note: {model.note}.' if model and model.note else ''}")
    known = asking.known(name, (prompt.text for prompt in found.prompts) if found else (), max_tokens=limit)  # a text is cut
    if asking.button("Capture", "capture", known, "capture texts of your own"):
        _submit(found.prompts if found else None, text, found.name if found else "", name, rule, limit, values, cett)


def _submit(
    prompts: tuple[Prompt, ...] | None, text: str, title: str, model: str, rule: SetRule, limit: int, values: bool, cett: bool
) -> None:
    try:
        prompts = prompts or _one_text(text)
        title = title or beginning(prompts[0].text, 48)
        request = CaptureRequest(model, prompts, rule, None, None if values else (), cett, limit, title=title)
        job = cached.jobs().submit("capture", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.error(str(error))
        return
    st.session_state["_watched"] = job.id


state.follow()
parts.header("New capture", "Your own text through the model, and back as a map.", HOW_TO_READ)
limits = visitors.limits()
if limits is not None:
    st.caption(limits.in_words())
parts.guarded(_form)
job_list.draw()
