"""Page Predictors: the measures by layer and token, against density, as a table, and behind the end of the prompt."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.ui import parts, predictors_cached
from app.ui.links import linked
from app.ui.predictors_place import Place
from moyu_core.figures import predictors as figures
from moyu_core.figures.text import percent
from moyu_core.queries import predictors as queries
from moyu_core.store import Run

WIDTHS = {
    "family": 84, "|Â|/F": 52, "|Â|/routed": 76, "cost": 56, "recall": 52, "95 %": 74, "chance": 56, "marginal": 62, "micro": 52,
    "precision": 66, "Jaccard": 58, "energy": 56, "energy 95 %": 84, "squares": 62,
}  # fmt: skip
"""Pixels of the columns of the table of all measures; together they fit a wide page."""
OF_ROUTED = " |Â|/F counts the neurons of all experts; |Â|/routed: kept neurons for each in an expert that the router took."


def multiples(run: Run, place: Place) -> None:
    """Recall or captured energy by layer and token, one heat map a method."""
    st.subheader("All layers and tokens, method by method", divider="gray")
    if not place.some_chosen():
        return
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
    strong = "Chosen methods are drawn strongly; hover names the others" if place.some_chosen() else "Hover names the methods"
    measure = _choose_measure("pcurve", ("energy", "recall", "precision", "jaccard", "squares"))
    parts.chart(
        predictors_cached.curves_figure(run.id, measure, place.methods),
        key="pcurves",
        alt=f"{queries.MEASURES[measure]} against the share of neurons kept, by method",
        how_to_read=f"How to read this: {queries.MEASURES[measure]}, mean over layers and tokens of the continuation, 95 % "
        "intervals over kinds of text, against the share that was really kept. The marker's shape is the method's family. CETT per "
        "token has one point: "
        f"its size follows from an error target. {strong}. {run.id}, reference "
        f"{run.spec.set_rule.label()}.",
    )


def _table(run: Run, place: Place) -> None:
    st.subheader(f"Every measure at density {percent(place.density)}", divider="gray")
    table: Any = predictors_cached.table(run.id, place.density)
    routed = bool(table["of_routed"].notna().any())
    shown = pd.DataFrame(
        {
            "method": table["title"],
            "family": table["family"],
            "|Â|/F": table["predicted"],
            **({"|Â|/routed": table["of_routed"]} if routed else {}),
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
        | {name: _column(shown[name], width) for name, width in WIDTHS.items() if name in shown},
    )
    st.caption(
        f"How to read this: {_units(int(table['units'].iloc[0]))}. Cost: multiply-adds of router and remaining "
        "FFN as a share of the dense FFN's, per decoded token and layer. Chance: the recall of a random set, |Â|/F over all tokens "
        "alike; marginal: the recall that each neuron's own rate gives; micro: recall as a ratio of sums over tokens. Energy: "
        "captured energy. Squares: share of sum (|a|c)² kept; the oracle has the largest of its size, and need not have the "
        "largest energy, since contributions cancel."
        + (OF_ROUTED if routed else "")
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


def staleness(run: Run, place: Place) -> None:
    """A measure by the distance from the end of the prompt."""
    st.subheader("How a frozen set goes stale", divider="gray")
    if not place.some_chosen():
        return
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


def density(run: Run, place: Place) -> None:
    """Every measure at every density: curves, and the table of one."""
    _curves(run, place)
    _table(run, place)
