"""Asking for work: what stands against it is said beside the button before anyone presses it, and what was asked for is queued.

The installation refuses again when the request is made, and its worker a third time (moyu_core/public.py); here is only the
friendliest place to learn of a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import streamlit as st

from app.ui import cached
from moyu_core.public import VisitorJobs

_SAID = "_said_full"
_ANYTHING = "compute something of your own"


def known(model: str, texts: Iterable[str], **more: int) -> dict[str, Any]:
    """What of a request the limits bear on, before there is a request."""
    return {"model": model, "prompts": [{"text": text} for text in texts], **more}


def refusal(study: str, request: Mapping[str, Any] | None = None, install: str = _ANYTHING) -> str:
    """Why a study cannot be asked for now, in one sentence; empty when it can.

    Args:
        study: its name.
        request: what is known of the request before it is made, as far as limits bear on it: model, prompts, max_tokens.
        install: what an own installation would allow here, after "install the project to".
    """
    if cached.read_only():
        return f"This is a read-only installation; install the project to {install}."
    jobs = cached.jobs()
    return jobs.refusal(study, request) if isinstance(jobs, VisitorJobs) else ""


def button(label: str, study: str, request: Mapping[str, Any] | None = None, install: str = _ANYTHING, ready: bool = True) -> bool:
    """The button that starts a study, greyed out while it cannot be asked for, with the reason below it.

    Args:
        label: on the button.
        study, request, install: as `refusal`.
        ready: whether the form is filled in.
    """
    reason = refusal(study, request, install)
    st.session_state[_SAID] = bool(full())
    pressed = st.button(label, type="primary", disabled=bool(reason) or not ready)
    if reason:
        st.caption(f":material/block: {reason}")
    return pressed and not reason


def full() -> str:
    """Why no further job of this visitor would be taken at the moment; empty on a private installation."""
    jobs = cached.jobs()
    return jobs.full() if isinstance(jobs, VisitorJobs) else ""


def used() -> str:
    """What this visitor and all together use of the limits at the moment; empty on a private installation."""
    jobs = cached.jobs()
    if not isinstance(jobs, VisitorJobs):
        return ""
    use, allowed = jobs.use(), jobs.allowed
    return (
        f"You use {use.jobs} of {allowed.queued_per_visitor} jobs and {use.seconds:.0f} of {allowed.seconds_per_visitor:,} s of "
        f"this hour; all visitors {use.all_jobs} of {allowed.queued} jobs and {use.all_seconds:.0f} of {allowed.seconds:,} s."
    )


def changed() -> bool:
    """Whether a button that was drawn before should look otherwise now, because a job ended or an hour went by; said once."""
    now = bool(full())
    before = st.session_state.get(_SAID, now)
    st.session_state[_SAID] = now
    return before != now
