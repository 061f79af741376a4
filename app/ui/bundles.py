"""A run as one file, out and in: download, upload, and sharing on a public installation."""

from __future__ import annotations

import os

import streamlit as st

from app.ui import cached, opening, visitors
from moyu_core import archive, archive_import, public, retention
from moyu_core.errors import MoyuError
from moyu_core.store import Run

ROUTE = "MOYU_BUNDLE_ROUTE"
"""Environment variable that app/asgi.py sets: the server sends bundles itself, piece by piece."""
SMALL_BYTES = 64 * 2**20
"""Up to here a bundle may be made in memory where there is no such route."""


def download(run: Run) -> None:
    """The bundle of a run for download."""
    about = "Manifest and tables as one checked file; `moyu import` or the upload below opens it"
    if os.environ.get(ROUTE):
        st.link_button("Download bundle", f"bundle/{run.id}", help=about)
    elif run.size_bytes <= SMALL_BYTES:
        st.download_button(
            "Download bundle",
            data=lambda: b"".join(archive.stream(run)),
            file_name=f"{run.id}{archive.ENDING}",
            mime="application/zip",
            on_click="ignore",
            help=about,
        )
    else:
        st.caption(f"`moyu export {run.id}` writes this run's bundle.")


def share(run: Run) -> None:
    """On a public installation: list one's own run to everybody, or no longer."""
    if visitors.limits() is None or run.tracked or run.id not in public.own(cached.table(), visitors.visitor()):
        return
    if run.id in public.shared(cached.table()):
        st.button("Take off the list", on_click=_take_off, args=(run.id,), help="It is listed to everybody now.")
    else:
        st.button("List to everybody", on_click=_share, args=(run.id,), help="Without it, only who has its link can open it.")


def _share(run_id: str) -> None:
    public.hold(cached.table(), run_id, "")
    st.session_state["_said"] = ("success", f"{run_id} is listed to everybody now.")


def _take_off(run_id: str) -> None:
    public.take_off(cached.table(), run_id)
    st.session_state["_said"] = ("success", f"{run_id} is listed to you alone now; who has its link can still open it.")


def upload() -> None:
    """Open a bundle: check it, keep it, show it."""
    if cached.read_only() and visitors.limits() is None:
        return
    with st.expander("Open a bundle"):
        limit = int(st.get_option("server.maxUploadSize"))
        st.caption(
            f"Up to {limit} MB here; `moyu import FILE` takes larger ones. Names, sizes, hashes and schema are checked "
            "before it is kept."
        )
        key = f"_bundle-{st.session_state.get('_bundles', 0)}"
        st.file_uploader("Bundle", type=["zip"], key=key, max_upload_size=limit, on_change=_take, args=(key, limit))


def _take(key: str, limit: int) -> None:
    """Callback, so that the sidebar, drawn after it, can show the run."""
    found = st.session_state.get(key)
    if found is None:
        return
    try:
        _opened(*archive_import.unpack(found, cached.home(), max_bytes=limit * 2**20))
    except MoyuError as error:
        st.session_state["_said"] = ("error", str(error))


def _opened(run: Run, new: bool) -> None:
    limits = visitors.limits()
    if limits is not None:
        public.hold(cached.table(), run.id, visitors.visitor())
        retention.mark_used(cached.home(), run.id)
        retention.expire(cached.home(), limits.runs_mib, limits.run_days, keep=[run.id])
    st.session_state["_bundles"] = st.session_state.get("_bundles", 0) + 1  # an empty uploader next time
    st.session_state["_said"] = ("success", f"{run.id} was opened." if new else f"{run.id} was here already, and is sound.")
    if "index.parquet" in run.manifest["files"]:
        opening.show(run.id)
