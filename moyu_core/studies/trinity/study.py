"""The run `trinity`: quality of every method by density, the sparsest setting within the budget, and a reading task."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from moyu_core import decode
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.intervals import Interval
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.schema.trinity import DOCUMENT_COLUMNS, METHOD_COLUMNS, OPERATING_COLUMNS, QUALITY_COLUMNS, READING_COLUMNS
from moyu_core.spec import ModelIdentity, RunSpec, SetRule, fingerprint
from moyu_core.studies import shared
from moyu_core.studies.predictors.study import part_hashes
from moyu_core.studies.trinity import operating, reading
from moyu_core.studies.trinity.contenders import Contender, contenders
from moyu_core.studies.trinity.quality import Judge, split_of
from moyu_core.studies.trinity.requests import FEWEST_DOCUMENTS, READING
from moyu_core.studies.trinity.requests import TrinityRequest as Request
from moyu_core.studies.trinity.texts import document_of
from moyu_core.token_sequences import TokenSequence, tokenise

NAME = "trinity"


def spec_of(request: Request, home: Home, identity: ModelIdentity, sink_token_id: int) -> RunSpec:
    """The identity of the run. Sets come from methods, so the rule is a placeholder; the fitted parts decide numbers too."""
    items = (READING).read_text(encoding="utf-8") if request.reading else ""
    parameters = {
        name: getattr(request, name)
        for name in ("methods", "densities", "budget", "reading", "max_tokens", "prompt_tokens", "prompt")
    }
    parameters |= {
        "parts": part_hashes(request.model, request.methods, identity, home),
        "items": fingerprint(items)[:16],
        "grid": operating.GRID,
    }
    return RunSpec(NAME, identity, prompts_hash(request.prompts), SetRule("positive"), sink_token_id, parameters)


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model and judge; returns the run id. A finished run of the same spec is returned without loading."""
    known = shared.finished(lambda identity, sink: spec_of(request, home, identity, sink), request.model, home, request.dtype)
    if known is not None:
        return known
    report("loading the model", 0, 0)
    return trinity_run(load_model(request.model, home, dtype=request.dtype, device=device, report=report), request, home, report)


def trinity_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """Judge a loaded model; parts that are missing are fitted first. Returns the run id."""
    everyone = contenders(model, request.methods, home, report)
    spec = spec_of(request, home, model.identity, model.sink_token_id)
    return shared.make(spec, home, lambda folder: _write(folder, model, request, everyone, report), report)


@dataclass
class _Found:
    """What a run holds before it is written."""

    contenders: list[Contender]
    judge: Judge
    points: dict[str, operating.Operating] = field(default_factory=dict)
    reading: list[dict[str, Any]] = field(default_factory=list)

    @property
    def measured(self) -> list[Contender]:
        """Those that take part."""
        return [one for one in self.contenders if one.ready]


def _write(folder: RunFolder, model: LoadedModel, request: Request, everyone: list[Contender], report: Reporter) -> None:
    started = time.perf_counter()
    found = _judged(model, request, everyone, report)
    _search(found, request, report)
    _read(found, model, request, report)
    tables = {
        "methods": (METHOD_COLUMNS, [one.row() for one in found.contenders]),
        "documents": (DOCUMENT_COLUMNS, _documents(found.judge)),
        "quality": (QUALITY_COLUMNS, found.judge.rows),
        "operating": (OPERATING_COLUMNS, [_operating_row(name, point) for name, point in found.points.items()]),
        "reading": (READING_COLUMNS, found.reading),
    }
    for name, (columns, rows) in tables.items():
        folder.write(name, shared.table(columns, {c.name: [row[c.name] for row in rows] for c in columns}))
    sequences = found.judge.sequences
    folder.facts = {
        "title": request.title or f"Quality of dynamic activation in {model.identity.name}",
        "model": shared.model_facts(model),
        "layers": [site.layer for site in model.sites],
        "scope": {
            "texts": len(sequences),
            "documents": len({document_of(s.prompt) for s in sequences}),
            "tokens": sum(len(s) - 1 - request.prompt_tokens for s in sequences),
            "questions": len({r["item"] for r in found.reading}),
        },
        "budget": request.budget,
        "headline": {name: _in_words(point) for name, point in found.points.items()},
        **shared.provenance(model, time.perf_counter() - started),
    }


def _judged(model: LoadedModel, request: Request, everyone: list[Contender], report: Reporter) -> _Found:
    """The curves."""
    sequences = _long_enough(tokenise(model, request.prompts, request.max_tokens), request)
    ready = {one.method.name: one.ready for one in everyone if one.ready}
    if not ready:
        raise InputError(
            f"No method can be applied to {model.identity.name}: "
            f"{'; '.join(f'{one.method.title}: {one.reason}' for one in everyone)}"
        )
    judge = Judge(model, sequences, request.prompt_tokens, request.prompt, ready)
    settings = [(one.method.name, density) for one in everyone if one.ready for density in one.densities(request.densities)]
    judge.measure(settings, sequences, report)
    return _Found(everyone, judge)


def _long_enough(sequences: Sequence[TokenSequence], request: Request) -> list[TokenSequence]:
    """Texts with at least two positions to judge; fewer than four documents cannot be split."""
    kept = [sequence for sequence in sequences if len(sequence) >= request.prompt_tokens + 2]
    documents = {document_of(sequence.prompt) for sequence in kept}
    if len(documents) < FEWEST_DOCUMENTS:
        raise InputError(
            f"Two halves with intervals need at least {FEWEST_DOCUMENTS} documents longer than the prompt of "
            f"{request.prompt_tokens} tokens; there are {len(documents)}. Give more or longer texts, or a shorter prompt."
        )
    return kept


def _search(found: _Found, request: Request, report: Reporter) -> None:
    """The operating point of every method whose size can be steered; of the others, whether their own size is within the budget."""
    judge = found.judge
    for one in found.measured:
        name = one.method.name

        def losses(density: float, split: int, name: str = name) -> list[float]:
            known = judge.differences(name, density, split)
            if not known:
                judge.measure([(name, density)], judge.of_split(split), report)
                known = judge.differences(name, density, split)
            return known

        known = {density: judge.differences(name, density, 0) for density in one.densities(request.densities)}
        grid = operating.GRID if one.method.steerable else (*one.densities(()), 1.0)
        found.points[name] = operating.search(losses, request.budget, grid, known)


def _read(found: _Found, model: LoadedModel, request: Request, report: Reporter) -> None:
    """The reading task, dense first."""
    if not request.reading or model.tokenizer is None:
        return
    items = reading.read_items(READING)
    settings = [(one.ready, density) for one in found.measured for density in one.densities(request.reading)]
    found.reading += reading.read(model, None, 1.0, items)
    if sum(row["correct"] for row in found.reading) < reading.FEWEST_RIGHT:
        return
    other = decode.twin(model)
    for number, (ready, density) in enumerate(settings):
        report("reading", number, len(settings))
        found.reading += reading.read(other, ready, density, items)


def _documents(judge: Judge) -> list[dict[str, Any]]:
    split = split_of(judge.sequences)
    return [
        {
            "prompt_id": s.prompt.id,
            "document": document_of(s.prompt),
            "genre": s.prompt.domain,
            "split": split[document_of(s.prompt)],
            "tokens": len(s) - 1 - judge.prompt,
            "dense_loss": judge.dense[s.prompt.id],
        }
        for s in judge.sequences
    ]


def _operating_row(name: str, point: operating.Operating) -> dict[str, Any]:
    def ends(found: Interval | None) -> tuple[float | None, float | None]:
        return (None, None) if found is None else (found.mean, None if math.isnan(found.high) else found.high)

    chosen, confirmed = ends(point.chosen), ends(point.confirmed)
    return {
        "method": name,
        "status": point.status,
        "density": _or_none(point.density),
        "chosen": chosen[0],
        "chosen_bound": chosen[1],
        "confirmed": confirmed[0],
        "confirmed_bound": confirmed[1],
        "unresolved_from": _or_none(point.open),
        "looked": point.looked,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _in_words(point: operating.Operating) -> str:
    return point.status if math.isnan(point.density) else f"density {point.density:g}, {point.status}"
