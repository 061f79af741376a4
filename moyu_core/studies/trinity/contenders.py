"""The methods that take part on a model: prepared where they can be, else with the reason why not.

Parts that are missing are fitted first, as in every study; where that cannot be done (no calibration text without the internet,
say) the methods that need them are left out with the reason, and the others are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moyu_core import methods
from moyu_core.errors import Cancelled, MoyuError
from moyu_core.home import Home
from moyu_core.methods.parts import Part
from moyu_core.methods.protocol import Method, Ready
from moyu_core.progress import Reporter, silent
from moyu_core.studies.predictors.study import fitted_parts

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

MEASURED, UNFIT, NOT_FITTED = "measured", "unfit", "not fitted"
OWN_SIZE = 0.0
"""Stands in tables where a density would for a method whose size follows from something else; no density is 0."""


@dataclass(frozen=True)
class Contender:
    """One method on one model.

    Attributes:
        method: the method.
        state: measured, unfit or not fitted (schema.trinity.STATES).
        ready: prepared, None where it cannot be.
        reason: why not, one sentence; empty where it can.
    """

    method: Method
    state: str
    ready: Ready | None = None
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """A row of the table `methods`."""
        names = ("title", "family", "steerable", "frozen")
        return {
            "method": self.method.name,
            **{name: getattr(self.method, name) for name in names},
            "state": self.state,
            "reason": self.reason,
        }

    def densities(self, wanted: Sequence[float]) -> list[float]:
        """Densities to measure it at; its own size where that cannot be steered."""
        return list(wanted) if self.method.steerable else [OWN_SIZE]


def asked(density: float) -> float:
    """What a method is asked for: any density below 1 gives the own size of those that have one."""
    return 0.5 if density == OWN_SIZE else density


def contenders(model: LoadedModel, names: Sequence[str], home: Home, report: Reporter = silent) -> list[Contender]:
    """The methods in the order asked for; parts that are missing are fitted and saved.

    Raises:
        InputError: a name is not known.
    """
    known: dict[str, Part | str] = {}
    return [_contender(model, method, home, known, report) for method in map(methods.find, names)]


def _contender(model: LoadedModel, method: Method, home: Home, known: dict[str, Part | str], report: Reporter) -> Contender:
    """One of them; `known` holds the parts so far, or why there is none."""
    reason = method.applies(model)
    if reason:
        return Contender(method, UNFIT, None, reason)
    if method.part and method.part not in known:
        known[method.part] = _part(model, method, home, report)
    part = known.get(method.part)
    if isinstance(part, str):
        return Contender(method, NOT_FITTED, None, part)
    return Contender(method, MEASURED, method.prepare(model, part))


def _part(model: LoadedModel, method: Method, home: Home, report: Reporter) -> Part | str:
    """The part that the method needs, or why it cannot be had."""
    try:
        return fitted_parts(model, [method], home, report)[method.part]
    except Cancelled:
        raise
    except MoyuError as error:
        return f"it needs the fitted part {method.part!r}, which could not be made here: {error}"
