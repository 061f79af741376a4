"""Random: k neurons drawn once a layer. What a method gets for its size alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moyu_core.methods.protocol import Choice, Cost, Method, Rows, ScoreChoice, Shape


class _Choice(ScoreChoice):
    def __init__(self, seed: int) -> None:
        self._seed = seed

    def score(self, rows: Rows) -> Tensor:
        """One uniform number a neuron, the same for all tokens of a layer."""
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + rows.layer)
        return torch.rand(rows.a.shape[1], generator=generator).to(rows.a.device)


class Random(Method):
    """The same random set for every token."""

    name, title, rank, family = "random", "Random", 14, "static"
    looks_at, decides = "nothing", "once for all"
    source = "our definition: the chance level"

    def bind(self, model: object, part: object, seed: int) -> Callable[[], Choice]:
        """The seed."""
        return lambda: _Choice(seed)

    def cost(self, shape: Shape, density: float) -> Cost:
        """All matrices shrink; nothing has to be chosen."""
        return Cost.of(shape, shape.matrices * density)


METHODS = (Random(),)
