"""Options and steps that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.progress import Reporter
from moyu_core.terminal import progress_bar, show_result, summary

MOST_LAYERS = 10_000
"""The longest range of layers that is written out; no model has as many."""

study_app = typer.Typer(name="study", no_args_is_help=True, help="Carry out one of the studies and print its headline numbers.")
"""Each study's module adds its command here."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
Model = Annotated[str, typer.Option(help="Registry name (see `moyu models`), folder, or Hugging Face id.")]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1, mps or cpu; chosen by itself if left out.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the run; the usual place if left out.")]
Within = Annotated[Path | None, typer.Option("--out", help="Folder of the runs, if not the usual place.")]
Rule = Annotated[str, typer.Option("--set", help="top, magnitude, cett or positive.")]
Density = Annotated[float | None, typer.Option(help="Kept share, for top and magnitude (default 0.1).")]
Target = Annotated[float | None, typer.Option(help="CETT target, for cett (default 0.2).")]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]


def perform(study: str, request: dict[str, Any], home: Home, device: str | None, as_json: bool) -> None:
    """Carry a request out with a progress bar and print what became of it, the study's headline numbers included."""
    from moyu_core.studies import perform as carry_out

    carried_out(lambda report: carry_out(study, request, home, report, device), home, as_json)


def carried_out(work: Callable[[Reporter], str], home: Home, as_json: bool) -> None:
    """Do the work, which returns a run's id, with a progress bar, and print that run."""
    from moyu_core.store import find_run

    with progress_bar() as report:
        run_id = work(report)
    run = find_run(home, run_id)
    headline: dict[str, Any] = run.manifest.get("headline", {})
    show_result({**summary(run), **headline}, as_json)


def home_for(out: Path | None) -> Home:
    """The usual home, or one whose runs go to `out`."""
    if out is None:
        return Home.default()
    return Home(Home.default().root, (), out)


def home_with(out: Path | None) -> Home:
    """As `home_for`, for a command that reads runs.

    Raises:
        InputError: there is no such folder.
    """
    if out is not None and not out.is_dir():
        raise InputError(f"There is no folder {out}; give the one that a command such as `moyu capture --out` wrote to.")
    return home_for(out)


def layer_list(text: str | None) -> tuple[int, ...] | None:
    """`0,5,10-12` as numbers; None stays None.

    Raises:
        InputError: a part is no number or range, or a range is backwards or longer than any model.
    """
    if text is None:
        return None
    found: list[int] = []
    try:
        for part in text.split(","):
            found += _layers(part)
    except ValueError:
        raise InputError(f"Layers are written like 0,5,10-12; {text!r} cannot be read.") from None
    return tuple(found)


def _layers(part: str) -> range:
    """A layer or a range of them; an ordinary ValueError where it is neither."""
    start, _, end = part.partition("-")
    first, last = int(start), int(end or start)
    if last < first:
        raise InputError(f"The range of layers {part.strip()!r} is backwards; write {last}-{first}.")
    if last - first >= MOST_LAYERS:
        raise InputError(f"The range {part.strip()!r} holds more than {MOST_LAYERS:,} layers; give one that the model has.")
    return range(first, last + 1)
