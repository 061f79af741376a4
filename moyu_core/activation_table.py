"""The table `activations`: one row group per (prompt, layer), some prompts to a file, and an index to find them.

A reader opens one file's footer and reads one row group, however large the run is. Footers grow with row groups times
columns, so files are kept small (see `PROMPTS_PER_FILE`) and written without column statistics that nobody filters by.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core import schema

if TYPE_CHECKING:
    from moyu_core.capture import CapturedPrompt

PROMPTS_PER_FILE = 16
_REPEATED = ["prompt_id", "condition", "token", "layer", "slot", "expert", "density", "zero_share", "nonfinite"]
_LARGE = ("active", "values")
"""Columns worth compressing; a compressor for each small column of each row group doubles the time of writing."""


class ActivationWriter:
    """Streams captured prompts into `activations-NNN.parquet` files of a folder."""

    def __init__(self, folder: Path, n_neurons: int, values: bool) -> None:
        self._folder = folder
        self._columns = schema.activation_columns(n_neurons, values)
        self._schema = schema.arrow_schema(self._columns)
        self._writer: pq.ParquetWriter | None = None
        self._prompts = 0
        self._groups = 0
        self._index: list[tuple[str, str, int, str, int, int]] = []

    def __enter__(self) -> ActivationWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Let go of a file that was not finished; whoever holds the folder throws it away."""
        if self._writer is not None and self._writer.is_open:
            with suppress(OSError):
                self._writer.close()

    def write(self, captured: CapturedPrompt) -> int:
        """Append one prompt, a row group for each layer; returns the rows written."""
        if self._prompts % PROMPTS_PER_FILE == 0:
            self._next_file()
        table = self._table(captured)
        assert self._writer is not None
        self._writer.write_table(table, row_group_size=captured.rows_per_layer)
        self._remember(captured)
        self._prompts += 1
        return table.num_rows

    def close(self) -> pa.Table:
        """Finish the last file; returns the index table."""
        if self._writer is not None:
            self._writer.close()
        index_schema = schema.arrow_schema(schema.INDEX_COLUMNS)
        columns = list(zip(*self._index, strict=True)) or [[] for _ in index_schema]
        return pa.table(
            [pa.array(list(column), field.type) for column, field in zip(columns, index_schema, strict=True)],
            schema=index_schema,
        )

    def _next_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._name = f"activations-{self._prompts // PROMPTS_PER_FILE:03d}.parquet"
        self._groups = 0
        self._writer = pq.ParquetWriter(
            self._folder / self._name,
            self._schema,
            compression={column.name: "zstd" if column.name in _LARGE else "none" for column in self._columns},  # pyright: ignore[reportArgumentType]
            use_dictionary=_REPEATED,  # pyright: ignore[reportArgumentType]
            write_statistics=False,
            write_page_checksum=True,  # zstd alone does not notice an altered byte
        )

    def _remember(self, captured: CapturedPrompt) -> None:
        prompt = captured.sequence.prompt
        for layer in captured.layers:
            self._index.append((prompt.id, prompt.condition, layer, self._name, self._groups, captured.rows_per_layer))
            self._groups += 1

    def _table(self, captured: CapturedPrompt) -> pa.Table:
        rows = captured.rows_per_layer * len(captured.layers)
        columns = {**_token_columns(captured), **captured.columns}
        arrays = []
        for column in self._columns:
            data = columns.get(column.name)
            if data is None:
                arrays.append(pa.nulls(rows, column.type))
            elif isinstance(data, pa.Array):
                arrays.append(data)
            elif pa.types.is_fixed_size_binary(column.type):
                buffer = pa.py_buffer(np.ascontiguousarray(data))
                arrays.append(pa.Array.from_buffers(column.type, rows, [None, buffer]))
            else:
                arrays.append(pa.array(data, column.type))
        return pa.Table.from_arrays(arrays, schema=self._schema)


def _token_columns(captured: CapturedPrompt) -> dict[str, np.ndarray | pa.Array]:
    """The columns that do not come out of the model, repeated for every layer and slot."""
    sequence = captured.sequence
    slots = captured.rows_per_layer // len(sequence)
    layers = np.asarray(captured.layers, np.int16)
    position = np.tile(np.repeat(np.arange(len(sequence), dtype=np.int32), slots), len(layers))
    rows = len(position)
    columns: dict[str, np.ndarray | pa.Array] = {
        "prompt_id": pa.array([sequence.prompt.id]).take(pa.array(np.zeros(rows, np.int32))),
        "condition": pa.array([sequence.prompt.condition]).take(pa.array(np.zeros(rows, np.int32))),
        "layer": np.repeat(layers, captured.rows_per_layer),
        "position": position,
        "slot": np.tile(np.arange(slots, dtype=np.int8), rows // slots),
        "token_id": sequence.token_ids.astype(np.int32)[position],
        "token": pa.array(sequence.texts).take(pa.array(position)),
        "is_sink": position == 0,
    }
    if "expert" not in captured.columns:
        columns["expert"] = np.zeros(rows, np.int16)
    return columns
