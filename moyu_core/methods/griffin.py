"""GRIFFIN (sRIDA): the neurons that are relatively large along the prompt, frozen for what follows.

s_i = ||Zbar[:, i]||_2 with every prompt token's row divided by its length, so that no token of huge activations decides alone;
the k largest are kept until the next prompt. Source: arXiv 2404.01365 and its public code. The state machine is explicit: the
authors' phase test (more than one token = prompt) reuses the previous prompt's set after a one-token prompt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.methods.protocol import DENSE, Choice, Cost, Method, Rows, ScoreChoice, Shape


class PromptStatistic(ScoreChoice):
    """s^2 by layer, summed over the prompt tokens seen so far; shared by methods that read the prefix."""

    def __init__(self) -> None:
        self.squares: dict[int, Tensor] = {}
        self.tokens: dict[int, int] = {}

    def see(self, rows: Rows) -> None:
        """Add the squares of the relative activations; a row of zeros adds nothing (the authors' code divides 0 by 0 there)."""
        new = relative_squares(rows.a).sum(dim=0)
        known = self.squares.get(rows.layer)
        self.squares[rows.layer] = new if known is None else known + new
        self.tokens[rows.layer] = self.tokens.get(rows.layer, 0) + len(rows.a)

    def statistic(self, layer: int) -> Tensor:
        """(F,) s of the prompt.

        Raises:
            InputError: no prompt has been seen.
        """
        if layer not in self.squares:
            raise InputError("A prompt-frozen set was asked for before any prompt token was seen; run the prompt first.")
        return self.squares[layer].sqrt()

    def score(self, rows: Rows) -> Tensor:
        """(F,), the same for every token after the prompt."""
        return self.statistic(rows.layer)


def relative_squares(a: Tensor) -> Tensor:
    """(N, F) squared activations divided by the row's sum of squares; rows of zeros stay zero."""
    square = a * a
    energy = square.sum(dim=1, keepdim=True)
    return torch.where(energy > 0, square / energy, 0)


class Griffin(Method):
    """Top-k of the prompt's relative activations."""

    name, title, rank, family = "griffin", "GRIFFIN", 5, "sRIDA"
    looks_at, decides = "the activations along the prompt", "once, at the end of the prompt"
    prefill, frozen = DENSE, True
    source = "arXiv 2404.01365"

    def bind(self, model: object, part: object, seed: int) -> Callable[[], Choice]:
        """A fresh statistic for every prompt."""
        return PromptStatistic

    def cost(self, shape: Shape, density: float) -> Cost:
        """All matrices shrink; a decoded token chooses nothing."""
        return Cost.of(shape, shape.matrices * density)


METHODS = (Griffin(),)
