"""How a run of `trial` is made: parts found or fitted, sizes made equal, texts read and written, claims judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.intervals import t_interval
from moyu_core.methods.parts import Part
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.schema import trial as schema
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.studies import shared
from moyu_core.studies.predictors.study import fitted_parts, part_hash, part_hashes, wanted
from moyu_core.studies.trial import verdicts
from moyu_core.studies.trial.judge import Trial
from moyu_core.studies.trial.request import FEWEST_TEXTS
from moyu_core.studies.trial.request import TrialRequest as Request
from moyu_core.studies.trinity.contenders import MEASURED, UNFIT, Contender
from moyu_core.studies.trinity.texts import document_of
from moyu_core.token_sequences import TokenSequence, tokenise

NAME = "trial"


def spec_of(request: Request, identity: ModelIdentity, sink_token_id: int, used: Mapping[str, str]) -> RunSpec:
    """The identity of the run. Sets come from methods, so the rule is a placeholder; the fitted parts decide numbers too."""
    names = ("densities", "max_tokens", "prompt_tokens", "generated")
    parameters = {name: getattr(request, name) for name in names}
    parameters |= {"methods": sorted(request.methods), "parts": dict(sorted(used.items()))}
    return RunSpec(NAME, identity, prompts_hash(request.prompts), SetRule("positive"), sink_token_id, parameters, request.seed)


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """See `moyu_core.studies.trial.run`."""
    wanted(request.methods)
    known = shared.finished(
        lambda identity, sink: spec_of(request, identity, sink, part_hashes(request.model, request.methods, identity, home)),
        request.model,
        home,
    )
    if known is not None:
        return known
    report("loading the model", 0, 0)
    return trial_run(load_model(request.model, home, device=device, report=report), request, home, report)


def trial_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """Judge a loaded model; parts that are missing are fitted first. Returns the run id."""
    asked = wanted(request.methods)
    reasons = {method.name: method.applies(model) for method in asked}
    chosen = [method for method in asked if not reasons[method.name]]
    if not chosen:
        said = " ".join(f"{method.title}: {reasons[method.name]}" for method in asked)
        raise InputError(f"None of the methods applies to {model.identity.name}: {said}")
    fitted = fitted_parts(model, chosen, home, report)
    spec = spec_of(request, model.identity, model.sink_token_id, {name: part_hash(p.facts()) for name, p in fitted.items()})
    everyone = [
        Contender(method, UNFIT, None, reasons[method.name])
        if reasons[method.name]
        else Contender(method, MEASURED, method.prepare(model, fitted.get(method.part), request.seed))
        for method in asked
    ]
    found = _Found(model, request, everyone, fitted)
    return shared.make(spec, home, lambda folder: _write(folder, found, report), report)


@dataclass(frozen=True)
class _Found:
    """What a run is made from."""

    model: LoadedModel
    request: Request
    contenders: Sequence[Contender]
    fitted: Mapping[str, Part]

    def texts(self) -> list[TokenSequence]:
        """The texts that are long enough; position for position alike, so that nothing has to be padded.

        Raises:
            InputError: too few are, or the model's context is shorter.
        """
        request, model = self.request, self.model
        longest = max(request.max_tokens, request.prompt_tokens + request.generated)
        if longest > model.max_positions:
            raise InputError(f"A text of {longest:,} tokens is longer than {model.identity.name} takes ({model.max_positions:,}); "
                             "ask for fewer tokens.")
        sequences = tokenise(model, request.prompts, request.max_tokens)
        kept = [sequence for sequence in sequences if len(sequence) == request.max_tokens]
        if len(kept) < FEWEST_TEXTS:
            raise InputError(f"Intervals need at least {FEWEST_TEXTS} texts of {request.max_tokens} tokens, sink token included; "
                             f"{len(kept)} of {len(sequences)} are that long. Give longer texts, or ask for fewer tokens.")
        return kept


def _write(folder: RunFolder, found: _Found, report: Reporter) -> None:
    started, request = time.perf_counter(), found.request
    sequences = found.texts()
    trial = Trial(found.model, sequences, request.prompt_tokens, request.generated, request.seed)
    settings = trial.sized([one.ready for one in found.contenders if one.ready], request.densities, report)
    trial.reading(settings, report)
    trial.writing(settings, _shown(sequences), report)
    tables = {
        "methods": [one.row() for one in found.contenders],
        "texts": _texts(sequences, request.prompt_tokens, found.fitted.get("token_table")),
        "sizes": [{"method": s.name, "density": s.density, "asked": s.asked} for s in settings],
        "read": trial.read,
        "written": trial.written,
        "answers": trial.answers,
    }
    for name, rows in tables.items():
        columns = schema.TABLES[name]
        folder.write(name, shared.table(columns, {c.name: [row[c.name] for row in rows] for c in columns}))
    documents = {row["prompt_id"]: row["document"] for row in tables["texts"]}
    folder.facts = {**_facts(found, sequences, trial, documents), **shared.provenance(found.model, time.perf_counter() - started)}


def _shown(sequences: Sequence[TokenSequence]) -> frozenset[str]:
    """The first text of each genre, whose continuations are kept."""
    first = {sequence.prompt.domain: sequence.prompt.id for sequence in reversed(sequences)}
    return frozenset(first.values())


def _texts(sequences: Sequence[TokenSequence], prompt: int, table: Part | None) -> list[dict[str, Any]]:
    ids = None if table is None else table.tensors["ids"].numpy()
    return [
        {
            "prompt_id": sequence.prompt.id,
            "document": document_of(sequence.prompt),
            "genre": sequence.prompt.domain,
            "known": None if ids is None else float(np.isin(sequence.token_ids[prompt:], ids).mean()),
        }
        for sequence in sequences
    ]


def _facts(found: _Found, sequences: Sequence[TokenSequence], trial: Trial, documents: Mapping[str, str]) -> dict[str, Any]:
    request, model = found.request, found.model
    titles = {one.method.name: one.method.title for one in found.contenders}
    judged = verdicts.of(trial.read, trial.written, documents, titles, model.identity.name)
    recipes = {name: {"recipe": part.recipe, "data_hash": part.data_hash} for name, part in found.fitted.items()}
    return {
        "title": request.title or f"Token table on trial, {model.identity.name}",
        "model": shared.model_facts(model),
        "layers": [site.layer for site in model.sites],
        "scope": {
            "texts": len(sequences),
            "documents": len(set(documents.values())),
            "genres": len({sequence.prompt.domain for sequence in sequences}),
            "too_short": len(request.prompts) - len(sequences),
            "prompt_tokens": request.prompt_tokens,
            "continuation_tokens": request.max_tokens - request.prompt_tokens,
            "generated_tokens": request.generated,
        },
        "parts": recipes,
        "claims": [claim.as_json() for claim in judged],
        "headline": _headline(trial, request.densities) | {claim.name: claim.verdict for claim in judged},
    }


def _headline(trial: Trial, densities: Sequence[float]) -> dict[str, str]:
    """KL of each method at the density of the claims, or the nearest one there is."""
    density = min(densities, key=lambda value: abs(value - verdicts.DENSITY))
    found: dict[str, str] = {}
    for name in dict.fromkeys(row["method"] for row in trial.read if row["method"] != schema.DENSE):
        own = [row["kl"] for row in trial.read
               if row["method"] == name and row["density"] == density and row["part"] == schema.CONTINUATION]
        said = [row["kl"] for row in trial.written if row["method"] == name and row["density"] == density]
        found[f"{name} at {density:g}"] = f"KL {t_interval(own).text(3)} reading, {float(np.mean(said)):.3f} writing"
    return found
