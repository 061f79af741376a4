"""Calibration rows on disk while predictors are trained: one dense pass writes, each layer is then read document by document.

Memory does not depend on the number of tokens; the files lie in a temporary folder that is removed at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from moyu_core.capture import TokenSequence, batches, pad
from moyu_core.methods.inputs import observe
from moyu_core.methods.protocol import Rows
from moyu_core.progress import Reporter, silent

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

BATCH_ROWS = 512
HALF_MAX = 65504.0
"""Hidden states are kept in half precision; what lies beyond its range is cut to its end."""

Kept = Mapping[str, NDArray[Any]]
"""Name -> (n, width) array of one layer, one row a token."""


class LayerDocuments:
    """One layer's rows by document: `documents[i]` is a tuple of the named arrays, read when it is asked for."""

    def __init__(self, arrays: Sequence[NDArray[Any]], starts: Sequence[int]) -> None:
        self._arrays, self._starts = arrays, starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int, /) -> Any:
        rows = slice(self._starts[index], self._starts[index + 1])
        return tuple(np.asarray(array[rows]) for array in self._arrays)


class Spool:
    """The files of all layers; `documents` reads them back."""

    def __init__(self, folder: Path, sequences: Sequence[TokenSequence]) -> None:
        self._folder = folder
        lengths = [len(sequence) - 1 for sequence in sequences]  # position 0 is left out
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(int).tolist()
        self._files: dict[tuple[int, str], NDArray[Any]] = {}

    def write(self, layer: int, number: int, kept: Kept) -> None:
        """Store one document's rows of a layer."""
        for name, array in kept.items():
            key = (layer, name)
            if key not in self._files:
                shape = (self.starts[-1], array.shape[1])
                self._files[key] = np.lib.format.open_memmap(self._folder / f"{layer}-{name}.npy", "w+", array.dtype, shape)
            self._files[key][self.starts[number] : self.starts[number + 1]] = array

    def documents(self, layer: int, names: Sequence[str]) -> LayerDocuments:
        """The named arrays of a layer, document by document."""
        return LayerDocuments([self._files[layer, name] for name in names], self.starts)


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
        spool = Spool(Path(folder), sequences)
        numbers = {id(sequence): number for number, sequence in enumerate(sequences)}
        done, total = 0, sum(map(len, sequences))
        for batch in batches(sequences, BATCH_ROWS):
            width = max(map(len, batch))

            def receive(rows: Rows, batch: Sequence[TokenSequence] = batch, width: int = width, done: int = done) -> None:
                report("reading calibration text", done, total)
                for place, sequence in enumerate(batch):
                    own = rows.part(slice(place * width + 1, place * width + len(sequence)))
                    spool.write(rows.layer, numbers[id(sequence)], keep(own))

            with torch.inference_mode(), observe(model, None, inputs, receive):
                model.decoder(input_ids=pad(batch, model.sink_token_id).to(model.device), use_cache=False)
            done += sum(map(len, batch))
        yield spool


def half(states: torch.Tensor) -> NDArray[np.float16]:
    """Hidden states as they are stored."""
    return states.float().clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy()
