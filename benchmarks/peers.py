"""Capture to Parquet beside nnsight and TransformerLens, which only keep the same activations in memory.

    pip install nnsight==0.8.1 transformer-lens==4.3.0      # in an environment of its own: they are no requirement
    python -m benchmarks.peers [--rounds 9]

All see the same token ids in the same dtype in one process, in turn. Ours ends with masks and statistics on disk; theirs with the
down projections' inputs in memory (a names filter, nothing else is kept). TransformerLens has no way past the LM head, so its
ratio to its own plain forward pass is given too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.capture_cost import BATCH, BATCHES, TOKENS, interleaved, prompts
from benchmarks.record import save
from moyu_core.capture import batches, pad, tokenise
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.run_writer import writing
from moyu_core.studies.capture import Request, _write, spec_of


class Peers:
    """The three ways to get at the activations; each has a model of its own, because two of them wrap it."""

    def __init__(self, model: LoadedModel, inputs: list[torch.Tensor]) -> None:
        from nnsight import NNsight  # pyright: ignore[reportMissingImports]
        from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]

        home = Home.default()
        self.inputs = inputs
        self.traced = NNsight(load_model("default", home).decoder)
        wrapped = load_model("default", home)
        folder = str(home.models / "smollm2-135m-instruct")
        self.bridge = TransformerBridge.boot_transformers(folder, hf_model=wrapped.model, tokenizer=wrapped.tokenizer, device="cpu")

    @torch.inference_mode()
    def nnsight(self) -> None:
        """One trace a batch, saving the input of every down projection."""
        for ids in self.inputs:
            model = self.traced
            with model.trace(input_ids=ids, use_cache=False):
                saved: Any = list().save()  # noqa: C408 (the trace patches list)
                for layer in model.layers:
                    saved.append(layer.mlp.down_proj.input)

    @torch.inference_mode()
    def transformer_lens(self) -> None:
        """`run_with_cache` with a names filter."""
        for ids in self.inputs:
            self.bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("mlp.out.hook_in"))

    @torch.inference_mode()
    def transformer_lens_forward(self) -> None:
        """The bridge's own forward pass, LM head included."""
        for ids in self.inputs:
            self.bridge(ids)


def main() -> None:
    """Run the benchmark and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    model = load_model("default", Home.default())
    request = Request("default", prompts(model), max_tokens=TOKENS)
    inputs = [pad(batch, model.sink_token_id) for batch in batches(tokenise(model, request.prompts, TOKENS), BATCH * TOKENS)]
    peers = Peers(model, inputs)
    spec = spec_of(request, model.identity, model.sink_token_id)

    @torch.inference_mode()
    def forward() -> None:
        for ids in inputs:
            model.decoder(input_ids=ids, use_cache=False)

    with tempfile.TemporaryDirectory() as folder:

        def capture() -> None:
            with writing(Path(folder), spec) as run:
                _write(run, model, request, lambda *_: None)

        times = interleaved(
            {"forward": forward, "capture to Parquet": capture, "nnsight": peers.nnsight, "TransformerLens": peers.transformer_lens,
             "TransformerLens forward": peers.transformer_lens_forward}, rounds)
    ratios = {name: [a / b for a, b in zip(values, times["forward"], strict=True)] for name, values in times.items()}
    record = {
        "shape": [BATCHES, BATCH, TOKENS],
        "model": model.identity.name,
        "rounds": rounds,
        "versions": {name: version(name) for name in ("nnsight", "transformer-lens", "torch", "transformers")},
        "ratios": {name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in ratios.items()},
    }
    for name, ratio in record["ratios"].items():
        print(f"{name:24} / forward  median {ratio['median']:.3f}  ({ratio['min']:.3f} to {ratio['max']:.3f})")
    save("peers", record)


if __name__ == "__main__":
    main()
