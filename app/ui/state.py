"""What is being looked at: the sidebar that all pages share, and the choice made in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.ui import cached
from app.ui.links import integer, linked
from moyu_core.home import Home
from moyu_core.schema import DEFAULT_DENSITY
from moyu_core.spec import SetRule
from moyu_core.store import Run

PAGES: dict[str, Any] = {}
"""url_path -> page, filled by main.py."""

AS_CAPTURED = "captured"
RULES = {AS_CAPTURED: "as captured", "top": "top by |a|·c", "magnitude": "top by |a|"}


@dataclass(frozen=True)
class Selection:
    """What the sidebar chose.

    Attributes:
        run: an activation run.
        prompt_id, condition: a prompt of it.
        layer: a layer of it.
        rule: None = the sets as they were captured; else a rule applied to the stored values.
    """

    run: Run
    prompt_id: str
    condition: str
    layer: int
    rule: SetRule | None

    @property
    def rule_label(self) -> str:
        """The set rule in words, and whether it is exact."""
        if self.rule is None:
            return self.run.spec.set_rule.label()
        agreement = self.run.manifest.get("values_agreement")
        known = (
            f"; at {self.run.spec.set_rule.label()} such sets overlap the exact ones by {agreement['mean']:.3f}"
            if agreement
            else ""
        )
        return f"{self.rule.label()}, approximate: from stored 8-bit values{known}"

    @property
    def place(self) -> tuple[str, str, str, int]:
        """(run_id, prompt_id, condition, layer), the slice that is looked at."""
        return (self.run.id, self.prompt_id, self.condition, self.layer)

    @property
    def rethreshold(self) -> tuple[str, float] | None:
        """Name and density of the rule that is applied to stored values; None = the sets as captured."""
        return None if self.rule is None else (self.rule.name, self.rule.density or 0.0)

    @property
    def scope(self) -> str:
        """A short name of `place`, for component keys and pins."""
        return "/".join(map(str, self.place))


def activation_runs() -> list[Run]:
    """Runs that hold the table `activations`."""
    return [run for run in cached.runs()[0] if "index.parquet" in run.manifest["files"]]


def run_label(run: Run) -> str:
    """How a run is called in lists."""
    counts = run.manifest["counts"]
    title = run.manifest.get("title") or run.id
    return f"{title} · {run.manifest['model']['name']} · {counts['prompts']} prompt{'' if counts['prompts'] == 1 else 's'}"


def draw_sidebar(home: Home) -> None:
    """Draw the widgets that all pages share and remember the choice for `selection`."""
    runs = activation_runs()
    st.session_state["_selection"] = None
    if not runs:
        st.sidebar.caption("No run yet.")
        return
    with st.sidebar:
        st.caption("What the activation map shows")
        by_id = {run.id: run for run in runs}
        run = by_id[_select("Run", "run", list(by_id), lambda run_id: run_label(by_id[run_id]))]
        table = cached.prompts(run.id)
        labels = {prompt_key(row["condition"], row["prompt_id"]): row for row in table.to_dict("records")}
        chosen = labels[_select("Prompt", "prompt", list(labels), lambda key: _prompt_label(labels[key]))]
        layers = run.manifest["layers"]
        layer = _layer(layers)
        rule = _rule(run, bool(chosen["has_values"]))
        _about(run)
    st.session_state["_selection"] = Selection(run, chosen["prompt_id"], chosen["condition"], layer, rule)


def _select(label: str, key: str, options: list[str], name: Any) -> str:
    return linked(
        key,
        options[0],
        lambda: st.selectbox(label, options, format_func=name, key=key, filter_mode="contains"),
        options=options,
    )


def _layer(layers: list[int]) -> int:
    if len(layers) == 1:
        st.caption(f"Layer {layers[0]} (the only one of this run)")
        return layers[0]
    return linked(
        "layer",
        layers[len(layers) // 2],
        lambda: st.select_slider(
            "Layer", layers, key="layer", help="Decoder layer, from 0. A click on the layer sweep sets it too."
        ),
        options=layers,
        decode=int,
    )


def _rule(run: Run, has_values: bool) -> SetRule | None:
    stored = run.spec.set_rule.label()
    if not has_values:
        st.caption(f"Active set: **{stored}**. Other rules need a capture with values.")
        return None
    name = linked(
        "rule",
        AS_CAPTURED,
        lambda: st.selectbox(
            "Active set",
            list(RULES),
            key="rule",
            format_func=lambda rule: f"as captured: {stored}" if rule == AS_CAPTURED else RULES[rule],
            help="Which neurons count as active. `As captured` is exact; the others re-threshold the stored 8-bit values without "
            "a new forward pass.",
        ),
        options=list(RULES),
    )
    if name == AS_CAPTURED:
        return None
    percent = linked(
        "density",
        int(100 * DEFAULT_DENSITY),
        lambda: st.slider("Density", 1, 100, step=1, format="%d %%", key="density", help="Share of neurons kept per token."),
        decode=integer(1, 100),
    )
    return SetRule(name, density=percent / 100)


def _about(run: Run) -> None:
    model = run.manifest["model"]
    note = f" Note: {model['note']}." if model.get("note") else ""
    st.caption(
        f"{model['name']}: {model['family']}, {model['n_layers']} layers, F = {model['n_neurons']:,}, "
        f"{model['activation']}{', gated' if model['gated'] else ''}.{note}"
    )


def prompt_key(condition: str, prompt_id: str) -> str:
    """A prompt's name in lists and links."""
    return prompt_id if condition == "plain" else f"{prompt_id} ({condition})"


def _prompt_label(row: dict[str, Any]) -> str:
    values = "" if row["has_values"] else " · sets only"
    return f"{prompt_key(row['condition'], row['prompt_id'])} · {row['n_tokens']} tokens{values}"


def selection() -> Selection | None:
    """What the sidebar chose in this rerun; None where there is no run to look at."""
    return st.session_state.get("_selection")


def follow() -> None:
    """Change to the page that `opening.show` asked for; called before a page draws anything."""
    page = st.session_state.pop("_go", None)
    if page:
        st.switch_page(PAGES[page], query_params={})


def go_to(key: str, value: Any) -> None:
    """Set a linked widget's value from a callback; the address follows."""
    st.session_state[key] = value
