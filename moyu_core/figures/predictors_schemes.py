"""The four schemes of dynamic activation as stepped drawings: which router looks at what, when, with one token's real numbers.

TDA looks at the finished activation and drops small ones; RODA (DejaVu) predicts outside the FFN from an earlier state; RIDA
(MoEfication, mixtures of experts) routes by the FFN's own input; sRIDA (GRIFFIN) looks along the prompt once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moyu_core.figures import scheme_drawing
from moyu_core.figures.scheme_drawing import Arrow, Box, Scheme
from moyu_core.figures.text import number, percent, visible

SCHEMES = {
    "cett": "TDA: threshold on what was computed",
    "dejavu": "RODA: a predictor ahead of the FFN",
    "moefication": "RIDA: a router at the FFN's input",
    "native": "RIDA: the router that the model was trained with",
    "griffin": "sRIDA: the prompt decides once",
}
"""Method that stands for the scheme -> its title."""


@dataclass(frozen=True)
class SchemeValues:
    """The numbers of one token in one layer under one method.

    Attributes:
        method: key of SCHEMES.
        token, position, layer: which; prompt_tokens: length of the prompt, sink token included.
        d: width of the residual stream; matrices: 2 or 3 of d x F.
        needed, kept: (F,) booleans.
        energy: captured energy of the token.
        choosing_macs: multiply-adds of the router for a token.
        rank: of DejaVu's predictor, 0 elsewhere.
        experts: (F,) expert of each neuron, empty elsewhere.
    """

    method: str
    token: str
    position: int
    layer: int
    prompt_tokens: int
    d: int
    matrices: int
    needed: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    energy: float
    choosing_macs: float = 0
    rank: int = 0
    experts: NDArray[np.int64] | None = None

    @property
    def n_neurons(self) -> int:
        """F."""
        return len(self.needed)

    @property
    def counts(self) -> tuple[int, int, int]:
        """(hits, misses, false alarms)."""
        hits = int((self.needed & self.kept).sum())
        return hits, int(self.needed.sum()) - hits, int(self.kept.sum()) - hits

    @property
    def chosen_experts(self) -> list[int]:
        """The experts whose neurons were kept."""
        return [] if self.experts is None or not len(self.experts) else sorted({int(e) for e in self.experts[self.kept]})


def scheme(values: SchemeValues) -> Scheme:
    """The drawing of the method's scheme with these numbers."""
    return _DRAWINGS[values.method](values)


def svg(values: SchemeValues, step: int) -> str:
    """The drawing after a step, counted from 0, as an SVG element."""
    under = scheme_drawing.strip(values.needed, values.kept)
    return scheme_drawing.svg(scheme(values), step, f"scheme-{values.method}", SCHEMES[values.method], under)


def _token(values: SchemeValues) -> tuple[str, ...]:
    return (f"token {visible(values.token)}", f"position {values.position}", f"layer {values.layer}")


def _ffn(values: SchemeValues, first: str) -> tuple[str, ...]:
    return (first, f"{int(values.kept.sum())} of {values.n_neurons} neurons", f"{values.matrices} matrices x {values.d}")


def _end(values: SchemeValues) -> str:
    """The last sentence of every scheme: what came of it."""
    hits, misses, alarms = values.counts
    return (f"Of {hits + misses} needed neurons {hits} were kept and {misses} missed; {alarms} were kept for nothing. What is "
            f"missing has {percent(1 - values.energy)} of the layer's output in length: captured energy {values.energy:.2f}.")


def _saved(values: SchemeValues, left: float) -> str:
    whole = values.matrices * values.d * values.n_neurons
    run = left + values.choosing_macs
    return f"{number(run)} of {number(whole)} multiply-adds ({percent(run / whole)})"


def _line(*points: tuple[float, float], step: int) -> Arrow:
    return Arrow(points, step)


def _tda(values: SchemeValues) -> Scheme:
    left = (values.matrices - 1 + values.kept.mean()) * values.d * values.n_neurons
    first = "gate and up" if values.matrices == 3 else "first matrix"
    boxes = (
        Box(20, 20, 130, 62, ("calibration text", "threshold eps", "for each layer"), 0),
        Box(20, 120, 130, 62, _token(values), 1),
        Box(190, 120, 150, 62, (first, f"all {values.n_neurons} neurons", "computed"), 1),
        Box(380, 70, 150, 62, ("is |a|·c >= eps?", f"{int(values.kept.sum())} of {values.n_neurons}", "pass"), 2, router=True),
        Box(570, 120, 170, 62, ("W_down", f"{int(values.kept.sum())} columns", "are read"), 3),
    )
    arrows = (_line((150, 51), (455, 51), (455, 68), step=0), _line((150, 151), (188, 151), step=1),
              _line((340, 145), (360, 145), (360, 101), (378, 101), step=2), _line((530, 101), (655, 101), (655, 118), step=3))
    steps = (
        "Before anything runs, a threshold for each layer is found on calibration text, so that what lies below it adds 20 % of "
        "the output's length on average.",
        f"The token {visible(values.token)} arrives at layer {values.layer}. Every neuron is computed: the router of this scheme "
        "looks at the result itself.",
        f"Each neuron's contribution |a|·c is compared with the threshold: {int(values.kept.sum())} of "
        f"{values.n_neurons} pass. How "
        "many pass differs from token to token.",
        f"Only W_down is spared: {_saved(values, float(left))}. {_end(values)}",
    )
    return Scheme(boxes, arrows, steps)


def _roda(values: SchemeValues) -> Scheme:
    kept = float(values.kept.mean()) * values.matrices * values.d * values.n_neurons
    boxes = (
        Box(20, 120, 130, 62, _token(values), 0),
        Box(190, 20, 170, 70, ("predictor", f"{values.d} → {values.rank} → {values.n_neurons}", "outside the FFN"), 1, True),
        Box(400, 20, 150, 70, ("largest logits", f"{int(values.kept.sum())} neurons", "chosen"), 2, router=True),
        Box(190, 120, 170, 62, ("norm", "the FFN's own input", "is not asked"), 3),
        Box(570, 120, 170, 62, _ffn(values, "FFN"), 3),
    )
    arrows = (_line((85, 118), (85, 55), (188, 55), step=1), _line((360, 55), (398, 55), step=2),
              _line((550, 55), (655, 55), (655, 118), step=3), _line((150, 151), (188, 151), step=3),
              _line((360, 151), (568, 151), step=3))
    steps = (
        f"The token {visible(values.token)} is in the residual stream in front of layer {values.layer}'s FFN.",
        f"A small predictor, trained on other text, reads that state: {values.d} numbers through {values.rank} to one logit for "
        f"each of {values.n_neurons} neurons, {number(values.choosing_macs)} multiply-adds.",
        f"The {int(values.kept.sum())} neurons with the largest logits are chosen, anew for every token. Nothing of the FFN has "
        "been computed yet.",
        f"The FFN runs with these rows and columns only: {_saved(values, kept)}. {_end(values)}",
    )
    return Scheme(boxes, arrows, steps)


def _rida(values: SchemeValues) -> Scheme:
    kept = float(values.kept.mean()) * values.matrices * values.d * values.n_neurons
    chosen = values.chosen_experts
    total = 0 if values.experts is None or not len(values.experts) else int(values.experts.max()) + 1
    size = values.n_neurons // max(total, 1)
    named = ", ".join(map(str, chosen[:6])) + (" ..." if len(chosen) > 6 else "")
    own = values.method == "native"
    origin = f"of {size} neurons each, trained together with it" if own else (
        f"groups of {size} neurons that were clustered by their weights")
    closing = " There is no dense model behind it: what the router leaves out was never part of the output." if own else ""
    boxes = (
        Box(20, 120, 130, 62, _token(values), 0),
        Box(190, 120, 130, 62, ("norm", "the FFN's input x", f"{values.d} numbers"), 0),
        Box(190, 20, 170, 70, ("router", f"{values.d} → {total} experts", "at the FFN's door"), 1, router=True),
        Box(400, 20, 150, 70, (f"{len(chosen)} of {total} experts", named or "none", f"{size} neurons each"), 2, router=True),
        Box(570, 120, 170, 62, _ffn(values, "experts chosen"), 3),
    )
    arrows = (_line((150, 151), (188, 151), step=0), _line((255, 118), (255, 92), step=1), _line((360, 55), (398, 55), step=2),
              _line((550, 55), (655, 55), (655, 118), step=3), _line((320, 151), (568, 151), step=3))
    steps = (
        f"The token {visible(values.token)} has passed the norm: x is what the FFN of layer {values.layer} would work on.",
        f"A router reads the same x and gives a score to each of {total} experts, {origin}: {number(values.choosing_macs)} "
        "multiply-adds.",
        f"The {len(chosen)} best experts are taken: {named or 'none'}. A group comes whole, with neurons that are not needed.",
        f"Only these experts run: {_saved(values, kept)}. {_end(values)}{closing}",
    )
    return Scheme(boxes, arrows, steps)


def _srida(values: SchemeValues) -> Scheme:
    kept = float(values.kept.mean()) * values.matrices * values.d * values.n_neurons
    since = values.position - values.prompt_tokens
    boxes = (
        Box(20, 20, 150, 70, ("prompt", f"{values.prompt_tokens} tokens", "run dense"), 0),
        Box(210, 20, 160, 70, ("statistic s", "length of a / ||a||", "along the prompt"), 1, router=True),
        Box(410, 20, 150, 70, ("largest s", f"{int(values.kept.sum())} neurons", "frozen"), 2, router=True),
        Box(20, 120, 150, 62, _token(values), 3),
        Box(570, 120, 170, 62, _ffn(values, "FFN"), 3),
    )
    arrows = (_line((170, 55), (208, 55), step=1), _line((370, 55), (408, 55), step=2),
              _line((560, 55), (655, 55), (655, 118), step=3), _line((170, 151), (568, 151), step=3))
    when = f"as number {since + 1} after the prompt" if since >= 0 else "inside the prompt, where the set did not exist yet"
    steps = (
        f"The prompt of {values.prompt_tokens} tokens runs with all {values.n_neurons} neurons of layer {values.layer}.",
        "Every token's activations are divided by their length, so that no single token decides; s is each neuron's length over "
        "the prompt.",
        f"The {int(values.kept.sum())} largest are kept, once. From here on nothing is chosen any more: the router is off.",
        f"The token {visible(values.token)} comes {when} and uses the same set: {_saved(values, kept)}. {_end(values)}",
    )
    return Scheme(boxes, arrows, steps)


_DRAWINGS: dict[str, Callable[[SchemeValues], Scheme]] = {"cett": _tda, "dejavu": _roda, "moefication": _rida,
                                                          "native": _rida, "griffin": _srida}


def shown(available: Sequence[str]) -> list[str]:
    """The schemes whose method is in a run."""
    return [method for method in SCHEMES if method in available]
