"""Sets made by rule: histories before probes, topic switches, and chats through a model's own template."""

from __future__ import annotations

import html

import streamlit as st

from app.ui import exports, prompt_sets
from app.ui.links import boolean, integer, linked, linked_number
from moyu_core import prompt_templates as templates
from moyu_core.errors import MoyuError
from moyu_core.figures.text import escaped
from moyu_core.prompts import Prompt, PromptSet, make_prompt
from moyu_core.registry import ModelFacts
from moyu_core.tokens import shown_tokens, token_text

KINDS = {"grid": "Histories before probes", "switch": "Topic switches", "chat": "Chat"}
JOINTS = {"paragraph": "\n\n", "line": "\n", "space": " "}
MAX_TOKENS_SHOWN = 2_000


def draw() -> None:
    """Choose a template, fill it, look, save."""
    kind = linked(
        "template",
        "grid",
        lambda: st.segmented_control("Template", list(KINDS), key="template", required=True, format_func=KINDS.__getitem__),
        options=list(KINDS),
    )
    try:
        {"grid": _grid, "switch": _switch, "chat": _chat}[str(kind)]()
    except MoyuError as error:
        st.error(str(error), icon="\u26a0\ufe0f")


def _grid() -> None:
    st.caption(
        "Every probe behind every history. The prompts of one probe differ in their history alone, which is their condition; the "
        "bare probe is the condition plain."
    )
    left, right = st.columns(2)
    with left:
        probes = prompt_sets.choose("Probes", "probes")
        n_probes = _count("n_probes", 8, "How many probes")
    with right:
        histories = prompt_sets.choose("Histories", "before", first="topics")
        n_histories = _count("n_histories", 8, "How many histories")
    if probes is None or histories is None:
        return
    made = templates.history_grid(_spread(probes, n_probes), _spread(histories, n_histories), _joint())
    _result(made, f"{probes.name} after {histories.name}", "histories before probes")


def _switch() -> None:
    st.caption(
        "Each second text stands once behind a text of its own topic (stay) and once behind one of another topic (switch). "
        "Topics are domains."
    )
    found = prompt_sets.choose("Texts with domains", "texts", first="topics")
    left, right = st.columns(2)
    with left:
        pairs = _count("pairs", 20, "How many second texts")
    with right:
        seed = linked("draw", 0, lambda: st.number_input("Seed of the draw", 0, 9_999, key="draw"), decode=integer(0, 9_999))
    if found is not None:
        made = templates.topic_switches(found.prompts, pairs, int(seed), _joint())
        _result(made, f"{found.name} switches", "topic switches")


def _chat() -> None:
    st.caption(
        "A conversation in the marks that the model was tuned on, from its own template, shown as the tokens that it becomes."
    )
    model = prompt_sets.choose_model("chat_model", prompt_sets.models(templates.has_chat), "Model")
    if model is None or model.path is None:
        st.info("No model on this machine has a chat template.")
        return
    system = st.text_input("System", key="_system", placeholder="left to the template")
    turns = st.data_editor(
        [{"role": "user", "content": "Why is the sky blue?"}],
        num_rows="dynamic",
        key="_turns",
        column_config={
            "role": st.column_config.SelectboxColumn("role", options=list(templates.ROLES), required=True, width="small")
        },
    )
    answer = linked("answer", True, lambda: st.toggle("Open the assistant's answer", key="answer"), decode=boolean)
    messages = [{"role": str(turn["role"]), "content": str(turn.get("content") or "")} for turn in turns if turn.get("role")]
    messages = [*([{"role": "system", "content": system}] if system else []), *messages]
    text = templates.chat(model.path, messages, answer, token_text(model.path, model.sink_token_id))
    _tokens(model, text)
    prompt_sets.save_button((make_prompt(text, domain="chat"),), "chat", f"chat template of {model.name}", "chat")


def _tokens(model: ModelFacts, text: str) -> None:
    assert model.path is not None
    sink = token_text(model.path, model.sink_token_id)
    tokens = [(model.sink_token_id, sink), *shown_tokens(model.path, text)] if sink else shown_tokens(model.path, text)
    spans = [
        f'<span title="{place} &middot; id {number}" style="display:inline-block;padding:1px 3px;margin:1px;border-radius:3px;'
        f'font-family:monospace;font-size:.86rem;border:1px solid rgba(128,128,128,.45)">{escaped(token)}</span>'
        + ("<br>" if "\n" in token else "")
        for place, (number, token) in enumerate(tokens[:MAX_TOKENS_SHOWN])
    ]
    st.html(f'<div class="moyu-tokens" style="line-height:1.9">{"".join(spans)}</div>')
    more = f"; the first {MAX_TOKENS_SHOWN:,} are shown" if len(tokens) > MAX_TOKENS_SHOWN else ""
    st.caption(f"{len(tokens):,} tokens of {html.escape(model.title)}, the sink token at position 0 counted{more}.")


def _spread(found: PromptSet, count: int) -> list[Prompt]:
    """So many prompts of a set, over all its domains in turn, one condition of each id."""
    by_domain: dict[str, list[Prompt]] = {}
    for prompt in {prompt.id: prompt for prompt in reversed(found.prompts)}.values():
        by_domain.setdefault(prompt.domain, []).append(prompt)
    rounds = max(len(texts) for texts in by_domain.values())
    in_turn = [texts[-1 - place] for place in range(rounds) for texts in reversed(by_domain.values()) if place < len(texts)]
    return in_turn[:count]


def _count(key: str, default: int, label: str) -> int:
    return linked_number(key, default, label, 1, 1_000)


def _joint() -> str:
    name = linked(
        "joint",
        "paragraph",
        lambda: st.segmented_control("Between the two", list(JOINTS), key="joint", required=True),
        options=list(JOINTS),
    )
    return JOINTS[str(name)]


def _result(made: tuple[Prompt, ...], name: str, source: str) -> None:
    st.caption(f"{len(made):,} prompts.")
    frame = prompt_sets.table(made)
    exports.offer(f"Prompts of {name}", table=frame)
    prompt_sets.show_table(frame, "What the template makes", 300)
    prompt_sets.save_button(made, name[:80].strip(), source, "template")
