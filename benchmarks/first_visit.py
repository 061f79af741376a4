"""What a first visit of the map page reads of a run, step by step, in a process that has read nothing yet.

    python -m benchmarks.first_visit ROOT RUN

Prints milliseconds (on the clock, and of this process alone) as JSON; `benchmarks.scale` takes medians over several such processes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from moyu_core import query, store
from moyu_core.home import Home
from moyu_core.queries import corpus


def steps(root: Path, run_id: str) -> dict[str, Callable[[], object]]:
    """The steps in their order: what the page needs, then what the panel of a neuron needs."""
    home = Home(root / "none", (), root)
    run = store.find_run(home, run_id)
    chosen = pq.read_table(run.path("prompts.parquet"), columns=["prompt_id", "condition"]).slice(3, 1).to_pylist()[0]
    where = (chosen["prompt_id"], run.manifest["layers"][-1], chosen["condition"])
    found: dict[str, Callable[[], object]] = {
        "list runs": lambda: store.list_runs(home),
        "open": lambda: store.find_run(home, run_id).check_sizes(),
        "prompts": lambda: query.prompts(run, texts=False),
        "index": lambda: query.index(run),
        "slice": lambda: query.read_slice(run, *where),
        "sweep": lambda: query.sweep(run, where[0], "l2_norm", where[2]),
        "neurons": lambda: query.neurons(run, where[1]),
    }
    if corpus.held(run):
        found["top tokens"] = lambda: query.top_tokens(run, where[1], 7)
        found["baseline"] = lambda: corpus.rates(run, where[1]).overlap
        found["pairs"] = lambda: corpus.pairs(run, where[1])
    return found


def main() -> None:
    """Time every step once."""
    times = {}
    for name, step in steps(Path(sys.argv[1]), sys.argv[2]).items():
        clock, own = time.perf_counter(), time.process_time()
        step()
        times[name] = [1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - own)]
    print(json.dumps(times))


if __name__ == "__main__":
    main()
