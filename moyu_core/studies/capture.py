"""The capture study: prompts -> active sets, statistics and, where asked for, 8-bit values, as one run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from moyu_core import agreement, capture, cett, schema, sets
from moyu_core.activation_table import ActivationWriter
from moyu_core.capture import CapturedPrompt, CaptureOptions, TokenSequence
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.spec import ModelIdentity, RunSpec
from moyu_core.studies import shared
from moyu_core.studies.requests import CaptureRequest as Request

NAME = "capture"
__all__ = ["NAME", "Request", "capture_run", "run", "spec_of"]


def spec_of(request: Request, identity: ModelIdentity, sink_token_id: int) -> RunSpec:
    """The identity of the run that this request asks for."""
    parameters: dict[str, Any] = {
        "layers": None if request.layers is None else sorted({int(layer) for layer in request.layers}),
        "values": None if request.values is None else sorted(set(request.values)),
        "cett": request.cett,
        "max_tokens": request.max_tokens,
    }
    if request.rule.name == "cett":
        parameters["calibration_tokens"] = cett.CALIBRATION_TOKENS
    return RunSpec(NAME, identity, prompts_hash(request.prompts), request.rule, sink_token_id, parameters)


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model and capture; returns the run id. A finished run of the same spec is returned without loading."""
    run_id = shared.finished(partial(spec_of, request), request.model, home, request.dtype, request.sink_token_id)
    if run_id is not None:
        return run_id
    report("loading the model", 0, 0)
    model = load_model(
        request.model, home, dtype=request.dtype, device=device, sink_token_id=request.sink_token_id, report=report
    )
    return capture_run(model, request, home, report)


def capture_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """Capture with a model that is loaded already; returns the run id. Asking twice computes once.

    Raises:
        InputError: a layer that the model does not have, a prompt without tokens.
        Cancelled: from `report`; nothing is left on disk then.
    """
    spec = spec_of(request, model.identity, model.sink_token_id)
    return shared.make(spec, home, lambda folder: _write(folder, model, request, report), report)


def _write(folder: RunFolder, model: LoadedModel, request: Request, report: Reporter) -> None:
    started = time.perf_counter()
    layers = _layers(model, request)
    report("tokenising", 0, len(request.prompts))
    sequences = capture.tokenise(model, request.prompts, request.max_tokens)
    thresholds = _thresholds(folder, model, request, sequences, layers, report)
    keeps_values = request.values is None or bool(request.values)
    options = CaptureOptions(
        request.rule,
        layers,
        thresholds,
        request.cett,
        None if request.values is None else frozenset(request.values),
        capture.default_batch_tokens(model.device),
    )
    sites = {site.layer: site for site in model.sites}
    n_neurons = sites[layers[0]].n_neurons
    tally = _Tally(layers, n_neurons)
    check = agreement.Agreement(n_neurons, {layer: _mean_norms(sites[layer]) for layer in layers})
    rows = 0
    with ActivationWriter(folder.path, n_neurons, keeps_values) as writer:
        for captured in capture.capture(model, sequences, options, report):
            rows += writer.write(captured)
            tally.add(captured)
            if "values" in captured.columns and request.rule.density is not None:
                check.add(captured, request.rule)
        report("writing", 0, 0)
        folder.write("index", writer.close())
    folder.write("prompts", _prompt_table(sequences, options))
    folder.write("neurons", tally.table({layer: _mean_norms(sites[layer]) for layer in layers}))
    folder.facts = _facts(
        model, request, sequences, layers, n_neurons, rows, tally, check, time.perf_counter() - started
    )


def _layers(model: LoadedModel, request: Request) -> tuple[int, ...]:
    available = [site.layer for site in model.sites]
    wanted = sorted(set(available if request.layers is None else request.layers))
    missing = [layer for layer in wanted if layer not in available]
    if missing:
        raise InputError(
            f"{model.identity.name} has no FFN layer {missing[0]}; its layers are {available[0]} to {available[-1]}."
        )
    capture.check_alike([site for site in model.sites if site.layer in wanted])
    return tuple(wanted)


def _thresholds(
    folder: RunFolder,
    model: LoadedModel,
    request: Request,
    sequences: Sequence[TokenSequence],
    layers: tuple[int, ...],
    report: Reporter,
) -> dict[int, float]:
    if request.rule.name != "cett":
        return {}
    assert request.rule.target is not None
    found = cett.calibrate(model, sequences, request.rule.target, layers, report)
    rows = [[t.layer for t in found], [t.value for t in found], [t.cett for t in found]]
    table_schema = schema.arrow_schema(schema.THRESHOLD_COLUMNS)
    arrays = [pa.array(row, field.type) for row, field in zip(rows, table_schema, strict=True)]
    folder.write("thresholds", pa.table(arrays, schema=table_schema))
    return {t.layer: t.value for t in found}


def _mean_norms(site: Any) -> np.ndarray:
    """(F,) column norms; the mean over experts in mixture models."""
    norms = site.column_norms().float().cpu().numpy()
    return norms.mean(axis=0) if norms.ndim == 2 else norms


class _Tally:
    """How often each neuron was active, and odd values, over all prompts; the sink token is left out."""

    def __init__(self, layers: tuple[int, ...], n_neurons: int) -> None:
        self.layers = layers
        self.n_neurons = n_neurons
        self.counts = np.zeros((len(layers), n_neurons), np.int64)
        self.rows = 0
        self.nonfinite = 0

    def add(self, captured: CapturedPrompt) -> None:
        active = captured.columns["active"].reshape(len(self.layers), captured.rows_per_layer, -1)
        sink_rows = captured.rows_per_layer // len(captured.sequence)
        for index in range(len(self.layers)):
            self.counts[index] += sets.counts(active[index, sink_rows:], self.n_neurons)
        self.rows += captured.rows_per_layer - sink_rows
        self.nonfinite += int(captured.columns["nonfinite"].sum())

    def table(self, norms: dict[int, np.ndarray]) -> pa.Table:
        """The table `neurons`."""
        n_layers = len(self.layers)
        return pa.table(
            [
                np.repeat(np.asarray(self.layers, np.int16), self.n_neurons),
                np.tile(np.arange(self.n_neurons, dtype=np.int32), n_layers),
                np.concatenate([norms[layer] for layer in self.layers]).astype(np.float32),
                (self.counts / max(self.rows, 1)).astype(np.float32).ravel(),
            ],
            schema=schema.arrow_schema(schema.NEURON_COLUMNS),
        )


def _prompt_table(sequences: Sequence[TokenSequence], options: CaptureOptions) -> pa.Table:
    rows = [
        (
            s.prompt.id,
            s.prompt.condition,
            s.prompt.text,
            s.prompt.domain,
            len(s),
            s.cut_tokens,
            options.keeps_values(s.prompt),
        )
        for s in sequences
    ]
    table_schema = schema.arrow_schema(schema.PROMPT_COLUMNS)
    return pa.table(
        [
            pa.array(list(column), field.type)
            for column, field in zip(zip(*rows, strict=True), table_schema, strict=True)
        ],
        schema=table_schema,
    )


def _facts(
    model: LoadedModel,
    request: Request,
    sequences: Sequence[TokenSequence],
    layers: tuple[int, ...],
    n_neurons: int,
    rows: int,
    tally: _Tally,
    check: agreement.Agreement,
    seconds: float,
) -> dict[str, Any]:
    return {
        "title": request.title,
        "model": {**shared.model_facts(model), "n_neurons": n_neurons, "sink_token": sequences[0].texts[0]},
        "layers": list(layers),
        "counts": {
            "prompts": len(sequences),
            "tokens": sum(map(len, sequences)),
            "rows": rows,
            "cut_tokens": sum(s.cut_tokens for s in sequences),
            "nonfinite": tally.nonfinite,
        },
        "checks": {"identity_error": model.check_error, "nonfinite": tally.nonfinite == 0},
        "values_agreement": check.summary(),
        **shared.provenance(model, seconds),
    }
