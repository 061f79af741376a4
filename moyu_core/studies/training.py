"""The training study: what `moyu train tiny` saw along training, as a run like every other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from moyu_core import __version__
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.run_writer import RunFolder
from moyu_core.schema.training import ACTIVATIONS, MEASURES
from moyu_core.spec import ModelIdentity, RunSpec, SetRule, fingerprint
from moyu_core.studies import shared
from moyu_core.studies.origin_requests import TrainingRequest as Request
from moyu_core.training import log
from moyu_core.training.log import Training
from moyu_core.training.tokenizer import SINK_ID

NAME = "training"


def spec_of(trainings: list[Training]) -> RunSpec:
    """The identity of the run: its models are known by everything that was logged of them, since hardware rounds differently."""
    weights = fingerprint([[result.identity, _json(entries)] for result, entries in trainings])
    names = [result.identity for result, _ in trainings]
    return RunSpec(NAME, ModelIdentity("tiny models", weights, "float32"), "", SetRule("positive"), SINK_ID, {"trainings": names})


def _json(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries without NaN, which canonical JSON has none of."""
    return [{**entry, "error": None if entry["error"] != entry["error"] else entry["error"]} for entry in entries]


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Collect the finished trainings of the recipe in this home; returns the run id.

    Raises:
        InputError: there is none.
    """
    trainings = log.of_recipe(log.finished(home))
    if not trainings:
        raise InputError(f"No training has ended in {home.root / 'training'}; `moyu train tiny` makes them.")
    return training_run(trainings, home, request.title, report)


def training_run(trainings: list[Training], home: Home, title: str = Request.title, report: Reporter = silent) -> str:
    """Write these trainings as a run; returns its id."""
    return shared.make(spec_of(trainings), home, lambda folder: _write(folder, trainings, title), report)


def _write(folder: RunFolder, trainings: list[Training], title: str) -> None:
    folder.write("curves", log.curves(trainings))
    folder.write("trainings", log.results(trainings))
    made = [result for result, _ in trainings]
    folder.facts = {
        "title": title,
        "model": {"name": ", ".join(f"tiny-{name}" for name in ACTIVATIONS if name in {r.config["activation"] for r in made})},
        "scope": {"trainings": len(made), "seeds": len({r.config["seed"] for r in made}),
                   "steps": max(r.config["steps"] for r in made)},
        "measures": MEASURES,
        "headline": {name: f"{value:.3g} of the activations are exactly 0 after training" for name, value in _zeros(trainings)},
        "seconds": round(sum(r.seconds for r in made), 3),
        "device": {"name": ", ".join(sorted({r.device for r in made}))},
        "versions": {"moyu": __version__, "pyarrow": pa.__version__},
    }


def _zeros(trainings: list[Training]) -> list[tuple[str, float]]:
    """Mean exact-zero share over layers and seeds at the last step, by activation."""
    last: dict[str, list[float]] = {}
    for result, entries in trainings:
        final = max(entry["step"] for entry in entries)
        shares = [e["value"] for e in entries if e["measure"] == "zero_share" and e["step"] == final]
        last.setdefault(result.config["activation"], []).append(float(np.mean(shares)))
    return [(name, float(np.mean(values))) for name, values in last.items()]
