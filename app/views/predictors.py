"""Page: every dynamic-activation method on the same tokens: what it kept, what was needed, and what that costs."""

from typing import Any

import pandas as pd
import streamlit as st

from app.components.neuron_map import MapSelection, neuron_map
from app.ui import cached, parts, predictors_answers, predictors_cached, predictors_form, predictors_place, predictors_scheme, state
from app.ui.links import integer, linked
from app.ui.predictors_place import Place
from moyu_core.figures import predictors as figures
from moyu_core.figures.text import number, percent, visible
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
BUILDABLE_NOT = ("oracle", "cett", "native")
"""Not methods that save time before the activation is known, so they cannot win."""


def _finding(run: Run, density: float) -> str:
    """What came out, from the numbers: the best method, the best that is cheap, and whether the prompt helps."""
    table: Any = predictors_cached.table(run.id, density)
    rivals = table.drop(index=[name for name in BUILDABLE_NOT if name in table.index])
    if rivals.empty:
        return f"{len(table)} methods were compared."
    best = rivals.loc[rivals["energy"].idxmax()]
    text = (
        f"At density {percent(density)}, <b>{best['title']}</b> captures most of the layers' output among the methods "
        "that could be "
        f"built: {_result(best)}."
    )
    cheap = rivals[rivals["cost_share"] <= CHEAP * density]
    if not cheap.empty and cheap["energy"].idxmax() != best.name:
        second = cheap.loc[cheap["energy"].idxmax()]
        text += f" Among those that cost at most {CHEAP} times the density, <b>{second['title']}</b>: {_result(second)}."
    if "oracle" in table.index:
        text += f" An oracle of that size would capture {table.loc['oracle', 'energy']:.2f}."
    if {"griffin", "static"} <= set(table.index):
        gap = predictors_cached.paired(run.id, "griffin", "static", density, "energy")
        said = "is not distinguishable from" if not gap.excludes(0) else "beats" if gap.mean > 0 else "falls behind"
        text += f" Choosing from the prompt (GRIFFIN) {said} one static set for all texts, difference in energy {gap.text(2)}."
    return text


def _result(row: Any) -> str:
    """One method's numbers in words."""
    return (
        f"energy <b>{row['energy']:.2f}</b> [{row['energy_low']:.2f}, {row['energy_high']:.2f}], recall {row['recall']:.2f} with "
        f"{percent(row['predicted'])} of the neurons kept (chance {row['uniform']:.2f}), for {percent(row['cost_share'])} of the "
        "FFN's multiply-adds"
    )


def _map(run: Run, place: Place) -> MapSelection:
    payload = predictors_cached.overlay_bytes(run.id, place.prompt_id, place.condition, place.main, place.density, place.layer)
    found = neuron_map(payload, key="pmap", height=560)
    st.caption(
        f"How to read this: rows are tokens, columns neurons, those needed most often at the left. Solid: hit; cross: miss; "
        f"hatched: false alarm. The bars are the token's recall. Reference: {run.spec.set_rule.label()}."
    )
    return found


def _position(run: Run, place: Place, pinned: MapSelection) -> int:
    """The token that panel and diagrams are about: the pinned row, or the slider."""
    tokens = predictors_cached.token_texts(run.id, place.prompt_id, place.condition)
    table: Any = predictors_cached.prompts(run.id).set_index(["prompt_id", "condition"])
    start = int(table.at[(place.prompt_id, place.condition), "prompt_tokens"])
    default = min(start, len(tokens) - 1)
    if pinned.pins and pinned.pins[-1] != st.session_state.get("_ppin"):
        st.session_state["_ppin"] = pinned.pins[-1]
        st.session_state["ppos"] = pinned.pins[-1][0] + 1
    return int(
        linked(
            "ppos",
            default,
            lambda: st.slider("Token (position)", 1, len(tokens) - 1, key="ppos", help="A click on the map chooses it too."),
            decode=integer(1, len(tokens) - 1),
        )
    )


def _panel(run: Run, place: Place, position: int, pinned: MapSelection) -> None:
    """The chosen token under every method, and the way to a neuron."""
    texts = predictors_cached.token_texts(run.id, place.prompt_id, place.condition)
    st.markdown(f"**{visible(texts[position])}** at position {position}, layer {place.layer}")
    frame: Any = predictors_cached.by_token(run.id, place.prompt_id, place.condition, place.density)
    rows = frame[(frame["layer"] == place.layer) & (frame["position"] == position)].set_index("method")
    facts = queries.methods(run)
    shown = [name for name in place.methods if name in rows.index]
    st.dataframe(
        pd.DataFrame(
            {
                "method": [facts[name]["title"] for name in shown],
                "hits": [int(rows.loc[name, "hits"]) for name in shown],
                "misses": [int(rows.loc[name, "needed"] - rows.loc[name, "hits"]) for name in shown],
                "extra": [int(rows.loc[name, "kept"] - rows.loc[name, "hits"]) for name in shown],
                "energy": [f"{rows.loc[name, 'energy']:.2f}" for name in shown],
            }
        ),
        hide_index=True,
        alt="The token under each method: hits, misses, false alarms (extra), captured energy",
        column_config={
            "method": st.column_config.Column(width=118),
            **{name: st.column_config.Column(width=52) for name in ("hits", "misses", "extra", "energy")},
        },
    )
    prompt_tokens = int(
        predictors_cached.overlay(run.id, place.prompt_id, place.condition, place.main, place.density, place.layer).prompt_tokens
    )
    if position < prompt_tokens:
        st.caption("This token belongs to the prompt: frozen methods had not chosen yet; what is shown is what they chose later.")
    _neuron(run, place, pinned)


def _neuron(run: Run, place: Place, pinned: MapSelection) -> None:
    if not pinned.pins:
        st.caption("Click a cell of the map to see its neuron.")
        return
    row, neuron = pinned.pins[-1]
    found = predictors_cached.overlay(run.id, place.prompt_id, place.condition, place.main, place.density, place.layer)
    word = predictors_cached.CATEGORIES[int(found.cells[row, neuron])].label
    st.markdown(f"Neuron **{neuron}**: {word}; needed by {percent(float(found.needed[:, neuron].mean()))} of this prompt's tokens.")
    capture = next(
        (
            other
            for other in state.activation_runs()
            if other.spec.model.weights == run.spec.model.weights and place.layer in other.manifest["layers"]
        ),
        None,
    )
    if capture is None or "map" not in state.PAGES:
        st.caption("Capture this prompt with this model to open the neuron on the map.")
        return
    known = cached.prompts(capture.id)["prompt_id"].tolist()
    query = {"run": capture.id, "layer": str(place.layer), "neuron": str(neuron)}
    query |= {"prompt": place.prompt_id} if place.prompt_id in known else {}
    st.page_link(state.PAGES["map"], label=f"Open neuron {neuron} on the activation map", query_params=query)


def _multiples(run: Run, place: Place) -> None:
    st.subheader("All layers and tokens, method by method", divider="gray")
    measure = _measure("pmulti", ("recall", "energy"))
    parts.chart(
        predictors_cached.multiples_figure(run.id, place.prompt_id, place.condition, place.density, measure, place.methods),
        key="pmultiples",
        alt=f"Heat maps of {queries.MEASURES[measure]} by layer and token, one a method",
        how_to_read="How to read this: one panel a method, layers upwards, tokens to the right, one scale; the number is the mean. "
        f"The dashed line is the end of the prompt. Prompt {place.prompt_id}, density {percent(place.density)}, {run.id}.",
    )


def _measure(key: str, names: tuple[str, ...]) -> str:
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
    measure = _measure("pcurve", ("energy", "recall", "precision", "jaccard", "squares"))
    parts.chart(
        predictors_cached.curves_figure(run.id, measure, place.methods),
        key="pcurves",
        alt=f"{queries.MEASURES[measure]} against the share of neurons kept, by method",
        how_to_read=f"How to read this: {queries.MEASURES[measure]}, mean over layers and tokens of the continuation, 95 % "
        "intervals over kinds of text, against the share that was really kept. The marker's shape is the method's family. CETT per "
        "token has one point: "
        f"its size follows from an error target. Chosen methods are drawn strongly. {run.id}, reference "
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
            "recall": table["recall"],
            "recall, 95 %": [
                f"{low:.3f} to {high:.3f}" for low, high in zip(table["recall_low"], table["recall_high"], strict=True)
            ],
            "chance": table["uniform"],
            "marginal chance": table["marginal"],
            "recall (micro)": table["recall_micro"],
            "precision": table["precision"],
            "Jaccard": table["jaccard"],
            "energy": table["energy"],
            "energy, 95 %": [
                f"{low:.3f} to {high:.3f}" for low, high in zip(table["energy_low"], table["energy_high"], strict=True)
            ],
            "sum (|a|c)²": table["squares"],
            "multiply-adds": [percent(value) for value in table["cost_share"]],
        }
    )
    numbers = [name for name in shown.columns if shown[name].dtype.kind == "f"]
    st.dataframe(
        shown,
        hide_index=True,
        alt="Every measure of every method",
        height=38 + 35 * len(shown),
        column_config={name: st.column_config.NumberColumn(format="%.3f") for name in numbers},
    )
    st.caption(
        f"How to read this: means over {int(table['units'].iloc[0])} kinds of text; chance = |Â|/F, marginal chance = what each "
        "neuron's own rate gives. Multiply-adds: router and remaining FFN as a share of the dense FFN, per decoded token and "
        "layer. The oracle has the largest sum (|a|c)² of its size; it need not have the largest energy, since "
        "contributions cancel."
    )


def _staleness(run: Run, place: Place) -> None:
    st.subheader("How a frozen set goes stale", divider="gray")
    measure = _measure("pstale", ("recall", "energy"))
    parts.chart(
        predictors_cached.staleness_figure(run.id, place.density, measure, place.methods),
        key="pstaleness",
        alt=f"{queries.MEASURES[measure]} by tokens since the end of the prompt",
        how_to_read="How to read this: solid lines belong to methods that froze their set at the end of the prompt (0 = "
        "the first after it), dotted ones choose anew for every token and show what the text itself does. Bands: 95 % over kinds "
        "of text, position by position, not simultaneous. Positions that less than half of the kinds of text reach are left out. "
        f"{run.id}.",
    )


def main() -> None:
    """Draw the page."""
    parts.header("Predictors", "Which neurons would each method have kept, and which were needed?", HOW_TO_READ)
    found = predictors_cached.runs()
    if not found:
        parts.empty("There is no comparison yet. `moyu study predictors` makes one, or use the form below.", "", "")
        predictors_form.draw()
        return
    run = predictors_place.choose_run(found)
    place = predictors_place.choose(run)
    assert place is not None
    parts.finding(_finding(run, place.density))
    note = run.manifest["model"].get("note")
    st.caption(
        f"{run.manifest['model']['name']}: {number(run.manifest['scope']['tokens'])} tokens in {run.manifest['scope']['prompts']} "
        f"prompts, {run.manifest['scope']['methods']} methods" + (f"; {note}" if note else "")
    )
    if place.prompt_id:
        left, right = st.columns([5, 2], gap="medium")
        with left:
            pinned = _map(run, place)
        with right:
            position = _position(run, place, pinned)
            _panel(run, place, position, pinned)
        st.subheader("The four schemes, with this token's numbers", divider="gray")
        predictors_scheme.draw(run, place, position)
        _multiples(run, place)
    else:
        st.info("This comparison keeps no sets, so there is no map; the curves and the table below are complete.")
    _curves(run, place)
    _table(run, place)
    _staleness(run, place)
    predictors_answers.draw_ours(run, place.density)
    predictors_answers.draw(run, place.density)
    predictors_form.draw()


main()
