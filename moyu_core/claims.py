"""A claim, the paper's or our own, as a record that is judged by one endpoint with an interval, and never by looking.

Supported: the effect is above the smallest one that matters; not supported: it is below it; else not resolved. Where the
theory does not speak the verdict is "not applicable". Holm's correction runs over the claims that are judged together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scipy.special import stdtr

from moyu_core.intervals import LEVEL, Interval, holm

SUPPORTED, NOT_SUPPORTED, NOT_RESOLVED, NOT_APPLICABLE = "supported", "not supported", "not resolved", "not applicable"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, NOT_RESOLVED, NOT_APPLICABLE)


@dataclass(frozen=True)
class Claim:
    """One claim, its endpoint and what came out.

    Attributes:
        name: short, unique in its run.
        statement: what is claimed, one sentence.
        source: paper and place, or "our definition".
        endpoint: the one measure that decides, with its unit.
        smallest_effect: delta, the smallest effect that matters, fixed before the run; in the endpoint's unit.
        effect: the measured effect over units.
        model: which model.
        units: what was resampled, for instance "8 topics".
        verdict: one of VERDICTS, set by `judge`.
    """

    name: str
    statement: str
    source: str
    endpoint: str
    smallest_effect: float
    effect: Interval
    model: str
    units: str
    verdict: str = NOT_RESOLVED

    @property
    def ours(self) -> bool:
        """Whether it is this project's own claim and not the paper's."""
        return self.source.startswith("our definition")

    def as_json(self) -> dict[str, Any]:
        """For the manifest; `from_json` is the inverse. Bounds that do not exist are null."""
        data = asdict(self)
        data["effect"] = {key: value if value == value else None for key, value in data["effect"].items()}
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Claim:
        """The claim that `as_json` wrote."""
        effect: dict[str, Any] = {key: float("nan") if value is None else value for key, value in data["effect"].items()}
        return Claim(**{**data, "effect": Interval(**effect)})


def verdict(effect: Interval, smallest_effect: float) -> str:
    """The verdict of one claim by its own interval: lower bound > delta, upper bound < delta, or neither."""
    if not effect.known:
        return NOT_RESOLVED
    if effect.low > smallest_effect:
        return SUPPORTED
    return NOT_SUPPORTED if effect.high < smallest_effect else NOT_RESOLVED


def judge(claims: Sequence[Claim], level: float = LEVEL) -> list[Claim]:
    """The claims with their verdicts, Holm-corrected in either direction; those not applicable stay so and do not count."""
    open_ones = [claim for claim in claims if claim.verdict != NOT_APPLICABLE]
    alpha = (1 - level) / 2
    above = holm([_p_above(claim) for claim in open_ones])
    below = holm([_p_below(claim) for claim in open_ones])
    judged = {
        claim.name: SUPPORTED if up < alpha else NOT_SUPPORTED if down < alpha else NOT_RESOLVED
        for claim, up, down in zip(open_ones, above, below, strict=True)
    }
    return [replace(claim, verdict=judged.get(claim.name, claim.verdict)) for claim in claims]


def _p_above(claim: Claim) -> float:
    """One-sided p-value against "the effect is at most delta"."""
    effect = claim.effect
    if not effect.known:
        return 1.0
    if effect.error == 0:
        return 0.0 if effect.mean > claim.smallest_effect else 1.0
    return float(stdtr(effect.n - 1, (claim.smallest_effect - effect.mean) / effect.error))


def _p_below(claim: Claim) -> float:
    """One-sided p-value against "the effect is at least delta"."""
    effect = claim.effect
    if not effect.known:
        return 1.0
    if effect.error == 0:
        return 0.0 if effect.mean < claim.smallest_effect else 1.0
    return float(stdtr(effect.n - 1, (effect.mean - claim.smallest_effect) / effect.error))
