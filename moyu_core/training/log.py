"""What finished trainings left, as the tables of the study `training`, and their results back from its run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from moyu_core import store
from moyu_core.errors import NotInRunError
from moyu_core.home import Home
from moyu_core.schema import arrow_schema
from moyu_core.schema.training import CURVE_COLUMNS, TRAINING_COLUMNS
from moyu_core.training.train import Config, Result

Training = tuple[Result, list[dict[str, Any]]]
"""The result of a training and its log, one entry a (step, layer, measure)."""


def finished(home: Home) -> list[Training]:
    """Every training that ended in this home, in order of activation and seed."""
    found = [_read(path.parent) for path in sorted((home.root / "training").glob("*/result.json"))]
    return sorted(found, key=lambda training: (training[0].config["activation"], training[0].config["seed"]))


def of_recipe(trainings: Sequence[Training]) -> list[Training]:
    """Those that the recipe of the tracked models made: `Config` as it is, whatever activation and seed."""
    return [(result, log) for result, log in trainings if result.config == _plain(result)]


def _plain(result: Result) -> dict[str, Any]:
    recipe = Config(activation=result.config["activation"], seed=result.config["seed"])
    return json.loads(json.dumps(asdict(recipe)))


def _read(place: Path) -> Training:
    result = Result(**json.loads((place / "result.json").read_text(encoding="utf-8")))
    return result, json.loads((place / "log.json").read_text(encoding="utf-8"))


def curves(trainings: Sequence[Training]) -> pa.Table:
    """The table `curves`; errors that are not known are empty."""
    rows = [{"activation": result.config["activation"], "seed": result.config["seed"], **entry,
             "error": entry["error"] if entry["error"] == entry["error"] else None}
            for result, log in trainings for entry in log]
    return pa.Table.from_pylist(rows, schema=arrow_schema(CURVE_COLUMNS))


def results(trainings: Sequence[Training]) -> pa.Table:
    """The table `trainings`."""
    rows = [{**asdict(result), "activation": result.config["activation"], "seed": result.config["seed"],
             "config": json.dumps(result.config, sort_keys=True)} for result, _ in trainings]
    return pa.Table.from_pylist(rows, schema=arrow_schema(TRAINING_COLUMNS))


def read_results(run: store.Run) -> list[Result]:
    """The results in a run of the study `training`, as they were."""
    rows = run.table("trainings").to_pylist()
    known = Result.__dataclass_fields__
    return [Result(**{key: json.loads(value) if key == "config" else value for key, value in row.items() if key in known})
            for row in rows]


def tracked() -> store.Run:
    """The run of the tracked models.

    Raises:
        NotInRunError: no run of the study `training` is shipped with this program.
    """
    home = Home(Path("nowhere"))
    found = [run for run in store.list_runs(home)[0] if run.spec.study == "training"]
    if not found:
        raise NotInRunError("No run of the study `training` is shipped with this program; `moyu train tiny` makes one.")
    return found[0]
