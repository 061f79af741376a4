"""What was seen along training, as one small Parquet file that explains itself, and the results of all runs beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core.home import REPOSITORY
from moyu_core.schema import Column, arrow_schema
from moyu_core.training.train import Result

LOG = REPOSITORY / "data" / "models" / "training-log.parquet"
RESULTS = REPOSITORY / "data" / "models" / "training-results.json"

COLUMNS = [
    Column("activation", pa.string(), "", "relu, gelu or swiglu"),
    Column("seed", pa.int16(), "index", "seed of weights and order of data"),
    Column("step", pa.int32(), "steps", "optimizer steps taken; 0 = at initialisation"),
    Column("tokens", pa.int64(), "tokens", "tokens seen"),
    Column("layer", pa.int16(), "index", "decoder layer, from 0; -1 = the whole model"),
    Column("measure", pa.string(), "", "what was measured (moyu_core.training.measures), or held_out_loss, train_loss"),
    Column("value", pa.float64(), "as the measure", "mean over sequences"),
    Column("error", pa.float64(), "as the measure", "standard error over sequences, for fixed weights", nullable=True),
]


def table(runs: Iterable[tuple[Result, list[dict[str, Any]]]]) -> pa.Table:
    """The logs of several runs in one table; errors that are not known are empty."""
    rows = [{"activation": result.config["activation"], "seed": result.config["seed"], **entry,
             "error": entry["error"] if entry["error"] == entry["error"] else None}
            for result, log in runs for entry in log]
    return pa.Table.from_pylist(rows, schema=arrow_schema(COLUMNS))


def write(runs: list[tuple[Result, list[dict[str, Any]]]], log: Path = LOG, results: Path = RESULTS) -> None:
    """Both files, runs in order of activation and seed."""
    ordered = sorted(runs, key=lambda run: (run[0].config["activation"], run[0].config["seed"]))
    pq.write_table(table(ordered), log, compression="zstd")
    results.write_text(json.dumps([asdict(result) for result, _ in ordered], indent=1) + "\n", encoding="utf-8")


def read_results(path: Path = RESULTS) -> list[Result]:
    """The results of all runs."""
    return [Result(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
