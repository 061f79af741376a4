"""The router that a mixture of experts was trained with (RIDA): shown as what it is, the upper design point of this family.

Router and experts were trained together, so nothing is left out that the dense model would have computed: there is no dense
model. Its recall is 1 by construction; what is worth seeing is which experts it takes, how evenly, and for how little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.methods.protocol import Choice, Cost, Method, Rows, Shape

if TYPE_CHECKING:
    from moyu_core.methods.parts import Part
    from moyu_core.models import LoadedModel


class _Choice(Choice):
    def sets(self, rows: Rows, densities: Sequence[float]) -> list[Tensor]:
        """The neurons of the routed experts, whatever the density, except 1: how many experts is part of the model."""
        if rows.routed is None:
            raise InputError("These rows come from a dense layer, which has no router of its own.")
        return [torch.ones_like(rows.routed) if density == 1 else rows.routed for density in densities]


class Native(Method):
    """The model's own router."""

    name, title, rank, family = "native", "The model's own router", 1, "RIDA"
    looks_at = "the FFN's own input, after its norm"
    steerable = False
    source = "the model itself: router and experts were trained together"

    def applies(self, model: LoadedModel) -> str:
        """Only mixtures have one."""
        return "" if any(site.experts for site in model.sites) else "its FFNs are dense, so it has no router of its own."

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """Nothing to bind."""
        return _Choice

    def cost(self, shape: Shape, density: float) -> Cost:
        """The routed experts, and d for each expert that the router scores."""
        return Cost.of(shape, shape.matrices * density, shape.d * shape.experts)


METHODS = (Native(),)
