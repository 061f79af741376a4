"""Choosing a prompt set, and looking at one: its prompts, their tokens, its versions, its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import streamlit as st

from app.ui import cached, state, visitors
from app.ui.links import linked
from moyu_core import prompt_library as library
from moyu_core import registry
from moyu_core.errors import InputError, ModelError
from moyu_core.prompt_files import Problem
from moyu_core.prompts import Prompt, PromptSet

DEFAULT_MODEL = "smollm2-135m-instruct"
MAX_SHOWN = 2_000
"""Rows of a table of prompts or problems that a page shows."""
FEW = 8
"""Up to here a table is as high as its rows."""
FIELDS = ("id", "domain", "condition", "text")
NO_SET = "written"
"""In the link: a text of the page itself instead of a set."""


def known() -> list[library.StoredSet]:
    """The sets that are listed to whoever looks."""
    return library.list_sets(cached.home(), visitors.visitor() if visitors.limits() else None)


def choose(label: str, key: str, help: str = "", first: str = "", instead: str = "") -> PromptSet | None:
    """A select box of sets, its choice in the link as the hash of the prompts; None where there is no set, or `instead` is chosen.

    Args:
        label: of the box.
        key: in the link; each page and purpose has its own.
        help: shown beside the label.
        first: name of the shipped set that is chosen at first.
        instead: the first option where no set is needed, for instance a text that is written beside the box.
    """
    reference = choose_reference(label, key, help, first, instead)
    return library.load(cached.home(), reference) if reference else None


def choose_reference(label: str, key: str, help: str = "", first: str = "", instead: str = "") -> str:
    """As `choose`, but the 12 digits that name the chosen version."""
    found = known()
    titles = {NO_SET: instead} if instead else {}
    titles |= {stored.newest.reference: f"{stored.name} · {count_of(stored.newest.prompts)}" for stored in found}
    for asked in (st.query_params.get(key, ""), str(st.session_state.get(key) or "")):
        if asked and asked not in titles:
            titles |= _older(asked)
    if not titles:
        return ""
    options = list(titles)
    default = next((stored.newest.reference for stored in found if stored.shipped and stored.name == first), options[0])
    chosen = linked(
        key,
        default,
        lambda: st.selectbox(label, options, format_func=titles.__getitem__, key=key, filter_mode="contains", help=help or None),
        options=options,
    )
    return "" if chosen == NO_SET else chosen


def _older(reference: str) -> dict[str, str]:
    """The title of a version that is not the newest, or of a set that a link has led to; nothing where it is not here."""
    try:
        stored, version = library.find(cached.home(), reference)
    except InputError:
        return {}
    place = len(stored.versions) - stored.versions.index(version)
    return {reference: f"{stored.name} · {count_of(version.prompts)} · version {place} of {len(stored.versions)}"}


def count_of(prompts: int) -> str:
    """`1 prompt`, `2 prompts`."""
    return f"{prompts:,} prompt{'' if prompts == 1 else 's'}"


def models(condition: Callable[[Path], bool] = lambda _: True) -> dict[str, registry.ModelFacts]:
    """Models on this machine whose folder meets a condition; in public mode those that visitors may use."""
    allowed = visitors.limits()
    return {
        facts.name: facts
        for facts in registry.known_models(cached.home())
        if facts.path is not None and condition(facts.path) and (allowed is None or facts.name in allowed.models)
    }


def choose_model(key: str, found: dict[str, registry.ModelFacts], label: str = "Tokens of") -> registry.ModelFacts | None:
    """A select box of models; None where none is on this machine."""
    if not found:
        st.caption("No model is on this machine yet; `moyu fetch default` brings one.")
        return None
    options = list(found)
    default = DEFAULT_MODEL if DEFAULT_MODEL in found else options[0]
    name = linked(
        key,
        default,
        lambda: st.selectbox(label, options, format_func=lambda name: found[name].title, key=key),
        options=options,
    )
    return found[name]


@st.cache_resource(show_spinner="Counting tokens", max_entries=32)
def _token_counts(reference: str, model_folder: str, changed: int) -> list[int]:
    del changed
    return library.token_counts(Path(model_folder), library.load(cached.home(), reference).prompts)


def token_counts(reference: str, model: registry.ModelFacts | None) -> list[int] | None:
    """Tokens of each prompt of a version, sink token included; None where the tokenizer is not on this machine."""
    if model is None or model.path is None:
        return None
    file = model.path / "tokenizer.json"
    try:
        return _token_counts(reference, str(model.path), file.stat().st_mtime_ns if file.is_file() else 0)
    except ModelError:
        return None


def table(prompts: tuple[Prompt, ...], tokens: list[int] | None = None) -> pd.DataFrame:
    """The prompts as a table."""
    frame = pd.DataFrame([[getattr(prompt, name) for name in FIELDS] for prompt in prompts], columns=list(FIELDS))
    frame.insert(3, "characters", [len(prompt.text) for prompt in prompts])
    if tokens is not None:
        frame.insert(3, "tokens", tokens)
    return frame


def show_table(frame: pd.DataFrame, alt: str, height: int = 380) -> None:
    """A table of prompts, its first rows where there are many."""
    st.dataframe(frame.head(MAX_SHOWN), hide_index=True, height=height if len(frame) > FEW else "auto", alt=alt)
    if len(frame) > MAX_SHOWN:
        st.caption(f"The first {MAX_SHOWN:,} of {len(frame):,} rows are shown; all are used.")


def show_problems(title: str, problems: tuple[Problem, ...]) -> None:
    """Rows and reasons, folded away when there are none."""
    if problems:
        with st.expander(f"{title} ({len(problems):,})", expanded=len(problems) <= 20):
            rows = [{"row": problem.row, "reason": problem.reason} for problem in problems[:MAX_SHOWN]]
            st.dataframe(pd.DataFrame(rows), hide_index=True, alt=title)


def save_button(found: tuple[Prompt, ...], suggested: str, source: str, key: str, notes: tuple[str, ...] = ()) -> None:
    """A name and a button that keeps the prompts in the library and opens them there."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name of the set", suggested, max_chars=80, key=f"_name-{key}", width=320)
        name = (name or suggested).strip()
        reason = _refusal(name, found)
        pressed = st.button("Save to the library", type="primary", disabled=not found or bool(reason), key=f"_save-{key}")
    if reason:
        st.caption(f":material/block: {reason}")
    elif pressed:
        _save(PromptSet(name, found, notes), source)


def _refusal(name: str, prompts: tuple[Prompt, ...]) -> str:
    """Why a visitor of a public installation cannot keep a set, in one sentence; empty where it is kept."""
    limits, owner = visitors.limits(), visitors.visitor()
    if limits is None:
        return ""
    try:
        limits.check_size({"prompts": [{"text": prompt.text} for prompt in prompts]})
    except InputError as error:
        return str(error)
    own = [stored for stored in known() if stored.owner == owner]
    if len(own) >= limits.sets_per_visitor and name not in {stored.name for stored in own}:
        return f"You keep {len(own)} sets and {limits.sets_per_visitor} are allowed on this public installation; delete one."
    return ""


def _save(found: PromptSet, source: str) -> None:
    stored, version = library.save(cached.home(), found, source, visitors.visitor())
    st.session_state["_said"] = ("success", f"{stored.name}: {count_of(version.prompts)} saved as {version.reference}.")
    st.session_state["_open_set"] = version.reference
    st.rerun()


def open_set() -> None:
    """After a save: show the new version. Called before the page draws a widget."""
    reference = st.session_state.pop("_open_set", None)
    if reference:
        state.go_to("part", "library")
        state.go_to("set", reference)


def digest(data: bytes) -> str:
    """SHA-256 of an upload, the key of what was understood of it."""
    return hashlib.sha256(data).hexdigest()
