"""Which runs and sets go when there is no room: those that were not opened for the longest time, shipped and asked-for ones never.

When a run was last opened is the time of an empty file beside the runs, `.used-<run id>`. On a private installation nothing is
deleted by itself: the page says what is over the quota, and a person decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moyu_core import prompt_library, store
from moyu_core.errors import MoyuError
from moyu_core.folders import writable
from moyu_core.home import Home
from moyu_core.store import Run

DAY = 86_400.0
DEFAULT_QUOTA_MIB = 20_000
"""Of runs on a private installation."""
_SETTING = "housekeeping.json"


@dataclass(frozen=True)
class Kept:
    """A run made here, as housekeeping sees it.

    Attributes:
        run: the run.
        used: seconds since 1970 when it was last opened, else when it was made.
        goes: whether it would be deleted to keep the limits.
    """

    run: Run
    used: float
    goes: bool


def mark_used(home: Home, run_id: str, now: float | None = None) -> None:
    """Note that a run was opened; quietly nothing where the folder cannot be written to."""
    with contextlib.suppress(OSError):
        mark = _mark(home, run_id)
        if (home.runs / run_id).is_dir():
            mark.touch()
            os.utime(mark, None if now is None else (now, now))


def plan(home: Home, quota_mib: int, days: float | None = None, keep: Iterable[str] = (), now: float | None = None) -> list[Kept]:
    """Every run made here, the one that goes first at the top.

    Args:
        home: whose runs.
        quota_mib: MiB that they may take together.
        days: after which a run that was not opened goes, whatever the room; None = never.
        keep: ids of runs that are in use and stay.
        now: the time; tests turn it.
    """
    now = time.time() if now is None else now
    keep = set(keep)
    runs = [run for run in store.list_runs(home)[0] if not run.tracked]
    runs = sorted(((_used(home, run), run) for run in runs), key=lambda entry: (entry[0], entry[1].id))
    goes = _going([(used, run.size_bytes, run.id in keep) for used, run in runs], quota_mib, days, now)
    return [Kept(run, used, gone) for (used, run), gone in zip(runs, goes, strict=True)]


def _going(kept: Sequence[tuple[float, int, bool]], quota_mib: int, days: float | None, now: float) -> list[bool]:
    """What goes of (last opened, bytes, in use), the one not opened for the longest time first."""
    left, goes = sum(size for _, size, _ in kept) - quota_mib * 2**20, []
    for used, size, stays in kept:
        goes.append(not stays and (left > 0 or (days is not None and now - used > days * DAY)))
        left -= size if goes[-1] else 0
    return goes


def expire(home: Home, quota_mib: int, days: float | None, keep: Iterable[str] = (), now: float | None = None) -> list[str]:
    """Delete for good what `plan` says goes; returns the ids. Each run vanishes at once, as a whole."""
    gone = []
    for kept in plan(home, quota_mib, days, keep, now):
        if kept.goes:
            with contextlib.suppress(MoyuError):
                place = store.delete_run(home, kept.run.id)
                shutil.rmtree(place, ignore_errors=True)
                _mark(home, kept.run.id).unlink(missing_ok=True)
                gone.append(kept.run.id)
    return gone


def expire_sets(home: Home, quota_mib: int, days: float, now: float | None = None) -> int:
    """Delete for good prompt sets of visitors, in the trash or not; returns how many.

    Those that nobody opened for so many days, and, while all of them take more than `quota_mib` MiB, the one that was not opened
    for the longest time. Sets without an owner, made before the installation was public, stay.
    """
    now = time.time() if now is None else now
    owned = [stored for stored in (*prompt_library.list_sets(home), *prompt_library.deleted(home)) if stored.owner]
    sets = sorted(((prompt_library.used(stored), stored) for stored in owned), key=lambda entry: entry[0])
    goes = _going([(used, _bytes_of(stored.folder), False) for used, stored in sets], quota_mib, days, now)
    gone = [stored for (_, stored), over in zip(sets, goes, strict=True) if over]
    if gone:
        prompt_library.remove(home, gone)
    return len(gone)


def _bytes_of(folder: Path) -> int:
    """Of a folder's files; 0 for what is gone meanwhile."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def quota(home: Home) -> int:
    """MiB that the runs of a private installation may take before the page says so."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return max(1, int(json.loads((home.root / _SETTING).read_text(encoding="utf-8"))["quota_mib"]))
    return DEFAULT_QUOTA_MIB


def set_quota(home: Home, quota_mib: int) -> None:
    """Keep another quota."""
    with writable(home.root):
        (home.root / _SETTING).write_text(json.dumps({"quota_mib": int(quota_mib)}), encoding="utf-8")


def _mark(home: Home, run_id: str) -> Path:
    return home.runs / f".used-{run_id}"


def _used(home: Home, run: Run) -> float:
    try:
        return _mark(home, run.id).stat().st_mtime
    except OSError:
        return float(run.manifest.get("created", 0))
