"""The card of the page Inertia: what was found, in sentences built from the numbers and the verdicts."""

from __future__ import annotations

import html
import math

from app.ui import inertia_cached as reads
from moyu_core.claims import NOT_SUPPORTED, SUPPORTED, Claim
from moyu_core.figures.text import percent
from moyu_core.intervals import Interval
from moyu_core.store import Run

BASELINE = "not distinguishable from the baseline"


def sentence(run: Run) -> str:
    """HTML for the card."""
    claims = reads.claims(run.id)
    said = [_inertia(claims["inertia"])]
    if claims["inertia"].effect.excludes(0):
        said.append(_meaning(claims["whatever the meaning"]))
    if "the prefix carries the set" in claims:
        said.append(_prefix(claims["the prefix carries the set"]))
    return " ".join(part for part in said if part)


def _inertia(claim: Claim) -> str:
    effect = claim.effect
    model = html.escape(claim.model)
    if not math.isfinite(effect.mean):
        return f"{model}: one text has no other text to be compared with, so there is no inertia index."
    index = f"I = <b>{_interval(effect)}</b>"
    if not effect.known:
        return (
            f"{model}: sharing a context adds {index} of what could be added to the overlap of two words; no "
            f"interval ({claim.units})."
        )
    if not effect.excludes(0):
        return f"{model}: what sharing a context adds to the overlap of two words is <b>{BASELINE}</b> ({index}, {claim.units})."
    if effect.mean < 0:
        return f"{model}: sharing a context makes the sets of two words <b>less</b> alike ({index}, {claim.units})."
    said = {SUPPORTED: "so there is inertia", NOT_SUPPORTED: f"less than the {percent(claim.smallest_effect)} that would matter"}
    verdict = said.get(
        claim.verdict, f"and whether that is more than the {percent(claim.smallest_effect)} that matter is not resolved"
    )
    return (
        f"{model}: sharing a context adds <b>{percent(effect.mean)}</b> of what could be added to the overlap of two words "
        f"({index}, {claim.units}), {verdict}."
    )


def _meaning(claim: Claim) -> str:
    if not claim.effect.known:
        return ""
    share = f"<b>{_interval(claim.effect, 2)}</b>"
    end = {
        SUPPORTED: "so meaning hardly matters, as the paper says",
        NOT_SUPPORTED: "so meaning <b>does</b> matter: the paper's “whatever the meaning” does not hold here",
    }
    verdict = end.get(
        claim.verdict, f"and whether that is at least {claim.smallest_effect:g}, as “whatever the meaning” asks, is not resolved"
    )
    return f"Random words keep {share} of the inertia of sentences, {verdict}."


def _prefix(claim: Claim) -> str:
    if not claim.effect.known:
        return ""
    gain = f"<b>{_interval(claim.effect, 2)}</b> nats"
    if not claim.effect.excludes(0):
        return (
            f"As a set to compute with, the prefix's neurons against a fixed set are {BASELINE} (KL(static) - KL(prefix) = {gain})."
        )
    if claim.effect.mean < 0:
        return (
            f"As a set to compute with, the prefix's neurons serve <b>worse</b> than a fixed set (KL(static) - "
            f"KL(prefix) = {gain})."
        )
    return f"As a set to compute with, the prefix's neurons serve better than a fixed set by {gain} ({claim.verdict})."


def _interval(interval: Interval, digits: int = 3) -> str:
    return html.escape(interval.text(digits))
