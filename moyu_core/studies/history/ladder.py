"""The transplant ladder: how well does a token do with a set that was taken from elsewhere?

For every probe and history the current token keeps, in all layers, its own set, one of the same token behind another history, of
another token behind the same history, of another token behind another history, the prefix's GRIFFIN set, the static mean set of the
other texts, or a random set; KL(dense || masked) of the next token says what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moyu_core import sets
from moyu_core.branching import branched, extended, fits, history, kept, together
from moyu_core.masking import from_packed
from moyu_core.models import LoadedModel
from moyu_core.progress import Reporter, silent
from moyu_core.schema.history import SOURCES
from moyu_core.sites import Activation, watch
from moyu_core.spec import SetRule
from moyu_core.studies.history.texts import Draw
from moyu_core.transplant import transplant

DENSITIES = (0.1, 0.3, 0.5)
LENGTH = 64
"""Tokens of the histories; the longest length that is shorter where there is no such one."""

Row = dict[str, object]


@dataclass(frozen=True)
class _Seen:
    """What the dense passes leave, by layer place.

    Attributes:
        scores: (L, T, H, F) |a| * c of every probe behind every history.
        prefix: (L, H, F) GRIFFIN's statistic of each history: L2 norm over its tokens of a / ||a||.
        mean: (L, H, F) mean over a history's tokens of |a| c / || |a| c ||.
        past: keys and values of all histories.
    """

    scores: np.ndarray
    prefix: np.ndarray
    mean: np.ndarray
    past: object


def ladder(
    model: LoadedModel, draws: Sequence[Draw], probes: Sequence[tuple[int, int]], length: int, seed: int, report: Reporter = silent
) -> Iterator[Row]:
    """Rows of the table `transplant` (without model), one for each draw, probe, density and source.

    Args:
        model: a loaded model with dense FFNs.
        draws: at least two histories of one kind.
        probes: (item number, token id) of one-token probes, at least two.
        length: tokens of the histories.
        seed: of the random sets and of which other token and history is taken.
    """
    seen = _dense(model, draws, [token for _, token in probes], length)
    random = np.random.default_rng(seed)
    for number, draw in enumerate(draws):
        past = branched(seen.past, [number])
        for place, (item, token) in enumerate(probes):
            report("set transplants", number * len(probes) + place, len(draws) * len(probes))
            other_h = (number + int(random.integers(1, len(draws)))) % len(draws)
            other_t = (place + int(random.integers(1, len(probes)))) % len(probes)
            scores = _sources(seen, place, number, other_t, other_h, random)
            ids = [model.sink_token_id, *draw.token_ids[:length].tolist(), token]
            kl = transplant(model, ids, masks_of(model, scores, DENSITIES), past).view(len(SOURCES), len(DENSITIES))
            for source, row in zip(SOURCES, kl.tolist(), strict=True):
                for density, value in zip(DENSITIES, row, strict=True):
                    yield {
                        "kind": draw.kind,
                        "length": length,
                        "draw": draw.number,
                        "item": item,
                        "density": density,
                        "source": source,
                        "kl": value,
                    }


def masks_of(model: LoadedModel, scores: np.ndarray, densities: Sequence[float]) -> dict[int, Tensor]:
    """layer -> (S * D, F) bool: of S score rows the largest at each density, from (S, L, F)."""
    n_neurons = scores.shape[2]
    sizes = [SetRule("top", density=density).count(n_neurons) for density in densities]
    found = {}
    for place, site in enumerate(model.sites):
        packed = [sets.top_sets(np.ascontiguousarray(scores[:, place]), k) for k in sizes]
        found[site.layer] = from_packed(np.stack(packed, axis=1).reshape(len(scores) * len(densities), -1), n_neurons, model.device)
    return found


def _sources(seen: _Seen, t: int, h: int, other_t: int, other_h: int, random: np.random.Generator) -> np.ndarray:
    """(S, L, F) scores in the order of SOURCES. The static mean leaves this history out."""
    layers, _, histories, n_neurons = seen.scores.shape
    static = (seen.mean.sum(axis=1) - seen.mean[:, h]) / (histories - 1)
    return np.stack(
        [
            seen.scores[:, t, h],
            seen.scores[:, t, other_h],
            seen.scores[:, other_t, h],
            seen.scores[:, other_t, other_h],
            seen.prefix[:, h],
            static,
            random.random((layers, n_neurons), np.float32) + np.float32(0.5),
        ]
    ).astype(np.float32)


@torch.inference_mode()
def _dense(model: LoadedModel, draws: Sequence[Draw], tokens: Sequence[int], length: int) -> _Seen:
    """One pass over the histories, one over the probes behind them."""
    layers, n_neurons = {site.layer: place for place, site in enumerate(model.sites)}, model.sites[0].n_neurons
    norms = {site.layer: site.column_norms().to(model.device) for site in model.sites}
    scores = np.empty((len(layers), len(tokens), len(draws), n_neurons), np.float32)
    prefix, mean = (np.empty((len(layers), len(draws), n_neurons), np.float32) for _ in range(2))

    def of_history(activation: Activation) -> None:
        a = activation.a.float().view(len(draws), -1, n_neurons)
        place, weight = layers[activation.site.layer], a.abs() * norms[activation.site.layer]
        prefix[place] = torch.nn.functional.normalize(a, dim=-1).square().sum(dim=1).sqrt().cpu().numpy()
        mean[place] = torch.nn.functional.normalize(weight, dim=-1).mean(dim=1).cpu().numpy()

    ids = torch.from_numpy(np.stack([draw.token_ids[:length] for draw in draws])).to(model.device)
    past = history(model, torch.full((len(draws), 1), model.sink_token_id, device=model.device))
    with watch(model, None, of_history):
        past = extended(model, past, ids)

    def of_probes(activation: Activation, items: slice) -> None:
        a = activation.a.float().view(len(draws), -1, n_neurons).transpose(0, 1)
        scores[layers[activation.site.layer], items] = (a.abs() * norms[activation.site.layer]).cpu().numpy()

    probes = torch.tensor(tokens, device=model.device)
    if fits(model, past, len(tokens)):
        with watch(model, None, lambda activation: of_probes(activation, slice(None))):
            together(model, past, probes, torch.zeros_like(probes), torch.eye(len(probes), dtype=torch.bool))
    else:
        for place in range(len(tokens)):
            with watch(model, None, lambda activation, place=place: of_probes(activation, slice(place, place + 1))):
                model.decoder(input_ids=probes[place].expand(len(draws), 1), past_key_values=kept(past), use_cache=True)
    return _Seen(scores, prefix, mean, past)
