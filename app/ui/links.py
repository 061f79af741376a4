"""What is looked at lives in the URL: every widget that decides the view is drawn through `linked`.

Streamlit's own binding puts the shown label into the address; a link that carries ids survives new labels, other languages and
other lists. The rule: an address that changed (a link was opened, or the back button) wins over the session; otherwise the
session wins and the address follows. Values equal to the default are left out of the address.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

VERSION = "1"
"""Meaning of the keys; raised when a key changes its meaning."""

APP = Path(__file__).resolve().parent.parent
_OWN_KEYS = {"v", "run", "prompt", "compare"}
_KEY_PATTERNS = (
    r"\blinked\(\s*\"(\w+)\"",
    r"\bkey=\"(\w+)\"",
    r"\b_?(?:choose|select|switch|count|pick|option)\w*\(\s*\"(\w+)\"",
    r"\b_?(?:choose|select|switch|count|pick|option)\w*\(\s*\"[^\"]*\",\s*\"(\w+)\"",
)
"""How sources name the key of a linked widget: to `linked` itself, to the widget, or to a page's own shorthand for both."""

_WRITTEN = "_written"
_PAGE = "_page"


def begin(page: str) -> None:
    """Called once at the start of a rerun with the page's name: a page switch empties the address, which is no wish."""
    if st.session_state.get(_PAGE) != page:
        st.session_state[_PAGE] = page
        st.session_state[_WRITTEN] = {}
    st.session_state["_link"] = {"v": VERSION}
    st.session_state["_link_notes"] = []
    st.session_state["_link_newer"] = _newer(st.query_params.get("v", VERSION))


def linked(
    key: str,
    default: Any,
    draw: Callable[[], Any],
    *,
    options: Sequence[Any] | None = None,
    decode: Callable[[str], Any] = str,
) -> Any:
    """Draw a widget whose value is part of the link.

    Args:
        key: name in the address and key of the widget.
        default: value without the key; a constant for as long as links are to mean the same.
        draw: draws the widget with this key and returns its value; it must not set an own default.
        options: values that exist; others fall back to the default, and say so if they came with a link.
        decode: text -> value; raises ValueError for what cannot be read.
    """
    _take_over(key, default, options, decode)
    value = draw()
    _write(key, value, default)
    return value


def _take_over(key: str, default: Any, options: Sequence[Any] | None, decode: Callable[[str], Any]) -> None:
    written: dict[str, str | None] = st.session_state[_WRITTEN]
    asked = st.query_params.get(key)
    opened = asked is not None and asked != written.get(key)
    went_back = asked is None and written.get(key) is not None
    gone = key not in st.session_state or (options is not None and st.session_state[key] not in options)
    if opened:
        st.session_state[key] = _decoded(key, str(asked), default, options, decode)
    elif went_back or gone:
        st.session_state[key] = default


def _decoded(key: str, asked: str, default: Any, options: Sequence[Any] | None, decode: Callable[[str], Any]) -> Any:
    try:
        value = decode(asked)
    except ValueError:
        value = None
    if value is None or (options is not None and value not in options):
        shown = asked if len(asked) <= 60 else asked[:57] + "..."
        instead = "nothing" if default in (None, "") else repr(default)
        st.session_state["_link_notes"].append(f"{key} = {shown!r} (showing {instead} instead)")
        return default
    return value


def _write(key: str, value: Any, default: Any) -> None:
    text = None if value is None else str(value)
    if text is not None:
        st.session_state["_link"][key] = text
    kept = None if value in (default, None, "") else text
    if kept is None:
        if key in st.query_params:
            del st.query_params[key]
    elif st.query_params.get(key) != kept:
        st.query_params[key] = kept
    st.session_state[_WRITTEN][key] = kept


def full_link() -> str:
    """The address of this view with every value spelled out, defaults too, as known when the page was last drawn."""
    return f"{st.context.url}?{urllib.parse.urlencode(st.session_state['_link'])}"


def notes() -> str:
    """What the opened link asked for and is not here, and what of it nobody knows; empty if all was found."""
    missing, unknown = st.session_state["_link_notes"], _unknown()
    said = (
        ["This link was made by a newer version of the program; some of it may not be shown."]
        if st.session_state["_link_newer"]
        else []
    )
    if missing:
        said.append(f"This link asks for something that is not here: {'; '.join(missing)}.")
    if unknown:
        said.append(f"Nothing on this page is called {', '.join(unknown)}; that part of the link is ignored.")
    return " ".join(said)


@cache
def known_keys() -> frozenset[str]:
    """Every key that a page's source links, besides those of the link itself: the table of keys, which nobody has to keep."""
    sources = (path.read_text(encoding="utf-8") for path in sorted(APP.rglob("*.py")))
    found = {key for text in sources for pattern in _KEY_PATTERNS for key in re.findall(pattern, text)}
    return frozenset(found | _OWN_KEYS)


def _unknown() -> list[str]:
    """Parameters of the address that no page knows, as they may be shown."""
    drawn = set(st.session_state["_link"]) | set(st.session_state[_WRITTEN])
    odd = [key for key in st.query_params if key not in drawn and not key.startswith(("embed", "utm_")) and key not in known_keys()]
    return [repr(key[:40]) for key in odd[:5]]


def _newer(version: str) -> bool:
    return version.isdecimal() and len(version) < 6 and int(version) > int(VERSION)


def boolean(text: str) -> bool:
    """A decoder of switches, `True` or `False`."""
    if text not in ("True", "False"):
        raise ValueError(text)
    return text == "True"


def real(low: float, high: float) -> Callable[[str], float]:
    """A decoder of numbers from low to high."""

    def decode(text: str) -> float:
        number = float(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return decode


def integer(low: int, high: int) -> Callable[[str], int]:
    """A decoder of whole numbers from low to high."""

    def decode(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return decode
