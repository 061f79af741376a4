"""The capture study: prompts -> active sets, statistics and, where asked for, 8-bit values, as one run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from moyu_core import capture, cett, schema, store
from moyu_core.activation_table import lanes
from moyu_core.capture import CaptureOptions
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.schema.corpus import PAIR_NEURONS, PAIR_SEED, TOP_TOKENS
from moyu_core.spec import ModelIdentity, RunSpec
from moyu_core.studies import capture_part, shared
from moyu_core.studies.capture_part import Plan
from moyu_core.studies.capture_sums import finish, prompt_table
from moyu_core.studies.requests import CaptureRequest as Request
from moyu_core.token_sequences import TokenSequence, tokenise

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
    if request.corpus:
        parameters["corpus"] = {"pair_neurons": PAIR_NEURONS, "pair_seed": PAIR_SEED, "top_tokens": TOP_TOKENS}
    return RunSpec(NAME, identity, prompts_hash(request.prompts), request.rule, sink_token_id, parameters)


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model and capture; returns the run id. A finished run of the same spec is returned without loading."""
    run_id = shared.finished(partial(spec_of, request), request.model, home, request.dtype, request.sink_token_id)
    if run_id is not None:
        refuse_cut_run(request, store.find_run(home, run_id))
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
    layers = wanted_layers(model, request)
    report("tokenising", 0, len(request.prompts))
    sequences = tokenise(model, request.prompts, request.max_tokens)
    refuse_cut(request, ((s.prompt.id, s.cut_tokens) for s in sequences))
    thresholds = find_thresholds(model, request, sequences, layers, report)
    if thresholds:
        folder.write("thresholds", threshold_table(thresholds))
    plan = plan_of(model, request, layers, {t.layer: t.value for t in thresholds})
    index, sums = capture_part.write(folder.path, model, sequences, range(len(sequences)), plan, report)
    folder.known |= sums.sealed
    folder.write("index", index)
    prompts = prompt_table([prompt_row(sequence, plan) for sequence in sequences])
    finish(folder, request, prompts, sums, capture_part.about(model, layers), time.perf_counter() - started)


def plan_of(model: LoadedModel, request: Request, layers: tuple[int, ...], thresholds: dict[int, float]) -> Plan:
    """How this model captures what the request asks for; InputError where a corpus of a mixture of experts is asked for."""
    if request.corpus and any(site.experts for site in model.sites if site.layer in layers):
        raise InputError(f"{model.identity.name} is a mixture of experts; the tables of a corpus are made for dense FFNs only.")
    values = None if request.values is None else frozenset(request.values)
    batch_tokens = capture.default_batch_tokens(model.device)
    options = CaptureOptions(request.rule, layers, thresholds, request.cett, values, batch_tokens)
    return Plan(options, values is None or bool(values), request.corpus, lanes(model.device.type, len(request.prompts)))


def refuse_cut(request: Request, cut_tokens: Iterable[tuple[str, int]]) -> None:
    """Raise InputError for the first (prompt, tokens cut) that was cut, where the request does not want that."""
    cut = next(((name, count) for name, count in cut_tokens if count), None) if request.refuse_cut else None
    if cut is not None:
        limit = f"at most {request.max_tokens:,}, and what the model takes"
        raise InputError(
            f"Prompt {cut[0]!r} is {cut[1]:,} tokens longer than the limit ({limit}); "
            "raise it, shorten the prompt, or let it be cut."
        )


def wanted_layers(model: LoadedModel, request: Request) -> tuple[int, ...]:
    """The layers to capture; InputError for one that the model lacks, and where they do not fit one table."""
    available = [site.layer for site in model.sites]
    wanted = sorted(set(available if request.layers is None else request.layers))
    missing = [layer for layer in wanted if layer not in available]
    if missing:
        raise InputError(
            f"{model.identity.name} has no FFN layer {missing[0]}; its layers are {available[0]} to {available[-1]}."
        )
    capture.check_alike([site for site in model.sites if site.layer in wanted])
    return tuple(wanted)


def refuse_cut_run(request: Request, run: store.Run) -> None:
    """`refuse_cut` for a run that was there already."""
    if request.refuse_cut and run.manifest["counts"]["cut_tokens"]:
        table = run.table("prompts", ["prompt_id", "cut_tokens"])
        refuse_cut(request, zip(table["prompt_id"].to_pylist(), table["cut_tokens"].to_pylist(), strict=True))


def find_thresholds(
    model: LoadedModel, request: Request, sequences: Sequence[TokenSequence], layers: tuple[int, ...], report: Reporter
) -> list[cett.Threshold]:
    """Thresholds of the rule `cett`, from the first prompts; none for the other rules."""
    if request.rule.name != "cett":
        return []
    assert request.rule.target is not None
    return cett.calibrate(model, sequences, request.rule.target, layers, report)


def threshold_table(found: Sequence[cett.Threshold]) -> pa.Table:
    """The table `thresholds`."""
    rows = {"layer": [t.layer for t in found], "threshold": [t.value for t in found], "cett": [t.cett for t in found]}
    return shared.table(schema.THRESHOLD_COLUMNS, rows)


def prompt_row(sequence: TokenSequence, plan: Plan) -> tuple[Any, ...]:
    """One prompt's row of the table `prompts`."""
    prompt = sequence.prompt
    kept = plan.options.keeps_values(prompt)
    return prompt.id, prompt.condition, prompt.text, prompt.domain, len(sequence), sequence.cut_tokens, kept
