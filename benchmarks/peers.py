"""Capture to Parquet beside plain hooks, nnsight and TransformerLens: in memory as they come, and with the same product on disk.

    pip install nnsight==0.8.1 transformer-lens==4.3.0      # in an environment of its own: they are no requirement
    python -m benchmarks.peers [--rounds 9] [--batches 8] [--brief]

All see the same token ids in the same dtype in one process, in turn. Ours ends with masks and statistics on disk. Theirs ends with
the down projections' inputs in memory (a names filter, nothing else is kept), which is less; so each is also taken as far as ours,
the way one would write it: torch.topk of |a| c, statistics in torch, and Parquet through the project's own writer. TransformerLens
has no way past the LM head, so its ratio to its own plain forward pass is given too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.capture_cost import BATCH, TOKENS, interleaved, prompts
from benchmarks.record import save
from moyu_core.activation_table import ActivationWriter
from moyu_core.capture import CapturedPrompt
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.run_writer import sealed, writing
from moyu_core.sites import watch
from moyu_core.spec import SetRule
from moyu_core.studies.capture import Request, _write, spec_of
from moyu_core.token_sequences import TokenSequence, batches, pad, tokenise

Keep = Callable[[int, list[Tensor]], object]
"""What to do with a batch's activations: its number, and (B * T, F) for every layer."""


def in_memory(way: Callable[[Keep], None]) -> None:
    """They stay in memory to the end, as what a capture leaves is there for all its batches; that is all."""
    kept: list[list[Tensor]] = []
    way(lambda _, saved: kept.append(saved))


class Product:
    """Masks and statistics on disk from activations in memory, as one would write it in torch."""

    def __init__(self, model: LoadedModel, batched: list[list[TokenSequence]], folder: Path) -> None:
        self._batched, self._folder = batched, folder
        self._norms = [site.column_norms() for site in model.sites]
        self._k = SetRule("top").count(model.sites[0].n_neurons)
        self._writer = ActivationWriter(folder, model.sites[0].n_neurons, False)

    def keep(self, number: int, saved: list[Tensor]) -> None:
        """Reduce and write one batch."""
        layers = [self._reduced(a, norms) for a, norms in zip(saved, self._norms, strict=True)]
        for place, sequence in enumerate(self._batched[number]):
            rows = slice(place * TOKENS, (place + 1) * TOKENS)
            columns = {name: np.concatenate([layer[name][rows] for layer in layers]) for name in layers[0]}
            self._writer.write(CapturedPrompt(sequence, tuple(range(len(layers))), TOKENS, columns))

    def close(self) -> None:
        """Finish the files, on the disk."""
        self._writer.close()
        for path in self._folder.iterdir():
            sealed(path)

    def _reduced(self, a: Tensor, norms: Tensor) -> dict[str, np.ndarray]:
        magnitude = a.abs()
        chosen = torch.topk(magnitude * norms, self._k, dim=1, sorted=False).indices
        mask = torch.zeros_like(a, dtype=torch.bool).scatter_(1, chosen, True)
        squares = a.double().square()
        energy = squares.sum(1, keepdim=True)
        share = squares / energy
        statistics = {
            "density": mask.float().mean(1),
            "l2_norm": energy[:, 0].sqrt().float(),
            "abs_max": magnitude.amax(1),
            "effective_neurons": torch.special.entr(share).sum(1).exp().float(),
            "zero_share": (a == 0).float().mean(1),
            "nonfinite": (~a.isfinite()).sum(1, dtype=torch.int32),
        }
        packed = np.packbits(mask.numpy(), axis=1, bitorder="little")
        return {"active": packed, **{name: column.numpy() for name, column in statistics.items()}}


class Peers:
    """The ways to get at the activations; each wrapping one has a model of its own."""

    def __init__(self, model: LoadedModel, inputs: list[Tensor]) -> None:
        from nnsight import NNsight  # pyright: ignore[reportMissingImports]
        from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]

        home = Home.default()
        self.model, self.inputs = model, inputs
        self.traced = NNsight(load_model("default", home).decoder)
        wrapped = load_model("default", home)
        folder = str(home.models / "smollm2-135m-instruct")
        self.bridge = TransformerBridge.boot_transformers(folder, hf_model=wrapped.model, tokenizer=wrapped.tokenizer, device="cpu")

    @torch.inference_mode()
    def hooks(self, keep: Keep) -> None:
        """Plain hooks that copy every input of a down projection out."""
        for number, ids in enumerate(self.inputs):
            saved: list[Tensor] = []
            with watch(self.model, None, lambda activation, saved=saved: saved.append(activation.a.clone())):
                self.model.decoder(input_ids=ids, use_cache=False)
            keep(number, saved)

    @torch.inference_mode()
    def nnsight(self, keep: Keep) -> None:
        """One trace a batch, saving the input of every down projection."""
        for number, ids in enumerate(self.inputs):
            model = self.traced
            with model.trace(input_ids=ids, use_cache=False):
                saved: Any = list().save()  # noqa: C408 (the trace patches list)
                for layer in model.layers:
                    saved.append(layer.mlp.down_proj.input)
            keep(number, [one.flatten(0, 1) for one in saved])

    @torch.inference_mode()
    def transformer_lens(self, keep: Keep) -> None:
        """`run_with_cache` with a names filter."""
        for number, ids in enumerate(self.inputs):
            _, cache = self.bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("mlp.out.hook_in"))
            keep(number, [one.flatten(0, 1) for one in cache.values()])

    @torch.inference_mode()
    def transformer_lens_forward(self) -> None:
        """The bridge's own forward pass, LM head included."""
        for ids in self.inputs:
            self.bridge(ids)


def main() -> None:
    """Run the benchmark and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=8, help="forward passes of 2 x 256 tokens in a capture")
    parser.add_argument("--brief", action="store_true", help="in memory only, which leaves time for long captures")
    given = parser.parse_args()
    rounds = given.rounds
    model = load_model("default", Home.default())
    request = Request("default", prompts(model, given.batches), max_tokens=TOKENS)
    batched = list(batches(tokenise(model, request.prompts, TOKENS), BATCH * TOKENS))
    inputs = [pad(batch, model.sink_token_id) for batch in batched]
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

        def on_disk(way: Callable[[Keep], None]) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                product = Product(model, batched, Path(own))
                way(product.keep)
                product.close()

        ways = {"plain hooks": peers.hooks, "nnsight": peers.nnsight, "TransformerLens": peers.transformer_lens}
        actions: dict[str, Callable[[], object]] = {"forward": forward, "capture to Parquet": capture}
        actions |= {f"{name}, in memory": partial(in_memory, way) for name, way in ways.items()}
        if not given.brief:
            actions |= {f"{name}, same product on disk": partial(on_disk, way) for name, way in ways.items()}
            actions["TransformerLens forward"] = peers.transformer_lens_forward
        times = interleaved(actions, rounds)
    ratios = {name: [a / b for a, b in zip(values, times["forward"], strict=True)] for name, values in times.items()}
    record = {
        "shape": [given.batches, BATCH, TOKENS],
        "model": model.identity.name,
        "rounds": rounds,
        "versions": {name: version(name) for name in ("nnsight", "transformer-lens", "torch", "transformers")},
        "ratios": {name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in ratios.items()},
        "against_ours": {name: statistics.median(map(truediv, took, times["capture to Parquet"])) for name, took in times.items()},
    }
    for name, ratio in record["ratios"].items():
        print(f"{name:40} / forward  median {ratio['median']:.3f}  ({ratio['min']:.3f} to {ratio['max']:.3f}), "
              f"/ capture {record['against_ours'][name]:.3f}")  # fmt: skip
    save("peers-brief" if given.brief else "peers", record)


if __name__ == "__main__":
    main()
