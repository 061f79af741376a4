"""Page: a prompt of one's own, from the text to its run; and the jobs that are under way."""

import time

import streamlit as st

from app.components.character_count import character_count
from app.ui import cached, parts, state
from moyu_core import estimate, registry
from moyu_core.errors import MoyuError
from moyu_core.figures.text import number
from moyu_core.jobs import Job
from moyu_core.prompts import MAX_CHARACTERS, clean, make_prompt
from moyu_core.schema import DEFAULT_CETT_TARGET, DEFAULT_DENSITY, SET_RULES
from moyu_core.spec import SetRule
from moyu_core.studies.requests import CaptureRequest
from moyu_core.worker import workers_alive

HOW_TO_READ = """
A **capture** runs your text once through the model and keeps, for every token and layer, which FFN neurons are active and a few
statistics; with *values*, also every activation to about 3 %. It becomes a **run** that stays until you delete it. Asking for the
same capture again costs nothing: it is found by its fingerprint.
"""
EXAMPLE = "The keys to the cabinet by the window are on the table."
RULE_LABELS = {"top": "top by |a|·c", "magnitude": "top by |a|", "cett": "CETT threshold", "positive": "a > 0"}


def _model() -> tuple[str, registry.ModelFacts | None]:
    """The name that was chosen or typed, and what is known of it without loading."""
    facts = {
        model.name: model
        for model in registry.known_models(cached.home())
        if model.installed or model.name not in registry.SOURCES or not registry.SOURCES[model.name].terms
    }
    name = st.selectbox(
        "Model",
        list(facts),
        key="_model",
        accept_new_options=True,
        format_func=lambda key: facts[key].title if key in facts else key,
        help="Type a Hugging Face id or a folder to use another causal language model (safetensors only).",
    )
    if name in facts:
        return name, facts[name]
    folder = registry.on_disk(name, cached.home())
    return name, registry.model_facts(folder) if folder else None


def _rule() -> SetRule:
    name = st.selectbox(
        "Active set",
        list(RULE_LABELS),
        format_func=RULE_LABELS.__getitem__,
        key="_rule",
        help="\n\n".join(f"**{RULE_LABELS[rule]}**: {text}" for rule, text in SET_RULES.items()),
    )
    if name == "cett":
        return SetRule("cett", target=st.slider("CETT target", 0.02, 0.6, DEFAULT_CETT_TARGET, 0.02, key="_new_target"))
    if name == "positive":
        return SetRule("positive")
    return SetRule(name, density=st.slider("Density", 1, 100, int(100 * DEFAULT_DENSITY), format="%d %%", key="_new_density") / 100)


def _counts(text: str, model: registry.ModelFacts | None, limit: int) -> int | None:
    """Say how long the text is and what would be cut, before anything is started; returns the tokens, if they can be told."""
    tokens = estimate.tokens(model, text)
    if tokens is not None:
        st.caption(f"{tokens:,} of {limit:,} tokens, the sink token counted")
    if len(text) > MAX_CHARACTERS:
        st.warning(f"The text is {len(text):,} characters long. The first {MAX_CHARACTERS:,} would be captured, the rest left out.")
    elif tokens is not None and tokens > limit:
        st.warning(f"The text has {tokens:,} tokens. The first {limit:,} would be captured, the rest left out.")
    return tokens


def _request(text: str, model: str, rule: SetRule, limit: int, values: bool, cett: bool) -> CaptureRequest:
    cleaned, notes = clean(text, cut=True)
    for note in notes:
        st.caption(f"Note: {note}.")
    prompt = make_prompt(cleaned)
    title = " ".join(cleaned.split())[:48].strip()
    return CaptureRequest(model, (prompt,), rule, None, None if values else (), cett, limit, title=title)


def _form() -> None:
    text = st.text_area(
        "Your text",
        EXAMPLE,
        height=150,
        key="_text",
        placeholder="Write or paste a text.",
        help="Captured as it is, behind the model's sink token. Ctrl+Enter counts its tokens.",
    )
    character_count("_text", MAX_CHARACTERS)
    left, middle, right = st.columns(3)
    with left:
        name, model = _model()
    with middle:
        rule = _rule()
    with right:
        limit = st.number_input("Longest sequence (tokens)", 2, 4096, 1024, 64, key="_new_limit")
        values = st.toggle(
            "Keep values",
            True,
            key="_new_values",
            help="One byte a neuron: shows a and |a|·c, and lets the density move "
            "afterwards. Without them only sets and statistics are kept.",
        )
        cett = st.toggle(
            "Compute CETT",
            False,
            key="_new_cett",
            help="How much of the FFN's output the inactive neurons would have added; one more down projection per layer.",
        )
    tokens = _counts(text or "", model, int(limit))
    need = estimate.capture(model, min(tokens or 0, int(limit)), values, cached.runs()[0])
    if need is None:
        st.caption("This model is not on this machine yet; what it takes can be told once it has been fetched.")
    elif tokens:
        st.caption(f"Estimated: {need.in_words()}.{f' Note: {model.note}.' if model and model.note else ''}")
    if st.button("Capture", type="primary", disabled=cached.read_only()):
        _submit(text or "", name, rule, int(limit), values, cett)
    if cached.read_only():
        st.caption("This is a read-only installation; install the project to capture texts of your own.")


def _submit(text: str, model: str, rule: SetRule, limit: int, values: bool, cett: bool) -> None:
    try:
        request = _request(text, model, rule, limit, values, cett)
        job = cached.jobs().submit("capture", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.error(str(error))
        return
    st.session_state["_watched"] = job.id


@st.fragment(run_every="1s")
def _watch() -> None:
    """The jobs, redrawn every second while one is under way."""
    if "_go" in st.session_state:  # a button in here reruns this fragment only; the page is changed by a whole rerun
        st.rerun()
    table = cached.jobs().list(12)
    if not table:
        return
    st.subheader("Jobs", divider="gray")
    if any(job.active for job in table) and not workers_alive(cached.home()):
        st.warning(
            "No worker is running, so nothing will start. `moyu serve` starts one beside the app; `moyu worker` starts one alone."
        )
    for job in table:
        _row(job)


def _row(job: Job) -> None:
    name = (job.request.get("title") or job.study).strip()
    with st.container(border=True):
        left, right = st.columns([4, 1], vertical_alignment="center")
        with left:
            st.markdown(f"**{_plain(name)}** · {job.request.get('model', '')} · {_state(job)}")
            if job.state == "running":
                st.progress(min(job.done / job.total, 1.0) if job.total else 0.0, text=_progress(job))
            if job.error:
                st.error(job.error)
        with right:
            if job.active:
                st.button(
                    "Cancel",
                    key=f"_cancel-{job.id}",
                    on_click=_cancel,
                    args=(job.id,),
                    disabled=job.cancel,
                )
            elif job.state == "done" and cached.exists(job.run_id):
                st.button(
                    "Open map",
                    key=f"_open-{job.id}",
                    on_click=state.show_run,
                    args=(job.run_id,),
                    type="primary" if _is_watched(job) else "secondary",
                )


def _cancel(job_id: int) -> None:
    cached.jobs().cancel(job_id)


def _is_watched(job: Job) -> bool:
    return st.session_state.get("_watched") == job.id


def _plain(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|<>~$:" else c for c in text)


def _state(job: Job) -> str:
    if job.state == "queued":
        return f"queued, place {cached.jobs().position(job.id)}"
    if job.state == "running":
        return "stopping" if job.cancel else "running"
    if job.state == "done" and job.finished and job.started:
        return f"done in {number(job.finished - job.started)} s, {_ago(job.finished)}"
    return job.state


def _ago(then: float) -> str:
    minutes = (time.time() - then) / 60
    return "just now" if minutes < 1 else f"{minutes:.0f} min ago" if minutes < 90 else f"{minutes / 60:.0f} h ago"


def _progress(job: Job) -> str:
    left = cached.jobs().eta_seconds(job)
    share = f"{100 * job.done / job.total:.0f} %" if job.total else ""
    return " · ".join(part for part in (job.stage, share, f"about {number(left)} s left" if left else "") if part)


state.follow()
parts.header("New capture", "Your own text through the model, and back as a map.", HOW_TO_READ)
parts.guarded(_form)
_watch()
