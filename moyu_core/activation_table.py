"""The table `activations`: one row group per (prompt, layer), some prompts to a file, and an index to find them.

A reader opens one file's footer and reads one row group, however large the run is.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from moyu_core import schema
from moyu_core.activation_files import PROMPTS_PER_FILE, IndexRow, Lane, size_of

if TYPE_CHECKING:
    from moyu_core.capture import CapturedPrompt

PENDING_PER_LANE = 2
"""Pieces that may wait for a lane: what keeps memory flat when writing is slower than computing."""

PIECE_BYTES = 16 << 20
"""A prompt with more than this is written by several lanes, some layers each: the last prompts then take all of them."""

PUSH_BYTES = 32 << 20
"""What a lane writes before it is hashed and the disk has to take it; else all of it would be waited for at the end."""
DISK_THREADS = 4


class ActivationWriter:
    """Streams captured prompts into `activations-NNN.parquet` files of a folder.

    With one lane everything happens in `write`. With several, pieces of prompts go to whichever lane is free; each lane is a
    thread with a file of its own, and `write` waits when lanes fall behind. Compressing a set takes longer than a GPU takes to
    make it, so unless there are processors to spare every second lane stores sets as they are (`compact` packs them later);
    when it is the disk that falls behind, all lanes compress. Beside a model on the processor there is time for nothing: all lanes
    compress, and `write` waits for all but one of the pieces, so that the prompts of a batch are written at the same time
    and not beside the next one.

    Args:
        folder: where the files go.
        n_neurons: F.
        values: whether the run stores values.
        lanes: from `lanes`.
        on_processor: whether the model runs on the processor.
    """

    def __init__(self, folder: Path, n_neurons: int, values: bool, lanes: int = 1, on_processor: bool = False) -> None:
        number = itertools.count().__next__
        spare = on_processor or (os.cpu_count() or 1) >= 2 * lanes
        packs = [(lambda: True) if spare or lane % 2 == 0 else self._disk_is_behind for lane in range(lanes)]
        self._may_wait = 1 if on_processor else PENDING_PER_LANE * lanes
        self._lanes = [Lane(folder, n_neurons, values, number, pack, lanes > 1) for pack in packs]
        self._free: SimpleQueue[Lane] = SimpleQueue()
        self._pushed = dict.fromkeys(self._lanes, 0)
        for lane in self._lanes:
            self._free.put(lane)
        self._threads = ThreadPoolExecutor(lanes, "lane") if lanes > 1 else None
        self._disk = ThreadPoolExecutor(DISK_THREADS, "disk")
        self._pushes: deque[Future[None]] = deque()
        self._pending: deque[Future[list[IndexRow]]] = deque()
        self._index: list[IndexRow] = []

    def __enter__(self) -> ActivationWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Let go of files that were not finished; whoever holds the folder throws them away."""
        for threads in (self._threads, self._disk):
            if threads:
                threads.shutdown(cancel_futures=True)
        for lane in self._lanes:
            with suppress(OSError):
                lane.let_go()

    def write(self, captured: CapturedPrompt) -> int:
        """Append one prompt, a row group for each layer; returns the rows written, or that will be.

        Raises:
            OSError: the disk is full, perhaps from a prompt before this one.
        """
        if self._threads is None:
            self._index += self._lanes[0].write(captured)
            return captured.rows_per_layer * len(captured.layers)
        for piece in pieces(captured):
            share = len(piece.layers) / len(captured.layers)
            self._pending.append(self._threads.submit(self._write_and_push, piece, share))
            while len(self._pending) > self._may_wait:
                self._index += self._pending.popleft().result()
        return captured.rows_per_layer * len(captured.layers)

    def _write_and_push(self, piece: CapturedPrompt, share: float) -> list[IndexRow]:
        """Write on a free lane, of which there are as many as threads."""
        lane = self._free.get()
        try:
            rows = lane.write(piece, share)
            self._pushed[lane] += size_of(piece)
            if self._pushed[lane] >= PUSH_BYTES:
                self._pushed[lane] = 0
                self._pushes.append(self._disk.submit(lane.seal.push))
        finally:
            self._free.put(lane)
        return rows

    def _disk_is_behind(self) -> bool:
        """Whether much of what was written still waits for the disk."""
        while self._pushes and self._pushes[0].done():
            with suppress(IndexError):  # another lane was faster
                self._pushes.popleft()
        return len(self._pushes) > len(self._lanes)

    @property
    def sealed(self) -> dict[str, dict[str, Any]]:
        """Manifest entries of the files that are finished and on the disk already, by name (RunFolder.known)."""
        return {name: entry for lane in self._lanes for name, entry in lane.sealed.items()}

    def close(self) -> pa.Table:
        """Finish the files; returns the index table."""
        while self._pending:
            self._index += self._pending.popleft().result()
        if self._threads is None:
            self._lanes[0].close()
        else:
            list(self._threads.map(Lane.close, self._lanes))
        index_schema = schema.arrow_schema(schema.INDEX_COLUMNS)
        columns = list(zip(*self._index, strict=True)) or [[] for _ in index_schema]
        return pa.table(
            [pa.array(list(column), field.type) for column, field in zip(columns, index_schema, strict=True)],
            schema=index_schema,
        )


def pieces(captured: CapturedPrompt) -> list[CapturedPrompt]:
    """A prompt cut between layers into pieces of at most PIECE_BYTES, or of one layer."""
    layers, rows = captured.layers, captured.rows_per_layer
    step = max(1, len(layers) * PIECE_BYTES // max(size_of(captured), 1))
    return [
        replace(captured, layers=layers[first : first + step],
                columns={name: column[first * rows : (first + step) * rows] for name, column in captured.columns.items()})
        for first in range(0, len(layers), step)
    ]  # fmt: skip


def lanes(device: str, prompts: int, processors: int | None = None) -> int:
    """How many files to write at a time beside a model on such a device.

    Args:
        device: its type.
        prompts: of the run; a run that fits one file on the processor is one file.
        processors: that the model's process may use; None = all of the machine.
    """
    processors = processors or os.cpu_count() or 1
    if device == "cpu":
        return 2 if processors > 1 and prompts > PROMPTS_PER_FILE else 1
    return max(1, min(16, processors - 1))
