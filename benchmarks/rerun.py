"""Server time of a rerun of every page with the tracked runs: each part of a page, and each choice on it, is made in turn.

    python -m benchmarks.rerun [--pages inertia,history] [--tours 2]

AppTest runs the real script, as `benchmarks.page` does for the map. Every widget that decides a view goes through `links.linked`;
what it offers is noted there, and a choice is made as a link makes it. The first tour draws most views for the first time (their
slices are read and their figures built), later tours draw them again. The first look at a page is left out: it imports.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from streamlit.testing.v1 import AppTest

from app.ui import links
from benchmarks.record import save
from moyu_core.home import REPOSITORY, Home

GOALS = {"activation_map": 150.0}
GOAL = 200.0
"""Milliseconds; p95 of a study page."""
MOST = 10
"""Options of one widget that are tried, evenly spaced."""
MAP = "activation_map"
SIDEBAR = {"run", "prompt", "layer", "rule", "density"}
"""Keys of the widgets that all pages carry and only the map shows."""
SLOWEST = 5


class Noted:
    """What `linked` was asked for in the last rerun: key -> (default, options or None); and choices that broke a page."""

    def __init__(self) -> None:
        self.offers: dict[str, tuple[Any, Sequence[Any] | None]] = {}
        self.broken: list[str] = []
        self._take_over: Callable[..., None] = links._take_over
        links._take_over = self._note

    def _note(self, key: str, default: Any, options: Sequence[Any] | None, decode: Callable[[str], Any]) -> None:
        self.offers[key] = (default, options)
        self._take_over(key, default, options, decode)


class Tour:
    """One page that is walked through; `times` holds (milliseconds, what was chosen)."""

    def __init__(self, view: str, noted: Noted) -> None:
        self.view = view
        self.noted = noted
        self.times: list[tuple[float, str]] = []
        self.app = AppTest.from_file(str(REPOSITORY / "app" / "main.py"), default_timeout=120)
        self.app.session_state["_map_was_shown"] = True  # the sweep below the map is drawn, as after the first moments of a visit
        self.app.run()
        noted.offers.clear()
        self.app.switch_page(f"views/{view}.py").run()
        assert not self.app.exception, self.app.exception

    def choose(self, key: str, value: Any) -> None:
        """A timed rerun with another value of one key, as if a link had been opened."""
        self.app.session_state[links._WRITTEN] = {}  # an address counts where the session has written nothing yet
        self.app.query_params[key] = str(value)
        self.noted.offers.clear()
        start = time.perf_counter()
        self.app.run()
        self.times.append((1e3 * (time.perf_counter() - start), f"{key}={value}"))
        if self.app.exception:
            self.noted.broken.append(f"{self.view}: {key}={value}")

    def walk(self) -> None:
        """Every part, and on each every choice."""
        _, shown = self.noted.offers.get("part", (None, [None]))
        for part in shown or [None]:
            if part is not None:
                self.choose("part", part)
            skipped = {"part"} | (SIDEBAR if self.view != MAP else set())
            for key, (default, options) in list(self.noted.offers.items()):
                for value in [] if key in skipped else self._values(key, options):
                    self.choose(key, value)
                if key not in skipped and default is not None:
                    self.choose(key, default)

    def _values(self, key: str, options: Sequence[Any] | None) -> Iterator[Any]:
        """Values to try: of the options, of a switch, or of a slider's or number's range."""
        if options is None:
            options = next((made for made in (_range(self.app, kind, key) for kind in ("slider", "number_input")) if made), [])
            options = options or ([False, True] if any(toggle.key == key for toggle in self.app.toggle) else [])
        yield from (options[place] for place in np.unique(np.linspace(0, len(options) - 1, min(MOST, len(options))).astype(int)))


def _range(app: AppTest, kind: str, key: str) -> list[Any]:
    """The values of a slider or number field, from its least to its greatest."""
    for widget in getattr(app, kind):
        if widget.key == key and not isinstance(widget.value, (list, tuple)):
            low, high, step = widget.min, widget.max, widget.step
            return [type(low)(low + number * step) for number in range(min(1000, int((high - low) / step)) + 1)]
    return []


def measured(view: str, tours: int, noted: Noted) -> list[tuple[float, str]]:
    """(milliseconds, choice) of every rerun of one page."""
    found: list[tuple[float, str]] = []
    for _ in range(tours):
        tour = Tour(view, noted)
        tour.walk()
        if not tour.times:  # nothing to choose on this page
            for _ in range(MOST):
                tour.choose("v", links.VERSION)
        found += tour.times
    return found


def summary(view: str, times: list[tuple[float, str]]) -> dict[str, Any]:
    """The page's line of the record."""
    took = [milliseconds for milliseconds, _ in times]
    slowest = sorted({choice: milliseconds for milliseconds, choice in sorted(times)}.items(), key=lambda each: -each[1])[:SLOWEST]
    return {
        "reruns": len(took),
        "p50": float(np.quantile(took, 0.5)),
        "p95": float(np.quantile(took, 0.95)),
        "goal_p95": GOALS.get(view, GOAL),
        "slowest": dict(slowest),
    }


def line(view: str, found: dict[str, Any]) -> str:
    """What is printed of a page."""
    slowest = ", ".join(f"{choice} {took:.0f}" for choice, took in list(found["slowest"].items())[:3])
    missed = "" if found["p95"] < found["goal_p95"] else "  MISSED"
    times = f"p50 {found['p50']:4.0f} ms  p95 {found['p95']:4.0f} ms{missed}"
    return f"{view:16} {found['reruns']:4} reruns  {times}  slowest: {slowest}"


def main() -> None:
    """Walk through the pages and print a line for each."""
    every = sorted(path.stem for path in (REPOSITORY / "app" / "views").glob("*.py") if path.stem != "__init__")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", default=",".join(every))
    parser.add_argument("--tours", type=int, default=2)
    given = parser.parse_args()
    logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context").setLevel(logging.ERROR)  # no browser: it says so
    noted, record = Noted(), {}
    with tempfile.TemporaryDirectory() as home:  # the tracked runs and no others; models are listed on forms
        (Path(home) / "models").symlink_to(Home.default().models)
        os.environ["MOYU_HOME"] = home
        for view in given.pages.split(","):
            record[view] = found = summary(view, measured(view, given.tours, noted))
            print(line(view, found), flush=True)
    if noted.broken:
        raise SystemExit(f"Choices that end in an error, so nothing was recorded: {', '.join(dict.fromkeys(noted.broken))}")
    if set(record) == set(every):
        save("rerun", {"rerun_ms": record, "tours": given.tours})


if __name__ == "__main__":
    main()
