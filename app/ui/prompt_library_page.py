"""The library of the Prompts page: one set, what it holds, its versions and files, and what can be done with it."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import cached, exports, prompt_sets, state, visitors
from moyu_core import prompt_library as library
from moyu_core.errors import MoyuError
from moyu_core.export.view import file_name
from moyu_core.figures.text import number
from moyu_core.prompt_export import FORMATS, export
from moyu_core.prompt_files import Sheet
from moyu_core.prompt_import import Mapping, understand
from moyu_core.prompts import PromptSet

FORMS = {
    "capture": ("Activation map of every prompt", {"source": "set"}),
    "history": ("History: as histories of probes", {"part": "own", "history_source": "set"}),
    "inertia": ("Inertia: as texts, their domains as topics", {"part": "own"}),
    "predictors": ("Predictors: all methods on these texts", {"part": "own"}),
    "trinity": ("Trinity: as evaluation texts", {"part": "own"}),
}
"""Page of a study, which bears the study's name -> what the link is called, and what of its form is chosen besides the set."""
SET_KEYS = {
    "capture": "captured_set",
    "history": "history_set",
    "inertia": "inertia_set",
    "predictors": "predictors_set",
    "trinity": "trinity_set",
}
"""Page of a study -> key of the link that chooses its prompt set."""


def draw() -> None:
    """The library: one set, what it holds, and what can be done with it."""
    left, right = st.columns([3, 1])
    with left:
        reference = prompt_sets.choose_reference(
            "Prompt set", "set", "The link carries the hash of the prompts, so it means the same texts everywhere."
        )
    if not reference:
        st.info("There is no prompt set; import one.")
        return
    found = library.load(cached.home(), reference)
    stored, version = library.find(cached.home(), reference)
    with right:
        model = prompt_sets.choose_model("for_model", prompt_sets.models())
    tokens = prompt_sets.token_counts(reference, model)
    _facts(stored, version, found, tokens)
    frame = prompt_sets.table(found.prompts, tokens)
    exports.offer(f"Prompts of {stored.name}", table=frame)
    if st.session_state.get("_edit") and not stored.shipped:
        _editor(stored, found)
    else:
        prompt_sets.show_table(frame, f"Prompts of {stored.name}")
    for note in found.notes:
        st.caption(f"Note: {note}.")
    _actions(stored, version, found)
    _versions(stored, version)
    _trash()


def _facts(stored: library.StoredSet, version: library.Version, found: PromptSet, tokens: list[int] | None) -> None:
    domains = sorted({prompt.domain for prompt in found.prompts} - {""})
    conditions = sorted({prompt.condition for prompt in found.prompts})
    parts = [
        prompt_sets.count_of(len(found.prompts)),
        f"{len(domains)} domains" + (f" ({', '.join(domains[:6])}{' ...' if len(domains) > 6 else ''})" if domains else ""),
    ]
    if conditions != ["plain"]:
        parts.append(f"{len(conditions)} conditions")
    if tokens:
        parts.append(f"{number(sum(tokens))} tokens, the longest {number(max(tokens))}, sink tokens counted")
    made = "" if not version.created else f", saved {time.strftime('%Y-%m-%d %H:%M', time.localtime(version.created))}"
    st.caption(f"{' · '.join(parts)}. {'Shipped' if stored.shipped else 'Made here'}, version `{version.reference}`{made}.")


def _actions(stored: library.StoredSet, version: library.Version, found: PromptSet) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _studies(version.reference)
        with st.popover("Export"):
            kind = st.selectbox("Kind of file", list(FORMATS), key="_export_kind")
            st.download_button(
                "Download",
                data=lambda: export(found.prompts, kind),
                file_name=f"{file_name(stored.name)}.{kind}",
                mime=FORMATS[kind],
                on_click="ignore",
            )
        if not stored.shipped and _mine(stored):
            st.toggle("Edit", key="_edit", help="Changes become a new version; the old one stays.")
            st.button(
                "Delete", on_click=_delete, args=(stored,), help="Goes to the trash with all its versions; it can be brought back"
            )


def _studies(reference: str) -> None:
    """Links to the forms of all studies that are carried out here, with this set filled in."""
    limits = visitors.limits()
    offered = [page for page in FORMS if page in state.PAGES and (limits is None or page in limits.studies)]
    if offered and not cached.read_only():
        with st.popover("Use in a study", type="primary"):
            for page in offered:
                label, link = FORMS[page]
                st.page_link(state.PAGES[page], label=label, query_params={**link, SET_KEYS[page]: reference})


def _mine(stored: library.StoredSet) -> bool:
    return visitors.limits() is None or stored.owner == visitors.visitor()


def _editor(stored: library.StoredSet, found: PromptSet) -> None:
    fields = list(prompt_sets.FIELDS)
    frame = pd.DataFrame([[getattr(prompt, name) for name in fields] for prompt in found.prompts], columns=fields)
    edited = st.data_editor(frame, num_rows="dynamic", hide_index=True, key=f"_editor-{found.name}-{len(frame)}", height=380)
    edited = edited.astype(object).where(edited.notna(), None)
    rows = tuple(enumerate((_named(row) for row in edited.to_dict("records")), 1))
    rows = tuple((place, row) for place, row in rows if any(row.values()))
    understood = understand(Sheet(stored.name, "xlsx", prompt_sets.FIELDS, rows), Mapping("text", "id", "domain", "condition"))
    prompt_sets.show_problems("Rows that would be left out", understood.left_out)
    prompt_sets.save_button(understood.prompts, stored.name, "edited here", f"edit-{stored.key}")


def _named(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items()}


def _delete(stored: library.StoredSet) -> None:
    library.delete(cached.home(), stored.key)
    st.session_state["_edit"] = False
    st.session_state["_said"] = ("info", f"{stored.name} is in the trash.")


def _versions(stored: library.StoredSet, shown: library.Version) -> None:
    if len(stored.versions) > 1:
        with st.expander(f"Versions ({len(stored.versions)})"):
            for version in stored.versions:
                day = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created))
                st.button(
                    f"{version.reference} · {prompt_sets.count_of(version.prompts)} · {day} · {version.source}",
                    on_click=state.go_to,
                    args=("set", version.reference),
                    disabled=version.reference == shown.reference,
                    key=f"_version-{version.reference}",
                )


def _trash() -> None:
    deleted = library.deleted(cached.home(), visitors.visitor() if visitors.limits() else None)
    if deleted:
        with st.expander(f"Trash ({len(deleted)})"):
            for stored in deleted:
                st.button(f"Bring {stored.name} back", on_click=_restore, args=(stored.key,), key=f"_restore-{stored.key}")
            if visitors.limits() is None:
                st.button("Empty the trash for good", on_click=library.empty_trash, args=(cached.home(),))


def _restore(key: str) -> None:
    try:
        library.restore(cached.home(), key)
        st.session_state["_said"] = ("success", "The set is back.")
    except MoyuError as error:
        st.session_state["_said"] = ("error", str(error))
