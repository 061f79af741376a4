"""Calibration rows on disk while predictors are trained: one dense pass writes Parquet, each layer is read document by document.

A document is a row group, so memory does not depend on the number of tokens: nothing is mapped, what is in memory is what was
asked for, and a file ends after some documents, since an open Parquet file holds the description of all its groups. The files
lie in a temporary folder that is removed at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from moyu_core.methods.inputs import observe
from moyu_core.methods.protocol import Rows
from moyu_core.progress import Reporter, silent
from moyu_core.token_sequences import TokenSequence, batches, pad

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

BATCH_ROWS = 512
HALF_MAX = 65504.0
"""Hidden states are kept in half precision; what lies beyond its range is cut to its end."""

FILE_ROWS = 4096
"""Rows after which a file ends; opening one reads the description of all its groups, so not many."""

Kept = Mapping[str, NDArray[Any]]
"""Name -> (n, width) array of one layer, one row a token."""


class LayerDocuments:
    """One layer's rows by document: `documents[i]` is a tuple of the named arrays, read when it is asked for."""

    def __init__(self, files: _LayerFiles, names: Sequence[str], count: int) -> None:
        self._files, self._names, self._count = files, names, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Any:
        return self._files.read(index, self._names)


class _LayerFiles:
    """One layer's files: first they are written, one row group a document in the order in which they come, then they are read."""

    def __init__(self, folder: Path, first: Kept) -> None:
        folder.mkdir()
        self._folder = folder
        self._forms = {name: (array.dtype, array.shape[1]) for name, array in first.items()}
        fields = [pa.field(name, pa.binary(dtype.itemsize * width)) for name, (dtype, width) in self._forms.items()]
        self._schema = pa.schema(fields)
        self._places: dict[int, tuple[int, int]] = {}
        self._writer: pq.ParquetWriter | None = None
        self._file = self._group = self._rows = 0

    def write(self, number: int, kept: Kept) -> None:
        """Append one document; one without rows leaves no group."""
        rows = len(next(iter(kept.values())))
        if not rows:
            return
        if self._writer is None:
            path = self._path(self._file)
            self._writer = pq.ParquetWriter(path, self._schema, use_dictionary=False, compression="none", write_statistics=False)
        self._writer.write_table(self._table(kept, rows), row_group_size=rows)
        self._places[number] = (self._file, self._group)
        self._group, self._rows = self._group + 1, self._rows + rows
        if self._rows >= FILE_ROWS:
            self.close()

    def _path(self, file: int) -> Path:
        return self._folder / f"{file}.parquet"

    def _table(self, kept: Kept, rows: int) -> pa.Table:
        """The rows as they lie in memory, a row of bytes a token."""
        buffers = [pa.py_buffer(np.ascontiguousarray(kept[field.name])) for field in self._schema]
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(field.type, rows, [None, buffer])
            for field, buffer in zip(self._schema, buffers, strict=True)
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def read(self, number: int, names: Sequence[str]) -> tuple[NDArray[Any], ...]:
        """The named arrays of one document, (n, width) each; the last file is closed first."""
        self.close()
        if number not in self._places:
            return tuple(np.empty((0, width), dtype) for dtype, width in (self._forms[name] for name in names))
        file, group = self._places[number]
        with pq.ParquetFile(self._path(file)) as reader:
            table = reader.read_row_group(group, columns=list(names), use_threads=False)
        return tuple(self._array(table[name].combine_chunks(), name) for name in names)

    def _array(self, column: Any, name: str) -> NDArray[Any]:
        """A copy of its own, so that nothing keeps what was read alive."""
        dtype, width = self._forms[name]
        values = np.frombuffer(column.buffers()[1], dtype).reshape(-1, width)
        return values[column.offset : column.offset + len(column)].copy()

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._file, self._group, self._rows = self._file + 1, 0, 0


class Spool:
    """The files of all layers; `documents` reads them back."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count
        self._files: dict[int, _LayerFiles] = {}

    def write(self, layer: int, number: int, kept: Kept) -> None:
        """Store one document's rows of a layer."""
        if not kept:
            return
        if layer not in self._files:
            self._files[layer] = _LayerFiles(self._folder / str(layer), kept)
        self._files[layer].write(number, kept)

    def documents(self, layer: int, names: Sequence[str]) -> LayerDocuments:
        """The named arrays of a layer, document by document."""
        return LayerDocuments(self._files[layer], names, self._count)

    def close(self) -> None:
        """Finish the files that are being written."""
        for files in self._files.values():
            files.close()


@contextmanager
def spooled(
    model: LoadedModel,
    sequences: Sequence[TokenSequence],
    inputs: Sequence[str],
    keep: Callable[[Rows], Kept],
    report: Reporter = silent,
) -> Iterator[Spool]:
    """One dense pass over the documents; `keep` says what is stored of a layer's rows (of one document, sink left out)."""
    with tempfile.TemporaryDirectory(prefix="moyu-fit-") as folder:
        spool = Spool(Path(folder), len(sequences))
        numbers = {id(sequence): number for number, sequence in enumerate(sequences)}
        done, total = 0, sum(map(len, sequences))
        try:
            for batch in batches(sequences, BATCH_ROWS):
                width = max(map(len, batch))

                def receive(rows: Rows, batch: Sequence[TokenSequence] = batch, width: int = width, done: int = done) -> None:
                    report("reading calibration text", done, total)
                    for place, sequence in enumerate(batch):  # position 0 is left out
                        own = rows.part(slice(place * width + 1, place * width + len(sequence)))
                        spool.write(rows.layer, numbers[id(sequence)], keep(own))

                with torch.inference_mode(), observe(model, None, inputs, receive):
                    model.decoder(input_ids=pad(batch, model.sink_token_id).to(model.device), use_cache=False)
                done += sum(map(len, batch))
            yield spool
        finally:
            spool.close()


def half(states: torch.Tensor) -> NDArray[np.float16]:
    """Hidden states as they are stored."""
    return states.float().clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy()
