"""Capture to Parquet against the bare forward passes of the same batches, interleaved in one process.

    python -m benchmarks.capture_cost [--rounds 15]

The bare forward runs the decoder without LM head on the same token ids in the same dtype. Capture = masks and statistics of all
layers (no `cett`, no values), written to Parquet with its manifest. Beside it: plain hooks that copy everything out, and the
forward pass alone with packed weights, as a capture runs it where that is faster (`packed_linear`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.record import save
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.packed_linear import packed
from moyu_core.prompts import Prompt
from moyu_core.run_writer import writing
from moyu_core.sites import watch
from moyu_core.studies.capture import Request, _write, spec_of

TOKENS = 256
BATCH = 2
BATCHES = 16


def prompts(model: LoadedModel, batches: int = BATCHES) -> tuple[Prompt, ...]:
    """Texts for so many batches that make exactly TOKENS tokens each, sink token included."""
    words = "The river keeps its own time and nobody in the valley has ever thought to argue with it . "
    found = []
    for index in range(BATCH * batches):
        ids = model.tokenizer(words * 40, add_special_tokens=False)["input_ids"][index : index + TOKENS - 1]
        found.append(Prompt(f"bench-{index}", model.tokenizer.decode(ids)))
    return tuple(found)


def interleaved(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each action, taken in turn so that drift of the machine hits all alike; two warm-up rounds.

    Each round has an order of its own: none has always the same action, with its memory, before it.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    shuffled = random.Random(0)
    for turn in range(rounds + 2):
        for name in shuffled.sample(list(actions), len(actions)):
            start = time.perf_counter()
            actions[name]()
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Run the benchmark and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    model = load_model("default", Home.default())
    request = Request("default", prompts(model), max_tokens=TOKENS)
    from moyu_core.token_sequences import batches, pad, tokenise

    sequences = tokenise(model, request.prompts, TOKENS)
    inputs = [pad(batch, model.sink_token_id) for batch in batches(sequences, BATCH * TOKENS)]
    assert [tuple(ids.shape) for ids in inputs] == [(BATCH, TOKENS)] * BATCHES

    @torch.inference_mode()
    def forward() -> None:
        for ids in inputs:
            model.decoder(input_ids=ids, use_cache=False)

    @torch.inference_mode()
    def plain_hooks() -> None:
        kept = []  # to the end: what a capture leaves is there for all its batches
        for ids in inputs:
            with watch(model, None, lambda activation, kept=kept: kept.append(activation.a.clone())):
                model.decoder(input_ids=ids, use_cache=False)

    @torch.inference_mode()
    def packed_forward() -> None:
        with packed(model):
            for ids in inputs:
                model.decoder(input_ids=ids, use_cache=False)

    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(request, model.identity, model.sink_token_id)

        def capture() -> None:
            with writing(Path(folder), spec) as run:
                _write(run, model, request, lambda *_: None)

        actions = {"forward": forward, "capture": capture, "plain hooks, kept in memory": plain_hooks}
        times = interleaved({**actions, "forward, packed weights": packed_forward}, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: [a / b for a, b in zip(values, times["forward"], strict=True)] for name, values in times.items()}
    record = {
        "shape": [BATCHES, BATCH, TOKENS],
        "model": model.identity.name,
        "dtype": model.identity.dtype,
        "rounds": rounds,
        "seconds_forward": medians["forward"],
        "ratios": {name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in ratios.items()},
    }
    for name, ratio in record["ratios"].items():
        print(f"{name:28} / forward  median {ratio['median']:.3f}  ({ratio['min']:.3f} to {ratio['max']:.3f})")
    save("capture_cost", record)


if __name__ == "__main__":
    main()
