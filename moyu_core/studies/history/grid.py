"""The grid probe x history: every history runs once and leaves its keys and values, and all probes run behind it in one pass.

Lengths are nested: a history of 64 tokens continues that of 16, so one pass over the longest serves all lengths. What is measured
costs as many tokens as there are in the histories, plus one per cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from moyu_core import sets
from moyu_core.branching import extended, fits, history, kept, together
from moyu_core.capture import check_alike
from moyu_core.device_reducers import reduce_anywhere
from moyu_core.errors import InputError
from moyu_core.models import LoadedModel
from moyu_core.progress import Reporter, silent
from moyu_core.reducers import RowReducer
from moyu_core.sites import Activation, watch
from moyu_core.spec import SetRule
from moyu_core.studies.history.texts import Plan


@dataclass(frozen=True)
class Item:
    """One token of a probe.

    Attributes:
        probe: the probe as it was asked for.
        offset: place of the token in it.
        token_ids: the probe's tokens up to and with this one.
    """

    probe: str
    offset: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Cells:
    """All cells of one kind and length.

    Attributes:
        kind, length: which.
        active: (L, T, H, ceil(F/8)) packed sets of every layer, item and draw.
        logs: (L, T, H, F) float32 log(1 + |a|) of the items that were asked for; empty (L, 0, ...) where none were.
        norms: (L, F) float32 column norms c, which turn |a| into energy; None = no energy-weighted measures.
    """

    kind: str
    length: int
    active: sets.Packed
    logs: np.ndarray
    norms: np.ndarray | None = None


def items_of(probes: Sequence[tuple[str, Sequence[int]]]) -> list[Item]:
    """The tokens of all probes: one-token probes first, then by length; tokens after the same beginning count once.

    Args:
        probes: (text, ids) pairs.

    Raises:
        InputError: a probe without tokens.
    """
    found: dict[tuple[int, ...], Item] = {}
    for text, ids in sorted(probes, key=lambda probe: len(probe[1])):
        if not ids:
            raise InputError(f"The probe {text!r} has no token in the vocabulary of the model; take another.")
        for offset in range(len(ids)):
            path = tuple(ids[: offset + 1])
            found.setdefault(path, Item(text, offset, path))
    return list(found.values())


def sees(items: Sequence[Item]) -> torch.Tensor:
    """(m, m) bool: item i looks at item k where k is i or stands before it in the same probe."""
    return torch.tensor([[i.token_ids[: len(k.token_ids)] == k.token_ids for k in items] for i in items])


class Grid:
    """Runs the grid of one model.

    Args:
        model: a loaded model with dense FFNs.
        items: the probe tokens.
        rule: the active-set rule.
        thresholds: eps by layer, for the rule `cett`.
        logged: numbers of the items whose log(1 + |a|) is kept.

    Raises:
        InputError: a mixture of experts, or layers of different width.
    """

    def __init__(
        self, model: LoadedModel, items: Sequence[Item], rule: SetRule, thresholds: dict[int, float], logged: Sequence[int]
    ) -> None:
        if any(site.experts for site in model.sites):
            raise InputError(f"{model.identity.name} is a mixture of experts; the history study is made for dense FFNs only.")
        check_alike(model.sites)
        self.model = model
        self.items = list(items)
        self._sees = sees(items)
        self._ids = torch.tensor([item.token_ids[-1] for item in items], device=model.device)
        self._offsets = torch.tensor([item.offset for item in items])
        self._logged = {item: place for place, item in enumerate(logged)}
        self._layers = {site.layer: place for place, site in enumerate(model.sites)}
        self._norms = {site.layer: site.column_norms().to(model.device) for site in model.sites}
        self._reducers = {site.layer: RowReducer(rule, thresholds.get(site.layer)) for site in model.sites}

    @torch.inference_mode()
    def run(self, plan: Plan, report: Reporter = silent) -> Iterator[Cells]:
        """Kind after kind, length after length; `report` counts tables."""
        total, done = sum(max(1, len(plan.lengths_of(kind))) for kind in plan.kinds), 0
        for kind, draws in plan.kinds.items():
            ids = torch.from_numpy(np.stack([draw.token_ids for draw in draws])).to(self.model.device)
            past = history(self.model, torch.full((len(draws), 1), self.model.sink_token_id, device=self.model.device))
            before = 0
            for length in plan.lengths_of(kind) or [0]:
                report("probes behind histories", done, total)
                if length:
                    past = extended(self.model, past, ids[:, before:length])
                yield self._cells(kind, length, past, len(draws), report)
                before, done = length, done + 1

    def _cells(self, kind: str, length: int, past: object, draws: int, report: Reporter) -> Cells:
        n_neurons, n_layers = self.model.sites[0].n_neurons, len(self._layers)
        active = np.empty((n_layers, len(self.items), draws, (n_neurons + 7) // 8), np.uint8)
        logs = np.empty((n_layers, len(self._logged) if draws > 1 else 0, draws, n_neurons), np.float32)
        if fits(self.model, past, len(self.items)):
            with watch(self.model, None, lambda activation: self._keep(activation, None, active, logs)):
                together(self.model, past, self._ids, self._offsets, self._sees)
        else:
            for number, item in enumerate(self.items):
                report("probes behind histories", 0, 0)
                with watch(self.model, None, lambda activation, number=number: self._keep(activation, number, active, logs)):
                    rows = torch.tensor(item.token_ids, device=self.model.device).expand(draws, -1)
                    self.model.decoder(input_ids=rows, past_key_values=kept(past), use_cache=True)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # when torch's own threads have nothing to do
            list(pool.map(lambda values: np.log1p(values, out=values), logs))
        return Cells(kind, length, active, logs, np.stack([norms.float().cpu().numpy() for norms in self._norms.values()]))

    @torch.inference_mode()
    def bare(self) -> sets.Packed:
        """(L, T, bytes): each token alone at position 0, no sink token before it: the artefact that sink control removes."""
        n_neurons = self.model.sites[0].n_neurons
        active = np.empty((len(self._layers), len(self.items), 1, (n_neurons + 7) // 8), np.uint8)
        none = np.empty((len(self._layers), 0, 1, n_neurons), np.float32)
        with watch(self.model, None, lambda activation: self._keep(activation, None, active, none)):
            self.model.decoder(input_ids=self._ids[:, None], use_cache=False)
        return active[:, :, 0]

    def _keep(self, activation: Activation, item: int | None, active: np.ndarray, logs: np.ndarray) -> None:
        """One layer's rows: (draw, item), or of one item (draw, token of its path), of which the last counts; `logs` get |a|."""
        layer = self._layers[activation.site.layer]
        reducer, norms = self._reducers[activation.site.layer], self._norms[activation.site.layer]
        a = activation.a.view(active.shape[2], -1, activation.site.n_neurons)
        items = range(len(self.items)) if item is None else [item]
        a = a if item is None else a[:, -1:]  # (draw, item, F)
        packed = reduce_anywhere(reducer, a.reshape(-1, a.shape[-1]), norms).active
        active[layer, items] = packed.reshape(*a.shape[:2], -1).transpose(1, 0, 2)
        if logs.shape[1]:
            values = a.float().cpu().numpy()
            for place, number in enumerate(items):
                if number in self._logged:
                    np.abs(values[:, place], out=logs[layer, self._logged[number]])
