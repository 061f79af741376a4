"""What is looked at lives in the URL: every widget that decides the view is drawn through `linked`.

Streamlit's own binding puts the shown label into the address; a link that carries ids survives new labels, other languages and
other lists. The rule: an address that a visitor asked for (a link was opened, or the back button) wins over the session;
otherwise the session wins and the address follows, also when a page is left and come back to. An address alone does not tell: a
browser that is asked twice in quick succession sends the one of before our answer again. Values equal to the default are left
out of the address.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

VERSION = "1"
"""Meaning of the keys; raised when a key changes its meaning."""

_FOREIGN = ("embed", "utm_")
"""Beginnings of parameters that say nothing of the view."""

APP = Path(__file__).resolve().parent.parent
_OWN_KEYS = {"v", "run", "prompt", "compare"}
_KEY_PATTERNS = (
    r"\blinked(?:_several|_number)?\(\s*\"(\w+)\"",
    r"\bkey=\"(\w+)\"",
    r"\b_?(?:choose|select|switch|count|pick|option)\w*\(\s*\"(\w+)\"",
    r"\b_?(?:choose|select|switch|count|pick|option)\w*\(\s*\"[^\"]*\",\s*\"(\w+)\"",
)
"""How sources name the key of a linked widget: to `linked` itself, to the widget, or to a page's own shorthand for both."""

TEXT = "a text that is to be sent; once it was, its run or set stands in the link"
FILE = "a file of this browser"
UNLINKED = {
    "_text": TEXT,
    "_inertia_text": TEXT,
    "_history_probes": TEXT,
    "_history_texts": TEXT,
    "_ptext": TEXT,
    "_pasted": TEXT,
    "_chat_text": TEXT,
    "_system": TEXT,
    "_turns": TEXT,
    "_editor-": TEXT,
    "_name-": "a name that is being given",
    "_upload": FILE,
    "_history_probe_file": FILE,
    "_history_file": FILE,
    "_bundle-": FILE,
    "_map-": "a column of a file of this browser",
    "_edit": "a link shows a set, it does not begin to change it",
    "_export": "decides what is downloaded, nothing that is seen",
    "_export_kind": "decides what is downloaded, nothing that is seen",
    "_quota": "a setting of the installation, kept there",
    "_runs-": "the marked row is in the link as runs_run",
}
"""Key, or its beginning, of each widget that is not part of the link, and why; a test looks for others in the pages."""

_WRITTEN = "_written"
_PAGE = "_page"
_SEEN = "_seen"
"""Of each page, what its link said when it was last looked at."""


def begin(page: str) -> None:
    """Called once at the start of a rerun with the page's name: a page switch empties the address, which is no wish."""
    if st.session_state.get(_PAGE) != page:
        st.session_state[_PAGE] = page
        seen = st.session_state.setdefault(_SEEN, {})
        if _travelled() or any(not key.startswith(_FOREIGN) for key in st.query_params):
            seen[page] = {}  # an address with wishes: what it leaves out stands at its default
        st.session_state[_WRITTEN] = dict(seen.setdefault(page, {}))
        st.query_params.update(seen[page])  # all at once: one step of the browser's history
    st.session_state["_link"] = {"v": VERSION}
    st.session_state["_link_notes"] = []
    st.session_state["_link_newer"] = _newer(st.query_params.get("v", VERSION))
    st.session_state["_link_reported"] = _reported()


def forget() -> None:
    """Let no page come back to what it showed: what is to be opened is chosen anew."""
    st.session_state[_SEEN] = {}


def linked(
    key: str,
    default: Any,
    draw: Callable[[], Any],
    *,
    options: Sequence[Any] | None = None,
    decode: Callable[[str], Any] = str,
    encode: Callable[[Any], str] = str,
) -> Any:
    """Draw a widget whose value is part of the link.

    Args:
        key: name in the address and key of the widget.
        default: value without the key; a constant for as long as links are to mean the same.
        draw: draws the widget with this key and returns its value; it must not set an own default.
        options: values that exist; others fall back to the default, and say so if they came with a link.
        decode: text -> value; raises ValueError for what cannot be read.
        encode: value -> text.
    """
    _take_over(key, default, options, decode)
    value = draw()
    _write(key, value, default, encode)
    return value


def linked_number(key: str, default: Any, label: str, low: Any, high: Any, **how: Any) -> Any:
    """As `linked`, for a box of one number, whole where the default is.

    An emptied box stands for the default, which it then shows in grey; Streamlit alone would take the smallest number.
    """
    decode = integer(low, high) if isinstance(default, int) else real(low, high)
    value = linked(
        key, default, lambda: st.number_input(label, low, high, None, key=key, placeholder=f"{default:g}", **how), decode=decode
    )
    return default if value is None else value


def kept(key: str, default: str, draw: Callable[[], Any]) -> str:
    """Draw a widget for a text that is no part of the link; what was written stays while other pages are open.

    Args:
        key: of the widget, one of UNLINKED.
        default: what stands in it at first.
        draw: draws the widget with this key; it must not set an own default.
    """
    held = f"_held{key}"
    if key not in st.session_state:  # Streamlit forgets what it does not draw
        st.session_state[key] = st.session_state.get(held, default)
    st.session_state[held] = draw() or ""
    return st.session_state[held]


def linked_several(key: str, default: Sequence[Any], draw: Callable[[], Any], *, options: Sequence[Any]) -> list[Any]:
    """As `linked`, for a widget of which any number of options can be chosen; in the link they stand with commas between them.

    Returns:
        The chosen options, in the order in which they are offered.
    """

    def decode(text: str) -> list[Any]:
        names = text.split(",") if text else []
        if set(names) - set(map(str, options)):
            raise ValueError(text)
        return [option for option in options if str(option) in names]

    def offered(chosen: Sequence[Any] | None) -> list[Any]:
        return [option for option in options if option in (chosen or ())]

    held = st.session_state.get(key)
    if held is not None and any(option not in options for option in held):  # another model was chosen, say
        st.session_state[key] = offered(held) or offered(default)
    return linked(key, offered(default), lambda: offered(draw()), decode=decode, encode=lambda chosen: ",".join(map(str, chosen)))


def _take_over(key: str, default: Any, options: Sequence[Any] | None, decode: Callable[[str], Any]) -> None:
    written: dict[str, str | None] = st.session_state[_WRITTEN]
    asked = st.query_params.get(key)
    travelled = _travelled()
    opened = asked is not None and asked != written.get(key) and (travelled or key not in written)
    went_back = travelled and asked is None and written.get(key) is not None
    undrawn = key not in st.session_state
    gone = undrawn or (options is not None and st.session_state[key] not in options)
    if opened:
        st.session_state[key] = _decoded(key, str(asked), default, options, decode)
    elif undrawn and asked is not None:  # another part or page was open meanwhile; Streamlit forgets, the address does not
        held = _read(asked, options, decode)
        st.session_state[key] = default if held is None else held
    elif went_back or gone:
        st.session_state[key] = default
    elif not _drawn(key):  # said again, or a browser that had not loaded the widget's script would never know
        st.session_state[key] = st.session_state[key]


def _drawn(key: str) -> bool:
    """Whether the browser has the widget on screen and so knows its value; a fragment's own reruns come from such a browser."""
    context = get_script_run_ctx()
    return key in st.session_state["_link_reported"] or (context is not None and bool(context.fragment_ids_this_run))


def _reported() -> set[str]:
    """Keys of the widgets that the browser has drawn, as it says with each wish; to be asked before this rerun draws any.

    Streamlit sends a value that the program gave once. A page that is drawn again before the browser has loaded the script of a
    widget, for instance by a fragment that asks by itself, would leave that widget at its first option, whatever the link said.
    """
    context = get_script_run_ctx()
    states = context.session_state.get_widget_states() if context is not None else []
    return {state.id.split("-", 2)[-1] for state in states}


def _travelled() -> bool:
    """Whether this rerun was asked for by the browser's back or forward button."""
    context = get_script_run_ctx()
    return context is not None and context.is_history_navigation


def _decoded(key: str, asked: str, default: Any, options: Sequence[Any] | None, decode: Callable[[str], Any]) -> Any:
    value = _read(asked, options, decode)
    if value is None:
        shown = asked if len(asked) <= 60 else asked[:57] + "..."
        plain = ", ".join(map(str, default)) if isinstance(default, list) else default
        instead = "nothing" if plain in (None, "") else repr(plain)
        st.session_state["_link_notes"].append(f"{key} = {shown!r} (showing {instead} instead)")
        return default
    return value


def _read(asked: str, options: Sequence[Any] | None, decode: Callable[[str], Any]) -> Any:
    """The value that a text stands for; None where it stands for none that exists."""
    try:
        value = decode(asked)
    except ValueError:
        return None
    return value if options is None or value in options else None


def _write(key: str, value: Any, default: Any, encode: Callable[[Any], str]) -> None:
    text = None if value is None else encode(value)
    if text is not None:
        st.session_state["_link"][key] = text
    kept = None if value in (default, None, "") else text
    if kept is None:
        if key in st.query_params:
            del st.query_params[key]
    elif st.query_params.get(key) != kept:
        st.query_params[key] = kept
    st.session_state[_WRITTEN][key] = kept
    seen = st.session_state[_SEEN].setdefault(st.session_state[_PAGE], {})
    seen.pop(key, None)
    if kept is not None:
        seen[key] = kept


def full_link() -> str:
    """The address of this view with every value spelled out, defaults too, as known when the page was last drawn."""
    slash = "" if st.session_state[_PAGE] else "/"  # Streamlit leaves it out; a proxy that adds it may lose what follows
    return f"{(st.context.url or '').rstrip('/')}{slash}?{urllib.parse.urlencode(st.session_state['_link'])}"


def notes() -> str:
    """What the opened link asked for and is not here, and what of it nobody knows; empty if all was found."""
    missing, unknown = _missing(), _unknown()
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


def _missing() -> list[str]:
    """What the opened link asked for and is not here, until another value is chosen: a page may draw itself again before that."""
    shown = {_PAGE: st.session_state[_PAGE], **st.session_state["_link"]}
    found, then = st.session_state["_link_notes"], st.session_state.get("_link_missing", ([], {}))
    if found or any(shown.get(key) != value for key, value in then[1].items()):
        then = st.session_state["_link_missing"] = (list(found), shown)
    return then[0]


@cache
def known_keys() -> frozenset[str]:
    """Every key that a page's source links, besides those of the link itself: the table of keys, which nobody has to keep."""
    sources = (path.read_text(encoding="utf-8") for path in sorted(APP.rglob("*.py")))
    found = {key for text in sources for pattern in _KEY_PATTERNS for key in re.findall(pattern, text)}
    return frozenset(found | _OWN_KEYS)


def _unknown() -> list[str]:
    """Parameters of the address that no page knows, as they may be shown."""
    drawn = set(st.session_state["_link"]) | set(st.session_state[_WRITTEN])
    odd = [key for key in st.query_params if key not in drawn and not key.startswith(_FOREIGN) and key not in known_keys()]
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
