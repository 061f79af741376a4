"""One (prompt, layer) slice out of a run of 1,000 prompts: latency, and bytes of what is opened.

    python -m benchmarks.slice_query

The run is written by the product's own writer from rows of the right shape (30 layers, F = 1536, 32 tokens, 10 % sets,
random bits): what is measured is the store, and a thousand forward passes would not change it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.record import save
from moyu_core import query, schema, sets, store
from moyu_core.activation_table import ActivationWriter
from moyu_core.capture import CapturedPrompt
from moyu_core.prompts import Prompt
from moyu_core.run_writer import writing
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.token_sequences import TokenSequence

PROMPTS, LAYERS, TOKENS, NEURONS = 1000, 30, 32, 1536


def captured(index: int, generator: np.random.Generator) -> CapturedPrompt:
    """One prompt's rows with random sets and statistics."""
    rows = LAYERS * TOKENS
    columns: dict[str, np.ndarray] = {
        "active": sets.pack(generator.random((rows, NEURONS)) < 0.1),
        "nonfinite": np.zeros(rows, np.int32),
    }
    for name in ("density", "l2_norm", "abs_max", "effective_neurons", "zero_share"):
        columns[name] = generator.random(rows, np.float32)
    sequence = TokenSequence(Prompt(f"prompt-{index}", "text"), np.arange(TOKENS), {i: f"t{i}" for i in range(TOKENS)})
    return CapturedPrompt(sequence, tuple(range(LAYERS)), TOKENS, columns)


def build(root: Path) -> store.Run:
    """Write the run; returns it opened."""
    spec = RunSpec("bench", ModelIdentity("none", "none", "float32"), "none", SetRule(), 0)
    generator = np.random.default_rng(0)
    with writing(root, spec) as folder:
        writer = ActivationWriter(folder.path, NEURONS, values=False)
        for index in range(PROMPTS):
            writer.write(captured(index, generator))
        folder.write("index", writer.close())
        folder.write("prompts", pa.table({column.name: [] for column in schema.PROMPT_COLUMNS}))
        folder.facts = {"layers": list(range(LAYERS)), "model": {"n_neurons": NEURONS}}
    return store.open_run(root / spec.run_id)


def main() -> None:
    """Write, read 500 random slices, print."""
    with tempfile.TemporaryDirectory() as folder:
        run = build(Path(folder))
        generator = np.random.default_rng(1)
        query.index(run)
        times = []
        for _ in range(500):
            prompt, layer = f"prompt-{generator.integers(PROMPTS)}", int(generator.integers(LAYERS))
            start = time.perf_counter()
            query.read_slice(run, prompt, layer)
            times.append(1e3 * (time.perf_counter() - start))
        start = time.perf_counter()
        query.index.__globals__["_index"].cache_clear()
        query.index(run)
        opening = 1e3 * (time.perf_counter() - start)
        record = {
            "prompts": PROMPTS,
            "run_megabytes": run.size_bytes / 1e6,
            "files": len(run.manifest["files"]),
            "slice_ms": {"p50": float(np.quantile(times, 0.5)), "p95": float(np.quantile(times, 0.95)), "max": max(times)},
            "index_ms": opening,
        }
        print(
            f"slice p50 {record['slice_ms']['p50']:.2f} ms, p95 {record['slice_ms']['p95']:.2f} ms, max {max(times):.1f} ms; "
            f"index once {opening:.0f} ms; run {record['run_megabytes']:.0f} MB in {record['files']} files"
        )
        save("slice_query", record)


if __name__ == "__main__":
    main()
