"""The tokens on which each neuron is largest by |a|, found while the activations pass by, in K x F numbers a layer.

One key says it all: the bits of |a| (which order as the numbers do), then how early the row came, then the sign. Keys differ
from each other, so the K largest are the same however a corpus is cut into parts, and equal activations (texts that begin
alike) keep the first. A forward pass that failed for want of memory leaves no trace: its keys are taken over when it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moyu_core.schema.corpus import TOP_TOKENS
from moyu_core.sites import Activation, watch
from moyu_core.tops import Tops

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel
    from moyu_core.token_sequences import TokenSequence

_LAST_ROW = 2**31 - 1


@dataclass(frozen=True)
class _Pass:
    """One forward pass: number of its first row, first sequence, and rows of a sequence (padding included)."""

    row: int
    sequence: int
    width: int


class StrongestTokens:
    """Watches a model; afterwards `tops` says what was largest.

    Args:
        model: a loaded dense model.
        layers: layers to watch.
        keep: K, tokens kept for a neuron.
    """

    def __init__(self, model: LoadedModel, layers: Sequence[int], keep: int = TOP_TOKENS) -> None:
        self._model = model
        self._layers = tuple(layers)
        self._keep = keep
        self._keys: dict[int, Tensor] = {}
        self._staged: dict[int, Tensor] = {}
        self._passes: list[_Pass] = []
        self._rows = self._sequences = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look on while the block captures; hooks are removed at the end."""
        decoder = self._model.decoder
        handles = [decoder.register_forward_pre_hook(self._begin, with_kwargs=True), decoder.register_forward_hook(self._commit)]
        try:
            with watch(self._model, self._layers, self._receive):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"]
        self._shape = ids.shape
        real = ids.flatten() != self._model.sink_token_id  # no sink token, no padding: pads are sink tokens
        order = torch.arange(_LAST_ROW - self._rows, _LAST_ROW - self._rows - ids.numel(), -1, device=ids.device)
        self._order = torch.where(real, order << 1, -1)
        self._staged = {}

    def _receive(self, activation: Activation) -> None:
        """Called from inside the forward pass; on a GPU nothing here waits for it."""
        layer, a = activation.site.layer, activation.a.float()
        order = self._order.to(a.device, non_blocking=True)
        kept = self._keys.get(layer)
        size = torch.where(a.isfinite(), a.abs(), 0)
        columns: Any = slice(None)
        if kept is not None and a.device.type == "cpu":  # after the first batches few neurons have anything new
            columns = (size.amax(0).view(torch.int32) > (kept[-1] >> 32)).nonzero().flatten()
            size, a = size[:, columns], a[:, columns]
        keys = (size.view(torch.int32).long() << 32) | order[:, None] | (a < 0)
        keys.masked_fill_((order < 0)[:, None] | (size == 0), -1)
        if kept is not None:
            keys = torch.cat([kept[:, columns], keys])
        best = torch.topk(keys, min(self._keep, len(keys)), dim=0).values
        if kept is not None and isinstance(columns, Tensor):
            best = kept.clone().index_copy_(1, columns, best)
        self._staged[layer] = _filled(best, self._keep)

    def _commit(self, module: Any, args: Any, output: Any) -> None:
        batch, width = self._shape
        self._passes.append(_Pass(self._rows, self._sequences, width))
        self._rows += batch * width
        self._sequences += batch
        self._keys.update(self._staged)

    def tops(self, order: Sequence[TokenSequence], numbers: Sequence[int]) -> Tops:
        """What was largest.

        Args:
            order: the sequences in the order in which they were captured.
            numbers: what each of them is called in the result.
        """
        keys = np.stack([self._keys[layer].cpu().numpy() for layer in self._layers])
        found = keys >= 0
        size = (keys >> 32).astype(np.int32).view(np.float32)
        row = _LAST_ROW - ((keys & 0xFFFFFFFF) >> 1)
        sequence, position = self._places(np.where(found, row, 0))
        starts = np.cumsum([0, *map(len, order)])
        token = np.concatenate([s.token_ids for s in order])[starts[sequence] + np.where(found, position, 0)]
        value = np.where(found, np.where(keys & 1, -size, size), 0).astype(np.float32)
        prompt = np.where(found, np.asarray(numbers)[sequence], -1)
        return Tops(value, *(np.where(found, array, -1).astype(np.int32) for array in (prompt, position, token)))

    def _places(self, row: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(sequence in the order of capture, position) of rows counted over all passes."""
        first, sequences, widths = (np.array([getattr(p, n) for p in self._passes]) for n in ("row", "sequence", "width"))
        which = np.searchsorted(first, row, side="right") - 1
        inside = row - first[which]
        return sequences[which] + inside // widths[which], inside % widths[which]


def _filled(keys: Tensor, keep: int) -> Tensor:
    """(K, F) keys, -1 where there were fewer rows than K."""
    missing = keep - len(keys)
    return torch.cat([keys, keys.new_full((missing, keys.shape[1]), -1)]) if missing else keys
