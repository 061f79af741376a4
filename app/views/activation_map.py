"""Page: which FFN neurons fire on which token of a prompt, layer by layer."""

import numpy as np
import streamlit as st

from app.components.neuron_map import neuron_map
from app.ui import asking, cached, compare, corpus_cached, exports, neuron_panel, parts, pictures, state
from app.ui.links import linked
from app.ui.marks import marks_of_layer
from moyu_core import query, sets
from moyu_core.errors import MoyuError
from moyu_core.export.tables import active_table
from moyu_core.export.view import Canvas
from moyu_core.figures.set_map import set_map
from moyu_core.figures.sweep import STATISTICS, frame_style, layer_sweep
from moyu_core.figures.text import number, percent
from moyu_core.figures.token_strip import token_strip
from moyu_core.prompts import Prompt
from moyu_core.studies.requests import CaptureRequest

HOW_TO_READ = """
**Rows** are tokens, **columns** are FFN neurons: coordinates of the vector that enters the layer's down projection.

- **active set**: the neurons that the set rule keeps for a token. Dynamic activation would compute these and skip the rest.
- **a**, **|a|**, **|a|·c**: the activation itself, its size, and its size times the norm *c* of the neuron's output column, which
  is how much it writes into the residual stream.
- The first row is the **sink token**. It stands in front of every prompt, its activations hardly depend on the text, and every
  statistic leaves it out.
- Where several neurons share a pixel, values show the strongest of them; the active set shows how many of them are active, by
  the strength of the tone. Wheel or pinch to zoom, drag to move, click a cell to pin its neuron, arrow keys to move the
  crosshair, Enter to pin, Escape to leave.
"""


def _finding(selection: state.Selection, active: np.ndarray, sink: np.ndarray, n_neurons: int) -> str:
    """One sentence on this prompt in this layer, from the sets."""
    rows = active[~sink]
    if not len(rows):
        return "This prompt has no token behind the sink token."
    rates = sets.rates(rows, n_neurons)
    chance = float(np.mean(sets.sizes(rows))) / n_neurons
    always = int((rates == 1).sum())
    text = (
        f"Layer {selection.layer}: a token keeps <b>{number(float(np.mean(sets.sizes(rows))))}</b> of {number(n_neurons)} neurons "
        f"({percent(chance)}). Over the {len(rows)} tokens of this prompt <b>{percent(float((rates == 0).mean()))}</b> of the "
        f"neurons are never active and <b>{always}</b> always {'is' if always == 1 else 'are'}."
    )
    if len(rows) > 1:
        overlap = cached.mean_overlap(*selection.place, selection.rethreshold)
        text += f" Two of its tokens share {percent(overlap)} of their sets on average; random sets would share {percent(chance)}."
        baseline = corpus_cached.baseline(selection.run, selection.layer) if selection.rethreshold is None else None
        if baseline is not None:
            text += f" By how often neurons fire in a corpus of {baseline[1]:,} tokens they would share {percent(baseline[0])}."
    return text


def _strip(selection: state.Selection, statistic: str, selected: int | None) -> None:
    piece = cached.piece(*selection.place)
    about = STATISTICS[statistic]
    frame = piece.frame.groupby("position", sort=True).first()
    st.html(
        token_strip(
            frame["token"].tolist(),
            frame[statistic].to_numpy(float),
            about.axis,
            frame["is_sink"].to_numpy(),
            selected,
        )
    )
    st.caption(
        f"How to read this: the prompt's own tokens; the stronger the tone, the higher the {about.label} ({about.meaning}) "
        f"in layer {selection.layer}. Hatched: sink token."
    )


def _controls(has_values: bool) -> tuple[str, str, str]:
    shows = list(pictures.SHOWS) if has_values else ["set"]
    statistics = [name for name in STATISTICS if name != "cett"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        show = linked(
            "show",
            "set",
            lambda: st.segmented_control(
                "Show",
                shows,
                key="show",
                required=True,
                format_func=pictures.SHOWS.__getitem__,
                persist_state="session",
            ),
            options=shows,
        )
        order = linked(
            "order",
            "index",
            lambda: st.segmented_control(
                "Neuron order",
                list(pictures.ORDERS),
                key="order",
                required=True,
                format_func=pictures.ORDERS.__getitem__,
                persist_state="session",
                help="Similarity puts neurons side by side that are strong on the same tokens of this prompt (angle in the "
                "plane of the first two principal components).",
            ),
            options=list(pictures.ORDERS),
        )
        statistic = linked(
            "stat",
            "l2_norm",
            lambda: st.selectbox(
                "Token statistic",
                statistics,
                key="stat",
                format_func=lambda name: STATISTICS[name].label,
                width=190,
                persist_state="session",
                help="Drawn as bars beside the map and as tint of the prompt's text.",
            ),
            options=statistics,
        )
    return str(show), str(order), statistic


def _pinned(scope: str) -> None:
    """The map's click becomes the bound neuron number, so that it is part of the link."""
    sent = (st.session_state.get("map") or {}).get("pins") or {}
    pins = sent.get("value") or []
    if sent.get("scope") == scope and pins:
        st.session_state["_pinned_row"] = int(pins[-1][0])
        state.go_to("neuron", int(pins[-1][1]))


def _offer(selection: state.Selection, active: np.ndarray, how_to_read: str, payload: bytes) -> None:
    """The map for download, its numbers as one row an active neuron of a token."""
    piece = cached.piece(*selection.place)
    _, prompt_id, condition, layer = selection.place
    changed = "" if selection.rule is None else f"\n# The page showed {selection.rule_label}; these are the sets as captured."
    exports.offer(
        f"Active neurons of {prompt_id}, layer {layer}",
        table=lambda: active_table(piece, active),
        figure=lambda: set_map(sets.unpack(active, piece.n_neurons), piece.frame["token"].tolist()),
        how_to_read=how_to_read,
        notebook=f"from moyu_core.figures.set_map import set_map\n{changed}\n"
        f"piece = query.read_slice(run, {prompt_id!r}, {layer}, {condition!r})\n"
        "figure = set_map(piece.mask, piece.frame['token'].tolist())\nfigure",
        canvas=Canvas("map", payload),
    )


def _exact(selection: state.Selection) -> None:
    """A way from the approximate sets of a moved slider to exact ones: a capture of this prompt under that rule."""
    if selection.rule is None or cached.read_only():
        return
    reason = asking.refusal("capture", {"model": selection.run.spec.model.name}, "capture texts")
    st.button(
        f"Capture exactly: {selection.rule.label()}",
        on_click=_ask_exact,
        args=(selection,),
        disabled=bool(reason),
        help=reason or "Queues a capture of this prompt under this rule; its progress is on the page New capture.",
    )


def _ask_exact(selection: state.Selection) -> None:
    table = query.prompts(selection.run)
    row = table.loc[(table["prompt_id"] == selection.prompt_id) & (table["condition"] == selection.condition)].to_dict("records")[0]
    prompt = Prompt(row["prompt_id"], row["text"], row["domain"], row["condition"])
    assert selection.rule is not None
    request = CaptureRequest(selection.run.spec.model.name, (prompt,), selection.rule, values=None, title=prompt.id)
    try:
        job = cached.jobs().submit("capture", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.toast(str(error))
        return
    st.session_state["_watched"] = job.id
    st.toast("Queued; the page New capture shows its progress.")


def _sweep(selection: state.Selection, tokens: list[str]) -> None:
    has_cett = selection.run.manifest["spec"]["parameters"].get("cett")
    names = [name for name in STATISTICS if name != "cett" or has_cett]
    st.subheader("All layers", divider="gray")
    statistic = linked(
        "sweep",
        "effective_neurons",
        lambda: st.segmented_control(
            "Statistic",
            names,
            key="sweep",
            required=True,
            format_func=lambda name: STATISTICS[name].label,
            persist_state="session",
        ),
        options=names,
    )
    frame = cached.sweep(selection.run.id, selection.prompt_id, str(statistic), selection.condition)
    about = STATISTICS[str(statistic)]
    key = f"sweep-{selection.run.id}-{selection.prompt_id}-{selection.condition}-{statistic}"

    def chosen() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points:
            state.go_to("layer", round(points[0]["y"]))

    st.html(frame_style(frame.index.tolist(), selection.layer, ".st-key-sweep-chart"))
    with st.container(key="sweep-chart"):
        parts.chart(
            layer_sweep(frame, str(statistic), tokens),
            notebook="from moyu_core.figures.sweep import layer_sweep\n\n"
            f"frame = query.sweep(run, {selection.prompt_id!r}, {statistic!r}, {selection.condition!r})\n"
            f"piece = query.read_slice(run, {selection.prompt_id!r}, {selection.layer}, {selection.condition!r})\n"
            f"tokens = piece.frame.groupby('position', sort=True)['token'].first().tolist()\n"
            f"figure = layer_sweep(frame, {statistic!r}, tokens)\nfigure",
            key=key,
            on_select=chosen,
            selection_mode="points",
            alt=f"Heat map of {about.label} by layer and token of prompt {selection.prompt_id}",
            how_to_read=f"How to read this: {about.label} = {about.meaning}. The frame marks layer {selection.layer}; click a row "
            "to choose its layer. The sink token in the first column lies outside the colour scale. "
            f"{selection.run.id}, {selection.run.spec.set_rule.label()}.",
        )


def _sweep_after_the_map(selection: state.Selection, tokens: list[str]) -> None:
    """The sweep, but not before a new visitor's browser had time to draw the map.

    Its chart brings 5 MB of script along, and a cold tab that loads both at once shows its first map a second later.
    """
    if st.session_state.get("_map_was_shown"):
        _sweep(selection, tokens)
        return
    st.skeleton(height=420)
    _wait_for_the_map()


@st.fragment(run_every="0.7s")
def _wait_for_the_map() -> None:
    """Runs once with the page and again when the browser is done with it, which lets the sweep in."""
    if st.session_state.get("_map_was_sent"):
        st.session_state["_map_was_shown"] = True
        st.rerun()
    st.session_state["_map_was_sent"] = True


def main() -> None:
    """Draw the page."""
    parts.header("Activation map", "Which FFN neurons fire on which token, and how strongly?", HOW_TO_READ)
    selection = state.selection()
    if selection is None:
        for error in cached.runs()[1]:
            st.error(str(error))
        parts.empty(
            "There is no run to look at yet. Write a prompt and capture it: a short one takes a few seconds.",
            "capture",
            "Write a prompt",
        )
        return
    piece = cached.piece(*selection.place)
    active = cached.active(*selection.place, selection.rethreshold)
    parts.finding(_finding(selection, active, piece.frame["is_sink"].to_numpy(), piece.n_neurons))
    nonfinite = int(piece.frame["nonfinite"].to_numpy().sum())
    if nonfinite:
        st.warning(f"{nonfinite} activations of this slice are NaN or infinite. They count as inactive and are marked on the map.")
    show, order, statistic = _controls(piece.codes is not None)
    _strip(selection, statistic, st.session_state.get("_pinned_row"))
    picture_column, panel = st.columns([3, 1], gap="medium")
    caption = f"{selection.run.manifest['model']['name']}, run {selection.run.id}, {selection.rule_label}"
    with picture_column:
        marks = marks_of_layer(selection.layer)
        payload = pictures.map_bytes(selection.place, selection.rethreshold, show, order, statistic, marks, caption)
        neuron_map(payload, key="map", on_pin=lambda: _pinned(selection.scope))
        how_to_read = f"How to read this: rows are tokens, columns are neurons; {pictures.SHOWS[show]}. {caption}."
        st.caption(how_to_read)
        _offer(selection, active, how_to_read, payload)
        _exact(selection)
        _sweep_after_the_map(selection, piece.frame.groupby("position", sort=True)["token"].first().tolist())
    with panel:
        neuron_panel.draw(selection, active)
    compare.draw(selection, show)


main()
