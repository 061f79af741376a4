"""Page History, neuron by neuron: two histories side by side as text, and what each probe token's set does between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st

from app.components.neuron_map import neuron_map
from app.ui import exports, parts
from app.ui import history_cached as reads
from app.ui import history_figures as drawn
from app.ui.links import linked
from moyu_core.export.view import Canvas
from moyu_core.figures.text import escaped, percent
from moyu_core.queries import history
from moyu_core.queries.history import Cell
from moyu_core.schema.history import CONTROLS
from moyu_core.store import Run

START_KINDS, START_LENGTH = ("other_topics", "source_code"), 64
TEXT_TOKENS = 64
"""Tokens of a history that are shown; of longer ones the last."""
ROW, AROUND = 15, 190
"""Pixels of a row of the map, and of everything around its rows."""


def draw(run: Run, models: list[str]) -> None:
    """Draw the part."""
    model, item, layer = _controls(run, models)
    first, second = _histories(run, model)
    for column, cell, name in zip(st.columns(2, gap="medium"), (first, second), ("First", "Second"), strict=True):
        with column:
            _text(run, model, cell, name, item)
    if first == second:
        st.info("Both histories are the same, so nothing can flip; choose another second history.")
        return
    payload = reads.flip_bytes(run.id, model, layer, first, second)
    neuron_map(payload, key="flips", height=_height(len(reads.probes(run.id, model))))
    how_to_read = (
        "How to read this: a row is a probe token, a column a neuron, those that flip most often first. Plain: stays in the set; "
        "hatched: drops out from the first history to the second; dotted: comes in. Bars: share of the first set that stays. "
        "Of a phrase the last token is looked at; those before it stand between it and the history. "
        f"Active set: {run.spec.set_rule.label()}."
    )
    st.caption(how_to_read)
    exports.offer(f"What flips in layer {layer} of {model}", how_to_read=how_to_read, canvas=Canvas("flips", payload))
    _sentence(run, model, item, layer, first, second)
    _probe_over_layers(run, model, item, first, second)


def _height(rows: int) -> int:
    """Pixels of the map: every row tall enough for its label, within what a screen holds."""
    return min(max(AROUND + ROW * rows, 380), 900)


def _controls(run: Run, models: list[str]) -> tuple[str, int, int]:
    left, middle, right = st.columns([2, 3, 2], vertical_alignment="bottom")
    with left:
        model = str(linked("flip_model", models[0], lambda: st.selectbox("Model", models, key="flip_model"), options=models))
    items = reads.probes(run.id, model).index.tolist()
    names = {row: "".join(reads.path(run.id, model, row)) for row in items}
    with middle:
        item = linked(
            "probe",
            items[0],
            lambda: st.selectbox("Probe", items, key="probe", format_func=lambda row: dotted(names[row]), filter_mode="contains"),
            options=items,
            decode=int,
        )
    layers = history.facts(run, model)["kept_layers"]
    with right:
        layer = linked(
            "flip_layer",
            layers[len(layers) // 2],
            lambda: st.select_slider("Layer", layers, key="flip_layer", help="Layers whose sets are stored."),
            options=layers,
            decode=int,
        )
    return model, int(item), int(layer)


def dotted(name: str) -> str:
    """A token in a list, its leading space as a dot."""
    return name.replace(" ", "\u00b7", 1) if name.startswith(" ") else name


def _histories(run: Run, model: str) -> tuple[Cell, Cell]:
    cells = {reads.key_of(cell): cell for cell in reads.cells(run.id, model)}
    chosen = []
    for column, key, name, start in zip(
        st.columns(2, gap="medium"), ("first", "second"), ("First history", "Second history"), _starts(cells), strict=True
    ):
        with column:
            chosen.append(cells[_history(cells, key, name, start)])
    return chosen[0], chosen[1]


def _history(cells: dict[str, Cell], key: str, name: str, start: str) -> str:
    return str(
        linked(
            key,
            start,
            lambda: st.selectbox(
                name,
                list(cells),
                key=key,
                format_func=lambda found: reads.label(cells[found]),
                filter_mode="contains",
                help="Histories whose sets are stored.",
            ),
            options=list(cells),
        )
    )


def _starts(cells: dict[str, Cell]) -> list[str]:
    """The two to begin with: kinds that differ much where the run has them, else two histories of its first kind."""
    kinds = list(dict.fromkeys(cell.kind for cell in cells.values() if cell.kind not in CONTROLS))
    both = set(START_KINDS) <= set(kinds)
    wanted = [(kind, 0) for kind in START_KINDS] if both else [(kind, draw) for kind in kinds[:1] for draw in range(2)]
    lengths = {kind: [cell.length for cell in cells.values() if cell.kind == kind] for kind, _ in wanted}
    found = [f"{kind}:{_nearest(lengths[kind])}:{draw}" for kind, draw in wanted]
    return [*(key for key in found if key in cells), *list(cells)[:1] * 2][:2]


def _nearest(lengths: Sequence[int]) -> int:
    """The longest up to START_LENGTH, or the shortest."""
    return max((length for length in lengths if length <= START_LENGTH), default=min(lengths))


def _text(run: Run, model: str, cell: Cell, name: str, item: int) -> None:
    """The history as running text with the probe marked at its end, the token boundary shown."""
    source, tokens = reads.tokens(run.id, model, cell)
    hidden = max(0, len(tokens) - TEXT_TOKENS)
    body = "".join(_shown(token) for token in tokens[hidden:])
    *before, token = reads.path(run.id, model, item)
    start = f"<i>… {hidden} tokens before</i> " if hidden else ""
    st.html(
        f'<div style="line-height:1.6;font-size:.9rem;max-height:11rem;overflow-y:auto" tabindex="0" role="region" '
        f'aria-label="{name} history">{start}{body}<b title="token boundary">\u2502</b>{"".join(map(_shown, before))}'
        f'<mark style="padding:1px 3px;border-radius:3px;color:inherit;background:rgba(58,124,176,.35);'
        f'border-bottom:2px solid currentColor">{escaped(token)}</mark></div>'
    )
    merged = reads.merges(run.id, model, item)
    boundary = "The line is the token boundary" + (
        f"; in {merged} cells plain text would have merged the tokens on its two sides, and the grid keeps them apart"
        if merged
        else ""
    )
    st.caption(f"{name}: {reads.label(cell)}{f', from {source}' if source else ''}. {boundary}.")


def _shown(token: str) -> str:
    """A token in running text: markup made harmless, spaces as spaces."""
    return "<br>" if token == "\n" else escaped(token).replace("\u00b7", " ")


def _sentence(run: Run, model: str, item: int, layer: int, first: Cell, second: Cell) -> None:
    """What this probe's set does, beside what a resampled history of the same kind does to it."""
    items, codes = reads.flip_codes(run.id, model, layer, first, second)
    row = codes[items.index(item)]
    kept, gone, new = (int((row == code).sum()) for code in (history.STAY, history.OUT, history.IN))
    text = f"Of {kept + gone} neurons behind the first history <b>{kept}</b> stay, <b>{gone}</b> drop out, <b>{new}</b> come in."
    frame = reads.flips(run.id, model, item)
    same = (frame["kind"] == first.kind) & (frame["length"] == first.length) & (frame["layer"] == layer)
    again = frame.loc[same, "stay_resampled"].to_numpy(float)
    if len(again) and np.isfinite(again[0]):
        text += (
            f" {percent(kept / max(kept + gone, 1))} stay; between two histories of the first one's own kind and length "
            f"{percent(float(again[0]))} do, mean over draws."
        )
    st.markdown(text, unsafe_allow_html=True)


def _probe_over_layers(run: Run, model: str, item: int, first: Cell, second: Cell) -> None:
    figure = drawn.probe_over_layers(run.id, model, item, first, second)
    if figure is None:
        return
    parts.chart(
        figure,
        f"Share of the probe's set that stays between two histories of one kind, by layer, {model}",
        "How to read this: of this probe's set behind one history, the share that is there behind another of the same kind and "
        "length, mean over all pairs of draws. 1 = the history does not matter.",
        key="history-probe-layers",
    )
