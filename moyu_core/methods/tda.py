"""TDA, prompt-frozen (arXiv 2408.11393), in our reading: a threshold found offline decides which neurons of the prompt stay.

The paper's text was not at hand, only its abstract and summaries: a mask for each layer from the prompt, from L2 norms of FFN
activations, "relative magnitude", thresholds found offline. Two readings of the magnitude are offered. Unlike GRIFFIN the
size of the set is not fixed: the threshold is that whose mean density over calibration prompts is the asked one. Not to be
confused with `cett`, the per-token threshold that the same authors' earlier paper calls by the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.methods import calibration
from moyu_core.methods.griffin import PromptStatistic, relative_squares
from moyu_core.methods.protocol import DENSE, Choice, Cost, Rows, Shape, ThresholdChoice

if TYPE_CHECKING:
    from moyu_core.methods.parts import Part
    from moyu_core.models import LoadedModel


def relative_magnitude(rows: Rows) -> Tensor:
    """(N, F) squares whose mean over the prompt is the square of the root mean square of a / ||a||."""
    return relative_squares(rows.a)


def contribution_magnitude(rows: Rows) -> Tensor:
    """(N, F) squares whose mean over the prompt is the square of the root mean square of |a| c."""
    return rows.contribution.square()


class _Choice(ThresholdChoice):
    def __init__(self, magnitude: Callable[[Rows], Tensor], threshold: Callable[[int, float], float]) -> None:
        self._prompt, self._magnitude, self._threshold = PromptStatistic(), magnitude, threshold

    def see(self, rows: Rows) -> None:
        """Add up the squares; the number of tokens is counted beside them."""
        known = self._prompt.squares.get(rows.layer)
        new = self._magnitude(rows).sum(dim=0)
        self._prompt.squares[rows.layer] = new if known is None else known + new
        self._prompt.tokens[rows.layer] = self._prompt.tokens.get(rows.layer, 0) + len(rows.a)

    def score(self, rows: Rows) -> Tensor:
        """(F,) root mean square over the prompt."""
        return self._prompt.statistic(rows.layer) / self._prompt.tokens[rows.layer] ** 0.5

    def threshold(self, layer: int, density: float) -> float:
        """From calibration prompts."""
        return self._threshold(layer, density)


class PromptFrozen(calibration.CalibratedMethod):
    """m_i >= threshold, m_i the RMS over the prompt of the neuron's share of its row, a / ||a||."""

    name, title, rank, family = "tda", "TDA, prompt-frozen (our reading)", 4, "TDA"
    looks_at, decides = "the activations along the prompt, against a threshold found offline", "once, at the end of the prompt"
    prefill, frozen = DENSE, True
    source = "arXiv 2408.11393, our reading"
    magnitude: Callable[[Rows], Tensor] = staticmethod(relative_magnitude)
    quantiles = "tda_relative"

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """The calibrated thresholds."""
        if part is None:
            raise InputError(f"{self.title} needs its thresholds.")
        threshold = calibration.threshold_of(part, self.quantiles)
        return lambda: _Choice(self.magnitude, threshold)

    def cost(self, shape: Shape, density: float) -> Cost:
        """All matrices shrink; a decoded token chooses nothing."""
        return Cost.of(shape, shape.matrices * density)


class PromptFrozenContribution(PromptFrozen):
    """The same with m_i the RMS over the prompt of |a| c, commensurate with CETT's threshold."""

    name, title, rank = "tda-contribution", "TDA, prompt-frozen by |a|c (our reading)", 4
    magnitude = staticmethod(contribution_magnitude)
    quantiles = "tda_contribution"


METHODS = (PromptFrozen(), PromptFrozenContribution())
