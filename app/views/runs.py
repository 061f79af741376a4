"""Page: every run, what it is, whether it is sound, and what to do with it."""

import datetime
import json

import pandas as pd
import streamlit as st

from app.ui import bundles, cached, disk, exports, opening, parts, prompt_sets, state, visitors
from app.ui.links import linked
from moyu_core import store
from moyu_core.errors import DamagedRunError, MoyuError
from moyu_core.figures.text import number
from moyu_core.store import Run

HOW_TO_READ = """
A **run** is a folder: a manifest that says exactly what was computed and how, and Parquet tables. Its name holds the first
12 digits of the hash of that description, so the same question always leads to the same run. **Demo** runs are part of the
program and cannot be deleted. *Verify* compares every file with the hash that was taken when it was written. A **bundle** is a run
as one file, to be handed on; opening one checks everything about it first.
"""


def _table(runs: list[Run]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "run": run.id,
                "title": run.manifest.get("title", ""),
                "kind": "demo" if run.tracked else "own",
                "model": run.manifest["model"]["name"],
                "set rule": run.spec.set_rule.label() if "counts" in run.manifest else "",
                "prompts": run.manifest.get("counts", {}).get("prompts"),
                "tokens": run.manifest.get("counts", {}).get("tokens"),
                "size (MB)": round(run.size_bytes / 1e6, 2),
                "took (s)": round(run.manifest.get("seconds") or 0.0, 1),
                "created": datetime.datetime.fromtimestamp(run.manifest["created"]).strftime("%Y-%m-%d %H:%M"),
            }
            for run in runs
        ]
    ).astype({"prompts": "Int64", "tokens": "Int64"})  # whole numbers stay whole beside runs that count none


def _own_first(runs: list[Run]) -> list[Run]:
    """Runs made here, the newest first, then those that came with the program."""
    return sorted(runs, key=lambda run: (run.tracked, 0 if run.tracked else -run.manifest["created"]))


def _choose(runs: list[Run]) -> Run:
    """The run whose row is marked, the first unless the link says otherwise."""
    by_id = {run.id: run for run in runs}
    ids = list(by_id)
    default = next((run.id for run in runs if run.tracked), ids[0])  # the same tomorrow, so a run made here stands in the address
    if "runs_run" not in st.session_state and "runs_run" not in st.query_params:
        st.session_state["runs_run"] = ids[0]
    key = f"_runs-{prompt_sets.digest(' '.join(ids).encode())[:8]}"  # rows of another list are other runs

    def draw() -> str:
        row = ids.index(st.session_state["runs_run"])
        event = st.dataframe(
            _table(runs),
            hide_index=True,
            on_select="rerun",
            selection_mode="single-row",
            selection_default={"selection": {"rows": [row] if row else []}},
            key=key,
            placeholder="\u2013",
            alt="All runs",
        )
        rows = event["selection"]["rows"]
        st.session_state["runs_run"] = ids[rows[0]] if rows and rows[0] < len(ids) else ids[0]
        return st.session_state["runs_run"]

    return by_id[linked("runs_run", default, draw, options=ids)]


def _checks(run: Run) -> None:
    checks = run.manifest.get("checks", {})
    error = checks.get("identity_error")
    if error is not None:
        st.markdown(f"- activation x down projection = output, largest relative error {error:.1e}")
    if "nonfinite" in checks:
        st.markdown(
            "- all activations finite"
            if checks["nonfinite"]
            else f"- **{run.manifest['counts']['nonfinite']} activations NaN or infinite**"
        )
    agreement = run.manifest.get("values_agreement")
    if agreement:
        st.markdown(
            f"- sets from stored values overlap the exact ones by {agreement['mean']:.3f} on average, "
            f"{agreement['worst_layer_mean']:.3f} in the worst layer ({agreement['worst_layer']}), over {agreement['rows']} tokens"
        )
    cut = run.manifest.get("counts", {}).get("cut_tokens")
    if cut:
        st.markdown(f"- **{number(cut)} tokens cut** at the limit of {run.spec.parameters['max_tokens']}")


def _detail(run: Run) -> None:
    st.subheader(run.manifest.get("title") or run.id, divider="gray")
    left, right = st.columns([3, 2])
    with left:
        _checks(run)
        with st.expander("Manifest"):
            st.json(json.loads(json.dumps(run.manifest)), expanded=1)
    with right, st.container(horizontal=True):
        if opens := opening.button(run):
            st.button(opens, type="primary", on_click=opening.show, args=(run.id,))
        bundles.share(run)
        st.button("Verify", on_click=_verify, args=(run.id,), help="Compare every file with its SHA-256")
        bundles.download(run)
        if not run.tracked and not cached.read_only() and visitors.limits() is None:
            st.button("Delete", on_click=_delete, args=(run.id,), help="Goes to the trash; it can be brought back")


def _verify(run_id: str) -> None:
    try:
        cached.find_run(run_id).verify()
        st.session_state["_said"] = ("success", f"{run_id}: every file is as it was written.")
    except MoyuError as error:
        st.session_state["_said"] = ("error", str(error))
        st.session_state["_altered"] = run_id


def _delete(run_id: str) -> None:
    store.delete_run(cached.home(), run_id)
    st.session_state["_said"] = ("info", f"{run_id} is in the trash.")


def _set_aside(run_id: str) -> None:
    place = store.set_aside(cached.home(), run_id)
    st.session_state["_said"] = ("info", f"{run_id} was renamed to {place.name}; the next request computes it again.")


def _restore(run_id: str) -> None:
    store.restore_run(cached.home(), run_id)
    st.session_state["_said"] = ("success", f"{run_id} is back.")


def _damaged(errors: list[DamagedRunError]) -> None:
    for error in errors:
        st.error(str(error))
    names = [name for name in _own_folders() if any(f"{name!r}" in str(error) or f" {name} " in str(error) for error in errors)]
    for name in names:
        _aside_button(name)


def _aside_button(run_id: str) -> None:
    st.button(
        f"Set {run_id} aside",
        on_click=_set_aside,
        args=(run_id,),
        help="Renames the folder; the next request for this run computes it again",
    )


def _own_folders() -> list[str]:
    root = cached.home().runs
    return [folder.name for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []


def _trash() -> None:
    deleted = store.deleted_runs(cached.home())
    if deleted and not cached.read_only() and visitors.limits() is None:
        with st.expander(f"Trash ({len(deleted)})"):
            for run_id in deleted:
                st.button(f"Bring {run_id} back", on_click=_restore, args=(run_id,), key=f"_restore-{run_id}")
            st.button("Empty the trash for good", on_click=store.empty_trash, args=(cached.home(),))


state.follow()
parts.header("Runs", "What was computed, from what, how it can be checked, and what it takes on disk.", HOW_TO_READ)
said = st.session_state.pop("_said", None)
if said:
    getattr(st, said[0])(said[1])
altered = st.session_state.pop("_altered", None)
if altered in _own_folders():
    _aside_button(altered)
found, errors = cached.runs()
runs = _own_first(found)
_damaged(errors)
if runs:
    exports.offer("Runs", table=_table(runs))
    chosen = _choose(runs)
    st.caption(f"{len(runs)} runs, {sum(run.size_bytes for run in runs) / 1e6:.1f} MB. Click at the left of a row to see the run.")
    parts.guarded(lambda: _detail(chosen))
else:
    parts.empty("There is no run yet.", "capture", "Write a prompt")
bundles.upload()
disk.draw()
_trash()
