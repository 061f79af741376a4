"""Active sets of chosen positions, all layers, from one forward pass: what every part of the study starts from.

Only the rows that are asked for (the last token of each word) are reduced, inside the forward pass; nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from moyu_core import capture, cett, sets
from moyu_core.errors import InputError
from moyu_core.progress import Reporter
from moyu_core.prompts import Prompt
from moyu_core.reducers import RowReducer
from moyu_core.sites import Activation, watch
from moyu_core.spec import SetRule
from moyu_core.studies.inertia.compiled import energy_shares, gathered
from moyu_core.studies.inertia.conditions import Text, distinct, sequence_ids
from moyu_core.token_sequences import TokenSequence, batches, pad
from moyu_core.words import Word

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

Mask = Callable[[int, int], Tensor]
"""Takes the index of a sequence and a length T, returns (T, T) bool: who may be attended to (query, key)."""


@dataclass(frozen=True)
class Units:
    """Active sets of N units in L layers.

    Attributes:
        active: (L, N, ceil(F/8)) packed sets.
        energy: by layer, the share of sum (a*c)^2 over the set that each active neuron holds, float16, row after row in the
            order of the set bits; empty where not asked for.
        n_neurons: F.
        layers: numbers of the layers.
    """

    active: sets.Packed
    energy: list[np.ndarray]
    n_neurons: int
    layers: tuple[int, ...]

    def take(self, where: np.ndarray) -> Units:
        """The units of these numbers, (N',), in this order; the shares come with them where there are any."""
        energy = [
            gathered(values.view(np.int16), sets.sizes(self.active[layer]), where).view(np.float16)
            for layer, values in enumerate(self.energy)
        ]
        return Units(self.active[:, where], energy, self.n_neurons, self.layers)

    def unit_vectors(self, layer: int) -> np.ndarray:
        """(N, F) float32: each set as a vector of length 1, so that products are overlaps; an empty set is 0."""
        mask = sets.unpack(self.active[layer], self.n_neurons)
        size = mask.sum(axis=1, keepdims=True)
        return mask / np.sqrt(np.maximum(size, 1)).astype(np.float32)


class Reader:
    """Runs sequences of one study through a model and hands out the sets of their units; counts the tokens it ran."""

    def __init__(self, model: LoadedModel, rule: SetRule, thresholds: dict[int, float], report: Reporter) -> None:
        if any(site.experts for site in model.sites):
            raise InputError(
                f"{model.identity.name} is a mixture of experts, whose neurons differ from expert to expert; "
                "the inertia study needs a model with dense FFNs."
            )
        capture.check_alike(model.sites)
        self.model = model
        self.report = report
        self.rule = rule
        self.layers = tuple(site.layer for site in model.sites)
        self.n_neurons = model.sites[0].n_neurons
        self.tokens = 0
        self.limit = model.max_positions
        self._reducers = {layer: RowReducer(rule, thresholds.get(layer)) for layer in self.layers}
        self._norms = {site.layer: site.column_norms().float().cpu().numpy() for site in model.sites}

    def sequences(
        self, texts: Sequence[Text], stage: str, *, energy: bool = False, mask: Mask | None = None, sink: bool = True
    ) -> Units:
        """The units of whole texts, text after text: N = S * n."""
        prefix = [self.model.sink_token_id] if sink else []
        pairs = [sequence_ids(text, prefix) for text in texts]
        return self.units([ids for ids, _ in pairs], [rows for _, rows in pairs], stage, energy=energy, mask=mask)

    def parallel(
        self, texts: Sequence[Text], stage: str, *, energy: bool = False, mask: Mask | None = None, sink: bool = True
    ) -> Units:
        """The units of the texts' words, each word alone; a word that occurs twice is run once."""
        words, where = distinct(texts)
        return self.words(words, stage, energy=energy, mask=mask, sink=sink).take(where.ravel())

    def words(
        self, words: Sequence[Word], stage: str, *, energy: bool = False, mask: Mask | None = None, sink: bool = True
    ) -> Units:
        """The units of words that stand alone, behind the sink token or (sink = False) at position 0."""
        prefix = [self.model.sink_token_id] if sink else []
        ids = [np.asarray([*prefix, *word.ids], np.int64) for word in words]
        return self.units(ids, [np.asarray([len(each) - 1]) for each in ids], stage, energy=energy, mask=mask)

    @torch.inference_mode()
    def units(
        self, ids: Sequence[np.ndarray], rows: Sequence[np.ndarray], stage: str, *, energy: bool = False, mask: Mask | None = None
    ) -> Units:
        """The sets at chosen positions of chosen sequences.

        Args:
            ids: token ids of each sequence, whole.
            rows: positions of each sequence that are kept.
            stage: told to the reporter.
            energy: whether to keep energy shares.
            mask: attention of each sequence, None = the model's own.
        """
        too_long = max(map(len, ids))
        if too_long > self.limit:
            raise InputError(
                f"A sequence of {too_long} tokens is longer than the {self.limit} that "
                f"{self.model.identity.name} takes; use fewer words."
            )
        sequences = as_sequences(ids)
        total, done = sum(map(len, ids)), 0
        ends = np.cumsum([len(each) for each in rows])
        store = _Store(len(self.layers), int(ends[-1]), self, energy)
        for batch in batches(sequences, capture.default_batch_tokens(self.model.device)):
            numbers = [int(sequence.prompt.id) for sequence in batch]
            width = max(map(len, batch))
            store.begin([(place * width + rows[number], ends[number] - len(rows[number])) for place, number in enumerate(numbers)])
            with watch(self.model, None, store.receive):
                self.forward(batch, numbers, width, mask)
            done += sum(map(len, batch))
            self.report(stage, done, total)
        self.tokens += total
        return Units(store.active, store.energies(), self.n_neurons, self.layers)

    def forward(self, batch: list[TokenSequence], numbers: list[int], width: int, mask: Mask | None = None) -> None:
        """Run a batch through the decoder; `numbers` name its sequences to the mask, `width` is its length with padding."""
        options: dict[str, Any] = {}
        if mask is not None:
            options["attention_mask"] = additive(torch.stack([mask(number, width) for number in numbers]), self.model)
        self.model.decoder(input_ids=pad(batch, self.model.sink_token_id).to(self.model.device), use_cache=False, **options)

    def reduce(self, activation: Activation, rows: np.ndarray) -> tuple[sets.Packed, np.ndarray, np.ndarray]:
        """(packed sets, activations, norms) of some rows of a layer."""
        layer = activation.site.layer
        kept = activation.a[torch.from_numpy(rows).to(activation.a.device)].float().cpu().numpy()
        return self._reducers[layer](kept, self._norms[layer]).active, kept, self._norms[layer]


class _Store:
    """Receives the layers of each batch and puts the units where they belong."""

    def __init__(self, layers: int, units: int, reader: Reader, energy: bool) -> None:
        self.active = np.zeros((layers, units, (reader.n_neurons + 7) // 8), np.uint8)
        self._reader = reader
        self._place = {layer: number for number, layer in enumerate(reader.layers)}
        self._energy: list[list[np.ndarray]] | None = [[] for _ in range(layers)] if energy else None
        self._came: list[np.ndarray] = []

    def begin(self, parts: list[tuple[np.ndarray, int]]) -> None:
        """(rows in the flattened batch, first unit) of each sequence of the batch that comes."""
        self._rows = np.concatenate([rows for rows, _ in parts])
        self._units = np.concatenate([np.arange(len(rows)) + first for rows, first in parts])
        self._came.append(self._units)

    def receive(self, activation: Activation) -> None:
        """Called from inside the forward pass, layer after layer."""
        layer = self._place[activation.site.layer]
        active, a, norms = self._reader.reduce(activation, self._rows)
        self.active[layer, self._units] = active
        if self._energy is not None:
            self._energy[layer].append(energy_shares(active, a, norms).astype(np.float16))

    def energies(self) -> list[np.ndarray]:
        """By layer, unit after unit; they came batch after batch."""
        if self._energy is None:
            return []
        came = np.concatenate(self._came)
        order = np.argsort(came)
        return [
            gathered(np.concatenate(pieces).view(np.int16), sets.sizes(self.active[layer, came]), order).view(np.float16)
            for layer, pieces in enumerate(self._energy)
        ]


def as_sequences(ids: Sequence[np.ndarray]) -> list[TokenSequence]:
    """Token ids as sequences that `batches` can hold; the prompt's id of each is its number."""
    return [TokenSequence(Prompt(str(number), "x"), each) for number, each in enumerate(ids)]


def additive(allowed: Tensor, model: LoadedModel) -> Tensor:
    """(B, T, T) bool -> the (B, 1, T, T) mask that attention adds to its scores: 0 or the smallest number of the dtype."""
    lowest = torch.finfo(model.dtype).min
    return torch.where(allowed[:, None], 0.0, lowest).to(model.device, model.dtype)


def causal(length: int) -> Tensor:
    """(T, T) bool: every earlier position and the own one."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def cut(_: int, length: int) -> Tensor:
    """(T, T) bool: the own position and the sink only, so that words cannot see each other though their positions stay."""
    allowed = torch.eye(length, dtype=torch.bool)
    allowed[:, 0] = True
    return allowed


def thresholds(model: LoadedModel, rule: SetRule, texts: Sequence[Text], report: Reporter) -> dict[int, float]:
    """eps of each layer for the rule `cett`, found on the texts themselves; none for other rules."""
    if rule.name != "cett":
        return {}
    assert rule.target is not None
    sequences = as_sequences([sequence_ids(text, [model.sink_token_id])[0] for text in texts])
    layers = tuple(site.layer for site in model.sites)
    return {found.layer: found.value for found in cett.calibrate(model, sequences, rule.target, layers, report)}
