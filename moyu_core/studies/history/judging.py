"""The claims of the study `history`, their endpoints and the smallest effects that matter, fixed before any run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moyu_core import claims
from moyu_core.intervals import Interval, t_interval
from moyu_core.models import LoadedModel
from moyu_core.schema import DEFAULT_DENSITY
from moyu_core.studies.history.requests import HistoryRequest
from moyu_core.two_way import mean_interval

SMALLEST_UNCERTAINTY = 0.25
"""U from which the token alone leaves more than a quarter of what tells two sets apart: a look-up by token could not do without."""
SMALLEST_TRANSPLANT = math.log(1.01)
"""Nats. A set that costs a token less than 1 % of its likelihood ratio, the 1 % that the product allows everywhere, is as good."""
SMALLEST_LOSS = 0.02
"""Recall. Predictors of two seeds differ by about a point; twice that is a difference one would notice."""
SOURCE = "MOYU (2406.12569), history-related activation uncertainty"
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"), float("nan"), 0)


@dataclass
class Found:
    """What one model contributes to the claims."""

    name: str
    model: LoadedModel | None
    primary: str
    request: HistoryRequest
    length: int = 0
    uncertainty: Interval = UNKNOWN
    transplant: Interval | None = None
    losses: dict[int, float] | None = None
    shape: tuple[Any, ...] = field(default=())

    def light(self) -> Found:
        """Without the model, which can then be freed, but with what tells whether two models are matched."""
        assert self.model is not None
        config = self.model.model.config
        activation = str(getattr(config, "hidden_act", None) or getattr(config, "activation_function", ""))
        site = self.model.sites[0]
        weights = site.n_neurons * (3 if site.gated else 2)
        self.shape = (activation, site.gated, len(self.model.sites), self.model.d_model, self.model.vocab_size, weights)
        self.model = None
        return self

    def take_transplants(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """KL(same token, other history) - KL(own), probe by history, at the default density."""
        table: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
        for row in rows:
            if row["density"] == DEFAULT_DENSITY and row["source"] in ("own", "other_history"):
                table[row["source"]][row["item"], row["draw"]] = row["kl"]
        items, draws = sorted({item for item, _ in table["own"]}), sorted({draw for _, draw in table["own"]})
        values = [[table["other_history"][i, d] - table["own"][i, d] for d in draws] for i in items]
        self.transplant = mean_interval(np.asarray(values))

    def take_predictors(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """By seed: recall on seen less recall on unseen domains, mean over layers and numbers of domains."""
        self.losses = {seed: loss(rows, seed) for seed in sorted({row["seed"] for row in rows})}


def loss(rows: Sequence[Mapping[str, Any]], seed: int) -> float:
    """Mean over layers and numbers of training domains of recall(seen) - recall(unseen), for one seed."""
    cells: dict[tuple[int, int, bool], list[float]] = defaultdict(list)
    for row in rows:
        if row["seed"] == seed:
            cells[row["trained_on"], row["layer"], row["seen"]].append(row["recall"])
    pairs = {(k, layer) for k, layer, _ in cells}
    return float(np.mean([np.mean(cells[k, layer, True]) - np.mean(cells[k, layer, False]) for k, layer in pairs]))


def claims_of(found: Sequence[Found]) -> list[claims.Claim]:
    """One claim on U and one on transplants for each model, and the comparison of ReLU and SwiGLU where there is a matched pair."""
    records = [claim for each in found for claim in _of_model(each)]
    pair = matched(found)
    if pair is not None:
        records.append(_pair(*pair))
    return records


def matched(found: Sequence[Found]) -> tuple[Found, Found] | None:
    """(ReLU, SwiGLU): two models with predictors, alike in layers, width, vocabulary and FFN weights."""
    relu = [each for each in found if each.losses and each.shape[:2] == ("relu", False)]
    gated = [each for each in found if each.losses and each.shape[:2] == ("silu", True)]
    return next(((a, b) for a in relu for b in gated if a.shape[2:] == b.shape[2:]), None)


def _of_model(found: Found) -> list[claims.Claim]:
    request, name = found.request, found.name
    where = f"{found.primary} histories of {found.length} tokens"
    units = f"{found.uncertainty.n} probes or histories, whichever are fewer"
    records = [
        claims.Claim(
            f"uncertainty, {name}",
            f"In {name}, which neurons are active depends on the history before the token.",
            SOURCE,
            f"U at {request.rule.label()}, mean over layers, {where}",
            SMALLEST_UNCERTAINTY,
            found.uncertainty,
            name,
            units,
        )
    ]
    if found.transplant is not None:
        records.append(
            claims.Claim(
                f"transplant, {name}",
                f"In {name}, a set that the same token had behind another history serves worse than its own.",
                SOURCE,
                f"KL(same token, other history) - KL(own) at density {DEFAULT_DENSITY:g}, nats, {where}",
                SMALLEST_TRANSPLANT,
                found.transplant,
                name,
                units,
            )
        )
    return records


def _pair(relu: Found, gated: Found) -> claims.Claim:
    assert relu.losses is not None and gated.losses is not None
    seeds = sorted(relu.losses.keys() & gated.losses.keys())
    effect = t_interval([gated.losses[seed] - relu.losses[seed] for seed in seeds])
    return claims.Claim(
        "predictor, SwiGLU against ReLU",
        "A predictor loses more on histories that it has not seen where the activation is not ReLU.",
        SOURCE,
        "loss of recall from seen to unseen domains, SwiGLU - ReLU, mean over layers and 1 to 8 domains",
        SMALLEST_LOSS,
        effect,
        f"{relu.name}, {gated.name}",
        f"{len(seeds)} seeds of the predictor; one training of each model",
    )
