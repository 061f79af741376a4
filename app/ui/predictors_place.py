"""What the page *Predictors* looks at: run, methods, density, prompt and layer, all part of the link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import predictors_cached, prompt_sets
from app.ui.links import linked, linked_several, real
from app.ui.state import prompt_key
from moyu_core.queries import predictors as queries
from moyu_core.store import Run

DEFAULT_METHODS = ("dejavu", "griffin", "cats", "moefication", "token-table", "cett", "native")


@dataclass(frozen=True)
class Place:
    """What is looked at; prompt and layer only where the run keeps sets.

    Attributes:
        methods: the chosen ones, that of the map first if it is among them; there may be none.
        main: the method of the map.
    """

    methods: tuple[str, ...]
    main: str
    density: float
    prompt_id: str
    condition: str
    layer: int

    def some_chosen(self) -> bool:
        """Whether there is a method to draw; if not, that is said where it would be drawn."""
        if not self.methods:
            st.info("No method is chosen. Choose one or more under *Methods* above.")
        return bool(self.methods)


def choose_run(found: list[Run]) -> Run:
    """Which comparison."""
    by_id = {run.id: run for run in found}
    return by_id[
        str(
            linked(
                "prun",
                found[0].id,
                lambda: st.selectbox("Comparison", list(by_id), key="prun", format_func=lambda run_id: run_label(by_id[run_id])),
                options=list(by_id),
            )
        )
    ]


def run_label(run: Run) -> str:
    """How a comparison is called in lists."""
    scope = run.manifest["scope"]
    return f"{run.manifest['title']} · {prompt_sets.count_of(scope['prompts'])} · reference {run.spec.set_rule.label()}"


def choose(run: Run) -> Place | None:
    """The controls; None where nothing is left to be shown."""
    facts = queries.methods(run)
    methods = _methods(facts, run.manifest.get("skipped", {}))
    table = predictors_cached.prompts(run.id)
    detailed: Any = table[table["has_sets"]]
    first, left, middle, right = st.columns([3, 2, 3, 3], vertical_alignment="bottom")
    with first:
        main = _main_method(methods, facts)
    methods = tuple(sorted(methods, key=lambda name: name != main))
    with left:
        densities = queries.set_densities(run) if len(detailed) else queries.densities(run)
        density = float(
            linked(
                "pdensity",
                densities[0],
                lambda: st.segmented_control(
                    "Density",
                    densities,
                    key="pdensity",
                    required=True,
                    format_func=lambda value: f"{100 * value:g} %",
                    help="Kept share of the neurons. Sets are stored at these densities; the curves below show all of them.",
                ),
                options=densities,
                decode=real(0, 1),
            )
        )
    if detailed.empty:
        return Place(methods, main, density, "", "", -1)
    with middle:
        prompt_id, condition = _prompt(detailed)
    with right:
        layers = run.manifest["layers"]
        layer = (
            layers[0]
            if len(layers) == 1
            else int(
                linked(
                    "player",
                    layers[len(layers) // 2],
                    lambda: st.select_slider("Layer of the comparison", layers, key="player"),
                    options=layers,
                    decode=int,
                )
            )
        )
    return Place(methods, main, density, prompt_id, condition, layer)


def _prompt(detailed: pd.DataFrame) -> tuple[str, str]:
    rows = {prompt_key(row["condition"], row["prompt_id"]): row for row in detailed.to_dict("records")}
    chosen = rows[
        str(
            linked(
                "pprompt",
                next(iter(rows)),
                lambda: st.selectbox(
                    "Prompt with stored sets",
                    list(rows),
                    key="pprompt",
                    format_func=lambda key: f"{key} · {rows[key]['n_tokens']} tokens, {rows[key]['prompt_tokens']} of them prompt",
                ),
                options=list(rows),
            )
        )
    ]
    return chosen["prompt_id"], chosen["condition"]


def _methods(facts: dict[str, dict[str, Any]], skipped: dict[str, str]) -> tuple[str, ...]:
    """Methods as pills. Those that do not apply are greyed out with the reason."""
    default = [name for name in DEFAULT_METHODS if name in facts] or list(facts)[:4]
    chosen = linked_several(
        "pmethods",
        default,
        lambda: st.pills(
            "Methods", list(facts), selection_mode="multi", key="pmethods", format_func=lambda name: facts[name]["title"]
        ),
        options=list(facts),
    )
    if skipped:
        st.html(
            "<div style='opacity:.6;font-size:.85rem'>Not applicable to this model: "
            + " ".join(f"<s>{title}</s>: {reason}" for title, reason in skipped.items())
            + "</div>"
        )
    return tuple(chosen)


def _main_method(names: tuple[str, ...], facts: dict[str, dict[str, Any]]) -> str:
    """The method that is drawn on the map: one of the chosen, or any where none is."""
    names = names or tuple(facts)
    return str(
        linked(
            "pmethod",
            next((name for name in DEFAULT_METHODS if name in names), names[0]),
            lambda: st.selectbox("On the map", list(names), key="pmethod", format_func=lambda name: facts[name]["title"]),
            options=list(names),
        )
    )
