"""The capture part of the inertia study against the bare forward passes it needs, in turn in one process.

    python -m benchmarks.inertia_cost [--words 32] [--rounds 3]

Capture part = every condition and control of 32 texts of the shipped topics in all layers of the default model: masks, energy
shares and all overlaps, as the study computes them. The bare passes are the same calls of the decoder, mask by mask and batch by
batch, recorded from one run of the capture and repeated without watching anything.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks.capture_cost import interleaved
from benchmarks.record import save
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import silent
from moyu_core.prompts import Prompt, read_prompts
from moyu_core.spec import SetRule
from moyu_core.studies.inertia import overlap
from moyu_core.studies.inertia.conditions import Text, read_texts
from moyu_core.studies.inertia.units import Reader

TEXTS = 32


def chosen(prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    """TEXTS prompts, as many of each topic."""
    topics = list(dict.fromkeys(prompt.domain for prompt in prompts))
    each = TEXTS // len(topics)
    return tuple(prompt for topic in topics for prompt in [p for p in prompts if p.domain == topic][:each])


def capture(model: LoadedModel, texts: list[Text]) -> Reader:
    """The capture part; returns the reader, which counts the tokens."""
    reader = Reader(model, SetRule(), {}, silent)
    overlap.measure(reader, texts, 0)
    return reader


def recorded(model: LoadedModel, texts: list[Text]) -> tuple[list[dict[str, Any]], int]:
    """The arguments of every call of the decoder in one capture, and its tokens without padding."""
    calls: list[dict[str, Any]] = []
    handle = model.decoder.register_forward_pre_hook(lambda _module, _args, given: calls.append(given), with_kwargs=True)
    try:
        return calls, capture(model, texts).tokens
    finally:
        handle.remove()


def main() -> None:
    """Run the benchmark and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    home = Home.default()
    model = load_model("default", home, device="cpu")
    texts, _ = read_texts(model, chosen(read_prompts(home.prompts / "topics.jsonl").prompts), given.words)
    assert len(texts) == TEXTS
    calls, tokens = recorded(model, texts)

    @torch.inference_mode()
    def bare() -> None:
        for call in calls:
            model.decoder(**call)

    times = interleaved({"bare": bare, "capture": lambda: capture(model, texts)}, given.rounds)
    ratios = [a / b for a, b in zip(times["capture"], times["bare"], strict=True)]
    record = {
        "model": model.identity.name,
        "texts": TEXTS,
        "words": len(texts[0].slots),
        "layers": len(model.sites),
        "tokens": tokens,
        "batches": len(calls),
        "threads": torch.get_num_threads(),
        "rounds": given.rounds,
        "seconds_bare": statistics.median(times["bare"]),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    median = record["ratio"]["median"]
    print(f"capture part / bare forward passes   median {median:.3f}  ({min(ratios):.3f} to {max(ratios):.3f}), {tokens:,} tokens")
    save("inertia_cost", record)


if __name__ == "__main__":
    main()
