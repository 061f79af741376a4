"""Importance drift: does what descent would say of a neuron's importance add up over a history, or cancel?

Our reading of the weight importance update Theta_i = |V| grad L_i + Theta_(i-1): the increment of neuron i at position s is
delta_i(s) = a_i(s) * dL/da_i(s), L = cross-entropy summed over the text; summed over s it is sum_j w_ji dL/dw_ji over the neuron's
down-projection column. The literal |V| * dL/da with |V| = c, the column norm, is another quantity and is measured too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from moyu_core import sets
from moyu_core.intervals import Interval, jackknife, t_interval
from moyu_core.models import LoadedModel
from moyu_core.progress import Reporter, silent
from moyu_core.schema import DEFAULT_DENSITY
from moyu_core.schema.history import QUANTITIES
from moyu_core.spec import SetRule
from moyu_core.training.measures import captured

FLIPS = 20
"""Random signs a text, drawn so many times, for the level of stability that chance gives."""
Row = dict[str, object]


@dataclass
class _Layer:
    """What is kept of one layer and quantity, a list entry a text."""

    sums: list[np.ndarray] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=lambda: {"positive_share": [], "zero_share": []})
    cancellation: dict[int, list[float]] = field(default_factory=dict)


def increments(model: LoadedModel, ids: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """(a, dL/da) of every layer, each (T, F) float32, T = all tokens but the last; one backward pass, nothing kept for the weights.

    Args:
        model: a loaded model with dense FFNs.
        ids: (T + 1,) the sequence, sink token first, with the token behind it.
    """

    def start(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        return output.detach().requires_grad_(True)

    handle = model.model.get_input_embeddings().register_forward_hook(start)
    try:
        with captured([site.module for site in model.sites]) as seen, torch.enable_grad():
            logits = model.model(input_ids=ids[None, :-1], use_cache=False).logits.float()
            loss = functional.cross_entropy(logits[0], ids[1:], reduction="sum")
            found = torch.autograd.grad(loss, seen)
    finally:
        handle.remove()
    return [
        (a.detach().reshape(-1, site.n_neurons).float().cpu().numpy(), g.reshape(-1, site.n_neurons).float().cpu().numpy())
        for a, g, site in zip(seen, found, model.sites, strict=True)
    ]


def drift(model: LoadedModel, texts: Sequence[np.ndarray], checkpoints: Sequence[int], report: Reporter = silent) -> list[Row]:
    """Rows of the table `drift` (without model).

    Args:
        model: a loaded model with dense FFNs.
        texts: token ids of each text, sink token left out; at least three texts.
        checkpoints: positions up to which sums along the sequence are taken; those beyond a text are left out.
    """
    kept = {(name, site.layer): _Layer() for name in QUANTITIES for site in model.sites}
    norms = [site.column_norms().float().cpu().numpy() for site in model.sites]
    for number, text in enumerate(texts):
        report("importance drift", number, len(texts))
        ids = torch.tensor([model.sink_token_id, *text.tolist()], device=model.device)
        for site, norm, (a, gradient) in zip(model.sites, norms, increments(model, ids), strict=True):
            for name, delta in (("increment", a * gradient), ("literal", norm * gradient)):
                _add(kept[name, site.layer], delta[1:], checkpoints)  # position 0, the sink, is left out
    return [row for (name, layer), each in kept.items() for row in _rows(name, layer, each)]


def _add(kept: _Layer, delta: np.ndarray, checkpoints: Sequence[int]) -> None:
    kept.sums.append(delta.sum(axis=0, dtype=np.float64))
    alive = delta != 0
    kept.shares["positive_share"].append(float((delta > 0).sum() / max(alive.sum(), 1)))
    kept.shares["zero_share"].append(float(1 - alive.mean()))
    for position in checkpoints:
        if position <= len(delta):
            kept.cancellation.setdefault(position, []).append(cancellation(delta[:position]))


def cancellation(delta: np.ndarray) -> float:
    """|sum| / sum of |.| over rows, mean over the neurons that are not 0 throughout: 1 = one sign only, 1/sqrt(n) = chance."""
    size = np.abs(delta).sum(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(np.abs(delta.sum(axis=0, dtype=np.float64)) / np.where(size > 0, size, np.nan)))


def _rows(name: str, layer: int, kept: _Layer) -> list[Row]:
    def row(measure: str, found: Interval, position: int | None = None) -> Row:
        return {
            "layer": layer,
            "quantity": name,
            "measure": measure,
            "position": position,
            "value": found.mean,
            "low": found.low if found.known else None,
            "high": found.high if found.known else None,
        }

    sums = np.stack(kept.sums)
    rows = [row(measure, t_interval(values)) for measure, values in kept.shares.items()]
    rows += [row("cancellation", t_interval(values), position) for position, values in kept.cancellation.items()]
    rows.append(row("stability", jackknife(len(sums), lambda texts: stability(sums[texts]))))
    signs = np.random.default_rng(layer).choice([-1.0, 1.0], (FLIPS, len(sums)))
    rows.append(row("stability_flipped", jackknife(len(sums), lambda texts: flipped(sums[texts], signs[:, texts]))))
    return rows


def stability(sums: np.ndarray) -> float:
    """Overlap of the top 10 % by |Theta| of the texts with even numbers with that of the others; halves that share no text.

    Args:
        sums: (texts, F), the summed increments of each text.
    """
    k = SetRule("top", density=DEFAULT_DENSITY).count(sums.shape[1])
    halves = np.stack([np.abs(sums[::2].sum(axis=0)), np.abs(sums[1::2].sum(axis=0))])
    top = sets.top_sets((halves / max(halves.max(), 1e-300)).astype(np.float32), k)
    return float(sets.overlap(top[0], top[1]))


def flipped(sums: np.ndarray, signs: np.ndarray) -> float:
    """Mean `stability` with the sign of each text's sum drawn at random: what is left when increments do not agree in sign.

    Args:
        sums: (texts, F).
        signs: (draws, texts) of -1 and 1.
    """
    return float(np.mean([stability(sums * row[:, None]) for row in signs]))
