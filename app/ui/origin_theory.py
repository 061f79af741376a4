"""Page Origin, the derivation: every step in LaTeX with the numbers it gives at the chosen pre-activation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app.ui import origin_cached as reads
from app.ui import parts
from app.ui.links import linked
from moyu_core import theory
from moyu_core.figures import origin as figures
from moyu_core.figures.text import number
from moyu_core.monte_carlo import SignRow, Steps

FUNCTIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU"}
LOSS_NAMES = {"ce": "cross-entropy", "mse": "squared error"}
ARROWS = {1: "↓", -1: "↑", 0: "·"}
"""What descent does to p, by the sign of the gradient."""
RESOLVED = 3.0
"""Standard errors at which a sign counts as seen."""


def draw() -> None:
    """Draw the part."""
    name, p, loss = _choices()
    found = reads.steps(name, p, loss)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _derivation(name, loss, found)
    with right:
        _picture(loss, p)
    _table(loss, p)
    _beyond()


def _choices() -> tuple[str, float, str]:
    left, middle, right = st.columns([2, 4, 2])
    with left:
        name = linked("activation", "gelu", lambda: st.segmented_control(
            "Activation σ", list(FUNCTIONS), format_func=FUNCTIONS.__getitem__, key="activation", required=True),
            options=list(FUNCTIONS))
    with middle:
        p = linked("p", -0.5, lambda: st.slider("Pre-activation p of the neuron that is looked at", -4.0, 3.0, step=0.05, key="p"),
                   decode=_pre_activation)
    with right:
        loss = linked("loss", "ce", lambda: st.segmented_control(
            "Loss", list(LOSS_NAMES), format_func=LOSS_NAMES.__getitem__, key="loss", required=True), options=list(LOSS_NAMES))
    return name, p, loss


def _pre_activation(text: str) -> float:
    value = float(text)
    if not -4.0 <= value <= 3.0:
        raise ValueError(text)
    return round(round(value / 0.05) * 0.05, 2)


def _derivation(name: str, loss: str, found: Steps) -> None:
    st.subheader("The derivation, evaluated", divider="gray")
    _step(1, "A last layer at initialisation: the logits are linear in the activations, and V knows nothing yet.",
          r"\begin{gathered} f = V a,\quad a_i = \sigma(p_i) \\ V_{ki}\sim\mathcal N(0, s^2)\ \text{independent of}\ a,\,y"
          r"\end{gathered}",
          f"p = {found.p:g}, a = σ(p) = **{number(found.a)}**, σ'(p) = {number(found.slope)}; K = {found.classes} classes, s = "
          f"{found.s:g}")
    output = r"\pi" if loss == "ce" else "f"
    _step(2, "Backpropagation through V.",
          rf"\frac{{\partial L}}{{\partial a_i}} = \langle v_i,\ {output} - y\rangle" +
          (r",\quad \pi = \mathrm{softmax}(f)" if loss == "ce" else ""), "")
    _step(3, "The label's part vanishes on average, because V is independent of y.", r"\mathbb E\,\langle v_i, y\rangle = 0",
          f"Monte Carlo: {_pair(found.label)}")
    _stein(loss, found)
    _chain(name, found)


def _stein(loss: str, found: Steps) -> None:
    if loss == "ce":
        _step(4, "The rest does not: a class whose weight is larger gets a larger share. Stein's lemma makes it exact.",
              r"\mathbb E\,\langle v_i, \pi\rangle = s^2 \sum_k \mathbb E\,\frac{\partial \pi_k}{\partial f_k}\,a_i"
              r" = s^2 a_i\,(1 - \mathbb E\lVert\pi\rVert^2)",
              f"E‖π‖² = {_pair(found.square)}; closed form **{number(found.closed_a)}**, Monte Carlo {_pair(found.by_a)}")
        return
    _step(4, "The rest does not: the output contains the neuron's own weights.",
          r"\mathbb E\,\langle v_i, f\rangle = \sum_k \mathbb E\,V_{ki}^2\,a_i = K s^2 a_i",
          f"closed form **{number(found.closed_a)}**, Monte Carlo {_pair(found.by_a)}")


def _chain(name: str, found: Steps) -> None:
    _step(5, "So the gradient has the sign of a, for any activation function; through σ it becomes",
          r"\mathbb E\frac{\partial L}{\partial p_i} = \sigma'(p_i)\,\mathbb E\frac{\partial L}{\partial a_i}"
          r"\ \propto\ \frac{d\,\sigma(p_i)^2}{dp_i}",
          f"closed form **{number(found.closed_p)}**, Monte Carlo {_pair(found.by_p)}; {_agreement(found)}")
    low = theory.turning_point(name)
    turn = "" if np.isnan(low) else f" {FUNCTIONS[name]} turns at p = {low:.3f}."
    _step(6, "A step of gradient descent goes the other way: it shrinks σ(p)².",
          r"p_i \leftarrow p_i - \eta\,\sigma'(p_i)\,s^2 a_i(\cdots)",
          f"**{_consequence(name, found)}**{turn}")


def _step(number_: int, words: str, formula: str, live: str) -> None:
    st.markdown(f"**{number_}.** {words}")
    st.latex(formula)
    if live:
        st.caption(live)


def _pair(pair: tuple[float, float]) -> str:
    return f"{number(pair[0])} ± {number(pair[1])}"


def _agreement(found: Steps) -> str:
    if found.by_p[1] == 0:
        return "both are exactly 0"
    distance = abs(found.by_p[0] - found.closed_p) / found.by_p[1]
    return f"{distance:.1f} standard errors apart, {found.draws:,} draws of V"


def _consequence(name: str, found: Steps) -> str:
    """What descent does to this neuron, in words."""
    if found.closed_p == 0:
        reason = "its zero is exact, so is its gradient" if theory.function(name).exact_zeros else "a is 0, nothing can shrink"
        return f"The neuron stays where it is: {reason}."
    way = "down" if found.closed_p > 0 else "up"
    if found.p > 0:
        return f"p is pushed {way}: the active neuron is driven towards 0."
    return f"p is pushed {way}: |a| shrinks towards 0 without ever being exactly 0."


def _picture(loss: str, p: float) -> None:
    st.subheader("Which way p is pushed", divider="gray")
    lines = {name: reads.closed_form(name, loss) for name in FUNCTIONS}
    points = {name: _points(reads.sign_table(name, loss)) for name in FUNCTIONS}
    parts.chart(
        figures.drift(reads.GRID, lines, points, p), "Expected gradient by pre-activation for ReLU, GELU and SiLU",
        f"How to read this: lines are the closed form, points the mean of {reads.DRAWS:,} draws of V with three standard errors. "
        "Above 0 descent lowers p, below 0 it raises it; the lower panel enlarges what lies below 0. Dotted upright: the slider.",
        key="origin-drift")


def _points(rows: list[SignRow]) -> figures.Points:
    return tuple(np.asarray([getattr(row, name) for row in rows]) for name in ("p", "mean", "error"))  # pyright: ignore[reportReturnType]


def _table(loss: str, p: float) -> None:
    st.subheader("Sign table", divider="gray")
    cells = [{(name, row.p): row for row in reads.sign_table(name, loss)} for name in FUNCTIONS]
    rows = [{"p": f"\u25b8 {p:g}", **_at_slider(loss, p)}]
    for at in theory.POINTS:
        row = {"p": f"{at:g}"}
        for name, found in zip(FUNCTIONS, cells, strict=True):
            row |= _cells(name, found[name, at].expected, found[name, at].mean, found[name, at].error)
        rows.append(row)
    st.dataframe(pd.DataFrame(rows), hide_index=True,
                 alt="Sign of the expected gradient by pre-activation and activation function, closed form beside Monte Carlo")
    st.markdown(_agreement_of([row for found in cells for row in found.values()]))
    st.caption(f"\u25b8 the slider, by the draws of the steps above; the other rows by {reads.DRAWS:,}. E[dL/dp]: the closed form "
               "and what its sign makes of p, beside the Monte Carlo mean ± standard error. ↓ p is pushed down, ↑ p is pushed up, "
               "· nothing moves; ? = a sign that Monte Carlo does not resolve at three standard errors.")


def _agreement_of(rows: list[SignRow]) -> str:
    """How far the two columns are from each other, in words."""
    distances = [abs(row.mean - row.expected) / row.error for row in rows if row.error > 0]
    exact = sum(row.mean == row.expected for row in rows if row.error == 0)
    apart = sum(distance > RESOLVED for distance in distances)
    agree = "agree at every point" if not apart else f"disagree at {apart} of {len(distances)} points"
    return (f"Closed form and Monte Carlo **{agree}**: the largest of {len(distances)} distances is {max(distances):.1f} standard "
            f"errors ({RESOLVED:g} are allowed), and {exact} zeros are exact in both.")


def _at_slider(loss: str, p: float) -> dict[str, str]:
    found = {name: reads.steps(name, p, loss) for name in FUNCTIONS}
    return {key: text for name, each in found.items() for key, text in _cells(name, each.closed_p, *each.by_p).items()}


def _cells(name: str, expected: float, mean: float, error: float) -> dict[str, str]:
    """Closed form and Monte Carlo of one activation function as two cells."""
    unresolved = " ?" if error > 0 and abs(mean) <= RESOLVED * error else ""
    label = FUNCTIONS[name]
    return {f"{label}, closed form": f"{ARROWS[int(np.sign(expected))]} {number(expected)}",
            f"{label}, Monte Carlo": f"{number(mean)} ± {number(error)}{unresolved}"}


def _beyond() -> None:
    st.subheader("What the theorem does not cover", divider="gray")
    st.markdown(
        "- **Only the last layer, only at initialisation.** V must be independent of everything else; after the first step it "
        "is not. Earlier layers act through later ones, where the statement is a heuristic.\n"
        "- **The residual stream.** Logits see the sum of all layers, and tied embeddings make that sum know the readout.\n"
        "- **The final norm.** With its scale free the loss does not change along the stream, and the effect averages out: see "
        "*Real model*.\n"
        "- **Adam and weight decay.** A step that is divided by its own size does not follow the mean gradient; decay shrinks "
        "weights whatever the gradient says.\n"
        "- **Gated layers.** With a = act(g)·u both factors shrink, by the same table. Only ReLU turns shrinking into exact zeros.")
    st.caption("Statement: Li et al., arXiv 2210.06313, taken up by MOYU, arXiv 2406.12569. Closed forms and the table for GELU "
               "and SiLU: our derivation (moyu_core/theory.py).")
