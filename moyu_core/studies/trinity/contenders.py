"""The methods that take part on a model: prepared where they can be, else with the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moyu_core import methods
from moyu_core.home import Home
from moyu_core.methods import parts
from moyu_core.methods.protocol import Method, Ready
from moyu_core.spec import ModelIdentity, fingerprint

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


def contenders(model: LoadedModel, names: Sequence[str], home: Home) -> list[Contender]:
    """The methods in the order asked for.

    Raises:
        InputError: a name is not known.
    """
    return [_contender(model, methods.find(name), home) for name in names]


def _contender(model: LoadedModel, method: Method, home: Home) -> Contender:
    reason = method.applies(model)
    if reason:
        return Contender(method, UNFIT, None, reason)
    part = parts.find(method.part, model.identity, home) if method.part else None
    if method.part and part is None:
        return Contender(
            method,
            NOT_FITTED,
            None,
            f"it needs the fitted part {method.part!r}; make it with `moyu fit {method.part} --model {model.identity.name}`.",
        )
    return Contender(method, MEASURED, method.prepare(model, part))


def fitted(names: Sequence[str], identity: ModelIdentity, home: Home) -> dict[str, str | None]:
    """Part -> hash that identifies what it was fitted on and how, None where it is missing; part of a run's identity."""
    wanted = sorted({methods.find(name).part for name in names} - {""})
    found = {name: parts.find(name, identity, home) for name in wanted}
    return {name: None if part is None else fingerprint([part.data_hash, part.recipe])[:16] for name, part in found.items()}
