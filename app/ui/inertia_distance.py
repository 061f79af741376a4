"""Page Inertia, distance: the lag curve, the carrier test with its set transplants, the topic switch."""

from __future__ import annotations

import streamlit as st

from app.ui import inertia_cached as reads
from app.ui import parts
from app.ui.links import linked
from moyu_core.figures import inertia as figures
from moyu_core.figures import inertia_tests as tests
from moyu_core.figures.text import number
from moyu_core.queries.inertia import of_layer
from moyu_core.store import Run

ALL = "all"
MEAN = "mean over layers"


def done(run: Run, part: str) -> bool:
    """Whether the run holds a part; says why where it does not."""
    facts = run.manifest["parts"][part]
    if not facts["done"]:
        st.info(f"This run does not hold it. {facts['reason']}")
    return bool(facts["done"])


def which_layer(run: Run, layer: int) -> int | None:
    """None = mean over layers, with intervals; else the page's layer."""
    names = {"mean": MEAN, "one": f"layer {layer}"}
    chosen = linked(
        "over",
        "mean",
        lambda: st.segmented_control(
            "Layers",
            list(names),
            key="over",
            required=True,
            format_func=names.__getitem__,
            help="Intervals are given for the mean over layers.",
        ),
        options=list(names),
    )
    return None if chosen == "mean" else layer


def draw(run: Run, layer: int) -> None:
    """Draw the part."""
    chosen = which_layer(run, layer)
    _lags(run, chosen)
    left, right = st.columns(2, gap="large")
    with left:
        _carrier(run, chosen)
    with right:
        _transplants(run)
    _switch(run, chosen)


def _lags(run: Run, layer: int | None) -> None:
    st.subheader("How far it reaches", divider="gray")
    if not done(run, "lag"):
        return
    facts = run.manifest["parts"]["lag"]
    rows = of_layer(reads.frame(run.id, "lags"), layer)
    short = "" if facts["longest"] == facts["asked"] else f" The texts are short: the curve ends at {facts['longest']} words."
    drop = facts["drop"]["sentence, sequence"]
    alone = facts["drop"]["sentence, parallel"]
    half = facts["half_life"]["sentence"]
    st.markdown(
        f"Sentences, O(1) - O({facts['far']}): **{_said(drop)}** in sequence, {_said(alone)} for the same words alone. "
        + (f"Half-life {_said(half, 1)} words." if half else "No half-life is given: its interval does not lie inside the curve.")
        + short
    )
    parts.chart(
        figures.lag_curves(rows, ["sentence", "shuffled", "random_words"]),
        "Overlap of two words by their distance",
        "How to read this: overlap of a word's set with that of the word d places before, the same later words for "
        "every d, pairs of the "
        "same token left out. Dotted: the same words alone, so what falls there belongs to the order of the words and not to the "
        f"context. One long text a topic. {run.id}, {run.spec.set_rule.label()}.",
        key="inertia-lags",
    )


def _said(interval: dict, digits: int = 3) -> str:
    if interval["low"] is None:
        return f"{interval['mean']:.{digits}f} (no interval)"
    return f"{interval['mean']:.{digits}f} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"


def _carrier(run: Run, layer: int | None) -> None:
    st.subheader("Does the prefix carry its set on?", divider="gray")
    if not done(run, "carrier"):
        return
    rows = of_layer(reads.frame(run.id, "carrier"), layer)
    facts = run.manifest["parts"]["carrier"]
    parts.chart(
        tests.carrier_curves(rows),
        "Overlap of the continuation's sets with the prefix's set by word",
        f"How to read this: {facts['prefix_words']} words of a text go on in three ways. Solid: overlap with the "
        "GRIFFIN set of the own "
        "prefix; dotted: of prefixes of other topics, the baseline. Where solid lies above dotted for random words, the prefix is "
        "carried on whatever comes.",
        key="inertia-carrier",
    )


def _transplants(run: Run) -> None:
    st.subheader("Set transplant", divider="gray")
    if not done(run, "carrier"):
        return
    facts = run.manifest["parts"]["carrier"]
    options = [f"{density:g}" for density in facts["densities"]]
    default = f"{facts['endpoint_density']:g}"
    density = float(
        linked(
            "kl_density",
            default,
            lambda: st.segmented_control("Density", options, key="kl_density", required=True),
            options=options,
        )
    )
    parts.chart(
        tests.kl_ladder(reads.kl(run.id), density),
        f"KL of transplanted sets at density {density:g}",
        "How to read this: at one token every layer computes only a set from elsewhere; KL says what the next-token "
        "distribution lost. "
        "Limit 2 would put the prefix's set below the static one. Mean over topics with 95 % intervals; "
        f"the claim is judged at density {default}.",
        key="inertia-kl",
    )


def _switch(run: Run, layer: int | None) -> None:
    st.subheader("When the topic changes", divider="gray")
    if not done(run, "switch"):
        return
    facts = run.manifest["parts"]["switch"]
    until = facts["words_until"]
    if until["mean"] == 0:
        said = "From the first words on, the overlap with the new topic's set is at least 95 % of what it is without a switch"
    else:
        said = (
            f"The overlap with the new topic's set reaches 95 % of what it is without a switch after "
            f"**{number(until['mean'])}** words"
        )
    low = max(0.0, until["low"] or 0.0)  # the interval is symmetric, words are not
    bounds = "" if until["low"] is None else f" (95 % interval {number(low)} to {number(until['high'])} words)"
    st.markdown(f"{said}{bounds}, in running means of {facts['smooth']} words.")
    parts.chart(
        tests.switch_curves(of_layer(reads.frame(run.id, "switch"), layer)),
        "Overlap with the topic's set by word after a switch",
        "How to read this: the same words after a text of another topic and after one of their own topic, compared "
        "with the GRIFFIN set of "
        "their topic's other texts. The gap between the two is what the old topic still does.",
        key="inertia-switch",
    )
