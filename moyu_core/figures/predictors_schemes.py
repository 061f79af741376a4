"""The four schemes of dynamic activation as stepped drawings: which router looks at what, when, with one token's real numbers.

TDA looks at the finished activation and drops small ones; RODA (DejaVu) predicts outside the FFN from an earlier state; RIDA
(MoEfication, mixtures of experts) routes by the FFN's own input; sRIDA (GRIFFIN) looks along the prompt once. Inline SVG of our
own; what a step adds has a thick outline, what comes later is dashed, so the drawing can be read without colour.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moyu_core.figures.text import number, percent, visible

WIDTH, HEIGHT = 760, 330
BINS = 64
SCHEMES = {
    "cett": "TDA: threshold on what was computed",
    "dejavu": "RODA: a predictor ahead of the FFN",
    "moefication": "RIDA: a router at the FFN's input",
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


@dataclass(frozen=True)
class Box:
    """A box of a drawing: where, its lines of text, and the step (from 0) that it belongs to."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]
    step: int
    router: bool = False


@dataclass(frozen=True)
class Arrow:
    """A polyline with a head at its end, belonging to a step."""

    points: tuple[tuple[float, float], ...]
    step: int


@dataclass(frozen=True)
class Scheme:
    """A drawing and what is said at each step."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    steps: tuple[str, ...]


def scheme(values: SchemeValues) -> Scheme:
    """The drawing of the method's scheme with these numbers."""
    return _DRAWINGS[values.method](values)


def svg(values: SchemeValues, step: int) -> str:
    """The drawing after a step, counted from 0, as an SVG element; its title and description say the same in words."""
    drawing = scheme(values)
    last = len(drawing.steps) - 1
    step = min(max(step, 0), last)
    parts = [_arrow(arrow, step) for arrow in drawing.arrows] + [_box(box, step) for box in drawing.boxes]
    if step == last:
        parts.append(_strip(values))
    name = f"scheme-{values.method}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d" style="width:100%;max-width:1000px;'
        f'height:auto;color:inherit;font-family:inherit" xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{name}-t">{html.escape(SCHEMES[values.method])}, step {step + 1} of {last + 1}</title>'
        f'<desc id="{name}-d">{html.escape(drawing.steps[step])}</desc>'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker>'
        '<pattern id="stripes" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="1.6" height="4" fill="currentColor"/></pattern></defs>' + "".join(parts) + "</svg>"
    )


def _box(box: Box, step: int) -> str:
    now, later = box.step == step, box.step > step
    style = 'stroke-dasharray="4 4" opacity="0.35"' if later else ""
    radius = 14 if box.router else 3
    width = 3 if now else 1.2
    fill = "rgba(128,128,128,.16)" if now else "none"
    shape = (f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="{radius}" fill="{fill}" '
             f'stroke="currentColor" stroke-width="{width}" {style}/>')
    middle = box.y + box.height / 2 - 7.5 * (len(box.lines) - 1) + 4
    faded = ' opacity="0.45"' if later else ""
    lines = "".join(
        f'<text x="{box.x + box.width / 2}" y="{middle + 15 * place}" text-anchor="middle" font-size="12.5" fill="currentColor"'
        f'{faded}{" font-weight=" + chr(34) + "600" + chr(34) if place == 0 else ""}>{html.escape(line)}</text>'
        for place, line in enumerate(box.lines))
    return shape + lines


def _arrow(arrow: Arrow, step: int) -> str:
    points = " ".join(f"{x},{y}" for x, y in arrow.points)
    now, later = arrow.step == step, arrow.step > step
    style = 'stroke-dasharray="4 4" opacity="0.35"' if later else ""
    return (f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="{2.6 if now else 1.2}" '
            f'marker-end="url(#head)" {style}/>')


def _strip(values: SchemeValues) -> str:
    """All neurons in bins: hits as solid bars upwards, misses as hollow ones on top of them, false alarms striped downwards."""
    left, wide, base, scale = 30.0, (WIDTH - 60) / BINS, 268.0, 44.0
    hit, miss, alarm = (_binned(mask) for mask in (values.needed & values.kept, values.needed & ~values.kept,
                                                    values.kept & ~values.needed))
    unit = scale / max(1, int((hit + miss).max()), int(alarm.max()))
    parts = [f'<line x1="{left}" y1="{base}" x2="{WIDTH - 30}" y2="{base}" stroke="currentColor" stroke-width="0.8"/>']
    for place in range(BINS):
        x = left + place * wide + 1
        solid, hollow, striped = hit[place] * unit, miss[place] * unit, alarm[place] * unit * 0.6
        parts.append(_bar(x, base - solid, wide - 2, solid, 'fill="currentColor"'))
        parts.append(_bar(x, base - solid - hollow, wide - 2, hollow, 'fill="none" stroke="currentColor" stroke-width="1"'))
        parts.append(_bar(x, base, wide - 2, striped, 'fill="url(#stripes)"'))
    hits, misses, alarms = values.counts
    words = (f"{values.n_neurons} neurons from left to right: {hits} hits (solid), {misses} misses (hollow), {alarms} false alarms "
             "(striped, downwards)")
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle" font-size="12.5" fill="currentColor">{words}'
                 "</text>")
    return "".join(parts)


def _bar(x: float, y: float, width: float, height: float, style: str) -> str:
    if height <= 0:
        return ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}/>'


def _binned(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Members of a set in BINS equal stretches of the neurons."""
    edges = np.linspace(0, len(mask), BINS + 1).round().astype(int)
    return np.diff(np.concatenate([[0], np.cumsum(mask)])[edges])


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
        f"A router reads the same x and gives a score to each of {total} experts, groups of {size} neurons that were clustered by "
        f"their weights: {number(values.choosing_macs)} multiply-adds.",
        f"The {len(chosen)} best experts are taken: {named or 'none'}. A group comes whole, with neurons that are not needed.",
        f"Only these experts run: {_saved(values, kept)}. {_end(values)}",
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


_DRAWINGS: dict[str, Callable[[SchemeValues], Scheme]] = {"cett": _tda, "dejavu": _roda, "moefication": _rida, "griffin": _srida}


def shown(available: Sequence[str]) -> list[str]:
    """The schemes whose method is in a run."""
    return [method for method in SCHEMES if method in available]
