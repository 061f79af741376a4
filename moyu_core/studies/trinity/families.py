"""The run `families`: which methods can be applied to which architectures, and what fails and why.

Every row of the architecture table is tried on a small random model: does the masked pass run, with density 1 as the dense
model, and do gathered weights give the masked logits? It says what can be measured on a family, not how good it is; that takes
trained weights, and is the run `trinity` of each model at hand.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moyu_core import methods
from moyu_core.architectures import TABLE, shape
from moyu_core.decode import Lane, twin
from moyu_core.errors import InputError, MoyuError
from moyu_core.home import Home
from moyu_core.methods.parts import Part
from moyu_core.methods.protocol import Method, Ready
from moyu_core.models import LoadedModel, from_module
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import Prompt
from moyu_core.random_models import CONFIGS, VOCAB, build
from moyu_core.run_writer import RunFolder
from moyu_core.schema.trinity import FAMILY_COLUMNS
from moyu_core.spec import ModelIdentity, RunSpec, SetRule, fingerprint
from moyu_core.studies import shared
from moyu_core.studies.trinity.contenders import OWN_SIZE, asked
from moyu_core.studies.trinity.forward import method_logits
from moyu_core.studies.trinity.requests import FamiliesRequest as Request
from moyu_core.token_sequences import TokenSequence

NAME = "families"
PROMPT, STEPS, DENSITY = 9, 4, 0.5
TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest one, that is rounding."""
SINK = 1

Row = dict[str, Any]


def spec_of(request: Request) -> RunSpec:
    """The identity of the run: the configurations stand where other runs have their weights."""
    model = ModelIdentity("random models", fingerprint(CONFIGS), "float32")
    return RunSpec(NAME, model, "", SetRule("positive"), SINK, {"methods": request.methods, "density": DENSITY})


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Try everything, on the CPU; returns the run id."""
    return shared.make(spec_of(request), home, lambda folder: _write(folder, request, report), report)


def _write(folder: RunFolder, request: Request, report: Reporter) -> None:
    started, rows = time.perf_counter(), []
    chosen = [methods.find(name) for name in request.methods]
    for number, model_type in enumerate(TABLE):
        report(f"trying {TABLE[model_type].family}", number, len(TABLE))
        rows += tried(model_type, chosen)
    folder.write("families", shared.table(FAMILY_COLUMNS, {c.name: [row[c.name] for row in rows] for c in FAMILY_COLUMNS}))
    folder.facts = {
        "title": "Which methods fit which architectures",
        "model": {"name": "random models"},
        "scope": {"families": len(TABLE), "methods": len(chosen)},
        "headline": {
            "quality": f"{sum(row['masked'] for row in rows)} of {len(rows)}",
            "speed": f"{sum(row['gathered'] for row in rows)} of {len(rows)}",
        },
        "seconds": round(time.perf_counter() - started, 3),
        "device": {"name": "cpu"},
    }


def tried(model_type: str, chosen: list[Method]) -> list[Row]:
    """One family with every method."""
    model = from_module(build(model_type), name=f"random {model_type}", sink_token_id=SINK)
    site, row = model.sites[0], TABLE[model_type]
    facts = {
        "model_type": model_type,
        "family": row.family,
        "gated": site.gated,
        "experts": site.experts,
        "activation": shape(model.model.config.to_dict()).activation,
    }
    parts: dict[str, Part] = {}
    return [{**facts, "method": method.name, **_outcome(model, method, parts)} for method in chosen]


def _outcome(model: LoadedModel, method: Method, parts: dict[str, Part]) -> Row:
    """masked, gathered, error and reason of one method."""
    found: Row = {"masked": False, "gathered": False, "error": None, "reason": ""}
    try:
        ready = _prepared(model, method, parts)
        ids = torch.randint(3, VOCAB, (PROMPT + STEPS,), generator=torch.Generator().manual_seed(0))
        size = asked(DENSITY if method.steerable else OWN_SIZE)
        expected = _masked(model, ids, ready, size)
        with torch.inference_mode():
            dense = model.model(input_ids=ids[None]).logits[0, PROMPT:]
        found["masked"] = _difference(_masked(model, ids, ready, 1.0), dense) <= TOLERANCE
        found["error"] = _difference(_gathered(model, ids, ready, size), expected)
        found["gathered"] = found["error"] <= TOLERANCE
    except MoyuError as error:  # what it says is what the table is for
        found["reason"] = str(error)
    return found


def _prepared(model: LoadedModel, method: Method, parts: dict[str, Part]) -> Ready:
    """The method fitted on random tokens: enough to run it."""
    if method.part and method.part not in parts and not method.applies(model):
        if len({site.n_neurons * max(site.experts, 1) for site in model.sites}) > 1:
            raise InputError(
                f"{method.title} needs a fitted part, and parts hold layers of one width; this family mixes dense layers "
                "and mixtures."
            )
        random = np.random.default_rng(0)
        texts = [np.r_[SINK, random.integers(3, VOCAB, 47)] for _ in range(12)]
        documents = [TokenSequence(Prompt(f"random-{n}", "random"), ids) for n, ids in enumerate(texts)]
        parts[method.part] = method.fit(model, documents)
    return method.prepare(model, parts.get(method.part))


def _masked(model: LoadedModel, ids: Tensor, ready: Ready, density: float) -> Tensor:
    return method_logits(model, ids[None], [len(ids)], ready, density, PROMPT).logits[0, PROMPT:]


def _gathered(model: LoadedModel, ids: Tensor, ready: Ready, density: float) -> Tensor:
    lane, found = Lane(twin(model), ready, density), []
    with lane.prompted(ids[:PROMPT], STEPS):
        for token in ids[PROMPT:].tolist():
            lane.step(token)
            found.append(lane.logits)
    return torch.stack(found)


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
