"""Oracle: the neurons that turn out to be the largest. No method of this size keeps more of the sum of (|a| c)^2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moyu_core import sets
from moyu_core.masking import from_packed
from moyu_core.methods.protocol import Choice, Cost, Method, Rows, Shape, count


class _Choice(Choice):
    def sets(self, rows: Rows, densities: Sequence[float]) -> list[Tensor]:
        """The rule `top` of active sets; exact zeros are left out, which changes no output."""
        score = rows.contribution.cpu().numpy()
        keep = [count(density, score.shape[1]) for density in densities]
        return [torch.ones_like(rows.a, dtype=torch.bool) if k == score.shape[1]
                else from_packed(sets.top_sets(score, k), score.shape[1], rows.a.device) for k in keep]


class Oracle(Method):
    """The k largest |a| c of the token itself: an upper bound for sets of this size, not something that can be built."""

    name, title, rank, family = "oracle", "Oracle", 0, "oracle"
    looks_at = "the activations themselves, after they were computed"
    needs_activation = True
    source = "our definition: the active-set rule `top`"

    def bind(self, model: object, part: object, seed: int) -> Callable[[], Choice]:
        """Nothing to bind."""
        return _Choice

    def cost(self, shape: Shape, density: float) -> Cost:
        """The whole activation has to be known, which costs all matrices but the last."""
        return Cost.of(shape, shape.matrices - 1 + density)


METHODS = (Oracle(),)
