"""Who looks at the page, as far as a public installation must know: a random cookie, no person."""

from __future__ import annotations

import os
import re

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app.ui.places import RUN_KEYS
from moyu_core import limits as public_limits
from moyu_core.limits import Limits

COOKIE = "moyu_visitor"
"""Set by app/asgi.py in public mode."""
_COOKIE_VALUE = re.compile(r"[0-9a-f]{32}")
_OPENED = "_opened_runs"


@st.cache_resource(show_spinner=False)
def limits() -> Limits | None:
    """The limits of public mode; None on a private installation."""
    return public_limits.limits()


def visitor() -> str:
    """The visitor's cookie; without one, for instance in a frame of another site, the name of this session. "" = private."""
    if limits() is None:
        return ""
    said = st.context.cookies.get(COOKIE, "")
    if _COOKIE_VALUE.fullmatch(said):
        return said
    context = get_script_run_ctx()
    return f"session-{context.session_id}" if context else ""


def signed_in() -> bool:
    """Whether the page may be shown: always, unless MOYU_SIGN_IN asks for Streamlit's OIDC and nobody has signed in yet."""
    said = st.user.get("is_logged_in") if _asks_for_sign_in() else True
    if said is True:
        return True
    st.title("MOYU Explorer")
    if said is None:  # Streamlit knows nobody where no provider is configured: closed, rather than open to all
        st.error(
            "This installation asks for sign-in (MOYU_SIGN_IN=1) and knows no provider; whoever runs it must fill in the section "
            "[auth] of .streamlit/secrets.toml, see docs/hosting.md."
        )
        return False
    st.info("This is a private installation. Sign in to see it.")
    st.button("Sign in", on_click=st.login, type="primary")
    return False


def draw_sign_out() -> None:
    """Who is signed in, and the way out; nothing on an installation without sign-in."""
    if _asks_for_sign_in():
        with st.sidebar:
            st.caption(f"Signed in as {st.user.get('email') or st.user.get('name') or 'a user without a name'}")
            st.button("Sign out", on_click=st.logout)


def _asks_for_sign_in() -> bool:
    return os.environ.get("MOYU_SIGN_IN") == "1"


def opened_by_link() -> set[str]:
    """Runs that this session was sent to by a link: whoever has the link may look."""
    found: set[str] = st.session_state.setdefault(_OPENED, set())
    found |= {value for key in RUN_KEYS for value in st.query_params.get_all(key)}
    return found
