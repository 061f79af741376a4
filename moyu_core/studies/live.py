"""The live study: a small network trained in the worker; its curves can be read while it runs.

Every measurement is a line of `<home>/live/<12 hex>.jsonl` until the run is written; a stopped training leaves its lines there.
A training that LIVE_SECONDS end becomes the run of a request of as many steps as it has made, which it equals bit for bit.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moyu_core import __version__
from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.queries.origin import live_file
from moyu_core.run_writer import RunFolder
from moyu_core.schema.training import CURVE_COLUMNS, MEASURES
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.studies import shared
from moyu_core.studies.origin_requests import LIVE_SECONDS
from moyu_core.studies.origin_requests import LiveRequest as Request
from moyu_core.training import live

NAME = "live"


def spec_of(request: Request) -> RunSpec:
    """The identity of the run; the text stands where other models have their weights."""
    model = ModelIdentity(f"live-{request.activation}", live.text_sha256(), "float32")
    return RunSpec(NAME, model, "", SetRule("positive"), 0, request.as_json(), request.seed)


class _OutOfTime(Exception):
    """Leaves `shared.make` without a run when there is time for a part of the steps only."""

    def __init__(self, step: int, entries: list[live.Entry]) -> None:
        self.step, self.entries = step, entries


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Train on the CPU, whatever the device: the network is too small for anything else. Returns the run id, which is that of
    a request of fewer steps where LIVE_SECONDS have ended it."""
    started, stream = time.perf_counter(), live_file(home, request)

    def write(folder: RunFolder) -> None:
        entries = _trained(request, stream, started + LIVE_SECONDS, report)
        if entries[-1]["step"] < request.steps:
            raise _OutOfTime(entries[-1]["step"], entries)
        _write(folder, request, entries, time.perf_counter() - started)

    try:
        made = shared.make(spec_of(request), home, write, report)
    except _OutOfTime as cut:
        part, entries, seconds = replace(request, steps=cut.step), cut.entries, time.perf_counter() - started
        made = shared.make(spec_of(part), home, lambda folder: _write(folder, part, entries, seconds), report)
    stream.unlink(missing_ok=True)
    return made


def _trained(request: Request, stream: Path, deadline: float, report: Reporter) -> list[live.Entry]:
    """Everything measured, up to the last step that there was time for; told line by line to the file."""
    stream.parent.mkdir(parents=True, exist_ok=True)
    entries: list[live.Entry] = []
    with stream.open("w", encoding="utf-8") as file:
        for step, found in live.training(request, lambda: time.perf_counter() > deadline):
            report("training", step, request.steps)
            if found:
                entries += found
                file.write(json.dumps(found) + "\n")
                file.flush()
    return entries


def _write(folder: RunFolder, request: Request, entries: list[live.Entry], seconds: float) -> None:
    rows = [{"activation": request.activation, "seed": request.seed, **entry} for entry in entries]
    folder.write("curves", shared.table(CURVE_COLUMNS, {c.name: [row[c.name] for row in rows] for c in CURVE_COLUMNS}))
    folder.facts = _facts(request, entries, seconds)


def _facts(request: Request, entries: list[live.Entry], seconds: float) -> dict[str, Any]:
    last = {entry["measure"]: entry["value"] for entry in entries}
    return {
        "title": f"Live training, {request.activation}, width {request.width}, seed {request.seed}",
        "model": {"name": f"live-{request.activation}"},
        "scope": {"steps": request.steps},
        "measures": MEASURES,
        "headline": {name: last[name] for name in ("held_out_loss", "zero_share", "effective_neurons")},
        "seconds": round(seconds, 3),
        "device": {"name": "cpu"},
        "versions": {"moyu": __version__, "torch": torch.__version__},
    }
