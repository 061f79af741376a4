"""How well sets that are taken from stored 8-bit values agree with the exact ones, measured while both are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moyu_core import companding, sets
from moyu_core.spec import SetRule

if TYPE_CHECKING:
    from moyu_core.capture import CapturedPrompt


def rethreshold(codes: np.ndarray, scale: np.ndarray, norms: np.ndarray, rule: SetRule) -> sets.Packed:
    """Active sets from stored values: (N, F) codes, (N,) scales, (F,) column norms -> (N, ceil(F/8)), approximate.

    Only rules with a density: values are stored to about 3 %, so neurons near the border may swap.
    """
    magnitude = np.nan_to_num(np.abs(companding.decode(codes, scale)))
    score = magnitude * norms if rule.name == "top" else magnitude
    return sets.top_sets(np.ascontiguousarray(score, np.float32), rule.count(codes.shape[1]))


class Agreement:
    """Overlap of re-thresholded sets with exact ones at the run's own density, by layer, sink left out."""

    def __init__(self, n_neurons: int, norms: dict[int, np.ndarray]) -> None:
        self._n_neurons = n_neurons
        self._norms = norms
        self._sums = dict.fromkeys(norms, 0.0)
        self._rows = dict.fromkeys(norms, 0)

    def add(self, captured: CapturedPrompt, rule: SetRule) -> None:
        """Compare one prompt; its columns hold `values`, `scale` and the exact `active`."""
        if "expert" in captured.columns:
            return
        shape = (len(captured.layers), captured.rows_per_layer, -1)
        codes = captured.columns["values"].reshape(shape)
        scale = captured.columns["scale"].reshape(shape[:2])
        active = captured.columns["active"].reshape(shape)
        for index, layer in enumerate(captured.layers):
            again = rethreshold(codes[index, 1:], scale[index, 1:], self._norms[layer], rule)
            overlaps = sets.overlap(again, active[index, 1:])
            self._sums[layer] += float(np.nansum(overlaps))
            self._rows[layer] += int(np.isfinite(overlaps).sum())

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """((L,) float64 sums of overlaps, (L,) int64 rows), layers in order; `add_sums` takes them up again."""
        return np.array([*self._sums.values()]), np.array([*self._rows.values()])

    def add_sums(self, overlaps: np.ndarray, rows: np.ndarray) -> None:
        """Add what was compared over other prompts."""
        for layer, more, count in zip(self._sums, overlaps, rows, strict=True):
            self._sums[layer] += float(more)
            self._rows[layer] += int(count)

    def summary(self) -> dict[str, Any] | None:
        """{"mean", "worst_layer", "worst_layer_mean", "rows"}; None when nothing was compared. Empty sets do not count."""
        means = {layer: self._sums[layer] / rows for layer, rows in self._rows.items() if rows}
        if not means:
            return None
        worst = min(means, key=lambda layer: means[layer])
        return {
            "mean": round(float(np.mean(list(means.values()))), 4),
            "worst_layer": worst,
            "worst_layer_mean": round(means[worst], 4),
            "rows": max(self._rows.values()),
        }
