"""Page Origin, a real model: can the sign be resolved over seeds, with the final norm's scale fixed and free?"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.ui import origin_cached as reads
from app.ui import parts
from app.ui.choices import choose_run
from moyu_core.claims import NOT_APPLICABLE, Claim
from moyu_core.figures import origin as figures
from moyu_core.figures.text import number, percent
from moyu_core.store import Run

FREE, FIXED, TRAINED = "root cause, scale free", "root cause, scale fixed", "root cause, trained"
LABELS = {FIXED: "fixed", FREE: "free (the model)"}


def draw() -> None:
    """Draw the part."""
    runs = list(reads.origin_runs())
    if not runs:
        parts.empty("The sign has not been measured in a model yet; `moyu study origin` does it.", "runs", "See the runs")
        return
    run = choose_run("origin_run", runs, _label, "Model")
    found = reads.claims(run.id)
    left, right = st.columns(2, gap="large")
    with left:
        _initial(run, found)
    with right:
        _by_layer(run, found[TRAINED])
    _norm()


def _label(run: Run) -> str:
    return f"{run.manifest['model']['name']} · {run.manifest['scope']['seeds']} seeds · {run.manifest['scope']['prompts']} texts"


def _initial(run: Run, found: dict[str, Claim]) -> None:
    st.subheader("At initialisation, last layer", divider="gray")
    judged = {name: found[name] for name in LABELS if found[name].verdict != NOT_APPLICABLE}
    if not judged:
        st.info("The closed form does not hold in this architecture (a norm behind the FFN or logits that are no linear readout), "
                "so there is nothing to compare with.")
        return
    effects = [claim.effect for claim in judged.values()]
    figure = figures.effects([LABELS[name] for name in judged], [e.mean for e in effects], [e.low for e in effects],
                             [e.high for e in effects], found[FREE].smallest_effect)
    parts.chart(figure, "Measured sign over closed form with the norm's scale fixed and free",
                f"How to read this: 1 = the theorem in full, 0 = nothing, dotted = the smallest effect that matters "
                f"({found[FREE].smallest_effect:g}, fixed before the run); diamonds with 95 % t intervals over "
                f"{found[FREE].units}. {run.id}.",
                key="origin-effects")
    columns = {LABELS[name]: _column(run, name, claim) for name, claim in judged.items()}
    st.dataframe(pd.DataFrame(columns).rename_axis("scale of the norm"), alt="Sign measure at initialisation with verdicts")
    st.caption("Verdicts are corrected for both being asked (Holm). The theorem's network has no norm, so *theorem* is the closed "
               "form with the scale fixed. *Closed form*, in nats per unit of a, is computed for either scale on the same weights "
               "and texts; with the scale free it says what is left of the effect in the model as it is.")



def _column(run: Run, name: str, claim: Claim) -> dict[str, str]:
    measured, expected = reads.last_layer(run.id)["free" if name == FREE else "fixed"]
    return {"verdict": claim.verdict, "measured / theorem": claim.effect.text(),
            "sign(a)·dL/da": f"{measured.mean:.2e}", "closed form": f"{expected:.2e}"}


def _by_layer(run: Run, trained: Claim) -> None:
    st.subheader("All layers, and as trained", divider="gray")
    lines = {condition: reads.sign_by_layer(run.id, condition) for condition in ("initial", "trained")}
    parts.chart(figures.sign_by_layer(lines), "Sign measure by layer at initialisation and as trained",
                "How to read this: mean of sign(a)·dL/da as a share of the mean |dL/da|, the final norm as it is; bands hold "
                "for all layers at once (over seeds at initialisation, over texts as trained). The theorem speaks of the last "
                "layer only.",
                key="origin-layers")
    effect = trained.effect
    interval = f", 95 % interval {percent(effect.low)} to {percent(effect.high)}" if effect.known else ""
    st.markdown(f"As trained, last layer: {percent(effect.mean)} of |dL/da|{interval} over {trained.units}. Verdict: "
                f"**{trained.verdict}**. At a minimum the mean gradient is about zero whatever made it so; this is a "
                "description, no test of the theorem.")
    scope, note = run.manifest["scope"], run.manifest["model"].get("note")
    st.caption(f"{scope['prompts']} texts, {scope['tokens']:,} tokens, position 0 left out; matrices drawn from N(0, "
               f"{number(run.manifest['initialiser'])}²).{f' Trained weights: {note}.' if note else ''}")


def _norm() -> None:
    with st.expander("Why the norm takes the effect away"):
        st.markdown("In front of the final norm the stream is h = h₀ + W a, with W the down projection. Stein's lemma again, for "
                    "any loss:")
        st.latex(r"\mathbb E\frac{\partial L}{\partial a_i} = s^2 a_i\ \mathbb E\,\Delta_h L")
        st.markdown(
            "The norm makes L constant along h (h·∂L/∂h = 0), so over all directions of h its Laplacian averages to 0: on a "
            "sphere nothing is convex everywhere. With the norm's divisor held fixed for the gradient, as in the theorem's "
            "network without a norm, only the positive curvature of the softmax is left:")
        st.latex(r"\mathbb E\frac{\partial L}{\partial a_i} \approx \frac{s^2 a_i}{r^2}\ \mathbb E\,\mathrm{tr}\,U^{\!\top}"
                 r"(\mathrm{diag}\,\pi - \pi\pi^{\!\top})\,U\ >\ 0")
        st.markdown(
            "U is the readout, r the divisor (our derivation, moyu_core/studies/origin_gradients.py, with the small terms left "
            "out here). Every seed is used twice, with W and with −W, which are equally likely: the part of the gradient that "
            "is odd in W has mean zero and would otherwise drown the rest.")
