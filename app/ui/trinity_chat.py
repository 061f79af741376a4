"""Page Trinity, try it: one message answered by the dense model and with a method, side by side, while the words come."""

from __future__ import annotations

import html
from typing import Any

import streamlit as st

from app.ui import asking, cached, parts, prompt_sets
from app.ui import trinity_cached as reads
from app.ui.links import linked, linked_number
from app.ui.predictors_form import reasons
from moyu_core.errors import MoyuError
from moyu_core.figures.text import number, percent
from moyu_core.jobs import Job
from moyu_core.queries import trinity
from moyu_core.store import Run
from moyu_core.studies.trinity.requests import METHODS, ChatRequest
from moyu_core.worker import workers_alive

DENSITIES = list(range(5, 101, 5))
TOKENS = (8, 256)
"""Fewest and most that one answer may have."""
EXAMPLES = ("Why is the sky blue?", "Write three sentences about a lighthouse keeper.", "Name four animals that live in the sea.")
STATE, ERROR, BACK = "_trinity_chat", "_trinity_chat_error", "_trinity_chat_back"
"""Session state: the messages; why the last one could not be queued; one that goes back into the field."""
KEPT_TURNS = 12
SHOWN = 600
"""Characters of a message that are repeated above its answers."""
SAME, OTHER = "moyu-same", "moyu-other"
_CSS = f"""<style>
.moyu-answer {{white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.55; min-height: 1.5rem;}}
.{OTHER} {{background: rgba(217,130,43,.22); border-bottom: 2px dashed #d9822b;}}
</style>"""


def draw(run: Run, speed: Run | None) -> None:
    """Draw the part."""
    del speed
    st.html(_CSS)
    titles = reads.titles(*(one.id for one in reads.runs()))
    chosen = _controls(run, titles)
    reason = asking.refusal("chat", {"model": chosen["model"], "tokens": chosen["tokens"]}, "write to a model")
    if reason:
        st.caption(f":material/block: {reason}")
    _ask(chosen, bool(reason))
    message = st.session_state.pop(ERROR, None)
    if message:
        st.error(message)
    turns: list[dict[str, Any]] = st.session_state.setdefault(STATE, [])
    if not turns and not reason:
        st.info(
            "Write a message below, or take one of the examples. Both answers are greedy, so a difference is the method's doing; "
            "each message starts anew."
        )
    for turn in turns[-KEPT_TURNS:]:
        _turn(ChatRequest.from_json(turn), titles)


def _controls(run: Run, titles: dict[str, str]) -> dict[str, Any]:
    """Model, method, density and length."""
    one, two, three, four = st.columns([2, 2, 2, 1])
    models = prompt_sets.models()
    default = run.manifest["model"]["name"]
    options = list(models) or [default]
    with one:
        model = linked(
            "chat_model",
            default if default in options else options[0],
            lambda: st.selectbox("Model", options, key="chat_model"),
            options=options,
        )
    blocked = reasons(models.get(str(model)))
    usable = [method for method in METHODS if method not in blocked]
    with two:
        method = linked(
            "chat_method",
            "cats" if "cats" in usable else "griffin",
            lambda: st.selectbox(
                "Method",
                usable,
                key="chat_method",
                format_func=titles.__getitem__,
                help="What a method has to learn from calibration text is fitted before its first answer where it never was for "
                "this model: some minutes on two cores, once.",
            ),
            options=usable,
        )
    with three:
        density = linked(
            "chat_density",
            50,
            lambda: st.select_slider(
                "Density",
                DENSITIES,
                key="chat_density",
                format_func=lambda p: f"{p} %",
                help="Share of neurons kept; CETT per token has a size of its own.",
            ),
            options=DENSITIES,
            decode=int,
        )
    with four:
        tokens = linked_number("chat_tokens", 48, "Tokens", *TOKENS, step=8)
    unfit = "; ".join(f"~~{titles[method]}~~ ({blocked[method]})" for method in METHODS if method in blocked)
    if unfit:
        st.caption(f"Not applicable to this model: {unfit}.")
    return {"model": str(model), "method": str(method), "density": int(density) / 100, "tokens": int(tokens)}


def _ask(chosen: dict[str, Any], refused: bool) -> None:
    with st.container(horizontal=True):
        for place, example in enumerate(EXAMPLES):
            st.button(
                example, key=f"_chat_example_{place}", on_click=_submit, args=(example, chosen), disabled=refused
            )
        st.button("Clear", key="_chat_clear", on_click=lambda: st.session_state.pop(STATE, None))
    if BACK in st.session_state:  # a widget takes a value only before it is drawn
        st.session_state["_chat_text"] = st.session_state.pop(BACK)
    text = st.chat_input("Message", key="_chat_text", disabled=refused)
    if text:
        _submit(text, chosen)
        if ERROR in st.session_state:
            _put_back(text)


def _put_back(text: str) -> None:
    """Draw the page anew with this message in the field, so that nobody has to write it again."""
    st.session_state[BACK] = text
    st.rerun()


def _submit(text: str, chosen: dict[str, Any]) -> None:
    """Queue an answer; what cannot be queued is said, and the conversation stays."""
    turns: list[dict[str, Any]] = st.session_state.setdefault(STATE, [])
    try:
        request = ChatRequest(text=text, turn=len(turns), **chosen)
        cached.jobs().submit("chat", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.session_state[ERROR] = str(error)
        return
    turns.append(request.as_json())


def _job(request: ChatRequest) -> Job | None:
    wanted = request.as_json()
    return next((job for job in cached.jobs().list(200) if job.study == "chat" and job.request == wanted), None)


def _turn(request: ChatRequest, titles: dict[str, str]) -> None:
    """One message with its answers; it asks for news by itself only while they are written."""
    job = _job(request)
    active = job is not None and job.active
    with st.chat_message("user"):
        st.text(request.text if len(request.text) <= SHOWN else f"{request.text[:SHOWN]} …")
    st.fragment(_answers, run_every="0.5s" if active else None)(request, titles, active)


def _answers(request: ChatRequest, titles: dict[str, str], polled: bool) -> None:
    job = _job(request)
    if polled and (job is None or not job.active):
        st.rerun()
    run = cached.find_run(str(job.run_id)) if job is not None and job.state == "done" and cached.exists(job.run_id) else None
    found = trinity.written(cached.home(), request, run)
    left, right = st.columns(2, gap="medium")
    with left:
        _side("dense", found["dense"], found["sparse"])
    with right:
        _side(f"{titles.get(request.method, request.method)}, density {percent(request.density)}", found["sparse"], found["dense"])
    _state(job, request, found)


def _side(name: str, own: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """One answer; tokens that differ from the other side's at the same place are marked."""
    st.caption(name)
    spans = []
    for place, token in enumerate(own):
        same = place >= len(other) or other[place]["token_id"] == token["token_id"]
        other_word = ", here the method would have written another" if token.get("same") is False else ""
        title = f"token {place}, {1000 * token['seconds']:.0f} ms{'' if same else ', differs'}{other_word}"
        spans.append(f'<span class="{SAME if same else OTHER}" title="{title}">{html.escape(token["token"])}</span>')
    st.html(f'<div class="moyu-answer">{"".join(spans)}</div>')


def _state(job: Job | None, request: ChatRequest, found: dict[str, list[dict[str, Any]]]) -> None:
    if job is not None and job.active:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Stop", key=f"_chat_stop_{job.id}", on_click=_stop, args=(job.id,), disabled=job.cancel)
            st.caption("stopping" if job.cancel else _waiting(job))
        if not workers_alive(cached.home()):
            st.warning(
                "The worker does not answer. What was written so far stays; `moyu serve` or `moyu worker` starts one, which then "
                "takes the message up again."
            )
        return
    if job is not None and job.state == "failed":
        st.error(f"{job.error} The conversation stays; change the message or the settings and send it again.")
        if st.button("Edit the message", key=f"_chat_edit_{job.id}"):
            _put_back(request.text)
    elif job is not None and job.state == "cancelled":
        st.caption("Stopped; what was written stays.")
    st.caption(summary(found, request.tokens))


def _waiting(job: Job) -> str:
    """What an answer waits for, in words."""
    if job.state == "queued":
        return f"queued, place {cached.jobs().position(job.id)}"
    done = f", {percent(job.done / job.total)}" if job.total else ""
    return f"{job.stage or 'starting'}{done}"


def summary(found: dict[str, list[dict[str, Any]]], tokens: int) -> str:
    """One line of numbers on an answer; empty where nothing was written."""
    dense, sparse = found["dense"], found["sparse"]
    if not dense or not sparse:
        return ""
    pairs = [a["token_id"] == b["token_id"] for a, b in zip(dense, sparse, strict=False)]
    agreed = pairs.index(False) if False in pairs else len(pairs)
    said = [f"The same up to token {agreed} of {len(pairs)}" if agreed < len(pairs) else f"All {len(pairs)} tokens the same"]
    judged = [token["same"] for token in dense if token.get("same") is not None]
    if judged:
        said.append(f"given the dense answer, the method would have written {sum(judged)} of its {len(judged)} tokens")
    speeds = [_per_second(side) for side in (dense, sparse)]
    if all(speeds):
        said.append(f"{number(speeds[0])} tokens/s dense, {number(speeds[1])} sparse, while both took turns on this machine")
    return "; ".join(said) + "."


def _per_second(side: list[dict[str, Any]]) -> float:
    """Tokens a second behind the first one, whose time is the prompt's."""
    seconds = sorted(token["seconds"] for token in side[1:])
    return 1 / seconds[len(seconds) // 2] if seconds and seconds[len(seconds) // 2] > 0 else 0.0


def _stop(job_id: int) -> None:
    cached.jobs().cancel(job_id)


def empty() -> None:
    """What to say where there is no run of quality yet."""
    parts.empty(
        "No model has been judged yet. `moyu study trinity` does it for the default model, `--model NAME` for another.",
        "runs",
        "See the runs",
    )
