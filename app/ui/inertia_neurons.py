"""Page Inertia, neurons: those that always fire, those bound to the sequence, with links to the map."""

from __future__ import annotations

from urllib.parse import urlencode

import streamlit as st

from app.ui import exports, state
from app.ui import inertia_cached as reads
from app.ui.links import linked
from moyu_core.figures.text import number
from moyu_core.queries.inertia import ALWAYS
from moyu_core.store import Run

KINDS = {"always": "always on", "bound": "bound to the sequence"}


def draw(run: Run, layer: int) -> None:
    """Draw the part."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        which = str(
            linked(
                "kind",
                "always",
                lambda: st.segmented_control("Neurons", list(KINDS), key="kind", required=True, format_func=KINDS.__getitem__),
                options=list(KINDS),
            )
        )
        where = linked(
            "from",
            "all",
            lambda: st.segmented_control(
                "Layers",
                ["all", "one"],
                key="from",
                required=True,
                format_func={"all": "all layers", "one": f"layer {layer}"}.__getitem__,
            ),
            options=["all", "one"],
        )
    rows = reads.neurons(run.id, layer if where == "one" else None, which)
    total = reads.n_neurons(run.id) * (1 if where == "one" else len(run.manifest["layers"]))
    if rows.empty:
        st.info("No neuron is active on 99 % of the words both alone and in sequence.")
        return
    map_run = _map_run(run)
    table = rows[["layer", "neuron", "rate_parallel", "rate_sequence", "rate_random", "binding"]].copy()
    if map_run:
        table["map"] = [
            "./?" + urlencode({"run": map_run, "layer": int(row_layer), "neuron": int(neuron)})
            for row_layer, neuron in zip(rows["layer"], rows["neuron"], strict=True)
        ]
    exports.offer(f"Neurons that are {KINDS[which]}", table=rows)
    shares = {
        "rate_parallel": "rate, alone",
        "rate_sequence": "rate, in sequence",
        "rate_random": "rate, random words",
        "binding": "binding",
    }
    st.dataframe(
        table,
        hide_index=True,
        alt=f"Neurons that are {KINDS[which]}",
        column_config={
            **{name: st.column_config.NumberColumn(label, format="%.3f") for name, label in shares.items()},
            "map": st.column_config.LinkColumn("map", display_text="open on the map"),
        },
    )
    if which == "always":
        said = (
            f"{number(len(rows))} of {number(total)} neurons are active on at least {100 * ALWAYS:.0f} % of "
            "the words, alone and in sequence."
        )
    else:
        said = f"The {number(len(rows))} most bound of {number(total)} neurons."
    st.caption(
        f"{said} Binding: share of a neuron's variance that lies between texts (0 = it fires alike in all, 1 = all or "
        "nothing in each), "
        f"less the same for the words alone; mean of sentences and random words. {run.id}, {run.spec.set_rule.label()}."
    )


def _map_run(run: Run) -> str | None:
    """An activation run of the same weights, to which a neuron's link leads."""
    same = [other.id for other in state.activation_runs() if other.spec.model.weights == run.spec.model.weights]
    return same[0] if same else None
