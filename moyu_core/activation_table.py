"""The table `activations`: one row group per (prompt, layer), some prompts to a file, and an index to find them.

A reader opens one file's footer and reads one row group, however large the run is. Footers grow with row groups times
columns, so files are kept small (see `PROMPTS_PER_FILE`) and written without column statistics that nobody filters by.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core import schema
from moyu_core.run_writer import fsync, sealed

if TYPE_CHECKING:
    from moyu_core.capture import CapturedPrompt

PROMPTS_PER_FILE = 16
PENDING_PER_LANE = 2
"""Prompts that may wait for a lane: what keeps memory flat when writing is slower than computing."""

_REPEATED = ["prompt_id", "condition", "token", "layer", "slot", "expert", "density", "zero_share", "nonfinite"]
_LARGE = ("active", "values")
"""Columns worth compressing; a compressor for each small column of each row group doubles the time of writing."""

_IndexRow = tuple[str, str, int, str, int, int]
"""prompt_id, condition, layer, file, row_group, rows."""


class ActivationWriter:
    """Streams captured prompts into `activations-NNN.parquet` files of a folder.

    With one lane everything happens in `write`. With several, prompts go to the lanes in turn; each lane is a thread with a
    file of its own (compressing a set takes longer than a GPU takes to make it), and `write` waits when lanes fall behind.
    """

    def __init__(self, folder: Path, n_neurons: int, values: bool, lanes: int = 1) -> None:
        self._lanes = [_Lane(folder, n_neurons, values, first, lanes) for first in range(lanes)]
        self._threads = [ThreadPoolExecutor(1, f"lane-{first}") for first in range(lanes)] if lanes > 1 else []
        self._disk = ThreadPoolExecutor(2, "disk")
        self._pending: deque[Future[list[_IndexRow]]] = deque()
        self._prompts = 0
        self._index: list[_IndexRow] = []

    def __enter__(self) -> ActivationWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Let go of files that were not finished; whoever holds the folder throws them away."""
        for thread in (*self._threads, self._disk):
            thread.shutdown(cancel_futures=True)
        for lane in self._lanes:
            with suppress(OSError):
                lane.let_go()

    def write(self, captured: CapturedPrompt) -> int:
        """Append one prompt, a row group for each layer; returns the rows written, or that will be.

        Raises:
            OSError: the disk is full, perhaps from a prompt before this one.
        """
        number = self._prompts % len(self._lanes)
        self._prompts += 1
        if not self._threads:
            self._index += self._lanes[number].write(captured)
        else:
            self._pending.append(self._threads[number].submit(self._write_and_push, self._lanes[number], captured))
            while len(self._pending) > PENDING_PER_LANE * len(self._lanes):
                self._index += self._pending.popleft().result()
        return captured.rows_per_layer * len(captured.layers)

    def _write_and_push(self, lane: _Lane, captured: CapturedPrompt) -> list[_IndexRow]:
        """Write, and have what is written go to the disk now; else all of it would be waited for at the end."""
        rows = lane.write(captured)
        self._disk.submit(fsync, lane.path)
        return rows

    @property
    def sealed(self) -> dict[str, dict[str, Any]]:
        """Manifest entries of the files that are finished and on the disk already, by name (RunFolder.known)."""
        return {name: entry for lane in self._lanes for name, entry in lane.sealed.items()}

    def close(self) -> pa.Table:
        """Finish the files; returns the index table."""
        while self._pending:
            self._index += self._pending.popleft().result()
        for closing in [thread.submit(lane.close) for thread, lane in zip(self._threads, self._lanes, strict=False)]:
            closing.result()
        for lane in self._lanes:
            lane.close()
        index_schema = schema.arrow_schema(schema.INDEX_COLUMNS)
        columns = list(zip(*self._index, strict=True)) or [[] for _ in index_schema]
        return pa.table(
            [pa.array(list(column), field.type) for column, field in zip(columns, index_schema, strict=True)],
            schema=index_schema,
        )


class _Lane:
    """Writes every so many-th file, some prompts to a file."""

    def __init__(self, folder: Path, n_neurons: int, values: bool, first: int, step: int) -> None:
        self._folder = folder
        self._columns = schema.activation_columns(n_neurons, values)
        self._schema = schema.arrow_schema(self._columns)
        self._writer: pq.ParquetWriter | None = None
        self._file = first - step
        self._step = step
        self._prompts = 0
        self._groups = 0
        self.sealed: dict[str, dict[str, Any]] = {}

    def write(self, captured: CapturedPrompt) -> list[_IndexRow]:
        """Append one prompt; returns its rows of the index."""
        if self._prompts % PROMPTS_PER_FILE == 0:
            self._next_file()
        assert self._writer is not None
        self._writer.write_table(self._table(captured), row_group_size=captured.rows_per_layer)
        self._prompts += 1
        self._groups += len(captured.layers)
        prompt, file, rows = captured.sequence.prompt, file_name(self._file), captured.rows_per_layer
        groups = enumerate(captured.layers, self._groups - len(captured.layers))
        return [(prompt.id, prompt.condition, layer, file, group, rows) for group, layer in groups]

    @property
    def path(self) -> Path:
        """The file that is open."""
        return self._folder / file_name(self._file)

    def close(self) -> None:
        """Finish the file that is open; beside a GPU it is hashed at once, while the next ones are being made."""
        if self.let_go() and self._step > 1:
            self.sealed[self.path.name] = sealed(self.path)

    def let_go(self) -> bool:
        """Close the file that is open, finished or not; whether there was one."""
        if self._writer is None or not self._writer.is_open:
            return False
        self._writer.close()
        return True

    def _next_file(self) -> None:
        self.close()
        self._file += self._step
        self._groups = 0
        self._writer = open_writer(self.path, self._schema)

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


def lanes(device: str) -> int:
    """How many files to write at a time beside a model on such a device: one where the model needs the processor."""
    return 1 if device == "cpu" else max(1, min(16, (os.cpu_count() or 1) - 1))


def open_writer(path: Path, columns: pa.Schema) -> pq.ParquetWriter:
    """A file of `activations` to be filled, one row group a (prompt, layer)."""
    return pq.ParquetWriter(
        path,
        columns,
        compression={name: "zstd" if name in _LARGE else "none" for name in columns.names},  # pyright: ignore[reportArgumentType]
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
