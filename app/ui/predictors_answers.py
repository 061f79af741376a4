"""Three questions that users of this field ask in public, answered from the numbers of the chosen run."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.ui import exports, predictors_cached
from moyu_core.figures.text import percent
from moyu_core.queries import predictors as queries
from moyu_core.store import Run

OURS = ("token-table", "token-table-prompt")
_SIDES = ("not to be told from one text", "not distinguishable", "better", "worse")
RIVALS = ("static", "griffin", "tda", "dejavu")
SOURCES = {
    "threshold": ("Which threshold, and why recall rather than precision?", "DejaVu #13"),
    "top": ("Top-k or a threshold?", "PowerInfer #165"),
    "slower": ("How can a predictor with higher recall be slower?", "PowerInfer #124"),
}


def draw(run: Run, density: float) -> None:
    """Each question with its answer, or with what it would take."""
    st.subheader("Three questions from the issue trackers", divider="gray")
    answers = {key: _ANSWERS[key](run, density) for key in SOURCES}
    for key, (question, source) in SOURCES.items():
        st.markdown(f"**{question}** ({source})")
        st.markdown(answers[key])
    rows = [{"question": question, "asked in": source, "answer": answers[key]} for key, (question, source) in SOURCES.items()]
    exports.offer("Three questions and their answers", table=pd.DataFrame(rows))


def draw_ours(run: Run, density: float) -> None:
    """The token table against the methods that it would replace, whichever way it came out, and what was not tried."""
    facts = queries.methods(run)
    for name in OURS:
        rivals = [rival for rival in RIVALS if rival in facts]
        if name not in facts or not rivals:
            continue
        if name == OURS[0]:
            st.subheader("Its sets in the comparison above", divider="gray")
        found = [(rival, predictors_cached.paired(run.id, name, rival, density, "energy")) for rival in rivals]
        st.markdown(
            f"**{facts[name]['title']}**, difference in captured energy at {percent(density)}: "
            + "; ".join(f"against {facts[rival]['title']} {gap.text(3)}, {gap.in_words(*_SIDES)}" for rival, gap in found)
            + "."
        )
    if OURS[0] in facts:
        st.caption(
            "On texts that nothing was fitted on, in one dense pass, intervals over kinds of text: how good its sets are. What the "
            "text is worth when prompt and generation are masked by it is the trial above."
        )


def _threshold(run: Run, density: float) -> str:
    facts = queries.methods(run).get("dejavu")
    tested = (facts or {}).get("part", {}).get("validation", {})
    if not tested:
        return "This run holds no DejaVu predictor; compare with `dejavu` to see it."
    low, high = queries.densities(run)[0], queries.densities(run)[-1]
    first, last = (predictors_cached.table(run.id, value).loc["dejavu"] for value in (low, high))
    text = (
        f"The loss weighs active neurons about {1 / (tested['density'] + 0.005):.0f} times as much as the others, so on the "
        f"validation tokens held out of the fit the usual threshold (logit 0) keeps {percent(tested['threshold_density'])} of the "
        f"neurons, where {percent(tested['density'])} are needed: recall {tested['threshold_recall']:.2f}, precision "
        f"{tested['threshold_precision']:.2f}. At equal size both are {tested['recall']:.2f} on those tokens, so recall at a "
        "threshold says little without the size. "
    )
    return text + (
        "A miss costs output, a false alarm only time. On this run's prompts, as in the box above, from "
        f"{percent(low)} to {percent(high)} kept recall goes from {first['recall']:.2f} to {last['recall']:.2f}, precision from "
        f"{first['precision']:.2f} to {last['precision']:.2f}, while captured energy goes from {first['energy']:.2f} to "
        f"{last['energy']:.2f} and the cost from {percent(first['cost_share'])} to {percent(last['cost_share'])} of the dense FFN. "
        "Choose the size that can be paid for, then compare recall or, better, captured energy at that size."
    )


def _top(run: Run, density: float) -> str:
    known = queries.methods(run)
    if not {"dejavu", "dejavu-threshold"} <= known.keys():
        return "This run lacks `dejavu` or `dejavu-threshold`; compare both to see it."
    table = predictors_cached.table(run.id, density)
    top, threshold = table.loc["dejavu"], table.loc["dejavu-threshold"]
    energy = predictors_cached.paired(run.id, "dejavu-threshold", "dejavu", density, "energy")
    if not energy.known:
        verdict = "cannot be judged from one text"
    elif not energy.excludes(0):
        verdict = "is not distinguishable from 0"
    else:
        verdict = "favours the threshold" if energy.mean > 0 else "favours top-k"
    return (
        f"The same predictor, asked for {percent(density)}: top-k keeps {percent(top['predicted'])} of every token's neurons and "
        f"captures {top['energy']:.3f} of the output; a threshold per layer, set on held-out calibration text, keeps "
        f"{percent(threshold['predicted'])} on average here and captures {threshold['energy']:.3f}. The difference, "
        f"{energy.text(3)} over {energy.n} units, {verdict}; the sizes differ too, so read it beside |Â|/F. Top-k gives a size "
        "that hardware can plan with; a threshold lets the size follow the token, and drifts on text that it was not set on."
    )


def _slower(run: Run, density: float) -> str:
    facts = queries.methods(run)
    name = "dejavu" if "dejavu" in facts else next((name for name in facts if facts[name]["steerable"] and name != "oracle"), None)
    sizes = queries.densities(run)
    if name is None or len(sizes) < 2:
        return "This run holds too few methods or densities to tell."
    small, large = ((value, predictors_cached.table(run.id, value).loc[name]) for value in (sizes[0], sizes[-1]))
    random = predictors_cached.table(run.id, sizes[-1]).loc["random"]["recall"] if "random" in facts else None
    by_chance = "" if random is None else f"Even a random set of {percent(sizes[-1])} of the neurons has recall {random:.2f}. "
    return (
        f"By keeping more neurons. The same {facts[name]['title']} has recall {small[1]['recall']:.2f} at |Â|/F = "
        f"{small[1]['predicted']:.2f}, for {percent(small[1]['cost_share'])} of the FFN's multiply-adds, and recall "
        f"{large[1]['recall']:.2f} at |Â|/F = {large[1]['predicted']:.2f}, for {percent(large[1]['cost_share'])}. "
        f"{by_chance}So recall is "
        "only comparable at equal |Â|, which is why |Â|/F stands beside it everywhere on this page."
    )


_ANSWERS = {"threshold": _threshold, "top": _top, "slower": _slower}
