"""Static sets, the same for every text: by the weights alone, and by the mean contribution on calibration text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moyu_core.methods import calibration
from moyu_core.methods.inputs import row_norms
from moyu_core.methods.protocol import Choice, Cost, Method, Rows, ScoreChoice, Shape, dense_only

if TYPE_CHECKING:
    from moyu_core.methods.parts import Part
    from moyu_core.models import LoadedModel


class _Choice(ScoreChoice):
    def __init__(self, scores: Mapping[int, Tensor]) -> None:
        self._scores = scores

    def score(self, rows: Rows) -> Tensor:
        """(F,), whatever the text."""
        return self._scores[rows.layer]


class _Static(Method):
    family = "static"
    decides = "once for all"
    prefill = "dense"

    def cost(self, shape: Shape, density: float) -> Cost:
        """All matrices shrink; nothing has to be chosen."""
        return Cost.of(shape, shape.matrices * density)


class Magnitude(_Static):
    """||W_gate,i|| * ||W_up,i|| with the norm's gains folded in (ungated: ||fc1,i||); as in GRIFFIN, W_down is ignored."""

    name, title, rank = "magnitude", "Static magnitude", 12
    looks_at = "the weights before the activation"
    source = "GRIFFIN's baseline, arXiv 2404.01365"
    _with_down = False

    def applies(self, model: LoadedModel) -> str:
        """Mixtures have no rows of one FFN."""
        return dense_only(model)

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """One score a neuron and layer."""
        scores = {}
        for site in model.sites:
            rows = row_norms(model, site.layer)
            score = torch.stack(rows).prod(dim=0)
            scores[site.layer] = score * site.column_norms() if self._with_down else score
        return lambda: _Choice(scores)


class MagnitudeWithDown(Magnitude):
    """The same times ||W_down,i||: as free, and it knows what a neuron adds."""

    name, title, rank = "magnitude-down", "Static magnitude with W_down", 11
    looks_at = "all weights of the neuron"
    source = "our definition"
    _with_down = True


class DataAware(calibration.CalibratedMethod, _Static):
    """The mean of |a| c over calibration tokens."""

    name, title, rank = "static", "Static, data-aware", 10
    family, decides, prefill = "static", "once for all", "dense"
    looks_at = "the mean contribution on calibration text"
    source = "our definition"

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """The stored means by layer."""
        assert part is not None
        means = dict(zip(part.tensors["layers"].tolist(), part.tensors["mean_contribution"].float().to(model.device), strict=True))
        return lambda: _Choice(means)


METHODS = (Magnitude(), MagnitudeWithDown(), DataAware())
