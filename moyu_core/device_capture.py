"""The GPU's side of a capture: nothing in a forward pass waits for the device, and nothing large leaves it but bits.

Every layer's sets are packed into one stack on the device while the model runs on. When a batch's forward pass has been
launched, the stack is put prompt by prompt and copied into page-locked memory on a stream of its own; the host waits for
that copy only when the next batch has been launched too. So the GPU computes while prompts are cut and written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from moyu_core import device_reducers
from moyu_core.capture import CapturedPrompt, CaptureOptions, Columns, columns_of, tail_share
from moyu_core.firing import FiringCounts
from moyu_core.reducers import ReducedRows, RowReducer
from moyu_core.schema import packed_bytes
from moyu_core.sites import Activation, chosen_sites, watch
from moyu_core.token_sequences import TokenSequence, pad

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel


class DeviceCollector:
    """Runs batches on the model's device and hands out their prompts as numpy columns."""

    def __init__(self, model: LoadedModel, options: CaptureOptions, firing: FiringCounts | None) -> None:
        self.model = model
        self.options = options
        self.firing = firing
        sites = chosen_sites(model, options.layers)
        self.site = sites[0]
        self.norms = {site.layer: site.column_norms() for site in sites}  # where the layer is
        self.reducers = {layer: RowReducer(options.rule, options.thresholds.get(layer)) for layer in options.layers}
        self.copies = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def run(self, batch: list[TokenSequence], report: Callable[[float], None]) -> Iterator[CapturedPrompt]:
        """Launch the forward pass and the copy of what is kept; the prompts come out of what is returned."""
        kept = _Batch(self, batch)

        def receive(activation: Activation) -> None:
            kept.receive(activation)
            report(kept.layers_done / len(self.options.layers))

        with watch(self.model, self.options.layers, receive, ends_pass=True):
            self.model.decoder(input_ids=to_device(pad(batch, self.model.sink_token_id), self.model.device), use_cache=False)
        return kept.prompts(kept.leave())


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a host tensor on the device, without waiting for what the device is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class _Batch:
    """What is kept of one batch: on the device first, then in page-locked memory."""

    def __init__(self, collector: DeviceCollector, batch: Sequence[TokenSequence]) -> None:
        self._owner = collector
        self._batch = batch
        self._layers = tuple(collector.options.layers)
        self._slots = collector.site.slots
        self._width = max(map(len, batch)) * self._slots
        self._n_neurons = collector.site.n_neurons
        device, rows = collector.model.device, len(batch) * self._width
        shape = (len(self._layers), rows, packed_bytes(self._n_neurons))
        self._stacks: dict[str, Tensor] = {"active": torch.empty(shape, dtype=torch.uint8, device=device)}
        self._rows: dict[str, list[Tensor]] = {"statistics": [], "expert": [], "cett": [], "values": [], "scale": []}
        self._counted, self._valued = to_device(self._marks(), device)
        self._value_rows = None if not self._with_values else torch.arange(rows, device=device)[self._valued.bool()]
        self._counts = torch.zeros(len(self._layers), self._n_neurons, dtype=torch.int32, device=device)

    @property
    def layers_done(self) -> int:
        """Layers that have been received."""
        return len(self._rows["statistics"])

    @property
    def _with_values(self) -> bool:
        return any(self._owner.options.keeps_values(sequence.prompt) for sequence in self._batch)

    def _marks(self) -> Tensor:
        """(2, rows) uint8: rows that count as firing (no padding, no sink token); rows whose values are kept."""
        marks = np.zeros((2, len(self._batch), self._width), np.uint8)
        for index, sequence in enumerate(self._batch):
            marks[0, index, self._slots : len(sequence) * self._slots] = 1
            marks[1, index, : len(sequence) * self._slots] = self._owner.options.keeps_values(sequence.prompt)
        return torch.from_numpy(marks.reshape(2, -1))

    def receive(self, activation: Activation) -> None:
        """Launch one layer's reduction; called from inside the forward pass."""
        index, layer = self.layers_done, activation.site.layer
        experts = None if activation.experts is None else activation.experts.flatten()
        rows = activation.a if experts is None else activation.a.flatten(0, 1)
        packed = self._stacks["active"][index]
        reducer, norms = self._owner.reducers[layer], self._owner.norms[layer]
        at_home = rows.device == packed.device  # a model may be spread over several GPUs
        kept = device_reducers.reduce_on_device(reducer, rows, norms, experts, packed if at_home else None)
        if not at_home:
            packed.copy_(kept.packed, non_blocking=True)
        if self._owner.firing is not None:
            device_reducers.add_firing(packed, self._counted, self._counts[index])
        if experts is not None:
            self._rows["expert"].append(experts.to(torch.int16))
        if self._owner.options.cett:
            active = device_reducers.unpack(packed, self._n_neurons)
            self._rows["cett"].append(tail_share(activation, rows, experts, active.to(rows.device)))
        if self._value_rows is not None:
            codes, scale = device_reducers.compand(rows[self._value_rows.to(rows.device)])
            self._rows["values"].append(codes)
            self._rows["scale"].append(scale)
        self._rows["statistics"].append(kept.statistics)

    def leave(self) -> dict[str, Tensor]:
        """Launch the copy to the host; a batch that failed half way never gets here, so it counts nothing."""
        home = self._owner.model.device
        rows = {name: [part.to(home, non_blocking=True) for part in parts] for name, parts in self._rows.items()}
        found = {name: torch.stack(parts) for name, parts in rows.items() if parts}
        found["active"] = self._by_prompt(self._stacks.pop("active"))
        found["counts"] = self._counts
        self._rows.clear()
        copies = self._owner.copies
        if copies is None:
            return {name: tensor.cpu() for name, tensor in found.items()}
        copies.wait_stream(torch.cuda.current_stream(home))
        with torch.cuda.stream(copies):
            host = {name: torch.empty_like(tensor, device="cpu", pin_memory=True) for name, tensor in found.items()}
            for name, tensor in found.items():
                host[name].copy_(tensor, non_blocking=True)
                tensor.record_stream(copies)
            self._left = copies.record_event()
        return host

    def _by_prompt(self, stack: Tensor) -> Tensor:
        """(L, B * width, bytes) -> (B, L, width, bytes), so that a prompt without padding is one block of memory."""
        return stack.view(len(self._layers), len(self._batch), self._width, -1).transpose(0, 1).contiguous()

    def prompts(self, host: dict[str, Tensor]) -> Iterator[CapturedPrompt]:
        """Wait for the copy and cut the batch into prompts; padding falls away here."""
        if self._owner.copies is not None:
            self._left.synchronize()
        arrays = {name: tensor.numpy() for name, tensor in host.items()}
        firing = self._owner.firing
        if firing is not None:
            firing.counts += arrays["counts"]
        first_value = 0
        for index, sequence in enumerate(self._batch):
            columns = self._columns(arrays, index, len(sequence) * self._slots)
            if self._owner.options.keeps_values(sequence.prompt):
                rows = slice(first_value, first_value + len(sequence) * self._slots)
                first_value = rows.stop
                columns["values"] = arrays["values"][:, rows].reshape(-1, self._n_neurons)
                columns["scale"] = arrays["scale"][:, rows].reshape(-1)
            captured = CapturedPrompt(sequence, self._layers, len(sequence) * self._slots, columns)
            if firing is not None:
                firing.add(captured, counted=True)
            yield captured

    def _columns(self, arrays: dict[str, np.ndarray], index: int, rows: int) -> Columns:
        """One prompt's columns without values, layer after layer."""
        active = arrays["active"][index, :, :rows]
        place = slice(index * self._width, index * self._width + rows)
        statistics = arrays["statistics"][:, :, place].transpose(1, 0, 2).reshape(arrays["statistics"].shape[1], -1)
        kept = device_reducers.token_statistics(statistics)
        reduced = ReducedRows(active.reshape(-1, active.shape[-1]), statistics[0].view(np.int32), kept)
        columns = columns_of(reduced, self._n_neurons)
        if "expert" in arrays:
            columns["expert"] = arrays["expert"][:, place].reshape(-1)
        if "cett" in arrays:
            columns["cett"] = arrays["cett"][:, place].reshape(-1)
        return columns
