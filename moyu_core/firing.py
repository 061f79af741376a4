"""How often each neuron is active over all prompts of a capture, in memory that does not grow with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moyu_core import sets

if TYPE_CHECKING:
    from moyu_core.capture import CapturedPrompt


class FiringCounts:
    """Counts over the rows of a capture; the sink token's rows are left out.

    Attributes:
        layers: in the order of `counts`.
        n_neurons: F.
        counts: (L, F) int64, rows in which each neuron is active.
        rows: rows of one layer that were counted.
        nonfinite: activations that were NaN or infinite, over all layers, sink token included.
    """

    def __init__(self, layers: tuple[int, ...], n_neurons: int) -> None:
        self.layers = layers
        self.n_neurons = n_neurons
        self.counts = np.zeros((len(layers), n_neurons), np.int64)
        self.rows = 0
        self.nonfinite = 0

    def add(self, captured: CapturedPrompt, counted: bool = False) -> None:
        """Add one prompt; with `counted` its sets are in `counts` already, because a device counted them."""
        sink_rows = captured.rows_per_layer // len(captured.sequence)
        if not counted:
            active = captured.columns["active"].reshape(len(self.layers), captured.rows_per_layer, -1)
            for index in range(len(self.layers)):
                self.counts[index] += sets.counts(active[index, sink_rows:], self.n_neurons)
        self.rows += captured.rows_per_layer - sink_rows
        self.nonfinite += int(captured.columns["nonfinite"].sum())

    def rates(self) -> np.ndarray:
        """(L, F) float32 share of the counted rows in which each neuron is active; 0 where no row was counted."""
        return (self.counts / max(self.rows, 1)).astype(np.float32)
