"""Where the slices of a run lie: the table `index`, held as Arrow columns and looked up by prompt.

A dictionary with a key for each of 320,000 slices took half a second and 90 MB; one key a prompt takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Key = tuple[str, str, int]
"""prompt_id, condition, layer."""


class SliceIndex(Mapping[Key, tuple[str, int]]):
    """(prompt_id, condition, layer) -> (file, row group)."""

    def __init__(self, table: pa.Table) -> None:
        names, conditions = (_codes(table[name]) for name in ("prompt_id", "condition"))
        code = names[0].astype(np.int64) * max(len(conditions[1]), 1) + conditions[0]
        order = np.argsort(code, kind="stable")
        starts = np.flatnonzero(np.diff(code[order], prepend=-1))
        ends = [*starts[1:].tolist(), len(order)] if len(order) else []
        first = order[starts]
        keys = zip([names[1][i] for i in names[0][first]], [conditions[1][i] for i in conditions[0][first]], strict=True)
        self._blocks = {key: slice(start, end) for key, start, end in zip(keys, starts.tolist(), ends, strict=True)}
        self._layer = table["layer"].to_numpy()[order]
        self._group = table["row_group"].to_numpy()[order]
        files = _codes(table["file"])
        self._file, self._files = files[0][order], files[1]

    @staticmethod
    def read(path: Path) -> SliceIndex:
        """The index in a file."""
        words = ["prompt_id", "condition", "file"]
        with pq.ParquetFile(path, read_dictionary=words, page_checksum_verification=True) as file:
            return SliceIndex(file.read([*words, "layer", "row_group"]))

    def __getitem__(self, key: Key) -> tuple[str, int]:
        block = self._blocks[key[0], key[1]]
        found = np.flatnonzero(self._layer[block] == key[2])
        if not len(found):
            raise KeyError(key)
        place = block.start + int(found[0])
        return self._files[self._file[place]], int(self._group[place])

    def __iter__(self) -> Iterator[Key]:
        for (prompt, condition), block in self._blocks.items():
            yield from ((prompt, condition, int(layer)) for layer in self._layer[block])

    def __len__(self) -> int:
        return len(self._layer)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """A column of words as (number of the word in each row, the words)."""
    encoded: Any = column.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], pa.dictionary(pa.int32(), pa.string()))
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()
