"""How a run of `predictors` is made: parts found or fitted, one dense pass, tables, facts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from moyu_core import capture, methods, registry
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.limits import limits
from moyu_core.methods import parts
from moyu_core.methods.inputs import down_weight, observe
from moyu_core.methods.parts import Part
from moyu_core.methods.protocol import Method, Ready, Rows, Shape
from moyu_core.methods.text import calibration_documents
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.schema import predictors as schema
from moyu_core.spec import ModelIdentity, RunSpec, fingerprint
from moyu_core.studies import shared
from moyu_core.studies.predictors.collect import Collector
from moyu_core.studies.predictors.evaluate import JudgedSequence
from moyu_core.studies.predictors.request import LEFT_OUT
from moyu_core.studies.predictors.request import PredictorsRequest as Request
from moyu_core.token_sequences import TokenSequence, tokenise

NAME = "predictors"
FIT_TOKENS = {"calibration": 8192, "dejavu": 24_576, "moefication": 12_288, "token_table": 24_576}
"""Calibration tokens of a fit at first use."""
BATCH_TOKENS = 512


def spec_of(request: Request, identity: ModelIdentity, sink_token_id: int, used: Mapping[str, str]) -> RunSpec:
    """The identity of the run; `used` is part -> hash of what it was fitted from."""
    parameters: dict[str, Any] = {
        "methods": sorted(request.methods), "densities": list(request.densities), "detail": sorted(request.detail),
        "set_densities": list(request.set_densities), "prompt_share": request.prompt_share, "max_tokens": request.max_tokens,
        "parts": dict(sorted(used.items())),
    }
    return RunSpec(NAME, identity, prompts_hash(request.prompts), request.rule, sink_token_id, parameters, request.seed)


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """See `moyu_core.studies.predictors.run`."""
    _check_names(request.methods)
    known = shared.finished(
        lambda identity, sink: spec_of(request, identity, sink, part_hashes(request.model, request.methods, identity, home)),
        request.model, home)
    if known is not None:
        return known
    report("loading the model", 0, 0)
    return predictors_run(load_model(request.model, home, device=device, report=report), request, home, report)


def predictors_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """Compare with a loaded model; parts that are missing are fitted first. Returns the run id."""
    capture.check_alike(model.sites)
    chosen, skipped = applicable(model, request.methods)
    fitted = fitted_parts(model, chosen, home, report)
    hashes = {name: part_hash(part.facts()) for name, part in fitted.items()}
    spec = spec_of(request, model.identity, model.sink_token_id, hashes)
    ready = [method.prepare(model, fitted.get(method.part), request.seed) for method in chosen]
    return shared.make(spec, home, lambda folder: _write(folder, model, request, ready, skipped, fitted, report), report)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        methods.find(name)


def wanted(names: Sequence[str]) -> list[Method]:
    """The methods of a request, in their order; all but LEFT_OUT where none is named."""
    _check_names(names)
    return [method for method in methods.every().values() if (method.name in names if names else method.name not in LEFT_OUT)]


def applicable(model: LoadedModel, names: Sequence[str]) -> tuple[list[Method], dict[str, str]]:
    """(methods that apply, reason by title of those that do not).

    Raises:
        InputError: none applies.
    """
    asked = wanted(names)
    reasons = {method.name: method.applies(model) for method in asked}
    chosen = [method for method in asked if not reasons[method.name]]
    skipped = {method.title: reasons[method.name] for method in asked if reasons[method.name]}
    if not chosen:
        raise InputError(f"None of the methods applies to {model.identity.name}: "
                         + " ".join(f"{title}: {reason}" for title, reason in skipped.items()))
    return chosen, skipped


def part_hash(facts: Mapping[str, Any]) -> str:
    """What identifies a fitted part: weights, recipe and text; two fits of the same give the same numbers."""
    return fingerprint([facts["name"], facts["weights"], facts["recipe"], facts["data_hash"]])[:16]


def part_hashes(model: str, names: Sequence[str], identity: ModelIdentity, home: Home) -> dict[str, str]:
    """The parts that are there for these methods, by name, without loading them. A part that is missing makes another spec."""
    known = {facts["name"]: facts for facts in reversed(list(parts.listed(home))) if facts["weights"] == identity.weights}
    folder = registry.on_disk(model, home)
    gated = folder is not None and registry.model_facts(folder).gated
    needed = {method.part for method in wanted(names) if method.part and (gated or method.name != "cats")}
    return {name: part_hash(known[name]) if name in known else "missing" for name in needed}


def fitted_parts(model: LoadedModel, chosen: Sequence[Method], home: Home, report: Reporter = silent) -> dict[str, Part]:
    """The parts that the methods need: found, or fitted now on the project's corpus and saved.

    Raises:
        InputError: calibration text cannot be had.
    """
    found: dict[str, Part] = {}
    for method in chosen:
        if method.part and method.part not in found:
            part = parts.find(method.part, model.identity, home)
            found[method.part] = part if part is not None else fit(model, method, home, report)
    return found


def fit(model: LoadedModel, method: Method, home: Home, report: Reporter = silent) -> Part:
    """Fit a method's part on the project's corpus and save it.

    Raises:
        InputError: for a visitor of a public installation: a fit takes minutes and hundreds of megabytes.
    """
    if limits() is not None:
        raise InputError(f"{method.title} needs a part that was never fitted for {model.identity.name} on this public "
                         f"installation; whoever runs it can make it with `moyu fit {method.part} --model {model.identity.name}`.")
    tokens = FIT_TOKENS.get(method.part.split("-")[0], FIT_TOKENS["dejavu"])
    documents = calibration_documents(model, home, tokens, report=report)
    part = method.fit(model, documents, 0, report)
    parts.save(part, home.root / "fitted")
    return part


def _write(
    folder: RunFolder, model: LoadedModel, request: Request, ready: Sequence[Ready], skipped: Mapping[str, str],
    fitted: Mapping[str, Part], report: Reporter,
) -> None:
    started = time.perf_counter()
    sequences = [sequence for sequence in tokenise(model, request.prompts, request.max_tokens) if len(sequence) > 3]
    if not sequences:
        raise InputError("Every prompt is too short to be cut into a prompt and a continuation; give texts of some more words.")
    collector = Collector(_width(model), request.set_densities)
    thresholds = _thresholds(request, fitted)
    evaluate(model, request, ready, sequences, thresholds, collector, report)
    tables = collector.tables()
    for name, table in tables.items():
        folder.write(name, table)
    folder.write("prompts", _prompt_table(sequences, request))
    folder.write("token_texts", _text_table(sequences, request))
    folder.write("experts", _expert_table(fitted.get("moefication")))
    folder.facts = _facts(model, request, ready, skipped, fitted, tables, sequences, time.perf_counter() - started)


def _width(model: LoadedModel) -> int:
    """F, of all experts together in mixtures."""
    return model.sites[0].n_neurons * max(model.sites[0].experts, 1)


def _thresholds(request: Request, fitted: Mapping[str, Part]) -> dict[int, float]:
    """CETT thresholds for the reference set, where it is one."""
    if request.rule.name != "cett":
        return {}
    part = fitted.get("calibration")
    if part is None or "cett_threshold" not in part.tensors:
        raise InputError("The reference set `cett` needs the part `calibration`; compare at least one method that uses it too.")
    return dict(zip(part.tensors["layers"].tolist(), part.tensors["cett_threshold"].tolist(), strict=True))


def prompt_length(sequence: TokenSequence, share: float) -> int:
    """Tokens of the prompt part: at least sink token and one more, and at least one is left to be judged."""
    return min(max(2, round(share * len(sequence))), len(sequence) - 1)


@torch.inference_mode()
def evaluate(
    model: LoadedModel, request: Request, ready: Sequence[Ready], sequences: Sequence[TokenSequence],
    thresholds: Mapping[int, float], collector: Collector, report: Reporter = silent,
) -> None:
    """One dense pass a sequence; every layer is handed to every method while it passes by."""
    weights = {site.layer: down_weight(site).T.contiguous() for site in model.sites}
    inputs = sorted({name for each in ready for name in each.method.inputs})
    gate = any(each.method.needs_gate for each in ready)
    for number, sequence in enumerate(sequences):
        length = prompt_length(sequence, request.prompt_share)
        prompt = sequence.prompt
        detail = prompt.id in request.detail
        judged = JudgedSequence(ready, request.densities, length, request.rule, thresholds, weights, detail)
        collector.begin({"prompt_id": prompt.id, "condition": prompt.condition}, number, length, detail)

        def receive(rows: Rows, judged: JudgedSequence = judged, number: int = number) -> None:
            report("comparing methods", number, len(sequences))
            collector.add(judged.layer(rows))

        with observe(model, None, inputs, receive, gate):
            model.decoder(input_ids=torch.from_numpy(sequence.token_ids)[None].to(model.device), use_cache=False)
        collector.end()


def _prompt_table(sequences: Sequence[TokenSequence], request: Request) -> pa.Table:
    values = {
        "prompt_id": [s.prompt.id for s in sequences], "condition": [s.prompt.condition for s in sequences],
        "text": [s.prompt.text for s in sequences], "domain": [s.prompt.domain for s in sequences],
        "n_tokens": [len(s) for s in sequences], "prompt_tokens": [prompt_length(s, request.prompt_share) for s in sequences],
        "cut_tokens": [s.cut_tokens for s in sequences], "has_sets": [s.prompt.id in request.detail for s in sequences],
    }
    return shared.table(schema.PROMPTS, values)


def _text_table(sequences: Sequence[TokenSequence], request: Request) -> pa.Table:
    rows = [(s.prompt.id, s.prompt.condition, place, int(token), text) for s in sequences if s.prompt.id in request.detail
            for place, (token, text) in enumerate(zip(s.token_ids, s.texts, strict=True))]
    names = [column.name for column in schema.TOKEN_TEXTS]
    return shared.table(schema.TOKEN_TEXTS, {name: [row[place] for row in rows] for place, name in enumerate(names)})


def _expert_table(part: Part | None) -> pa.Table:
    """Which expert holds which neuron; empty without MoEfication."""
    if part is None:
        return shared.table(schema.EXPERTS, {"layer": [], "neuron": [], "expert": []})
    expert = part.tensors["expert"]
    layers = part.tensors["layers"].repeat_interleave(expert.shape[1])
    neurons = torch.arange(expert.shape[1]).repeat(len(expert))
    return shared.table(schema.EXPERTS, {"layer": layers.numpy(), "neuron": neurons.numpy(), "expert": expert.flatten().numpy()})


def _facts(
    model: LoadedModel, request: Request, ready: Sequence[Ready], skipped: Mapping[str, str], fitted: Mapping[str, Part],
    tables: Mapping[str, pa.Table], sequences: Sequence[TokenSequence], seconds: float,
) -> dict[str, Any]:
    shape = Shape(model.d_model, _width(model), model.sites[0].gated, experts=model.sites[0].experts)
    shown = min(request.densities, key=lambda density: abs(density - 0.1))
    described, notes = [], _notes(request, _width(model))
    for each in ready:
        facts = each.method.facts(shape, shown)
        facts["part"] = {} if not each.method.part else _described(fitted[each.method.part])
        facts["cost_by_density"] = {f"{density:g}": each.method.cost(shape, density).share(shape)
                                    for density in sorted({*request.densities, 1.0})}  # two at least, for sizes in between
        described.append(facts)
    return {
        "title": request.title or f"{len(ready)} method{'' if len(ready) == 1 else 's'} on {model.identity.name}",
        "model": {**shared.model_facts(model), "n_neurons": _width(model), "d_model": model.d_model,
                  "experts": model.sites[0].experts},
        "layers": [site.layer for site in model.sites],
        "scope": {"prompts": len(sequences), "tokens": sum(map(len, sequences)), "methods": len(ready)},
        "methods": described, "skipped": dict(skipped), "notes": notes,
        "headline": _headline(tables["layers"], ready, shown) | _said(request, notes, skipped),
        **shared.provenance(model, seconds),
    }


def _notes(request: Request, n_neurons: int) -> list[str]:
    """Densities that are less than one neuron."""
    few = [f"{density:g}" for density in request.densities if density * n_neurons < 1]
    return [f"a density of {', '.join(few)} is less than one of {n_neurons} neurons; one is kept"] if few else []


def _said(request: Request, notes: Sequence[str], skipped: Mapping[str, str]) -> dict[str, str]:
    """What whoever asked has to know: notes, and methods that were named and do not apply."""
    found = {"note": "; ".join(notes)} if notes else {}
    named = {title: reason for title, reason in skipped.items() if request.methods}
    return found | {f"{title} left out": reason for title, reason in named.items()}


def _described(part: Part) -> dict[str, Any]:
    """A part for the manifest; tables by layer stay in the part's own file."""
    short = replace(part, validation={key: value for key, value in part.validation.items() if "by_layer" not in key})
    return short.facts()


def _headline(table: pa.Table, ready: Sequence[Ready], density: float) -> dict[str, str]:
    """Mean recall and captured energy of each method at the shown density."""
    frame = table.to_pandas()
    frame = frame[(frame["density"] - density).abs() < 1e-6]
    found = frame.groupby("method")[["recall", "energy", "predicted"]].mean()
    return {
        f"{each.method.title} at {density:g}": f"recall {found.loc[each.method.name, 'recall']:.3f}, captured energy "
        f"{found.loc[each.method.name, 'energy']:.3f}, |A^|/F {found.loc[each.method.name, 'predicted']:.3f}"
        for each in ready
    }
