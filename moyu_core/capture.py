"""Prompts through a model, active sets and statistics out, one prompt at a time: memory stays flat in their number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moyu_core import companding, sets
from moyu_core.errors import InputError, ModelError
from moyu_core.firing import FiringCounts
from moyu_core.packed_linear import packed
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import Prompt
from moyu_core.reducers import ReducedRows, RowReducer
from moyu_core.sites import Activation, Site, chosen_sites, watch
from moyu_core.spec import SetRule
from moyu_core.token_sequences import TokenSequence, batches, pad

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

Columns = dict[str, np.ndarray]
"""Column name (schema.activation_columns) -> array whose first axis is the rows."""


@dataclass(frozen=True)
class CaptureOptions:
    """What is kept.

    Attributes:
        rule: the active-set rule.
        layers: layers to hook, in order.
        thresholds: eps by layer, for the rule `cett`.
        cett: whether to compute the CETT of every row (one more down projection per layer).
        values: ids of the prompts whose 8-bit values are kept; None = all prompts.
        batch_tokens: rows of one forward pass, padding included.
    """

    rule: SetRule
    layers: tuple[int, ...]
    thresholds: dict[int, float] = field(default_factory=dict)
    cett: bool = False
    values: frozenset[str] | None = frozenset()
    batch_tokens: int = 512

    def keeps_values(self, prompt: Prompt) -> bool:
        """Whether this prompt's values are stored."""
        return self.values is None or prompt.id in self.values


@dataclass(frozen=True)
class CapturedPrompt:
    """All rows of one prompt, layer after layer.

    Attributes:
        sequence: the tokens.
        layers: layers in the order of the rows.
        rows_per_layer: T, or T * slots in mixture models.
        columns: arrays of len(layers) * rows_per_layer rows.
    """

    sequence: TokenSequence
    layers: tuple[int, ...]
    rows_per_layer: int
    columns: Columns


def capture(
    model: LoadedModel,
    sequences: Sequence[TokenSequence],
    options: CaptureOptions,
    report: Reporter = silent,
    firing: FiringCounts | None = None,
) -> Iterator[CapturedPrompt]:
    """Run the sequences through the model and yield what is kept of each, batch by batch.

    `report` is called for every layer, so a cancelled capture stops within one layer. On a GPU the prompts of a batch come
    out while the next batch is being computed; a batch that does not fit its memory is halved.

    Args:
        model, sequences, options: a loaded model, what `tokenise` made, what is kept.
        report: progress in tokens.
        firing: filled with how often each neuron was active; complete when the last prompt is out.

    Raises:
        ModelError: not even one sequence fits the GPU's memory.
    """
    total = sum(map(len, sequences))
    done = 0
    waiting: Iterator[CapturedPrompt] = iter(())
    with torch.inference_mode():
        collector = _collector(model, options, firing)
        ahead = deque(batches(sequences, options.batch_tokens))
        while ahead:
            batch = ahead.popleft()
            tokens = sum(map(len, batch))
            try:
                found = collector.run(batch, lambda share, d=done, t=tokens: report("capturing", d + int(share * t), total))
            except torch.OutOfMemoryError:
                ahead.extendleft(_halves(batch, model.identity.name))
                report(f"capturing, {len(ahead[0])} prompts at a time because the GPU's memory is full", done, total)
                torch.cuda.empty_cache()
                continue
            yield from waiting
            waiting = found
            if model.device.type == "cpu":
                yield from waiting
            done += tokens
            report("capturing", done, total)
        yield from waiting


def _halves(batch: list[TokenSequence], name: str) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Two batches out of one, the second half first, as `deque.extendleft` wants them."""
    if len(batch) == 1:
        raise ModelError(f"A sequence of {len(batch[0])} tokens does not fit the GPU's memory beside {name}; "
                         "set a lower limit of tokens, or take another device.") from None  # fmt: skip
    middle = (len(batch) + 1) // 2
    return batch[middle:], batch[:middle]


def _collector(model: LoadedModel, options: CaptureOptions, firing: FiringCounts | None) -> Any:
    """What runs a batch and reduces it: in numpy on the CPU, on the device elsewhere."""
    check_alike(chosen_sites(model, options.layers))
    if model.device.type == "cpu":
        return _HostCollector(model, options, firing)
    from moyu_core.device_capture import DeviceCollector

    return DeviceCollector(model, options, firing)


class _HostCollector:
    """Reduces a batch layer by layer on the CPU, inside its forward pass."""

    def __init__(self, model: LoadedModel, options: CaptureOptions, firing: FiringCounts | None) -> None:
        self._model = model
        self._options = options
        self._firing = firing
        sites = chosen_sites(model, options.layers)
        self._site = sites[0]
        self._norms = {site.layer: site.column_norms() for site in sites}
        self._reducers = {layer: RowReducer(options.rule, options.thresholds.get(layer)) for layer in options.layers}

    def run(self, batch: list[TokenSequence], report: Callable[[float], None]) -> Iterator[CapturedPrompt]:
        """The forward pass; the prompts come out of what is returned."""
        ids = pad(batch, self._model.sink_token_id)
        kept = ReducedRows.empty((len(self._options.layers), ids.numel() * self._site.slots), self._site.n_neurons)
        more: dict[str, list[np.ndarray]] = {"expert": [], "cett": [], "values": [], "scale": []}
        with_values = any(self._options.keeps_values(sequence.prompt) for sequence in batch)
        done = count()

        def receive(activation: Activation) -> None:
            index = next(done)
            for name, column in self._reduce(activation, kept[index], with_values).items():
                more[name].append(column)
            report((index + 1) / len(self._options.layers))

        with packed(self._model), watch(self._model, self._options.layers, receive, ends_pass=True):
            self._model.decoder(input_ids=ids, use_cache=False)
        return self._prompts(batch, ids.shape[1], {**columns_of(kept, self._site.n_neurons), **more})

    def _reduce(self, activation: Activation, kept: ReducedRows, with_values: bool) -> Columns:
        """Write one layer's rows to `kept`; returns the columns that not every capture has."""
        layer = activation.site.layer
        rows, norms, experts = flat_rows(activation, self._norms[layer])
        self._reducers[layer](rows.float().numpy(), norms.numpy(), kept)
        columns: Columns = {}
        if experts is not None:
            columns["expert"] = experts.numpy().astype(np.int16)
        if self._options.cett:
            mask = torch.from_numpy(sets.unpack(kept.active, rows.shape[1]).copy())
            columns["cett"] = tail_share(activation, rows, experts, mask).numpy()
        if with_values:
            columns["values"], columns["scale"] = companding.encode(rows.float().numpy())
        return columns

    def _prompts(
        self, batch: list[TokenSequence], width: int, found: Mapping[str, Sequence[np.ndarray] | np.ndarray]
    ) -> Iterator[CapturedPrompt]:
        """Cut the batch, a row of each column a layer, into prompts; padding falls away here."""
        slots = self._site.slots
        for index, sequence in enumerate(batch):
            start = index * width * slots
            rows = slice(start, start + len(sequence) * slots)
            names = {name for name, layers in found.items() if len(layers)}
            if not self._options.keeps_values(sequence.prompt):
                names -= {"values", "scale"}
            columns = {name: np.concatenate([layer[rows] for layer in found[name]]) for name in names}
            captured = CapturedPrompt(sequence, tuple(self._options.layers), len(sequence) * slots, columns)
            if self._firing is not None:
                self._firing.add(captured)
            yield captured


def check_alike(sites: Sequence[Site]) -> None:
    """Refuse layers whose rows do not fit one table: other widths, or dense layers among mixture layers."""
    if len({(site.n_neurons, site.slots, site.experts > 0) for site in sites}) > 1:
        kinds = "; ".join(f"layer {site.layer}: {site.n_neurons} neurons, {site.slots} slot(s)" for site in sites[:4])
        raise InputError(f"The layers asked for differ in width or in slots ({kinds} ...); capture them in separate runs.")


def flat_rows(activation: Activation, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(rows (N*K, F), norms (F,) or (N*K, F), experts (N*K,) or None): a mixture's slots become rows."""
    if activation.experts is None:
        return activation.a, norms, None
    experts = activation.experts.flatten()
    return activation.a.flatten(0, 1), norms[experts], experts


def tail_share(activation: Activation, rows: torch.Tensor, experts: torch.Tensor | None, active: torch.Tensor) -> torch.Tensor:
    """CETT of each row: ||what the inactive neurons add|| / ||the whole down-projection output|| (no bias); 0 for 0/0.

    Computed in float32 from the finite activations, as the other statistics are; `active` are (N, F) booleans. (N,) float32.
    """
    rows = rows.float()
    rows = torch.where(rows.isfinite(), rows, 0)
    down = (lambda x: activation.site.down(x)) if experts is None else (lambda x: activation.site.down(x, experts))
    whole = down(rows).float().norm(dim=1)
    tail = down(rows.masked_fill(active, 0)).float().norm(dim=1)
    return torch.where(whole > 0, tail / whole, torch.zeros_like(whole))


def columns_of(reduced: ReducedRows, n_neurons: int) -> Columns:
    """The columns that every capture has, from the sets and statistics of rows of F = n_neurons."""
    density = (reduced.sizes / n_neurons).astype(np.float32)
    return {"active": reduced.active, "density": density, **vars(reduced.statistics)}


def default_batch_tokens(device: torch.device) -> int:
    """Rows of one forward pass: enough to keep the device busy, small enough for a laptop."""
    return 512 if device.type == "cpu" else 8192
