"""Page: every dynamic-activation method on the same tokens: what it kept, what was needed, and what that costs."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import (
    parts,
    predictors_answers,
    predictors_cached,
    predictors_form,
    predictors_place,
    predictors_tokens,
    predictors_trial,
    prompt_sets,
    state,
)
from app.ui.choices import choose_part
from app.ui.links import linked
from app.ui.predictors_place import Place
from moyu_core.figures import predictors as figures
from moyu_core.figures.text import number, percent
from moyu_core.intervals import Interval
from moyu_core.queries import predictors as queries
from moyu_core.store import Run

HOW_TO_READ = """
Each text is cut into a **prompt** and its **continuation**. Methods may look at the prompt; all are judged on the continuation, in
one dense pass, so on the same activations. The **reference** is the set that was really needed (its rule stands under every chart).
A neuron is a **hit** (needed and kept), a **miss** (needed, left out) or a **false alarm** (kept, not needed).

**Recall** is the share of needed neurons that were kept; a random set of the same size gets |Â|/F, a set that only knows each
neuron's own rate gets the marginal level. **Captured energy** is 1 - ‖what is missing of the layer's output‖ / ‖output‖: the
fairest single number, because swaps among equal neurons cost nothing in it. Intervals are 95 % t intervals over kinds of text,
never over tokens.
"""
CHEAP = 2
"""Methods that cost at most so many times the density skip all matrices; the others compute at least one of them whole."""
WIDTHS = {
    "family": 84, "|Â|/F": 52, "cost": 56, "recall": 52, "95 %": 74, "chance": 56, "marginal": 62, "micro": 52, "precision": 66,
    "Jaccard": 58, "energy": 56, "energy 95 %": 84, "squares": 62,
}  # fmt: skip
"""Pixels of the columns of the table of all measures; together they fit a wide page."""
BUILDABLE_NOT = ("oracle", "cett", "native")
"""Not methods that save time before the activation is known, so they cannot win."""


def _finding(run: Run, density: float) -> str:
    """What came out, from the numbers: the best method, the best that is cheap, and whether the prompt helps."""
    table: Any = predictors_cached.table(run.id, density)
    rivals = table.drop(index=[name for name in BUILDABLE_NOT if name in table.index])
    own = _own_router(table)
    if rivals.empty:
        return f"{len(table)} methods were compared.{own}"
    best = rivals.loc[rivals["energy"].idxmax()]
    text = (
        f"At density {percent(density)}, <b>{best['title']}</b> captures most of the layers' output among the methods "
        f"that could be built: {_result(best)}."
    )
    cheap = rivals[rivals["cost_share"] <= CHEAP * density]
    if not cheap.empty and cheap["energy"].idxmax() != best.name:
        second = cheap.loc[cheap["energy"].idxmax()]
        text += f" Among those that cost at most {CHEAP} times the density, <b>{second['title']}</b>: {_result(second)}."
    if "oracle" in table.index:
        text += f" An oracle of that size would capture {table.loc['oracle', 'energy']:.2f}."
    if {"griffin", "static"} <= set(table.index):
        gap = predictors_cached.paired(run.id, "griffin", "static", density, "energy")
        text += f" Choosing from the prompt (GRIFFIN) {_against(gap)} one static set for all texts, difference in energy "
        text += f"{gap.text(3)}."
    return text + own


def _against(gap: Interval) -> str:
    """How the first of two methods stands to the second."""
    if not gap.known:
        return "cannot be told from"
    if not gap.excludes(0):
        return "is not distinguishable from"
    return "beats" if gap.mean > 0 else "falls behind"


def _own_router(table: Any) -> str:
    """A mixture's router is the upper design point: it was trained with the model, which has no dense form."""
    if "native" not in table.index:
        return ""
    row = table.loc["native"]
    return (
        f" The model's own router runs {percent(row['predicted'])} of all experts' neurons and loses nothing by construction: it "
        "was trained with the model, so it shows what a router can be and is no rival of the others, whose density counts the "
        "neurons of all experts."
    )


def _result(row: Any) -> str:
    """One method's numbers in words."""
    bounds = f"[{row['energy_low']:.2f}, {row['energy_high']:.2f}]" if row["units"] > 1 else "(one text, no interval)"
    return (
        f"energy <b>{row['energy']:.2f}</b> {bounds}, recall {row['recall']:.2f} with "
        f"{percent(row['predicted'])} of the neurons kept (chance {row['uniform']:.2f}), for {percent(row['cost_share'])} of the "
        "FFN's multiply-adds"
    )


def _multiples(run: Run, place: Place) -> None:
    st.subheader("All layers and tokens, method by method", divider="gray")
    measure = _choose_measure("pmulti", ("recall", "energy"))
    parts.chart(
        predictors_cached.multiples_figure(run.id, place.prompt_id, place.condition, place.density, measure, place.methods),
        key="pmultiples",
        alt=f"Heat maps of {queries.MEASURES[measure]} by layer and token, one a method",
        how_to_read="How to read this: one panel a method, layers upwards, tokens to the right, one scale; the number is the mean. "
        f"The dashed line is the end of the prompt. Prompt {place.prompt_id}, density {percent(place.density)}, {run.id}.",
    )


def _choose_measure(key: str, names: tuple[str, ...]) -> str:
    return str(
        linked(
            key,
            names[0],
            lambda: st.segmented_control(
                "Measure", list(names), key=key, required=True, format_func=lambda name: figures.MEASURE_TITLES[name]
            ),
            options=list(names),
        )
    )


def _curves(run: Run, place: Place) -> None:
    st.subheader("Against density", divider="gray")
    measure = _choose_measure("pcurve", ("energy", "recall", "precision", "jaccard", "squares"))
    parts.chart(
        predictors_cached.curves_figure(run.id, measure, place.methods),
        key="pcurves",
        alt=f"{queries.MEASURES[measure]} against the share of neurons kept, by method",
        how_to_read=f"How to read this: {queries.MEASURES[measure]}, mean over layers and tokens of the continuation, 95 % "
        "intervals over kinds of text, against the share that was really kept. The marker's shape is the method's family. CETT per "
        "token has one point: "
        f"its size follows from an error target. Chosen methods are drawn strongly; hover names the others. {run.id}, reference "
        f"{run.spec.set_rule.label()}.",
    )


def _table(run: Run, place: Place) -> None:
    st.subheader(f"Every measure at density {percent(place.density)}", divider="gray")
    table: Any = predictors_cached.table(run.id, place.density)
    shown = pd.DataFrame(
        {
            "method": table["title"],
            "family": table["family"],
            "|Â|/F": table["predicted"],
            "cost": [percent(value) for value in table["cost_share"]],
            "recall": table["recall"],
            "95 %": _bounds(table, "recall"),
            "chance": table["uniform"],
            "marginal": table["marginal"],
            "micro": table["recall_micro"],
            "precision": table["precision"],
            "Jaccard": table["jaccard"],
            "energy": table["energy"],
            "energy 95 %": _bounds(table, "energy"),
            "squares": table["squares"],
        }
    )
    st.dataframe(
        shown,
        hide_index=True,
        alt="Every measure of every method",
        height="content",
        column_config={"method": st.column_config.Column(width=190, pinned=True)}
        | {name: _column(shown[name], width) for name, width in WIDTHS.items()},
    )
    st.caption(
        f"How to read this: {_units(int(table['units'].iloc[0]))}. Cost: multiply-adds of router and remaining "
        "FFN as a share of the dense FFN's, per decoded token and layer. Chance: the recall of a random set, |Â|/F over all tokens "
        "alike; marginal: the recall that each neuron's own rate gives; micro: recall as a ratio of sums over tokens. Energy: "
        "captured energy. Squares: share of sum (|a|c)² kept; the oracle has the largest of its size, and need not have the "
        "largest energy, since contributions cancel."
    )


def _units(count: int) -> str:
    return f"means over {count} kinds of text" if count > 1 else "one text, so there are no intervals and no marginal level"


def _bounds(table: Any, measure: str) -> list[str]:
    if table["units"].iloc[0] < 2:
        return ["none"] * len(table)
    return [f"{low:.2f}–{high:.2f}" for low, high in zip(table[f"{measure}_low"], table[f"{measure}_high"], strict=True)]


def _column(values: Any, width: int) -> Any:
    """Three digits for numbers, text as it is."""
    number_column = values.dtype.kind == "f"
    return st.column_config.NumberColumn(format="%.3f", width=width) if number_column else st.column_config.Column(width=width)


def _staleness(run: Run, place: Place) -> None:
    st.subheader("How a frozen set goes stale", divider="gray")
    measure = _choose_measure("pstale", ("recall", "energy"))
    parts.chart(
        predictors_cached.staleness_figure(run.id, place.density, measure, place.methods),
        key="pstaleness",
        alt=f"{queries.MEASURES[measure]} by tokens since the end of the prompt",
        how_to_read="How to read this: solid lines belong to methods that froze their set at the end of the prompt (0 = "
        "the first after it), dotted ones choose anew for every token and show what the text itself does. Bands: 95 % over kinds "
        "of text, position by position, not simultaneous. Positions that less than half of the kinds of text reach are left out. "
        f"{run.id}.",
    )


def _density(run: Run, place: Place) -> None:
    _curves(run, place)
    _table(run, place)


def _trial(run: Run, place: Place) -> None:
    predictors_trial.draw(run.spec.model.weights)
    predictors_answers.draw_ours(run, place.density)


PARTS: dict[str, tuple[str, Callable[[Run, Place], None]]] = {
    "tokens": ("Token by token", predictors_tokens.draw),
    "layers": ("By layer", _multiples),
    "density": ("All measures", _density),
    "stale": ("Staleness", _staleness),
    "trial": ("Token table on trial", _trial),
    "questions": ("Three questions", lambda run, place: predictors_answers.draw(run, place.density)),
    "own": ("Your own text", lambda run, place: parts.guarded(predictors_form.draw)),
}
NEED_SETS = ("tokens", "layers")


def main() -> None:
    """Draw the page."""
    state.follow()
    parts.header("Predictors", "Which neurons would each method have kept, and which were needed?", HOW_TO_READ)
    found = predictors_cached.runs()
    if not found:
        parts.empty("There is no comparison yet. `moyu study predictors` makes one, or use the form below.", "", "")
        if predictors_cached.trials(""):
            predictors_trial.draw("")
        parts.guarded(predictors_form.draw)
        return
    run = predictors_place.choose_run(found)
    place = predictors_place.choose(run)
    assert place is not None
    parts.finding(_finding(run, place.density))
    notes = [*filter(None, [run.manifest["model"].get("note")]), *run.manifest.get("notes", [])]
    scope = run.manifest["scope"]
    st.caption(
        f"{run.manifest['model']['name']}: {number(scope['tokens'])} tokens in {prompt_sets.count_of(scope['prompts'])}, "
        f"{scope['methods']} method{'' if scope['methods'] == 1 else 's'}" + "".join(f"; {note}" for note in notes)
    )
    names = {key: name for key, (name, _) in PARTS.items() if place.prompt_id or key not in NEED_SETS}
    if not place.prompt_id:
        st.info("This comparison keeps no sets, so there is no map; the curves and the table below are complete.")
    PARTS[choose_part(names)][1](run, place)


main()
