"""The study from request to run: conditions, the parts that were asked for, tables, claims."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moyu_core import schema, similarity
from moyu_core.errors import ModelError
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.schema import inertia as tables
from moyu_core.spec import ModelIdentity, RunSpec
from moyu_core.studies import shared
from moyu_core.studies.inertia import (
    carrier,
    checks,
    hitters,
    lag,
    neurons,
    overlap,
    panels,
    regression,
    switch,
    transplants,
    verdicts,
)
from moyu_core.studies.inertia.conditions import Text, facts_of, read_texts, sequence_ids
from moyu_core.studies.inertia.overlap import Measured
from moyu_core.studies.inertia.request import InertiaRequest as Request
from moyu_core.studies.inertia.units import Reader, thresholds

NAME = "inertia"
Rows = list[dict[str, Any]]


def spec_of(request: Request, identity: ModelIdentity, sink_token_id: int, semantic: str | None) -> RunSpec:
    """The identity of the run; `semantic` = where semantic similarity comes from, None without the regression."""
    parameters = {"words": request.words, "parts": sorted(request.parts), "shown": request.shown, "similarity": semantic}
    return RunSpec(NAME, identity, prompts_hash(request.prompts), request.rule, sink_token_id, parameters, request.seed)


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model and carry the study out; returns the run id."""
    report("looking for the similarity model", 0, 0)
    semantic = similarity.available(home, report) if "regression" in request.parts else None
    known = shared.finished(
        lambda identity, sink: spec_of(request, identity, sink, semantic), request.model, home, request.dtype, request.sink_token_id
    )
    if known is not None:
        return known
    report("loading the model", 0, 0)
    model = load_model(request.model, home, dtype=request.dtype, device=device, sink_token_id=request.sink_token_id, report=report)
    return inertia_run(model, request, home, report, semantic)


def inertia_run(
    model: LoadedModel, request: Request, home: Home, report: Reporter = silent, semantic: str | None = similarity.EMBEDDING
) -> str:
    """Carry the study out with a loaded model; returns the run id.

    Args:
        model: with dense FFNs and a tokenizer.
        request: what is asked.
        home: where the run goes.
        report: progress; may raise `Cancelled`.
        semantic: similarity.MINILM, similarity.EMBEDDING, or None without the regression.

    Raises:
        InputError: a mixture of experts, no text with two words, or a tokenizer that knows no English word.
    """
    semantic = semantic if "regression" in request.parts else None
    spec = spec_of(request, model.identity, model.sink_token_id, semantic)
    return shared.make(spec, home, lambda folder: _write(folder, model, request, home, report, semantic), report)


def _write(folder: RunFolder, model: LoadedModel, request: Request, home: Home, report: Reporter, semantic: str | None) -> None:
    started = time.perf_counter()
    texts, notes = read_texts(model, request.prompts, request.words)
    reader = Reader(model, request.rule, thresholds(model, request.rule, texts, report), report)
    found = overlap.measure(reader, texts, request.seed)
    _table(folder, "overlaps", overlap.overlap_rows(found))
    _table(folder, "indices", overlap.index_rows(found))
    folder.write("rates", shared.table(tables.RATE_COLUMNS, neurons.columns(found)))
    panels.write(folder, found, request.shown)
    parts, rows = _parts(folder, reader, request, texts, found, home, semantic)
    judged = verdicts.claims(found, rows, request.rule, model.identity.name)
    folder.facts = {
        "title": request.title or f"Inertia of {model.identity.name}",
        "model": shared.model_facts(model),
        "layers": list(reader.layers),
        "scope": {**facts_of(texts), "forward_tokens": reader.tokens, "text_tokens": _tokens(texts)},
        "notes": notes,
        "parts": parts,
        "controls": {name: shared_interval(interval) for name, interval in found.controls.items()},
        "sink_artefact": overlap.sink_artefact(found),
        "checks": {"token_by_token": checks.token_by_token(reader, texts)},
        "claims": [claim.as_json() for claim in judged],
        "headline": {claim.name: f"{claim.endpoint}: {claim.effect.text(3)}, {claim.verdict}" for claim in judged},
        **shared.provenance(model, time.perf_counter() - started),
    }


def shared_interval(interval: Any) -> dict[str, float | None]:
    """An interval for the manifest; what does not exist is null."""
    return {key: value if value == value else None for key, value in vars(interval).items()}


def _tokens(texts: Sequence[Text]) -> int:
    return sum(len(slot.before) + len(slot.word.ids) + len(slot.after) for text in texts for slot in text.slots)


def _table(folder: RunFolder, name: str, rows: Rows) -> None:
    columns: list[schema.Column] = tables.TABLES[name]
    folder.write(name, shared.table(columns, {column.name: [row[column.name] for row in rows] for column in columns}))


def _parts(
    folder: RunFolder, reader: Reader, request: Request, texts: list[Text], found: Measured, home: Home, semantic: str | None
) -> tuple[dict[str, Any], Rows]:
    """Carry out the parts that were asked for and are possible; returns their facts and the rows of `transplants`."""
    facts: dict[str, Any] = {}
    kl: Rows = []

    def part(name: str, missing: str, carry_out: Callable[[], dict[str, Any]]) -> None:
        asked = name in request.parts
        reason = missing if asked else "It was not asked for."
        facts[name] = {"done": True, **carry_out()} if asked and not missing else {"done": False, "reason": reason}

    def lags() -> dict[str, Any]:
        rows, more = lag.measure(reader, texts, request.seed)
        _table(folder, "lags", rows)
        return more

    def carriers() -> dict[str, Any]:
        joined = carrier.join(reader, texts, found.topics, request.seed)
        _table(folder, "carrier", carrier.measure(reader, joined))
        kl.extend(transplants.measure(reader, joined, request.rule, request.seed))
        _table(folder, "transplants", kl)
        return {
            "prefix_words": joined.cut,
            "densities": list(transplants.densities(request.rule)),
            "endpoint_density": verdicts.endpoint_density(request.rule),
        }

    def switches() -> dict[str, Any]:
        rows, more = switch.measure(reader, texts, found.topics)
        _table(folder, "switch", rows)
        return more

    def explained() -> dict[str, Any]:
        assert semantic is not None
        reader.report("semantic similarity", 0, 0)
        vectors = {
            content: similarity.vectors(
                [word for text in found.texts[content] for word in text.words], semantic, reader.model, home
            )
            for content in regression.CONTENTS
        }
        _table(folder, "regression", regression.measure(reader, found, vectors, request.seed))
        return {"similarity": semantic, "similarity_in_words": similarity.NAMES[semantic]}

    part("lag", "", lags)
    part("carrier", _missing_for_carrier(texts, found), carriers)
    part("switch", _missing_for_switch(reader, texts, found), switches)
    part("regression", "" if len(texts) > 1 else "A single text has no pair of words across texts.", explained)
    part("hitters", "", lambda: {})
    if facts["hitters"]["done"]:
        facts["hitters"] = _hitters(folder, reader, texts, request.seed)
    return facts, kl


def _hitters(folder: RunFolder, reader: Reader, texts: list[Text], seed: int) -> dict[str, Any]:
    """Heavy hitters, or the reason why this model cannot be asked for them."""
    try:
        made = hitters.measure(reader, texts, seed)
    except ModelError as error:
        return {"done": False, "reason": str(error)}
    for name, rows in made.items():
        _table(folder, name, rows)
    return {"done": True, "positions": hitters.HEAVY}


def _missing_for_carrier(texts: list[Text], found: Measured) -> str:
    if found.n_topics < 2:
        return "An unrelated continuation needs texts of at least two topics."
    if len(texts[0].slots) < carrier.SHORTEST:
        return (
            f"A prefix and a continuation need texts of at least {carrier.SHORTEST} words; the shortest has {len(texts[0].slots)}."
        )
    return ""


def _missing_for_switch(reader: Reader, texts: list[Text], found: Measured) -> str:
    fewest = int(np.bincount(found.topics).min())
    if found.n_topics < 2 or fewest < switch.TEXTS_A_TOPIC:
        needed = f"A switch needs at least two topics of {switch.TEXTS_A_TOPIC} texts"
        return f"{needed}; there are {found.n_topics}, the smallest with {fewest}."
    longest = 2 * max(len(sequence_ids(text, [0])[0]) for text in texts)
    if longest > reader.limit:
        return f"Two texts have up to {longest} tokens together, and the model takes {reader.limit}; use fewer words."
    return ""
