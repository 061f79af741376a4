"""Page: where over-activation comes from, as a derivation that runs, matched models, a live training and a real model."""

import streamlit as st

from app.ui import origin_cached as reads
from app.ui import origin_curves, origin_live, origin_model, origin_theory, parts
from app.ui.choices import choose_part
from moyu_core.figures.text import percent

HOW_TO_READ = """
**Over-activation** is the paper's word for models that light up more neurons than they need. Its root cause, it says: at
initialisation the expected gradient of the loss lowers active neurons, so few end up doing the work. *Derivation* evaluates that
step by step; *Along training* shows three models that differ in their activation alone; *Train one* does it before your eyes;
*Real model* asks whether the sign can be seen in a model's own shape. Positive sign(a)·dL/da: descent shrinks |a|.
"""
PARTS = {
    "derivation": ("Derivation", origin_theory.draw),
    "training": ("Along training", origin_curves.draw),
    "live": ("Train one", origin_live.draw),
    "model": ("Real model", origin_model.draw),
}


def _finding() -> None:
    """One sentence from the tracked numbers."""
    said = [sentence for sentence in (_zeros(), _sign()) if sentence]
    if said:
        parts.finding(" ".join(said))


def _zeros() -> str:
    runs = reads.runs_of("training")
    if not runs:
        return ""
    zeros, loss = (reads.at_the_end(runs[0].id, measure) for measure in ("zero_share", "held_out_loss"))
    if not {"relu", "gelu", "swiglu"} <= set(zeros):
        return ""
    low, high = min(e.mean for e in loss.values()), max(e.mean for e in loss.values())
    relu, gelu, swiglu = (percent(zeros[name].mean) for name in ("relu", "gelu", "swiglu"))
    return (f"Trained alike to the same loss ({low:.3f} to {high:.3f} nats a token), <b>{relu}</b> of the ReLU model's activations "
            f"end up exactly 0, {gelu} of GELU's and {swiglu} of SwiGLU's.")


def _sign() -> str:
    runs = reads.origin_runs()
    if not runs:
        return ""
    found = reads.claims(runs[0].id)
    fixed, free = found[origin_model.FIXED], found[origin_model.FREE]
    if not fixed.effect.n:
        return ""
    return (f"At initialisation of {free.model} the theorem's sign is <b>{fixed.verdict}</b> with the final norm held fixed "
            f"({fixed.effect.text()} of the closed form) and <b>{free.verdict}</b> in the model as it is ({free.effect.text()}).")


parts.header("Origin", "Where over-activation comes from: why training switches neurons off, and when that makes exact zeros.",
             HOW_TO_READ)
_finding()
if "origin_run" in st.query_params and not {"part"} & {*st.query_params, *st.session_state}:
    st.session_state["part"] = "model"  # a link that names a run of the study, as those of the page Findings do
chosen = choose_part({key: name for key, (name, _) in PARTS.items()})
parts.guarded(PARTS[chosen][1])
