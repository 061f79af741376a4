"""A table of a view as csv or Parquet."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core import sets
from moyu_core.export.view import Item, View
from moyu_core.prompt_export import separated
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


def _clear(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed kinds as text, which Arrow would refuse."""
    copy = table.copy()
    for number, kind in enumerate(copy.dtypes):
        if pd.api.types.is_object_dtype(kind) and len({type(value) for value in copy.iloc[:, number] if value is not None}) > 1:
            copy.isetitem(number, copy.iloc[:, number].astype(str))
    return copy.rename(columns=str)
