"""The card of the page History: what was found, in sentences built from the numbers and the verdicts."""

from __future__ import annotations

import html

from app.ui import history_cached as reads
from moyu_core.claims import NOT_RESOLVED, NOT_SUPPORTED, SUPPORTED, Claim
from moyu_core.store import Run

PAIR = "predictor, SwiGLU against ReLU"


def sentence(run: Run, models: list[str]) -> str:
    """HTML for the card: the first model in full, the comparison where there is a matched pair."""
    claims = reads.claims(run.id)
    said = [_uncertainty(claims[f"uncertainty, {models[0]}"])]
    if f"transplant, {models[0]}" in claims:
        said.append(_transplant(claims[f"transplant, {models[0]}"]))
    others = [claims[name] for model in models[1:] if (name := f"uncertainty, {model}") in claims]
    if others:
        said.append("U elsewhere: " + ", ".join(f"{html.escape(claim.model)} {_interval(claim)}" for claim in others) + ".")
    said.append(_pair(claims[PAIR]) if PAIR in claims else _alone(models))
    return " ".join(said)


def _uncertainty(claim: Claim) -> str:
    end = {
        SUPPORTED: "so which neurons are active does depend on the history, as the paper says",
        NOT_SUPPORTED: "so the token decides nearly all of it: the paper's claim does not hold here",
        NOT_RESOLVED: "and whether that is enough to matter is not resolved",
    }[claim.verdict]
    if not claim.effect.known:
        return f"{html.escape(claim.model)}: U could not be measured."
    model = html.escape(claim.model)
    return f"{model}: with the token known, <b>U = {_interval(claim)}</b> of what tells two sets apart is still open, {end}."


def _transplant(claim: Claim) -> str:
    end = {
        SUPPORTED: "so the history's share of the set matters for what comes next",
        NOT_SUPPORTED: "which is less than would matter",
        NOT_RESOLVED: "and whether that matters is not resolved",
    }[claim.verdict]
    return f"The set of the same token behind another history costs <b>{_interval(claim)}</b> nats more than its own, {end}."


def _pair(claim: Claim) -> str:
    end = {
        SUPPORTED: "so the SwiGLU model's predictor suffers more from new histories, as the paper says",
        NOT_SUPPORTED: "so “worse for activations other than ReLU” <b>does not hold</b> for this pair",
        NOT_RESOLVED: "so whether it is worse for activations other than ReLU is <b>not resolved</b>",
    }.get(claim.verdict, "")
    return (
        f"Between matched models, the predictor's loss of recall from seen to unseen domains differs by {_interval(claim)} "
        f"(SwiGLU less ReLU; {html.escape(claim.units)}), {end}."
    )


def _alone(models: list[str]) -> str:
    return (
        "Whether it is worse for activations other than ReLU cannot be told from "
        + ("one model" if len(models) == 1 else "these models")
        + ": it needs a matched pair with predictors."
    )


def _interval(claim: Claim) -> str:
    return html.escape(claim.effect.text())
