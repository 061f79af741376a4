"""CETT per token: neurons whose contribution reaches the layer's threshold (the TDA of "Pitfalls" and of MOYU's class)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moyu_core.methods import calibration
from moyu_core.methods.protocol import Choice, Cost, Rows, Shape, dense_only

if TYPE_CHECKING:
    from moyu_core.methods.parts import Part
    from moyu_core.models import LoadedModel


class _Choice(Choice):
    def __init__(self, thresholds: dict[int, float]) -> None:
        self._thresholds = thresholds

    def sets(self, rows: Rows, densities: Sequence[float]) -> list[Tensor]:
        """The same set at every density but 1: its size follows from the error that is allowed."""
        kept = rows.contribution >= self._thresholds[rows.layer]
        return [torch.ones_like(kept) if density == 1 else kept for density in densities]


class CettPerToken(calibration.CalibratedMethod):
    """|a| c >= eps_l, eps_l from one dense pass over calibration text so that the mean CETT is 0.2."""

    name, title, rank, family = "cett", "CETT per token", 2, "TDA"
    looks_at = "the size of each neuron's own contribution, |a| c, against a threshold"
    steerable, needs_activation = False, True
    source = "arXiv 2411.02335 (eq. 2, 3), 2405.09274; its own size, from the error target 0.2"

    def applies(self, model: LoadedModel) -> str:
        """The threshold search knows one FFN of neurons."""
        return dense_only(model)

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """Thresholds by layer."""
        assert part is not None
        thresholds = dict(zip(part.tensors["layers"].tolist(), part.tensors["cett_threshold"].tolist(), strict=True))
        return lambda: _Choice(thresholds)

    def cost(self, shape: Shape, density: float) -> Cost:
        """The activation has to be known first: only W_down is saved."""
        return Cost.of(shape, shape.matrices - 1 + density)


METHODS = (CettPerToken(),)
