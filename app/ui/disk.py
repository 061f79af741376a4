"""What the runs made here take on disk, the quota, and which would go first."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from app.ui import cached, visitors
from moyu_core import retention
from moyu_core.errors import MoyuError

MIB = 2**20


def draw() -> None:
    """The section on the Runs page; on a public installation only the rule is said."""
    limits = visitors.limits()
    if limits is not None:
        st.caption(
            f"Runs that nobody opens for {limits.run_days} days are deleted, and the ones not opened for the longest time when "
            f"all together take more than {limits.runs_mib:,} MiB. Demo runs stay."
        )
        return
    quota = retention.quota(cached.home())
    kept = retention.plan(cached.home(), quota)
    used = sum(entry.run.size_bytes for entry in kept) / MIB
    over = [entry for entry in kept if entry.goes]
    if over:
        st.warning(
            f"Your runs take {used:,.0f} MiB and the quota is {quota:,} MiB. {len(over)} runs, not opened for the longest "
            f"time, would make room: {', '.join(entry.run.id for entry in over[:5])}. Nothing is deleted by itself."
        )
    with st.expander(f"Disk: {used:,.0f} of {quota:,} MiB"):
        if not cached.read_only():
            st.number_input(
                "Quota (MiB)", 1, 10_000_000, quota, key="_quota", on_change=_set, help="Only a warning; it deletes nothing."
            )
        if kept:
            st.caption("In the order in which they would go:")
            st.dataframe(_table(kept), hide_index=True, alt="Runs made here, the one opened longest ago first")


def _table(kept: list[retention.Kept]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": [entry.run.id for entry in kept],
            "title": [entry.run.manifest.get("title", "") for entry in kept],
            "size (MiB)": [round(entry.run.size_bytes / MIB, 1) for entry in kept],
            "last opened": [time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)) for entry in kept],
            "over the quota": [entry.goes for entry in kept],
        }
    )


def _set() -> None:
    try:
        retention.set_quota(cached.home(), int(st.session_state["_quota"]))
    except MoyuError as error:
        st.session_state["_said"] = ("error", str(error))
