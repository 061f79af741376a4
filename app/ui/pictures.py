"""Slices -> map pictures: the bytes that the canvas draws. Cached by what they show, never by arrays."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app.ui import cached
from moyu_core import companding, sets
from moyu_core.figures.map_payload import MapPicture, encode
from moyu_core.figures.sweep import STATISTICS

SHOWS = {"set": "active set", "signed": "a (signed)", "abs": "|a|", "contribution": "|a|·c", "relative": "|a| / ‖a‖"}
ORDERS = {"index": "index", "rate": "rate in the run", "similarity": "similarity"}


Place = tuple[str, str, str, int]
"""(run_id, prompt_id, condition, layer): one slice."""


@st.cache_resource(show_spinner=False, max_entries=48)
def map_bytes(
    place: Place,
    rule: tuple[str, float] | None,
    show: str,
    order: str,
    statistic: str,
    marks: tuple[tuple[int, str], ...],
    caption: str,
    group: str = "",
) -> bytes:
    """The activation map of one prompt in one layer.

    Args:
        place: which slice.
        rule: name and density of a re-thresholding rule; None = the stored sets.
        show: key of SHOWS; order: key of ORDERS; statistic: column drawn as bars.
        marks: (neuron, name) pairs.
        caption: run and set rule in words.
        group: maps of a page that share zoom and crosshair.
    """
    run_id, prompt_id, _, layer = place
    piece = cached.piece(*place)
    active = cached.active(*place, rule)
    neurons = cached.neurons(run_id, layer)
    frame = piece.frame
    sink = frame["is_sink"].to_numpy()
    values = show != "set"
    about = STATISTICS[statistic]
    return encode(
        MapPicture(
            kind="values" if values else "set",
            cells=piece.codes if values and piece.codes is not None else active,
            n_neurons=piece.n_neurons,
            tokens=frame["token"].tolist(),
            positions=frame["position"].tolist(),
            token_ids=frame["token_id"].tolist(),
            sink_rows=np.flatnonzero(sink).tolist(),
            scale=piece.scale if values else None,
            norms=neurons["column_norm"].to_numpy() if show == "contribution" else None,
            order=neuron_order(place, order),
            order_label=f"neurons by {ORDERS[order]}",
            profile=sets.rates(active[~sink], piece.n_neurons).astype(np.float32) if (~sink).any() else None,
            profile_label="rate in this prompt",
            rates=neurons["rate"].to_numpy(np.float32),
            rates_label="rate in the run",
            bars=frame[statistic].to_numpy(np.float32),
            bar_label=about.label,
            bar_unit=about.unit,
            show=show,
            unit="" if show in ("set", "relative") else "activation" if show != "contribution" else "|a|·c",
            title=f"{prompt_id}, layer {layer}",
            caption=caption,
            alt=f"Map of {len(frame)} tokens by {piece.n_neurons} neurons, {SHOWS[show]}, prompt {prompt_id}, layer {layer}. "
            f"{caption}",
            marks=marks,
            scope="/".join(map(str, place)),
            group=group,
        )
    )


def neuron_order(place: Place, order: str) -> np.ndarray | None:
    """Column -> neuron; None = as numbered."""
    run_id, _, _, layer = place
    if order == "rate":
        return np.argsort(-cached.neurons(run_id, layer)["rate"].to_numpy(), kind="stable")
    if order == "similarity":
        return cached.similarity_order(*place)
    return None


@st.cache_resource(show_spinner=False, max_entries=16)
def difference_bytes(first: Place, second: Place, caption: str, group: str) -> bytes:
    """Signed difference second - first of the same tokens in two runs: (T, F) activations.

    Args:
        first, second: (run_id, prompt_id, condition, layer) with the same tokens and F, both with values.
    """
    a, b = (cached.piece(*place) for place in (first, second))
    codes, scale = companding.encode(b.values - a.values)
    return encode(
        MapPicture(
            kind="values",
            cells=codes,
            scale=scale,
            n_neurons=a.n_neurons,
            tokens=a.frame["token"].tolist(),
            show="signed",
            value_label="difference of a",
            sink_rows=np.flatnonzero(a.frame["is_sink"]).tolist(),
            unit="activation",
            title="difference, second - first",
            caption=caption,
            alt=f"Signed difference of two activation maps. {caption}",
            group=group,
            order_label="neurons by index",
        )
    )


@st.cache_resource(show_spinner=False, max_entries=16)
def rate_difference_bytes(first: Place, second: Place, caption: str, group: str) -> bytes:
    """Signed difference of each neuron's rate over two prompts, second - first, as a map of one row."""
    rates = []
    for place in (first, second):
        piece = cached.piece(*place)
        rates.append(sets.rates(piece.active[~piece.frame["is_sink"].to_numpy()], piece.n_neurons))
    codes, scale = companding.encode((rates[1] - rates[0])[None].astype(np.float32))
    return encode(
        MapPicture(
            kind="values",
            cells=codes,
            scale=scale,
            n_neurons=codes.shape[1],
            tokens=["rate"],
            show="signed",
            value_label="difference of rates",
            title="rate in the second prompt - rate in the first",
            caption=caption,
            group=group,
            alt=f"Difference of firing rates by neuron. {caption}",
            order_label="neurons by index",
        )
    )
