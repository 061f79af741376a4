"""The operating point: the smallest density of a grid that costs at most the budget, chosen on one split, confirmed on another.

"Costs at most 1 % perplexity" = the one-sided upper 95 % bound of the mean paired loss difference lies below ln 1.01. What
cannot be told apart from the budget with the documents at hand is said to be unresolved. No torch in here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from moyu_core.intervals import Interval, t_interval

GRID = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""Densities among which the operating point lies; 1 is the dense model."""
ONE_SIDED = 0.90
"""Level of the two-sided interval whose upper end is the one-sided 95 % bound."""

WITHIN, ABOVE, UNRESOLVED = "within", "above", "unresolved"
CONFIRMED, NOT_CONFIRMED, OPEN, NONE = "confirmed", "not confirmed", "not resolved", "none below 1"
NO_INTERVAL = "too few documents"
MEANINGS = {
    CONFIRMED: "the density was chosen on one half of the documents and is within the budget on the other half too",
    NOT_CONFIRMED: "chosen on one half, but the other half does not put the upper bound below the budget: could not be resolved",
    OPEN: "no density below 1 is shown to be within the budget, but some cannot be told apart from it with these documents",
    NONE: "every density looked at below 1 is shown to cost more than the budget, the largest of the grid among them",
    NO_INTERVAL: "fewer than two documents in a half: there is no interval to judge by",
}

Losses = Callable[[float, int], ArrayLike]
"""(density, split) -> paired loss differences, sparse minus dense, one a document of that split (0 chooses, 1 confirms)."""


@dataclass(frozen=True)
class Operating:
    """The sparsest setting of one method.

    Attributes:
        status: one of MEANINGS.
        density: chosen density; NaN where none was.
        chosen, confirmed: mean paired loss difference in nats with its 90 % interval (its upper end is the one-sided 95 %
            bound) on the two splits; None where it was not looked at.
        open: smallest density whose interval on the choosing split still holds the budget: below it the loss is shown to be
            too large, between it and `density` it could not be resolved; NaN where the search saw none.
        looked: how many densities were looked at.
    """

    status: str
    density: float
    chosen: Interval | None = None
    confirmed: Interval | None = None
    open: float = float("nan")
    looked: int = 0


def bound(differences: ArrayLike) -> Interval:
    """Mean paired loss difference with the interval whose upper end is the one-sided 95 % bound."""
    return t_interval(differences, ONE_SIDED)


def judged(found: Interval, budget: float) -> str:
    """within, above or unresolved: where the interval lies beside ln(1 + budget)."""
    limit = math.log1p(budget)
    if found.n and np.isfinite(found.mean) and found.error == 0:
        return WITHIN if found.mean < limit else ABOVE
    if not found.known:
        return UNRESOLVED
    return WITHIN if found.high < limit else ABOVE if found.low > limit else UNRESOLVED


def search(
    losses: Losses, budget: float, grid: Sequence[float] = GRID, known: Mapping[float, ArrayLike] | None = None
) -> Operating:
    """Bisection over the grid on split 0, then one look at split 1.

    The loss is taken to fall with the density; where it does not, a density may be found that is within the budget though a
    smaller one is as well. What is returned was itself measured and confirmed in any case.

    Args:
        losses: measures; called a few times.
        budget: share of perplexity, 0.01 = 1 %.
        grid: ascending densities, the last one 1, which costs nothing by definition and is never measured.
        known: differences on split 0 that are there already.
    """
    seen = {density: bound(values) for density, values in (known or {}).items() if density in grid}

    def verdict(place: int) -> str:
        if grid[place] not in seen:
            seen[grid[place]] = bound(losses(grid[place], 0))
        return judged(seen[grid[place]], budget)

    last = len(grid) - 1
    low, high = _bracket(seen, grid, budget, last)
    while high - low > 1:
        middle = (low + high) // 2
        if verdict(middle) == WITHIN:
            high = middle
        else:
            low = middle
    if any(found.n < 2 for found in seen.values()):
        return Operating(NO_INTERVAL, float("nan"), looked=len(seen))
    opened = [density for density, found in sorted(seen.items()) if judged(found, budget) == UNRESOLVED]
    unclear = opened[0] if opened else float("nan")
    if high == last:
        return Operating(OPEN if opened else NONE, float("nan"), open=unclear, looked=len(seen))
    confirmed = bound(losses(grid[high], 1))
    status = CONFIRMED if judged(confirmed, budget) == WITHIN else NOT_CONFIRMED
    return Operating(status, grid[high], seen[grid[high]], confirmed, unclear, len(seen))


def _bracket(seen: Mapping[float, Interval], grid: Sequence[float], budget: float, last: int) -> tuple[int, int]:
    """(place that is not within the budget, or -1; place that is), as narrow as what is known allows."""
    high, low = last, -1
    for place in range(last - 1, -1, -1):
        if grid[place] in seen:
            if judged(seen[grid[place]], budget) != WITHIN:
                low = place
                break
            high = place
    return low, high
