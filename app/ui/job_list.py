"""The jobs under way and just done, redrawn every second: place in the queue, progress, time left, cancel, open, limits used."""

from __future__ import annotations

import time

import streamlit as st

from app.ui import asking, cached, opening, visitors
from moyu_core.figures.text import number
from moyu_core.jobs import Job
from moyu_core.studies.origin_requests import LiveRequest
from moyu_core.worker import workers_alive


@st.fragment(run_every="1s")
def draw() -> None:
    """The jobs, redrawn every second while one is under way."""
    # A button in here reruns this fragment only; the page is changed by a whole rerun, and so is what stands beside the form.
    if "_go" in st.session_state or asking.changed():
        st.rerun()
    if used := asking.used():
        st.caption(used)
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
            st.markdown(" · ".join(part for part in (f"**{_plain(name)}**", _models(job), _state(job)) if part))
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
            elif job.state == "done" and cached.exists(job.run_id) and (opens := opening.button(cached.find_run(str(job.run_id)))):
                st.button(
                    opens,
                    key=f"_open-{job.id}",
                    on_click=opening.show,
                    args=(job.run_id,),
                    type="primary" if _is_watched(job) else "secondary",
                )


def _models(job: Job) -> str:
    """The model or the models that were asked for; of a live training its network."""
    if job.study == "live":
        network = LiveRequest.from_json(job.request)
        return _plain(f"{network.activation}, width {network.width}, seed {network.seed}")
    named = job.request.get("models") or [job.request.get("model", "")]
    return _plain(", ".join(named))


def _cancel(job_id: int) -> None:
    if cached.jobs().cancel(job_id).active and visitors.limits() is not None:
        st.toast("You no longer wait for it. It goes on for as long as another visitor does.")


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
        gone = "" if cached.exists(job.run_id) else "; its run was deleted since, ask again to have it anew"
        return f"done in {number(job.finished - job.started)} s, {_ago(job.finished)}{gone}"
    return job.state


def _ago(then: float) -> str:
    minutes = (time.time() - then) / 60
    return "just now" if minutes < 1 else f"{minutes:.0f} min ago" if minutes < 90 else f"{minutes / 60:.0f} h ago"


def _progress(job: Job) -> str:
    left = cached.jobs().eta_seconds(job)
    share = f"{100 * job.done / job.total:.0f} %" if job.total else ""
    return " · ".join(part for part in (job.stage, share, f"about {number(left)} s left" if left else "") if part)
