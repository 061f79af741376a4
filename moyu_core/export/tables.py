"""A table of a view as csv or Parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core import sets
from moyu_core.export.view import Item, View
from moyu_core.prompt_export import separated
from moyu_core.queries.inertia import Panel
from moyu_core.queries.predictors import Overlay
from moyu_core.query import Slice


def as_csv(item: Item) -> bytes:
    """UTF-8, the first line names the columns; what a spreadsheet would run is neutralised."""
    return separated(item.numbers())


def as_parquet(item: Item, view: View) -> bytes:
    """The table with its origin in the file's metadata: title, runs, link."""
    table = pa.Table.from_pandas(_clear(item.numbers()), preserve_index=False)
    origin = {"title": f"{view.title}: {item.name}", "runs": ", ".join(view.runs), "link": view.link, **view.facts}
    metadata = {**(table.schema.metadata or {}), **{key.encode(): value.encode() for key, value in origin.items()}}
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")
    return file.getvalue()


def active_table(piece: Slice, active: sets.Packed) -> pd.DataFrame:
    """One row an active neuron of a token: position, token, neuron, and its activation where values are stored.

    Args:
        piece: one prompt in one layer.
        active: (T, ceil(F/8)) packed sets, the stored ones or those of another rule.
    """
    rows, neurons = np.nonzero(sets.unpack(active, piece.n_neurons))
    frame = piece.frame
    table = pd.DataFrame({name: frame[name].to_numpy()[rows] for name in ("position", "token", "is_sink")})
    table["neuron"] = neurons.astype(np.int32)
    if piece.codes is not None:
        table["activation (to about 3 %)"] = piece.values[rows, neurons]
    return table


def panel_table(panels: Mapping[tuple[str, str], Panel], n_neurons: int) -> pd.DataFrame:
    """One row an active neuron of a word: content and history of the panel, number of the word (from 0), word, neuron."""
    tables = []
    for (content, history), panel in panels.items():
        rows, neurons = np.nonzero(sets.unpack(panel.active, n_neurons))
        names = {"content": content, "history": history, "place": rows, "word": np.array(panel.words, dtype=object)[rows]}
        tables.append(pd.DataFrame({**names, "neuron": neurons.astype(np.int32)}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def overlay_table(found: Overlay) -> pd.DataFrame:
    """One row a neuron that a token needed or a method kept: position, token, neuron, needed, kept."""
    rows, neurons = np.nonzero(found.needed | found.kept)
    table = pd.DataFrame({"position": found.positions[rows], "token": np.array(found.tokens, dtype=object)[rows]})
    return table.assign(neuron=neurons.astype(np.int32), needed=found.needed[rows, neurons], kept=found.kept[rows, neurons])


def _clear(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed kinds as text, which Arrow would refuse."""
    copy = table.copy()
    for number, kind in enumerate(copy.dtypes):
        if pd.api.types.is_object_dtype(kind) and len({type(value) for value in copy.iloc[:, number] if value is not None}) > 1:
            copy.isetitem(number, copy.iloc[:, number].astype(str))
    return copy.rename(columns=str)
