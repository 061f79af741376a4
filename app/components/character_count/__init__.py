"""A live counter under a text area: characters of a stated limit, counted in the browser while one types.

Streamlit's own `max_chars` also counts, but it throws away a paste that is too long without a word.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st
import streamlit.components.v2 as components

_HERE = Path(__file__).parent
_COMPONENT = components.component(
    "moyu_character_count",
    html='<output class="count" aria-live="polite"></output>',
    css=(_HERE / "style.css").read_text(encoding="utf-8"),
    js=(_HERE / "count.js").read_text(encoding="utf-8"),
)


def character_count(area_key: str, limit: int) -> None:
    """Count the characters of the text area with this key; says how many would be left out.

    Args:
        area_key: the `key` of the `st.text_area`.
        limit: characters (code points) that are kept.
    """
    data = {"area": area_key, "limit": limit, "count": len(st.session_state.get(area_key) or "")}
    _COMPONENT(key=f"count-{area_key}", data=data, height="content")
