"""The corpus as sequences: which tokens stand in which step, decided by seed and step alone.

Every sequence is the sink token and `length - 1` consecutive tokens of the corpus; its labels are the same tokens moved by one.
An epoch cuts the corpus into windows that do not overlap, at a random offset, in a random order. As the position in the data is
a function of the step, a run that was interrupted goes on with exactly the batch that was next.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.progress import Reporter, silent
from moyu_core.training import corpus, tokenizer
from moyu_core.training.tokenizer import SINK_ID

if TYPE_CHECKING:
    from moyu_core.home import Home

Batch = tuple[Tensor, Tensor]
"""inputs and labels, both (N, length) int64."""


@dataclass(frozen=True, eq=False)
class Data:
    """Token ids of the two parts.

    Attributes:
        train, held_out: (n,) uint16.
    """

    train: NDArray[np.uint16]
    held_out: NDArray[np.uint16]

    @staticmethod
    def load(place: Path) -> Data:
        """The two arrays of a corpus folder (`tokenizer.prepare` wrote them)."""
        parts = [place / f"{name}.npy" for name in ("train", "held_out")]
        if not all(part.is_file() for part in parts):
            raise InputError(f"{place} holds no train.npy and held_out.npy; build the corpus with `moyu train tiny`.")
        return Data(*(np.load(part, allow_pickle=False) for part in parts))

    def sha256(self) -> str:
        """What makes two corpora the same."""
        digest = hashlib.sha256(np.ascontiguousarray(self.train).tobytes())
        digest.update(np.ascontiguousarray(self.held_out).tobytes())
        return digest.hexdigest()


def corpus_data(home: Home, report: Reporter = silent) -> Data:
    """The corpus as token ids, fetched and tokenised where that has not been done."""
    place = corpus.build(home, report)
    tokenizer.prepare(place, report)
    return Data.load(place)


class Sequences:
    """Training batches by step.

    Args:
        ids: (n,) the training part.
        length: tokens in a sequence, sink token included.
        batch: sequences in a step.
        seed: decides offset and order of each epoch.
        device: where batches are wanted.
    """

    def __init__(self, ids: NDArray[np.uint16], length: int, batch: int, seed: int, device: torch.device) -> None:
        self.length, self.batch, self.seed = length, batch, seed
        self.windows = len(ids) // length - 1
        if self.windows < 1:
            raise InputError(f"{len(ids)} tokens are too few for sequences of {length}; at least {2 * length} are needed.")
        self.ids = torch.from_numpy(ids.astype(np.int32)).to(device)
        self.order = lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """First token of each window of an epoch, in the order of use."""
        generator = np.random.default_rng([self.seed, epoch])
        return generator.integers(self.length) + self.length * generator.permutation(self.windows)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        places = range(step * self.batch, (step + 1) * self.batch)
        starts = [self.order(place // self.windows)[place % self.windows] for place in places]
        return gather(self.ids, torch.tensor(np.asarray(starts), device=self.ids.device), self.length)


def gather(ids: Tensor, starts: Tensor, length: int) -> Batch:
    """Sequences that begin with the sink token and go on with ids[start:]."""
    labels = ids[starts[:, None] + torch.arange(length, device=ids.device)].long()
    inputs = torch.cat([torch.full_like(labels[:, :1], SINK_ID), labels[:, :-1]], dim=1)
    return inputs, labels


def spread(ids: NDArray[np.uint16], length: int, count: int | None, device: torch.device) -> Batch:
    """`count` windows evenly spread over a part of the corpus, the same in every run; None = all that do not overlap."""
    windows = len(ids) // length
    if windows < 1:
        raise InputError(f"{len(ids)} held-out tokens are too few for a sequence of {length}.")
    chosen = np.unique(np.linspace(0, windows - 1, min(count or windows, windows)).round().astype(np.int64))
    row = torch.from_numpy(ids.astype(np.int32)).to(device)
    return gather(row, torch.tensor(chosen * length, device=device), length)


def unigram_loss(data: Data, vocabulary: int) -> float:
    """Nats a token on the held-out part of a model that knows only how often tokens are (add-one smoothed)."""
    counts = np.bincount(data.train, minlength=vocabulary) + 1.0
    return float(-np.log(counts / counts.sum())[data.held_out].mean())
