"""The numbers of a token x neuron map, read off the bytes that the page draws it from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moyu_core import companding, sets
from moyu_core.figures.map_payload import MapPicture, decode

MAX_CELLS = 2_000_000
"""Cells of a figure's own numbers that are made a table of."""
_VALUES = {"signed": "a", "abs": "|a|", "contribution": "|a|*c", "relative": "|a| / norm"}


def map_table(payload: bytes) -> pd.DataFrame:
    """One row a cell that is not background: position, token, neuron, and its value (to about 3 %) or its state.

    Background is a neuron that is not active, whose value is 0, or of a comparison's last category. Of a map with more
    than MAX_CELLS such cells the table holds the largest values, or the first rows.
    """
    picture = decode(payload)
    told, name, value = _cells(picture)
    rows, neurons = np.nonzero(told)
    if len(rows) > MAX_CELLS:
        size = np.nan_to_num(np.abs(value[rows, neurons].astype(np.float32)), nan=np.inf)
        kept = np.sort(np.argpartition(-size, MAX_CELLS)[:MAX_CELLS]) if picture.kind == "values" else slice(MAX_CELLS)
        rows, neurons = rows[kept], neurons[kept]
    positions: Any = range(picture.n_rows) if picture.positions is None else picture.positions
    table = pd.DataFrame({"position": np.asarray(positions)[rows], "token": np.array(picture.tokens, dtype=object)[rows]})
    table["neuron"] = neurons.astype(np.int32)
    if name:
        shown = value[rows, neurons]
        table[name] = shown if picture.kind == "values" else np.array([each.label for each in picture.categories])[shown]
    return table


def _cells(picture: MapPicture) -> tuple[np.ndarray, str, np.ndarray]:
    """(T, F) which cells are told, the name of what is told of them ("" = nothing more), and it, (T, F)."""
    cells = np.asarray(picture.cells)
    if picture.kind == "set":
        active = sets.unpack(cells, picture.n_neurons)
        return active, "", active
    if picture.kind == "compare":
        return cells < len(picture.categories) - 1, "state", cells
    value = companding.decode(cells, np.asarray(picture.scale))
    if picture.show != "signed":
        value = np.abs(value)
    if picture.show == "contribution":
        value = value * np.asarray(picture.norms, dtype=np.float32)
    if picture.show == "relative":
        norm = np.sqrt(np.nansum(value.astype(np.float64) ** 2, axis=1, keepdims=True))
        value = (value / np.where(norm > 0, norm, 1)).astype(np.float32)
    unit = f" ({picture.unit})" if picture.unit else ""
    return cells != 0, f"{_VALUES[picture.show]}{unit}, to about 3 %", value
