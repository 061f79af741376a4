"""CATS: compute the gate exactly, keep the neurons whose |act(g)| reaches a threshold, skip the rest of up and down."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.methods import calibration
from moyu_core.methods.protocol import Choice, Cost, Rows, Shape, ThresholdChoice, dense_only

if TYPE_CHECKING:
    from moyu_core.methods.parts import Part
    from moyu_core.models import LoadedModel


class _Choice(ThresholdChoice):
    def __init__(self, threshold: Callable[[int, float], float]) -> None:
        self._threshold = threshold

    def score(self, rows: Rows) -> Tensor:
        """|act(g)|; u and the column norm play no part, as published."""
        if rows.gate is None:
            raise InputError("CATS reads the gate, and these rows were taken without it.")
        return rows.gate.abs()

    def threshold(self, layer: int, density: float) -> float:
        """The quantile of |act(g)| over calibration tokens."""
        return self._threshold(layer, density)


class Cats(calibration.CalibratedMethod):
    """|act(g)| >= t_l, t_l the quantile over calibration tokens that keeps the asked share."""

    name, title, rank, family = "cats", "CATS", 8, "RIDA"
    looks_at = "the gate act(g), computed exactly"
    needs_gate = True
    source = "arXiv 2404.08763"

    def applies(self, model: LoadedModel) -> str:
        """Only a gate can be known before the rest."""
        if any(not site.gated for site in model.sites):
            return "its FFN has no gate, so nothing is known of a neuron before the whole of it is computed."
        return dense_only(model)

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """The calibrated thresholds."""
        assert part is not None
        threshold = calibration.threshold_of(part, "gate")
        return lambda: _Choice(threshold)

    def cost(self, shape: Shape, density: float) -> Cost:
        """The gate stays dense: 1 + 2 * density of three matrices."""
        return Cost.of(shape, 1 + 2 * density)


METHODS = (Cats(),)
