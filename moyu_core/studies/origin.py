"""The origin study: is E[sign(a) dL/da] > 0 at initialisation in a real model's shape, as the root cause would have it?

For every seed all matrices are drawn anew and the same texts go through, in the last layer with the down projection as drawn and
with its sign turned (`turned`); seeds are the units, because the theorem's expectation is over weights. The endpoint is the
measured sign in the last layer divided by what the closed form gives with the final norm's scale fixed: 1 = the theorem's effect
in full, 0 = none. The trained weights are described and not judged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from moyu_core import claims
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.intervals import Interval, t_interval
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.schema.origin import SIGN_COLUMNS
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.studies import shared
from moyu_core.studies.origin_gradients import Gradients, gradients, initialise, initialiser, turned
from moyu_core.studies.origin_requests import OriginRequest as Request
from moyu_core.token_sequences import TokenSequence, tokenise

NAME = "origin"
SMALLEST_EFFECT = 0.5
"""Half of the closed form's effect: midway between what it gives with the scale fixed (1) and free (about 0)."""

Row = dict[str, Any]


def spec_of(request: Request, identity: ModelIdentity, sink_token_id: int) -> RunSpec:
    """The identity of the run; there is no active set, so the rule is a placeholder."""
    parameters = {"seeds": request.seeds, "max_tokens": request.max_tokens}
    return RunSpec(NAME, identity, prompts_hash(request.prompts), SetRule("positive"), sink_token_id, parameters)


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model and measure; returns the run id. A finished run of the same spec is returned without loading."""
    known = shared.finished(lambda identity, sink: spec_of(request, identity, sink), request.model, home)
    if known is not None:
        return known
    report("loading the model", 0, 0)
    return origin_run(load_model(request.model, home, device=device, report=report), request, home, report)


def origin_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """Measure with a loaded model, whose weights are drawn anew on the way: it is of no use afterwards. Returns the run id."""
    spec = spec_of(request, model.identity, model.sink_token_id)
    return shared.make(spec, home, lambda folder: _write(folder, model, request, report), report)


def _write(folder: RunFolder, model: LoadedModel, request: Request, report: Reporter) -> None:
    started = time.perf_counter()
    found = tokenise(model, request.prompts, request.max_tokens)
    sequences = [sequence for sequence in found if len(sequence) > 2]
    if not sequences:
        raise InputError("Every prompt has one token only; the sign measure leaves position 0 out, so give longer texts.")
    rows = [*_trained(model, sequences, report), *_initial(model, sequences, request.seeds, report)]
    folder.write("signs", shared.table(SIGN_COLUMNS, {c.name: [row[c.name] for row in rows] for c in SIGN_COLUMNS}))
    judged = claims.judge(_claims(rows, model, request.seeds, len(sequences)))
    folder.facts = {
        "title": request.title or f"Sign of the gradient in {model.identity.name}",
        "model": shared.model_facts(model),
        "layers": [site.layer for site in model.sites],
        "scope": {"prompts": len(sequences), "tokens": sum(map(len, sequences)), "seeds": request.seeds},
        "initialiser": initialiser(model.model),
        "claims": [claim.as_json() for claim in judged],
        "headline": {claim.name: f"{claim.effect.text()}, {claim.verdict}" for claim in judged},
        **shared.provenance(model, time.perf_counter() - started),
    }


@dataclass
class _Sums:
    """Sums over the activations of a layer that are not 0."""

    scale: str
    layer: int
    rows: int = 0
    pushed: float = 0.0
    size: float = 0.0
    shrinking: int = 0
    expected: float = 0.0

    def add(self, a: torch.Tensor, gradient: torch.Tensor, divergence: torch.Tensor | None, s: float) -> None:
        """Takes in (T, F) activations with their gradients; position 0 is left out."""
        a = a[1:]
        by_sign = (a.sign() * gradient[1:]).double()
        self.rows += int((a != 0).sum())
        self.pushed += float(by_sign.sum())
        self.size += float(by_sign.abs().sum())
        self.shrinking += int((by_sign > 0).sum())
        mean = a.abs().sum(dim=1).double()
        self.expected = self.expected + s * s * float((divergence[1:] * mean).sum()) if divergence is not None else float("nan")

    def row(self, condition: str, seed: int | None, prompt_id: str | None) -> Row:
        """One row of the table `signs`."""
        alive = max(self.rows, 1)
        return {"condition": condition, "seed": seed, "prompt_id": prompt_id, "scale": self.scale, "layer": self.layer,
                "rows": self.rows, "sign_gradient": self.pushed / alive, "gradient_size": self.size / alive,
                "shrinking_share": self.shrinking / alive,
                "expected": self.expected / alive if self.expected == self.expected else None}


class _Table:
    """The sums of one unit: every layer with the scale free, the last one also with the scale fixed."""

    def __init__(self, model: LoadedModel, s: float) -> None:
        self.last, self.s = model.sites[-1].layer, s
        self.free = {site.layer: _Sums("free", site.layer) for site in model.sites}
        self.fixed = _Sums("fixed", self.last)

    def add(self, found: Gradients) -> None:
        """Takes in one text; the closed form speaks of the last layer at initialisation only."""
        theory = found.divergence if self.s else {}
        for layer, a in found.a.items():
            self.free[layer].add(a, found.free[layer], theory.get("free") if layer == self.last else None, self.s)
        self.fixed.add(found.a[self.last], found.fixed, theory.get("fixed"), self.s)

    def rows(self, condition: str, seed: int | None, prompt_id: str | None) -> list[Row]:
        """Rows of the table `signs`."""
        return [each.row(condition, seed, prompt_id) for each in (*self.free.values(), self.fixed)]


def _ids(model: LoadedModel, sequence: TokenSequence) -> torch.Tensor:
    return torch.from_numpy(sequence.token_ids).to(model.device)


def _trained(model: LoadedModel, sequences: Sequence[TokenSequence], report: Reporter) -> Iterator[Row]:
    """The model's own weights, prompt by prompt."""
    for done, sequence in enumerate(sequences):
        report("measuring the trained model", done, len(sequences))
        table = _Table(model, 0.0)
        table.add(gradients(model, _ids(model, sequence)))
        yield from table.rows("trained", None, sequence.prompt.id)


def _initial(model: LoadedModel, sequences: Sequence[TokenSequence], seeds: int, report: Reporter) -> Iterator[Row]:
    """Weights drawn anew for every seed; the last layer with its down projection as drawn and turned."""
    for seed in range(seeds):
        initialise(model.model, seed)
        table = _Table(model, initialiser(model.model))
        for done, sequence in enumerate(sequences):
            report("measuring at initialisation", seed * len(sequences) + done, seeds * len(sequences))
            table.add(gradients(model, _ids(model, sequence)))
            with turned(model):
                table.add(gradients(model, _ids(model, sequence), last_only=True))
        yield from table.rows("initial", seed, None)


def effects(rows: Sequence[Row], scale: str, last: int) -> Interval:
    """Measured sign / the closed form's with the scale fixed, in the last layer, over seeds; no interval without closed form."""
    chosen = {(row["seed"], row["scale"]): row for row in rows if row["condition"] == "initial" and row["layer"] == last}
    theory = {seed: row["expected"] for (seed, kind), row in chosen.items() if kind == "fixed"}
    return t_interval([chosen[seed, scale]["sign_gradient"] / value for seed, value in theory.items() if value])


def described(rows: Sequence[Row], last: int) -> Interval:
    """sign_gradient / gradient_size of the trained model in the last layer, over prompts; the scale free."""
    chosen = [row for row in rows if (row["condition"], row["layer"], row["scale"]) == ("trained", last, "free")]
    return t_interval([row["sign_gradient"] / row["gradient_size"] for row in chosen if row["gradient_size"]])


def _claims(rows: Sequence[Row], model: LoadedModel, seeds: int, prompts: int) -> list[claims.Claim]:
    last, name = model.sites[-1].layer, model.identity.name
    endpoint = "sign(a) dL/da in the last layer at initialisation, 1 = the closed form's value with the norm's scale fixed"
    found = []
    for scale, words in (("free", "as the model is"), ("fixed", "with the final norm's scale held fixed")):
        effect = effects(rows, scale, last)
        found.append(claims.Claim(
            f"root cause, scale {scale}", f"At initialisation, {words}, gradient descent shrinks active neurons on average.",
            "MOYU (2406.12569), after Li et al. (2210.06313)", endpoint, SMALLEST_EFFECT, effect, name, f"{seeds} seeds",
            claims.NOT_RESOLVED if effect.n else claims.NOT_APPLICABLE))
    found.append(claims.Claim(
        "root cause, trained",
        "In the trained model gradient descent shrinks active neurons on average (the theorem does not speak of it).",
        "our definition",
        "sign(a) dL/da / |dL/da| in the last layer of the trained model, from -1 to 1", float(np.finfo(float).eps),
        described(rows, last), name, f"{prompts} prompts", claims.NOT_APPLICABLE))
    return found
