"""Page Inertia, panels: the paper's four panels and the shuffled pair side by side, and their overlap matrices."""

from __future__ import annotations

import streamlit as st

from app.components.neuron_map import neuron_map
from app.ui import exports, parts
from app.ui import inertia_cached as reads
from app.ui.links import linked
from moyu_core.export.tables import panel_table
from moyu_core.export.view import Canvas
from moyu_core.figures import inertia as figures
from moyu_core.figures.text import number, percent
from moyu_core.store import Run

CONTENTS = ("sentence", "random_words", "shuffled")
NONE = "none"


def boolean(text: str) -> bool:
    """Decoder of a switch."""
    return {"True": True, "False": False}[text] if text in ("True", "False") else _refuse(text)


def _refuse(text: str) -> bool:
    raise ValueError(text)


def draw(run: Run, layer: int) -> None:
    """Draw the part."""
    prompts, ordered, control, matrices = _controls(run)
    conditions = _conditions(run, layer, prompts, control)
    if not control:
        st.warning(_artefact(run, layer))
    shown = reads.panels(run.id, layer, prompts)
    exports.offer(
        f"Active neurons of the words, layer {layer}",
        table=lambda: panel_table({condition: shown[condition] for condition in conditions}, reads.n_neurons(run.id)),
        how_to_read="Rows are words (the set of a word is that of its last token) with one of their active neurons.",
        notebook="from moyu_core.export.tables import panel_table\nfrom moyu_core.queries import inertia\n"
        f"panels = inertia.panels(run, {prompts[0]!r}, {layer})\n"
        "table = panel_table(panels, run.manifest['model']['n_neurons'])\ntable"
        if len(prompts) == 1
        else "",
    )
    if matrices:
        _matrices(run, layer, prompts, conditions)
        return
    for content in dict.fromkeys(content for content, _ in conditions):
        columns = st.columns(2, gap="small")
        for column, condition in zip(columns, [each for each in conditions if each[0] == content], strict=False):
            with column:
                _panel(run, layer, prompts, condition, ordered)
    st.caption(
        f"How to read this: rows are words (the set of a word is that of its last token), columns are neurons, the same in every "
        "panel. Stripes from top to bottom are neurons that fire on every word. Point at a cell: neuron and word are marked in all "
        "panels; a shuffled word keeps the number of its place in the sentence, a random word that of the word it replaces. "
        f"{_source(run)}"
    )


def _controls(run: Run) -> tuple[tuple[str, ...], bool, bool, bool]:
    names = reads.texts(run.id, True)["prompt_id"].tolist()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        first = linked("text", names[0], lambda: st.selectbox("Text", names, key="text", width=230), options=names)
        others = [NONE, *(name for name in names if name != first)]
        second = linked(
            "beside",
            NONE,
            lambda: st.selectbox(
                "Text below it",
                others,
                key="beside",
                width=230,
                help="A second text in the same panels: then pairs within a text and across texts can be compared by eye.",
            ),
            options=others,
        )
        show = linked(
            "panels",
            "sets",
            lambda: st.segmented_control(
                "Show",
                ["sets", "matrices"],
                key="panels",
                required=True,
                format_func={"sets": "sets", "matrices": "overlap matrices"}.__getitem__,
            ),
            options=["sets", "matrices"],
        )
        ordered = linked(
            "panel_order",
            "rate",
            lambda: st.segmented_control("Neuron order", ["rate", "index"], key="panel_order", required=True),
            options=["rate", "index"],
        )
        control = linked(
            "sink_control",
            True,
            lambda: st.toggle(
                "Sink control",
                key="sink_control",
                help="Off: words alone stand at position 0, where an attention sink makes nearly the same "
                "neurons fire whatever the word. That is an artefact, and is shown to be recognised as one.",
            ),
            decode=boolean,
        )
    return (first,) if second == NONE else (first, second), ordered == "rate", control, show == "matrices"


def _conditions(run: Run, layer: int, prompts: tuple[str, ...], control: bool) -> list[tuple[str, str]]:
    stored = reads.panels(run.id, layer, prompts)
    wanted = [(content, history) for content in CONTENTS for history in ("parallel" if control else "bare", "sequence")]
    kept = [condition for condition in wanted if condition in stored]
    with_both = {content for content, _ in kept if (content, "parallel" if control else "bare") in stored}
    return [condition for condition in kept if condition[0] in with_both]


def _title(condition: tuple[str, str]) -> str:
    content, history = condition
    words = {"parallel": "each word alone", "bare": "each word alone at position 0", "sequence": "in one sequence"}[history]
    return f"{figures.CONTENTS[content].capitalize()}, {words}"


def _panel(run: Run, layer: int, prompts: tuple[str, ...], condition: tuple[str, str], ordered: bool) -> None:
    caption = f"run {run.id}, layer {layer}, {run.spec.set_rule.label()}"
    payload = reads.panel_bytes(run.id, layer, prompts, condition, ordered, _title(condition), caption)
    key = f"panel-{'-'.join(condition)}"
    neuron_map(payload, key=key, height=430)
    exports.offer(f"Map: {_title(condition)}, layer {layer}", canvas=Canvas(key, payload))
    st.caption(_level(run, layer, condition))


def _level(run: Run, layer: int, condition: tuple[str, str]) -> str:
    """W and X of this condition over all texts."""
    rows = reads.frame(run.id, "overlaps")
    row = rows[(rows["content"] == condition[0]) & (rows["history"] == condition[1]) & (rows["layer"] == layer)].iloc[0]
    across = f"across texts {percent(row['across'])}" if row["across"] == row["across"] else "one text, so none across"
    marginal = f", by each neuron's rate {percent(row['marginal'])}" if row["marginal"] == row["marginal"] else ""
    only = " (words of one token)" if condition[1] == "bare" else ""
    return (
        f"Overlap of two words{only} of a text **{percent(row['within'])}**, {across}; chance {percent(row['chance'])}{marginal}; "
        f"energy-weighted {percent(row['within_energy'])}."
    )


def _artefact(run: Run, layer: int) -> str:
    found = run.manifest["sink_artefact"]
    number_ = run.manifest["layers"].index(layer)
    if found["bare"] is None or found["behind_sink"] is None:
        return "Sink control is off. There are not enough words of one token in different texts to say how large the artefact is."
    here = found["by_layer_bare"][number_], found["by_layer_behind_sink"][number_]
    more = here[0] is not None and here[1] is not None and here[0] > here[1]
    verdict = "This is an artefact of position 0, not inertia." if more else "In this layer position 0 makes no such artefact."
    return (
        f"Sink control is off: words alone stand at position 0. One-token words of different texts then share "
        f"{percent(here[0] or 0)} of their sets in this layer, behind the sink token {percent(here[1] or 0)}; over all layers "
        f"{percent(found['bare'])} and {percent(found['behind_sink'])}. {verdict}"
    )


def _matrices(run: Run, layer: int, prompts: tuple[str, ...], conditions: list[tuple[str, str]]) -> None:
    """A column a content, alone above in sequence; one colour scale for all, one below the other on a phone."""
    shown = reads.panels(run.id, layer, prompts)
    grids = {condition: reads.matrix(run.id, layer, prompts, condition) for condition in conditions}
    border = len(reads.panels(run.id, layer, prompts[:1])[conditions[0]].words) if len(prompts) > 1 else None
    contents = list(dict.fromkeys(content for content, _ in conditions))
    for column, content in zip(st.columns(len(contents)), contents, strict=True):
        chosen = [condition for condition in conditions if condition[0] == content]
        figure = figures.matrices(
            [grids[condition] for condition in chosen],
            [_title(condition) for condition in chosen],
            [shown[condition].words for condition in chosen],
            border,
            figures.highest(grids.values()),
        )
        with column:
            parts.chart(
                figure,
                f"Overlap of the sets of any two words in layer {layer}, {figures.CONTENTS[content]}",
                f"Rows and columns: the words, in their order. Layer {layer}.",
                key=f"inertia-matrices-{content}",
            )
    st.caption(
        "How to read this: each cell is the overlap of the sets of two words; pairs of the same token, which overlap for "
        "that reason alone, are left blank. With two texts the blocks on the diagonal are pairs within a text: inertia would make "
        f"them brighter than the other two. {_source(run)}"
    )


def _source(run: Run) -> str:
    scope = run.manifest["scope"]
    return f"{run.id}, {run.spec.set_rule.label()}, {number(scope['texts'])} texts of {number(scope['topics'])} topics."
