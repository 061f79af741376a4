"""A run of a million tokens in 32 layers beside the demo run: how long each step of looking at it takes.

    python -m benchmarks.scale [--tokens 1000000] [--keep FOLDER]

The run is written by the product's own writer from rows of the right shape (1,000 prompts of 1,000 tokens, 32 layers, F = 1536,
10 % sets of random bits), with the tables of a corpus: what is measured is opening and reading, which forward passes would not
change. Every step is measured in fresh processes, because caches are what a first visit does not have.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.record import save
from moyu_core import schema, sets, store
from moyu_core.activation_table import ActivationWriter
from moyu_core.capture import CapturedPrompt
from moyu_core.corpus_counts import CorpusCounts
from moyu_core.corpus_tables import corpus_facts, corpus_tables
from moyu_core.firing import FiringCounts
from moyu_core.home import REPOSITORY, Home
from moyu_core.prompts import Prompt
from moyu_core.run_writer import RunFolder, writing
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.studies import shared
from moyu_core.token_sequences import TokenSequence
from moyu_core.tops import Tops

LAYERS, NEURONS, TOKENS = 32, 1536, 1000
ROUNDS = 9


def captured(index: int, random: np.random.Generator, block: np.ndarray) -> CapturedPrompt:
    """One prompt of random sets and statistics."""
    rows = LAYERS * TOKENS
    columns: dict[str, np.ndarray] = {
        "active": np.roll(block, int(random.integers(1, len(block))), axis=0),
        "nonfinite": np.zeros(rows, np.int32),
    }
    for name in ("density", "l2_norm", "abs_max", "effective_neurons", "zero_share"):
        columns[name] = random.random(rows, np.float32)
    words = [f"token{i % 97} " for i in range(TOKENS)]
    sequence = TokenSequence(Prompt(f"prompt-{index}", "".join(words)), np.arange(TOKENS), words)
    return CapturedPrompt(sequence, tuple(range(LAYERS)), TOKENS, columns)


def build(root: Path, tokens: int) -> store.Run:
    """Write the run, unless it is there."""
    spec = RunSpec("capture", ModelIdentity("synthetic", "none", "float32"), "none", SetRule("top", 0.1), 0, {"tokens": tokens})
    if (root / spec.run_id).is_dir():
        return store.open_run(root / spec.run_id)
    random = np.random.default_rng(0)
    block = sets.pack(random.random((LAYERS * TOKENS, NEURONS)) < 0.1)
    layers = tuple(range(LAYERS))
    firing, counts = FiringCounts(layers, NEURONS), CorpusCounts(layers, NEURONS)
    rows: list[tuple] = []
    with writing(root, spec) as folder:
        with ActivationWriter(folder.path, NEURONS, values=False, lanes=2) as writer:
            for index in range(tokens // TOKENS):
                one = captured(index, random, block)
                writer.write(one)
                if index < 8:  # enough for rates that are no constants
                    firing.add(one)
                    counts.add(one)
                prompt = one.sequence.prompt
                rows.append((prompt.id, prompt.condition, prompt.text, "", TOKENS, 0, False))
            folder.write("index", writer.close())
        tables(folder, rows, firing, counts, random)
    return store.open_run(root / spec.run_id)


def tables(folder: RunFolder, rows: list[tuple], firing: FiringCounts, counts: CorpusCounts, random: np.random.Generator) -> None:
    """The other tables and the manifest."""
    names = [column.name for column in schema.PROMPT_COLUMNS]
    prompts = shared.table(schema.PROMPT_COLUMNS, dict(zip(names, zip(*rows, strict=True), strict=True)))
    folder.write("prompts", prompts)
    neurons = {"layer": np.repeat(firing.layers, NEURONS), "neuron": np.tile(np.arange(NEURONS), LAYERS),
               "column_norm": np.ones(LAYERS * NEURONS), "rate": firing.rates().ravel()}  # fmt: skip
    folder.write("neurons", shared.table(schema.NEURON_COLUMNS, neurons), NEURONS)
    shape = (LAYERS, 8, NEURONS)
    value = np.sort(random.random(shape, np.float32), axis=1)[:, ::-1]
    tops = Tops(value, *(random.integers(0, 97, shape).astype(np.int32) % len(rows) for _ in range(3)))
    for name, table, group in corpus_tables(firing, counts, tops, prompts, {i: f"token{i} " for i in range(97)}):
        folder.write(name, table, group)
    counted = {"prompts": len(rows), "tokens": len(rows) * TOKENS, "rows": len(rows) * TOKENS * LAYERS}
    folder.facts = {"title": "Synthetic", "layers": list(firing.layers), "corpus": corpus_facts(firing, counts),
                    "model": {"name": "synthetic", "n_neurons": NEURONS}, "counts": counted}  # fmt: skip


def first_visits(runs: list[store.Run]) -> list[dict[str, list[float]]]:
    """Of each run: step -> [milliseconds on the clock, of the process alone].

    Medians over fresh processes (`benchmarks.first_visit`), the runs in turn, so that drift of the machine hits all alike.
    """
    found: list[list[dict[str, list[float]]]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, times in zip(runs, found, strict=True):
            command = [sys.executable, "-m", "benchmarks.first_visit", str(run.folder.parent), run.id]
            done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
            times.append(json.loads(done.stdout.splitlines()[-1]))
    return [
        {name: [statistics.median(each[name][kind] for each in times) for kind in (0, 1)] for name in times[0]} for times in found
    ]


def main() -> None:
    """Write the run, measure both, print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="write the run here and leave it; one that is there is measured as it is")
    chosen = parser.parse_args()
    demo = next(run for run in store.list_runs(Home.default())[0] if run.tracked and run.spec.study == "capture")
    with tempfile.TemporaryDirectory() as temporary:
        run = build(chosen.keep or Path(temporary), chosen.tokens)
        large, small = first_visits([run, demo])
    both = [name for name in large if name in small]
    totals = {
        which: [sum(times[name][kind] for name in both) for kind in (0, 1)] for which, times in (("large", large), ("demo", small))
    }
    record = {"tokens": chosen.tokens, "layers": LAYERS, "neurons": NEURONS, "gigabytes": run.size_bytes / 1e9,
              "files": len(run.manifest["files"]), "first_visit_ms": {"large": large, "demo": small, "total": totals}}  # fmt: skip
    for name, (clock, own) in large.items():
        theirs = "demo {:7.1f} ms, process {:6.1f}".format(*small[name]) if name in small else "(tables that the demo has not)"
        print(f"{name:12} {clock:7.1f} ms, process {own:6.1f}   {theirs}")
    print(
        "total of the steps that both have: {:.0f} ms, process {:.0f}; demo {:.0f} ms, process {:.0f}".format(
            *totals["large"], *totals["demo"]
        )
    )
    save("scale", record)


if __name__ == "__main__":
    main()
