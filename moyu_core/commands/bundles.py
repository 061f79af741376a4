"""`moyu export RUN` and `moyu import FILE`: a run as one checked file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Json
from moyu_core.home import Home
from moyu_core.terminal import progress_bar, show_result, summary


def export(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Id from `moyu runs`.")],
    to: Annotated[Path, typer.Option(help="File or folder; the working folder if left out.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write a run's bundle: manifest, tables and prompts as one file, with their hashes."""
    from moyu_core import archive, store

    run = store.find_run(Home.default(), run_id)
    with progress_bar() as report:
        path = archive.save(run, to, report)
    show_result({"run": run.id, "file": str(path), "bytes": path.stat().st_size}, as_json)


def take_in(
    file: Annotated[Path, typer.Argument(help="A bundle that `moyu export` or the Runs page made.")], as_json: Json = False
) -> None:
    """Check a bundle and keep its run here."""
    from moyu_core import archive_import

    with progress_bar() as report:
        run, new = archive_import.unpack(file, Home.default(), report)
    show_result({**summary(run), "new": new}, as_json)
