"""What the command line prints: progress on standard error, results as tables or JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from moyu_core.progress import Reporter

console = Console(stderr=True, highlight=False)


def summary(run: Any) -> dict[str, Any]:
    """The figures of a run that are worth a line."""
    manifest = run.manifest
    return {
        "run": run.id,
        "folder": str(run.folder),
        "title": manifest.get("title", ""),
        "model": manifest["model"]["name"],
        "set": run.spec.set_rule.label() if "counts" in manifest else "",
        **manifest.get("counts", {}),
        "bytes": run.size_bytes,
        "seconds": manifest.get("seconds"),
        "identity_error": manifest.get("checks", {}).get("identity_error"),
    }


@contextmanager
def progress_bar() -> Iterator[Reporter]:
    """A progress bar on standard error; silent where that is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def report(stage: str, done: int, total: int) -> None:
            if bar.tasks[0].description != stage:
                bar.reset(task, description=stage)
            bar.update(task, completed=done, total=total or None)

        yield report


def show_result(data: Any, as_json: bool) -> None:
    """Print a record or a list of records, as JSON or as a table."""
    if as_json:
        typer.echo(json.dumps(data, ensure_ascii=False, indent=1))
        return
    output = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    records: list[dict[str, Any]] | None = data if isinstance(data, list) else None
    table = Table(*(list(records[0]) if records else []), box=None, show_header=bool(records))
    for row in records or []:
        table.add_row(*(plain(_cell(value)) for value in row.values()))
    for name, value in data.items() if isinstance(data, dict) else ():
        table.add_row(name, plain(_cell(value)))
    output.print(table if records or records is None else "nothing yet")


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "yes" if value is True else "no" if value is False else str(value)


def plain(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", "\\[")
