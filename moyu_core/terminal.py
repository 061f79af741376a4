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
from rich.text import Text

from moyu_core.figures.text import number, size
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
        "set": run.spec.set_rule.label() if manifest.get("counts") else "",
        **(manifest.get("counts") or {}),
        "bytes": run.size_bytes,
        "seconds": manifest.get("seconds"),
        "identity_error": (manifest.get("checks") or {}).get("identity_error"),
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
    """Print a record or a list of records, as JSON with everything, or as a table of what there is."""
    if as_json:
        typer.echo(json.dumps(data, ensure_ascii=False, indent=1))
        return
    output = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if not isinstance(data, list):
        table = Table(box=None, show_header=False)
        for name, text in _shown(data).items():
            table.add_row(Text(name), Text(text))
        output.print(table)
        return
    records = [_shown(record) for record in data]
    names = [_label(name) for name in dict.fromkeys(name for record in data for name in record)]
    filled = [name for name in names if any(name in record for record in records)]
    table = Table(box=None)
    for place, name in enumerate(filled):
        table.add_column(Text(name), no_wrap=place == 0)  # what the next command is given stays whole
    for record in records:
        table.add_row(*(Text(record.get(name, "")) for name in filled))
    output.print(table if records else "nothing yet")


def _shown(record: dict[str, Any]) -> dict[str, str]:
    """What a record holds, in words, by label; what it holds nothing of is left out."""
    found = {name: value for name, value in record.items() if value is not None and value != ""}
    return {_label(name): size(value) if _is_size(name) else _cell(value) for name, value in found.items()}


def _is_size(name: str) -> bool:
    return name.partition("_")[0] == "bytes"


def _label(name: str) -> str:
    """JSON holds bytes, people read a size."""
    return name.replace("bytes", "size", 1) if _is_size(name) else name


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_cell(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return number(value) if isinstance(value, float) else "yes" if value is True else "no" if value is False else str(value)


def say(text: str, label: str = "", style: str = "") -> None:
    """A line on standard error, with a red label before it; rich finds no markup in it, whatever brackets it holds."""
    console.print(Text.assemble((f"{label} " if label else "", "red"), (text, style)), soft_wrap=True)
