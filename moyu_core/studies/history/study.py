"""The run of the study `history`: every model through the grid and the parts that were asked for, then claims and tables."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from moyu_core import cett, claims, registry, store
from moyu_core.errors import InputError, ModelError
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.schema.history import TABLES
from moyu_core.spec import ModelIdentity, RunSpec, fingerprint
from moyu_core.studies import shared
from moyu_core.studies.history import judging, tables
from moyu_core.studies.history.drift import drift
from moyu_core.studies.history.grid import Cells, Grid, Item, items_of
from moyu_core.studies.history.ladder import LENGTH, ladder
from moyu_core.studies.history.predictor import predictors, spaced, split
from moyu_core.studies.history.requests import LOOK_AHEADS, MIN_PROBES
from moyu_core.studies.history.requests import HistoryRequest as Request
from moyu_core.studies.history.texts import Plan, merges, plan
from moyu_core.token_sequences import tokenise
from moyu_core.tokens import encode, token_texts

NAME = "history"
PRIMARY_KIND = "other_topics"
"""The kind that claims, ladder and drift are about: running text of many domains; with own histories, their first kind."""
CHECKPOINTS = (8, 16, 32, 64, 128, 256)
"""Positions up to which importance is summed along a text."""
CALIBRATION_TEXTS = 8

Rows = dict[str, list[dict[str, Any]]]
Tables = dict[str, pa.Table]


def spec_of(request: Request, identities: Sequence[ModelIdentity], sinks: Sequence[int]) -> RunSpec:
    """The identity of the run. Several models are known by the weights of all, in order."""
    weights = identities[0].weights if len(identities) == 1 else fingerprint([each.weights for each in identities])
    model = ModelIdentity(", ".join(each.name for each in identities), weights, identities[0].dtype)
    names = ("probes", "own", "lengths", "draws", "parts", "seeds", "kept_draws", "kept_layers")
    parameters = {name: _plain(getattr(request, name)) for name in names} | {"sinks": list(sinks)}
    if "predictor" in request.parts and request.look_ahead != LOOK_AHEADS[0]:  # runs from before there was a choice keep their name
        parameters["look_ahead"] = request.look_ahead
    return RunSpec(NAME, model, prompts_hash(request.texts), request.rule, sinks[0], parameters, request.seed)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Measure every model; returns the run id. A finished run of the same spec is returned without loading."""
    known = [_identity(name, home, device, report) for name in request.models]
    spec = spec_of(request, [identity for identity, _ in known], [sink for _, sink in known])
    if store.has_run(home, spec.run_id, verify=True):
        return spec.run_id
    models = (load_model(name, home, device=device, report=report) for name in request.models)
    return _made(spec, models, request, home, report)


def _identity(name: str, home: Home, device: str | None, report: Reporter) -> tuple[ModelIdentity, int]:
    """Which weights and which sink token; a model that is not here is fetched now, before hours are spent on the others."""
    folder, identity = registry.on_disk(name, home), registry.identity(name, home, "float32")
    sink = registry.model_facts(folder).sink_token_id if folder else None
    if identity is None or sink is None:
        report("loading the model", 0, 0)
        model = load_model(name, home, device=device, report=report)
        return model.identity, model.sink_token_id
    return identity, sink


def history_run(models: Sequence[LoadedModel], request: Request, home: Home, report: Reporter = silent) -> str:
    """Measure models that are loaded already; returns the run id."""
    spec = spec_of(request, [model.identity for model in models], [model.sink_token_id for model in models])
    return _made(spec, models, request, home, report)


def _made(spec: RunSpec, models: Iterable[LoadedModel], request: Request, home: Home, report: Reporter) -> str:
    return shared.make(spec, home, lambda folder: _write(folder, models, request, report), report)


def _write(folder: RunFolder, models: Iterable[LoadedModel], request: Request, report: Reporter) -> None:
    started = time.perf_counter()
    parts: dict[str, list[pa.Table]] = defaultdict(list)
    found: list[judging.Found] = []
    facts: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    for model in models:
        for name, table in _model(model, request, found, facts, report).items():
            parts[name].append(table)
        last = shared.provenance(model, time.perf_counter() - started)
        del model
        gc.collect()
    report("writing", 0, 0)
    for name, tables_ in parts.items():
        folder.write(name, pa.concat_tables(tables_))
    judged = claims.judge(judging.claims_of(found))
    folder.facts = {
        "title": request.title or "History: " + ", ".join(fact["name"] for fact in facts),
        "model": {"name": ", ".join(fact["name"] for fact in facts)},
        "models": facts,
        "scope": {"probes": len(request.probes), "texts": len(request.texts), "draws": request.draws},
        "claims": [claim.as_json() for claim in judged],
        "headline": {claim.name: f"{claim.effect.text()}, {claim.verdict}" for claim in judged} | _told(facts),
        **last,
    }


def _told(facts: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What was shortened or left out, and where plain text would have been cut into other tokens, by model."""
    found = {f"note, {fact['name']}": " ".join(fact["notes"]) for fact in facts if fact["notes"]}
    return found | {
        f"boundary, {fact['name']}": f"in {fact['merged']} cells plain text would merge history and probe; the grid, built on "
        "token ids, keeps them apart"
        for fact in facts
        if fact["merged"]
    }


@dataclass
class _Work:
    """One model at work: what is given, and what its parts fill in.

    Attributes:
        model, request, report: given.
        items: the probe tokens.
        design: the histories.
        thresholds: eps by layer, for the rule `cett`.
        result: what the claims need.
        rows: of each table.
        artefact: what sink control removes.
    """

    model: LoadedModel
    request: Request
    report: Reporter
    items: list[Item]
    design: Plan
    thresholds: dict[int, float]
    result: judging.Found
    rows: Rows = field(default_factory=lambda: defaultdict(list))
    artefact: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        """Layer numbers."""
        return [site.layer for site in self.model.sites]

    @property
    def kept_layers(self) -> list[int]:
        """Layers whose sets are stored."""
        return [site.layer for site in spaced(self.model.sites, self.request.kept_layers)]


def _model(
    model: LoadedModel, request: Request, found: list[judging.Found], facts: list[dict[str, Any]], report: Reporter
) -> Tables:
    """Every table of one model; what the claims need is appended to `found`, what the manifest says to `facts`."""
    started, name = time.perf_counter(), model.identity.name
    work = _prepared(model, request, report)
    _grid(work)
    _beside(work)
    found.append(work.result.light())
    facts.append({**_facts(work), "seconds": round(time.perf_counter() - started, 3)})
    made = {key: _table(key, name, values) for key, values in work.rows.items()}
    made["histories"] = tables.histories(name, work.design, partial(token_texts, model.tokenizer))
    probes = list(_probes(work))
    facts[-1]["merged"] = sum(probe["merges"] for probe in probes)
    made["probes"] = _table("probes", name, probes)
    return made


def _prepared(model: LoadedModel, request: Request, report: Reporter) -> _Work:
    """Everything that can be refused is refused here, before hours are spent on the grid.

    Raises:
        ModelError: no tokenizer.
        InputError: probes that hardly differ, histories that do not fit, too little text for a predictor.
    """
    if model.tokenizer is None:
        raise ModelError(f"{model.identity.name} was given without a tokenizer; the history study starts from texts.")
    items = items_of([(probe, encode(model, probe)) for probe in request.probes])
    firsts = sum(item.offset == 0 for item in items)
    if firsts < MIN_PROBES:
        raise InputError(
            f"The probes begin with {firsts} different tokens of {model.identity.name}; at least {MIN_PROBES} are needed to "
            "tell token from history. Add probes that begin differently."
        )
    design = plan(request, partial(encode, model), model.sink_token_id, model.max_positions, max(len(i.token_ids) for i in items))
    if "predictor" in request.parts:
        split(model, request.texts)
    primary = PRIMARY_KIND if PRIMARY_KIND in design.kinds else next(kind for kind, draws in design.kinds.items() if len(draws) > 1)
    lengths = design.lengths_of(primary)
    length = max([length for length in lengths if length <= LENGTH], default=lengths[0])
    result = judging.Found(model.identity.name, model, primary, request, length)
    return _Work(model, request, report, items, design, _thresholds(model, request, report), result)


def _facts(work: _Work) -> dict[str, Any]:
    """What the manifest says of the model."""
    return {
        **shared.model_facts(work.model),
        "layers": work.layers,
        "notes": list(work.design.notes),
        "primary": {"kind": work.result.primary, "length": work.result.length},
        "kept_layers": work.kept_layers,
        "counts": {"items": len(work.items), "histories": sum(len(draws) for draws in work.design.kinds.values())},
        "sink_artefact": work.artefact,
        "checks": {"identity_error": work.model.check_error},
    }


def _grid(work: _Work) -> None:
    """The grid and what is measured of it. The first table is the one without history."""
    groups, n_neurons, none = tables.offset_groups(work.items), work.model.sites[0].n_neurons, None
    grid = Grid(work.model, work.items, work.request.rule, work.thresholds, groups[0])
    for cells in grid.run(work.design, work.report):
        if none is None:
            none = cells.active[:, :, 0]
            work.artefact = tables.sink_artefact(grid.bare()[:, groups[0]], none[:, groups[0]])
        work.rows["flips"] += tables.flips(cells, none, work.layers, n_neurons)
        work.rows["sets"] += tables.kept_sets(cells, work.kept_layers, work.layers, work.request.kept_draws)
        if cells.active.shape[2] > 1:
            for offset, chosen in groups.items():
                _measure(work, cells, offset, chosen)


def _measure(work: _Work, cells: Cells, offset: int, chosen: list[int]) -> None:
    """One table of probes and histories."""
    measured = tables.measured(cells, offset, chosen, work.model.sites[0].n_neurons, work.request.seed)
    work.rows["measures"] += tables.measure_rows(cells, offset, measured, work.layers, len(chosen), cells.active.shape[2])
    if (cells.kind, cells.length, offset) == (work.result.primary, work.result.length, 0):
        work.result.uncertainty = measured["uncertainty"][3]


def _beside(work: _Work) -> None:
    """The parts beside the grid."""
    model, request, rows, result = work.model, work.request, work.rows, work.result
    draws = work.design.kinds[result.primary]
    if "transplant" in request.parts:
        probes = [(number, item.token_ids[0]) for number, item in enumerate(work.items) if item.offset == 0]
        rows["transplant"] += ladder(model, draws, probes, result.length, request.seed, work.report)
        result.take_transplants(rows["transplant"])
    if "drift" in request.parts:
        rows["drift"] += drift(model, [draw.token_ids for draw in draws], CHECKPOINTS, work.report)
    if "predictor" in request.parts:
        found = predictors(model, request.texts, request.rule, work.thresholds, request.seeds, work.report, request.look_ahead)
        rows["predictor"] += found
        result.take_predictors(rows["predictor"])


def _thresholds(model: LoadedModel, request: Request, report: Reporter) -> dict[int, float]:
    """eps by layer for the rule `cett`, on texts of different domains."""
    if request.rule.target is None:
        return {}
    step = max(1, len(request.texts) // CALIBRATION_TEXTS)
    sequences = tokenise(model, request.texts[::step][:CALIBRATION_TEXTS], request.lengths[-1] + 1)
    found = cett.calibrate(model, sequences, request.rule.target, [site.layer for site in model.sites], report)
    return {threshold.layer: threshold.value for threshold in found}


def _probes(work: _Work) -> Iterable[dict[str, Any]]:
    """The probe tokens; how often plain text would have merged is told at the first token of a probe."""
    model, design = work.model, work.design
    cells = [
        draw.token_ids[:length].tolist()
        for kind, draws in design.kinds.items()
        for draw in draws
        for length in design.lengths_of(kind)
        if len(draws) > 1
    ]
    decode = partial(model.tokenizer.decode, clean_up_tokenization_spaces=False)
    for number, item in enumerate(work.items):
        merged = sum(merges(partial(encode, model), decode, ids, item.token_ids) for ids in cells) if item.offset == 0 else 0
        yield {
            "item": number,
            "probe": item.probe,
            "offset": item.offset,
            "token_ids": list(item.token_ids),
            "token": token_texts(model.tokenizer, item.token_ids[-1:])[0],
            "merges": merged,
        }


def _table(name: str, model: str, rows: list[dict[str, Any]]) -> pa.Table:
    columns = TABLES[name]
    values = {column.name: [row[column.name] for row in rows] for column in columns if column.name != "model"}
    return shared.table(columns, {"model": [model] * len(rows), **values})
