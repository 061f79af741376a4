"""One file of the table `activations` after another: row groups, compression, hashes.

Footers grow with row groups times columns, so files are kept small (`PROMPTS_PER_FILE`, `FILE_BYTES`) and written without column
statistics that nobody filters by.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core import schema
from moyu_core.run_writer import Seal

if TYPE_CHECKING:
    from moyu_core.capture import CapturedPrompt

PROMPTS_PER_FILE = 16
FILE_BYTES = 256 << 20
"""Of sets and values, as they are in memory, after which a file is closed although it holds fewer prompts."""

_REPEATED = ["prompt_id", "condition", "token", "layer", "slot", "expert", "density", "zero_share", "nonfinite"]
_LARGE = ("active", "values")
"""Columns worth compressing; a compressor for each small column of each row group doubles the time of writing."""

IndexRow = tuple[str, str, int, str, int, int]
"""prompt_id, condition, layer, file, row_group, rows."""


def size_of(captured: CapturedPrompt) -> int:
    """Bytes of the large columns."""
    return sum(captured.columns[name].nbytes for name in _LARGE if name in captured.columns)


class Lane:
    """Writes one file after another.

    Args:
        folder: where.
        n_neurons: F.
        values: whether the run stores values.
        number: gives the number of the next file.
        packs: whether the next file is compressed; asked when it is begun.
        seals: whether to hash a file and have the disk take it as soon as it is finished.

    Attributes:
        seal: of the file that is open; `push` it while more is written.
        sealed: manifest entries of finished files.
    """

    def __init__(
        self,
        folder: Path,
        n_neurons: int,
        values: bool,
        number: Callable[[], int],
        packs: Callable[[], bool] = lambda: True,
        seals: bool = False,
    ) -> None:
        self._folder, self._number, self._packs, self._seals = folder, number, packs, seals
        self._columns = schema.activation_columns(n_neurons, values)
        self._schema = schema.arrow_schema(self._columns)
        self._writer: pq.ParquetWriter | None = None
        self._room = 0.0
        self._groups = 0
        self.seal = Seal(folder)
        self.sealed: dict[str, dict[str, Any]] = {}

    def write(self, captured: CapturedPrompt, share: float = 1.0) -> list[IndexRow]:
        """Append a prompt, or some layers of one that count as `share` of a prompt; returns its rows of the index."""
        if self._room <= 0:
            self._next_file()
        assert self._writer is not None
        self._writer.write_table(self._table(captured), row_group_size=captured.rows_per_layer)
        self._room -= max(share / PROMPTS_PER_FILE, size_of(captured) / FILE_BYTES)
        first, self._groups = self._groups, self._groups + len(captured.layers)
        prompt, name, rows = captured.sequence.prompt, self.seal.path.name, captured.rows_per_layer
        return [(prompt.id, prompt.condition, layer, name, group, rows) for group, layer in enumerate(captured.layers, first)]

    def close(self) -> None:
        """Finish the file that is open; beside a GPU it is hashed at once, while the next ones are being made."""
        if self.let_go() and self._seals:
            self.sealed[self.seal.path.name] = self.seal.entry()

    def let_go(self) -> bool:
        """Close the file that is open, finished or not; whether there was one."""
        if self._writer is None or not self._writer.is_open:
            return False
        self._writer.close()
        return True

    def _next_file(self) -> None:
        self.close()
        self.seal = Seal(self._folder / file_name(self._number()))
        self._groups, self._room = 0, 1.0 - 1e-9
        self._writer = open_writer(self.seal.path, self._schema, self._packs())

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


def open_writer(path: Path, columns: pa.Schema, packed: bool = True) -> pq.ParquetWriter:
    """A file of `activations` to be filled, one row group a (prompt, layer); `packed`: sets and values are compressed."""
    return pq.ParquetWriter(
        path,
        columns,
        compression={name: "zstd" if packed and name in _LARGE else "none" for name in columns.names},  # pyright: ignore[reportArgumentType]
        use_dictionary=_REPEATED,  # pyright: ignore[reportArgumentType]
        write_statistics=False,
        write_page_checksum=True,  # zstd alone does not notice an altered byte
    )


def file_name(number: int) -> str:
    """Name of the n-th file of `activations`."""
    return f"activations-{number:03d}.parquet"


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
