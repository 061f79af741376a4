"""Runs of two small tables, made without a model."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from moyu_core import store
from moyu_core.home import Home
from moyu_core.run_writer import exclusive, writing
from moyu_core.spec import ModelIdentity, RunSpec, SetRule

TABLE = pa.table({"x": list(range(1000))})


def spec(seed: int = 0) -> RunSpec:
    return RunSpec("capture", ModelIdentity("m", "w", "float32"), "0", SetRule(), 1, seed=seed)


def make(home: Home, seed: int = 0, **facts: Any) -> store.Run:
    with exclusive(home.runs, spec(seed).run_id), writing(home.runs, spec(seed)) as folder:
        folder.write("prompts", TABLE)
        folder.write("neurons", TABLE.slice(0, 3))
        folder.facts = {"title": "a run", "model": {"name": "m"}, **facts}
    return store.find_run(home, spec(seed).run_id)


def left(home: Home) -> list[str]:
    """What lies in the folder of runs, locks left aside."""
    return sorted(path.name for path in home.runs.iterdir() if path.suffix != ".lock") if home.runs.is_dir() else []
