"""Capture to Parquet against the bare forward passes of the same batches.

    python -m benchmarks.h200.capture --shape llama-2-7b [--batches 6] [--rounds 3] [--brief] [--folder /tmp]

Bare forward: the decoder without LM head on 8 x 1024 random tokens a batch, as transformers runs it. Capture: masks and
statistics of all layers, firing counts, everything on disk with its manifest, hashed, fsynced and renamed. The stages
are measured by doing ever more of it. Tokenising is left out (the ids are random).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import torch

from benchmarks.h200 import common
from moyu_core import activation_files, capture, device_reducers, token_sequences
from moyu_core.activation_table import ActivationWriter, lanes
from moyu_core.capture import CaptureOptions
from moyu_core.device_capture import to_device
from moyu_core.firing import FiringCounts
from moyu_core.models import LoadedModel
from moyu_core.reducers import RowReducer
from moyu_core.run_writer import writing
from moyu_core.sites import Activation, watch
from moyu_core.spec import RunSpec, SetRule


class Bench:
    """One model, its sequences and the things to time."""

    def __init__(self, model: LoadedModel, batches: int, prompts: int, tokens: int, folder: Path) -> None:
        self.model = model
        self.layers = tuple(site.layer for site in model.sites)
        self.batch_tokens = prompts * tokens
        self.sequences = common.sequences(batches * prompts, tokens, model.vocab_size)
        made = token_sequences.batches(self.sequences, self.batch_tokens)
        self.inputs = [to_device(token_sequences.pad(batch, 1), model.device) for batch in made]
        assert [tuple(ids.shape) for ids in self.inputs] == [(prompts, tokens)] * batches
        self.prompts = prompts
        self.folder = folder
        self.bytes_written = 0
        self._folders: list[Path] = []

    @torch.inference_mode()
    def forward(self, receive: Callable[[Activation], None] | None = None, batches: int | None = None) -> None:
        """The forward passes, bare or with a receiver."""
        for ids in self.inputs[:batches]:
            if receive is None:
                self.model.decoder(input_ids=ids, use_cache=False)
            else:
                with watch(self.model, None, receive):
                    self.model.decoder(input_ids=ids, use_cache=False)

    def options(self, rule: SetRule, thresholds: dict[int, float] | None = None) -> CaptureOptions:
        """Masks and statistics of all layers."""
        return CaptureOptions(rule, self.layers, thresholds or {}, batch_tokens=self.batch_tokens)

    def reducing(self, options: CaptureOptions) -> Callable[[Activation], None]:
        """A receiver that launches the reduction and drops its result."""
        reducers = {layer: RowReducer(options.rule, options.thresholds.get(layer)) for layer in self.layers}

        def receive(activation: Activation) -> None:
            site = activation.site
            experts = None if activation.experts is None else activation.experts.flatten()
            rows = activation.a if experts is None else activation.a.flatten(0, 1)
            device_reducers.reduce_on_device(reducers[site.layer], rows, site.column_norms(), experts)

        return receive

    def in_memory(self, options: CaptureOptions) -> None:
        """Capture, every prompt dropped."""
        for _ in capture.capture(self.model, self.sequences, options, firing=self._firing()):
            pass

    def parquet(self, options: CaptureOptions) -> None:
        """Capture into Parquet files, no manifest."""
        with self._writer(self._fresh()) as writer:
            self._write(writer, options)

    def run(self, options: CaptureOptions, batches: int | None = None) -> None:
        """Capture into a finished run."""
        parameters = {"thresholds": sorted(options.thresholds.items())}
        spec = RunSpec("bench", self.model.identity, "random", options.rule, self.model.sink_token_id, parameters)
        root = self._fresh()
        with writing(root, spec) as run, self._writer(run.path) as writer:
            run.write("index", self._write(writer, options, batches))
            run.known |= writer.sealed
        self.bytes_written = sum(path.stat().st_size for path in (root / spec.run_id).iterdir())

    def _fresh(self) -> Path:
        self._folders.append(Path(tempfile.mkdtemp(dir=self.folder)))
        return self._folders[-1]

    def tidy(self) -> None:
        """Remove what was written."""
        while self._folders:
            shutil.rmtree(self._folders.pop())

    def _writer(self, folder: Path) -> ActivationWriter:
        device = self.model.device.type
        count = lanes(device, len(self.sequences))
        return ActivationWriter(folder, self.model.sites[0].n_neurons, False, count, device == "cpu")

    def _write(self, writer: ActivationWriter, options: CaptureOptions, batches: int | None = None) -> pa.Table:
        sequences = self.sequences if batches is None else self.sequences[: batches * self.prompts]
        for captured in capture.capture(self.model, sequences, options, firing=self._firing()):
            writer.write(captured)
        return writer.close()

    def _firing(self) -> FiringCounts:
        return FiringCounts(self.layers, self.model.sites[0].n_neurons)

    def thresholds(self, density: float = 0.1) -> dict[int, float]:
        """Thresholds on |a|*c that keep about the same share of neurons as the top-k rule, layer by layer."""
        found: dict[int, float] = {}

        def receive(activation: Activation) -> None:
            rows = activation.a.flatten(0, -2)[:64].float()
            norms = activation.site.column_norms()
            norms = norms if activation.experts is None else norms[activation.experts.flatten()[:64]]
            score = rows.abs() * norms
            found[activation.site.layer] = float(score.flatten()[:500_000].quantile(1 - density))

        self.forward(receive, 1)
        return found

    def kernels(self) -> dict[str, Any]:
        """Milliseconds of the reduction of one layer's rows on its own, and of what it replaces."""
        seen: list[Activation] = []
        self.forward(lambda activation: seen.append(activation) if not seen else None, 1)
        site = seen[0].site
        experts = None if seen[0].experts is None else seen[0].experts.flatten()
        rows = seen[0].a.flatten(0, -2).clone()
        norms = site.column_norms()
        kept = device_reducers.reduce_on_device(RowReducer(SetRule("top")), rows, norms, experts)
        marks = torch.ones(len(rows), dtype=torch.uint8, device=rows.device)
        counts = torch.zeros(rows.shape[1], dtype=torch.int32, device=rows.device)
        k = SetRule("top").count(rows.shape[1])
        score = rows.float().abs() * (norms if experts is None else norms[experts])
        rules = {"reduce, top 10 %": RowReducer(SetRule("top")), "reduce, threshold": RowReducer(SetRule("cett"), 1e-3)}
        actions: dict[str, Callable[[int], object]] = {
            name: lambda _, rule=rule: device_reducers.reduce_on_device(rule, rows, norms, experts) for name, rule in rules.items()
        } | {
            "firing counts": lambda _: device_reducers.add_firing(kept.packed, marks, counts),
            "torch.topk of the scores alone": lambda _: torch.topk(score, k, dim=1, sorted=False),
        }
        found = {name: common.device_milliseconds(action, 10) for name, action in actions.items()}
        few = rows[:512].float().cpu().numpy()
        plain = RowReducer(SetRule("top"))(few, (norms if experts is None else norms[experts[:512]]).cpu().numpy())
        same = bool((plain.active == kept.packed[:512].cpu().numpy()).all())
        return {"rows": list(rows.shape), "milliseconds": found, "masks_equal_numpy": same}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=common.SHAPES, default="tiny")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    prompts, tokens = (2, 16) if arguments.shape.startswith("tiny") else (8, 1024)
    bench = Bench(common.random_model(arguments.shape), arguments.batches, prompts, tokens, arguments.folder)
    data = measure(bench, arguments.rounds, arguments.brief)
    data |= {"batches": arguments.batches, "batch": [prompts, tokens], "rounds": arguments.rounds, "folder": str(arguments.folder)}
    for name, ratio in data["ratios"].items():
        print(f"{arguments.shape:18} {name:40} / forward  {ratio['median']:.3f}  ({ratio['min']:.3f} to {ratio['max']:.3f})")
    print({name: round(value, 3) for name, value in data["kernels"]["milliseconds"].items()}, "ms a layer; masks equal numpy's:",
          data["kernels"]["masks_equal_numpy"])  # fmt: skip
    common.save("capture" if arguments.brief else "capture-stages", arguments.shape, data)


def measure(bench: Bench, rounds: int, brief: bool = False) -> dict[str, Any]:
    """Everything about one shape; `brief` leaves out the stages between and the file system in memory."""
    top, thresholds = bench.options(SetRule("top")), bench.options(SetRule("cett"), bench.thresholds())
    host = bench.model.device.type == "cpu"
    actions: dict[str, Callable[[], object]] = {
        "forward": bench.forward,
        "forward, reduction in the hooks": lambda: bench.forward(bench.reducing(top)),
        "capture in memory": lambda: bench.in_memory(top),
        "capture to Parquet, no manifest": lambda: bench.parquet(top),
        "capture to a run, top 10 %": lambda: bench.run(top),
        "capture to a run, threshold": lambda: bench.run(thresholds),
    }
    if brief:
        for name in ("forward, reduction in the hooks", "capture to Parquet, no manifest"):
            del actions[name]
    if not host:
        torch.cuda.reset_peak_memory_stats()
    times = common.interleaved(actions, rounds, bench.tidy)
    written = bench.bytes_written
    peak = 0.0 if host else torch.cuda.max_memory_allocated() / 1e9
    single: dict[str, Callable[[], object]] = {
        "forward": lambda: bench.forward(None, 1),
        "one batch: capture to a run, top 10 %": lambda: bench.run(top, 1),
        "one batch: plain hooks with a copy to the host": lambda: bench.forward(_copy_out, 1),
    }
    one = common.interleaved(single, rounds, bench.tidy)
    found = common.ratios(times, "forward") | _others(common.ratios(one, "forward"))
    if not brief and Path("/dev/shm").is_dir():
        bench.folder = Path("/dev/shm")
        in_memory: dict[str, Callable[[], object]] = {
            "forward": bench.forward,
            "capture to a run in /dev/shm, top 10 %": lambda: bench.run(top),
            "capture to a run in /dev/shm, not compressed": lambda: _uncompressed(bench, top),
        }
        found |= _others(common.ratios(common.interleaved(in_memory, rounds, bench.tidy), "forward"))
    return {
        "seconds": {name: common.summary(values) for name, values in (times | {"one batch: forward": one["forward"]}).items()},
        "ratios": found,
        "bytes_on_disk": written,
        "peak_gpu_memory_gb": peak,
        "kernels": bench.kernels(),
    }


def _others(ratios: dict[str, Any]) -> dict[str, Any]:
    return {name: ratio for name, ratio in ratios.items() if name != "forward"}


def _uncompressed(bench: Bench, options: CaptureOptions) -> None:
    """A run whose sets are stored as they are: what compression costs."""
    with patch.object(activation_files, "_LARGE", ()):
        bench.run(options)


def _copy_out(activation: Activation) -> None:
    activation.a.cpu()


if __name__ == "__main__":
    main()
