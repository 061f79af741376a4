"""The part `calibration`: what the methods without training take from some text, in one dense pass.

For every layer: the mean contribution of each neuron, the CETT threshold, and tables of quantiles from which thresholds of a
given mean density are read. Position 0 is left out where tokens are counted, and stays in where a prompt is summed up, as the
methods' authors do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from moyu_core import cett
from moyu_core.methods.inputs import observe
from moyu_core.methods.parts import Part
from moyu_core.methods.protocol import Method, Rows
from moyu_core.methods.text import documents_hash, require
from moyu_core.progress import Reporter, silent
from moyu_core.schema import DEFAULT_CETT_TARGET
from moyu_core.token_sequences import batches, pad

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel
    from moyu_core.token_sequences import TokenSequence

LEVELS = torch.linspace(0, 1, 401)
"""Kept shares at which thresholds are stored; between them they are interpolated."""
TOKENS = 8192
BATCH_ROWS = 512
SAMPLE = 1 << 20
"""Gate values of a layer that quantiles are taken from."""


class CalibratedMethod(Method):
    """A method that needs the part `calibration` and nothing else."""

    part = "calibration"

    def fit(self, model: LoadedModel, documents: Sequence[TokenSequence], seed: int = 0, report: Reporter = silent) -> Part:
        """See `fit`."""
        return fit(model, documents, report)


def fit(model: LoadedModel, documents: Sequence[TokenSequence], report: Reporter = silent) -> Part:
    """The part from calibration documents, sink token first; about the time of one pass over them."""
    require(model, documents, 2, 256)
    started = time.perf_counter()
    tally = _Tally(model, documents, report)
    for batch in batches(documents, BATCH_ROWS):
        tally.run(batch)
    tensors = tally.tensors()
    if not any(site.experts for site in model.sites):
        layers = [site.layer for site in model.sites]
        found = cett.calibrate(model, documents, DEFAULT_CETT_TARGET, layers, report)
        tensors["cett_threshold"] = torch.tensor([threshold.value for threshold in found])
        tensors["cett_reached"] = torch.tensor([threshold.cett for threshold in found])
    recipe = {"documents": len(documents), "tokens": sum(map(len, documents)), "cett_target": DEFAULT_CETT_TARGET,
              "cett_tokens": cett.CALIBRATION_TOKENS}
    return Part("calibration", model.identity.weights, model.identity.name, tensors, recipe, documents_hash(documents), {},
                round(time.perf_counter() - started, 1))


def threshold_of(part: Part, name: str) -> Callable[[int, float], float]:
    """(layer, density) -> threshold, from a stored table of quantiles."""
    tables = dict(zip(part.tensors["layers"].tolist(), part.tensors[f"{name}_quantiles"].float().numpy(), strict=True))
    return lambda layer, density: float(np.interp(density, LEVELS.numpy(), tables[layer]))


def quantiles(values: Tensor) -> Tensor:
    """Thresholds that keep LEVELS of the values: from above the largest (keeps none) to the smallest (keeps all)."""
    return torch.from_numpy(np.quantile(values.flatten().float().cpu().numpy(), 1 - LEVELS.numpy()).astype(np.float32))


class _Tally:
    """Sums over documents, layer by layer; memory does not grow with their number but for one row a document."""

    def __init__(self, model: LoadedModel, documents: Sequence[TokenSequence], report: Reporter) -> None:
        self._model, self._report = model, report
        self._total, self._done = sum(map(len, documents)), 0
        self._sums: dict[int, Tensor] = {}
        self._rows = 0
        self._prompts: dict[str, dict[int, list[Tensor]]] = {"tda_relative": {}, "tda_contribution": {}}
        self._gates: dict[int, list[Tensor]] = {}
        self._per_layer = max(1, self._total * model.sites[0].n_neurons // SAMPLE)

    def run(self, batch: Sequence[TokenSequence]) -> None:
        """One forward pass."""
        self._batch, width = batch, max(map(len, batch))
        real = torch.zeros(len(batch), width, dtype=torch.bool)
        for row, sequence in enumerate(batch):
            real[row, 1 : len(sequence)] = True
        self._real, self._width = real.flatten(), width
        self._rows += int(real.sum())
        with torch.inference_mode(), observe(self._model, None, (), self._receive, gate=True):
            self._model.decoder(input_ids=pad(batch, self._model.sink_token_id).to(self._model.device), use_cache=False)
        self._done += sum(map(len, batch))
        self._report("calibrating", self._done, self._total)

    def _receive(self, rows: Rows) -> None:
        from moyu_core.methods.tda import contribution_magnitude, relative_magnitude

        self._report("calibrating", self._done, self._total)
        known = self._sums.get(rows.layer, 0)
        self._sums[rows.layer] = known + rows.contribution[self._real].sum(dim=0, dtype=torch.float64)
        if rows.gate is not None:
            sample = rows.gate[self._real].abs().flatten()[:: self._per_layer]
            self._gates.setdefault(rows.layer, []).append(sample.half().cpu())
        for document in self._documents(rows):
            for name, magnitude in (("tda_relative", relative_magnitude), ("tda_contribution", contribution_magnitude)):
                value = magnitude(document).mean(dim=0).sqrt()
                self._prompts[name].setdefault(rows.layer, []).append(value.cpu())

    def _documents(self, rows: Rows) -> Iterator[Rows]:
        for number, sequence in enumerate(self._batch):
            yield rows.part(slice(number * self._width, number * self._width + len(sequence)))

    def tensors(self) -> dict[str, Tensor]:
        """The part's tensors; layers in order."""
        layers = sorted(self._sums)
        found: dict[str, Any] = {"layers": torch.tensor(layers)}
        found["mean_contribution"] = torch.stack([(self._sums[layer] / self._rows).float() for layer in layers]).cpu()
        for name, values in self._prompts.items():
            found[f"{name}_quantiles"] = torch.stack([quantiles(torch.stack(values[layer])) for layer in layers])
        if self._gates:
            found["gate_quantiles"] = torch.stack([quantiles(torch.cat(self._gates[layer])) for layer in layers])
        return found
