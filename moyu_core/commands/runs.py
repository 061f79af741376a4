"""`moyu runs`, `moyu show`, `moyu check` and `moyu compact`: what was made, whether it is sound, and its files joined."""

from __future__ import annotations

from typing import Annotated

import typer

from moyu_core.commands.common import Json, Within, home_with
from moyu_core.errors import MoyuError
from moyu_core.terminal import progress_bar, say, show_result, summary


def runs(out: Within = None, as_json: Json = False) -> None:
    """List the runs, damaged ones last."""
    from moyu_core.store import list_runs

    found, errors = list_runs(home_with(out))
    show_result([summary(run) for run in found], as_json)
    for error in errors:
        say(str(error), style="red")


def show(run_id: str, out: Within = None, as_json: Json = False) -> None:
    """Show one run: what was computed, how, and its figures."""
    from moyu_core.store import find_run

    run = find_run(home_with(out), run_id)
    show_result({**summary(run), "manifest": run.manifest} if as_json else summary(run), as_json)


def check(
    run_id: Annotated[str | None, typer.Argument(help="A run; all runs if left out.")] = None,
    out: Within = None,
    as_json: Json = False,
) -> None:
    """Compare the files of runs with the hashes taken when they were written."""
    from moyu_core.store import find_run, list_runs

    home = home_with(out)
    found, errors = ([find_run(home, run_id)], []) if run_id else list_runs(home)
    rows, damaged = [], [str(error) for error in errors]
    for run in found:
        try:
            run.verify()
            rows.append({"run": run.id, "sound": True})
        except MoyuError as error:
            damaged.append(str(error))
            rows.append({"run": run.id, "sound": False})
    show_result(rows, as_json)
    if damaged:
        raise MoyuError(" ".join(damaged))


def compact(
    run_id: Annotated[str, typer.Argument(help="A run of the study `capture` that was made here.")],
    out: Within = None,
    as_json: Json = False,
) -> None:
    """Join a run's small files; its id and what it holds stay the same."""
    from moyu_core.compaction import compact as join

    home = home_with(out)
    with progress_bar() as report:
        done = join(home, run_id, report)
    show_result({"run": run_id, **vars(done)}, as_json)
