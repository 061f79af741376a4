"""DejaVu's predictor: a low-rank linear classifier from an earlier hidden state to "will this neuron be needed?".

    predictor = dejavu.train(documents, n_neurons, rank=72, seed=0)
    predictor.scores(x)                    # (N, F) logits
    predictor.choose(x, k)                 # (N, F) bool, the k largest
    predictor.validation["recall"]         # on documents it never saw

Source: Liu et al. 2023, arXiv 2310.17157, and its public code: Linear(d, r) - Linear(r, F) without bias and without a
nonlinearity between, weighted binary cross-entropy (1 for active neurons, mean(y) + 0.005 for the others), AdamW with weight decay
0.01. Ours: documents are split, not rows; the epoch is chosen by recall at equal size, because recall at a
threshold can be bought with a larger set; the input is divided by one number, its RMS, folded into the first matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moyu_core import sets
from moyu_core.errors import InputError
from moyu_core.methods.selection import top_mask
from moyu_core.progress import Reporter, silent

Document = tuple[NDArray[Any], sets.Packed]
"""Rows of one document: hidden states (n, d), float16 or float32, and active sets (n, ceil(F/8)), packed."""


class Documents(Protocol):
    """Documents that are read when they are asked for, so that memory does not grow with their number; a list is one too."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int, /) -> Document:
        """One of them, from 0."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a predictor is trained. DejaVu takes 400,000 rows, batches of 1024, a rate of 1e-3 and up to 20 epochs; with a tenth of
    the rows a rate of 3e-3 reaches the same recall in fewer epochs.

    Attributes:
        epochs: most passes over the training documents.
        patience: epochs without a better validation recall before it stops.
        batch: rows of a step.
        learning_rate, weight_decay: of AdamW.
        held_out: share of the documents kept for validation, at least one.
        buffer: documents that are mixed with each other when rows are shuffled.
    """

    epochs: int = 10
    patience: int = 2
    batch: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    held_out: float = 0.1
    buffer: int = 48


@dataclass(eq=False)
class Predictor:
    """A trained predictor of one layer.

    Attributes:
        down: (r, d), the first matrix.
        up: (F, r), the second.
        validation: recall, precision and density at equal size on held-out documents; `threshold_*` the same for logit >= 0.
        recipe: settings, rank, seed and sizes.
    """

    down: Tensor
    up: Tensor
    validation: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    def scores(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Logits (N, F) float32 of hidden states (N, d); above 0 = more likely needed than not, as it was trained."""
        states = torch.as_tensor(x).to(self.down.device, torch.float32)
        return (states @ self.down.T) @ self.up.T

    def choose(self, x: Tensor | NDArray[Any], k: int) -> Tensor:
        """The k neurons with the largest logits of each row, (N, F) bool."""
        return top_mask(self.scores(x), k)


def default_rank(d: int) -> int:
    """About d / 8: the published rank of 1000 would cost 80 % of the FFN in a model of width 576."""
    return max(4, d // 8)


def train(
    documents: Documents,
    n_neurons: int,
    rank: int | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    report: Reporter = silent,
    device: torch.device | str = "cpu",
) -> Predictor:
    """Train one layer's predictor. The same documents, seed and machine give the same predictor.

    Args:
        documents: at least two; some are held out whole for validation.
        n_neurons: F.
        rank: r; None = d / 8.
        seed: of the split, the first weights and the order of rows.
        settings: of the training.
        report: called after every buffer of documents; may raise `Cancelled`.
        device: where it is trained.

    Raises:
        InputError: fewer than two documents, or fewer rows than a batch.
    """
    settings = settings or Settings()
    training, held_out = split(len(documents), settings.held_out, seed)
    d = documents[training[0]][0].shape[1]
    rank = default_rank(d) if rank is None else rank
    scale = _scale(documents, training, settings)
    predictor = _fresh(d, n_neurons, rank, seed, device)
    best, waited, epoch = _Best(), 0, 0
    optimizer = torch.optim.AdamW([predictor.down, predictor.up], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for epoch in range(1, settings.epochs + 1):
        for step, (x, y) in enumerate(_batches(documents, training, n_neurons, seed + epoch, settings)):
            _step(predictor, optimizer, x.to(device) / scale, y.to(device))
            if step % 16 == 0:
                report("training", epoch - 1, settings.epochs)
        waited = 0 if best.offer(predictor, evaluate(predictor, documents, held_out, n_neurons, scale)) else waited + 1
        if waited >= settings.patience:
            break
    found = Predictor(best.down / scale, best.up, best.validation)
    found.recipe = {**asdict(settings), "rank": rank, "seed": seed, "epochs_run": epoch, "documents": len(documents)}
    return found


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training, held out) document numbers: whole documents, so no sentence stands on both sides.

    Raises:
        InputError: fewer than two documents.
    """
    if count < 2:
        raise InputError(f"A predictor needs at least 2 documents, one of them to be tested on; got {count}. Give more text.")
    order = np.random.default_rng(seed).permutation(count).tolist()
    kept = min(max(1, round(share * count)), count - 1)
    return sorted(order[kept:]), sorted(order[:kept])


def evaluate(
    predictor: Predictor, documents: Documents, which: Sequence[int], n_neurons: int, scale: float = 1.0
) -> dict[str, float]:
    """Recall and precision of the predictor, micro-averaged over the rows of these documents.

    At equal size: as many neurons as the row's own set has. At the threshold: logit >= 0, whose size is given too.
    """
    total = np.zeros(6)
    for number in which:
        x, packed = documents[number]
        wanted = torch.from_numpy(sets.unpack(packed, n_neurons).copy()).to(predictor.down.device)
        logits = predictor.scores(torch.as_tensor(x).float() / scale)
        same = _equal_size(logits, wanted.sum(dim=1))
        above = logits >= 0
        total += [len(x), float(wanted.sum()), float((same & wanted).sum()), float(same.sum()), float((above & wanted).sum()),
                  float(above.sum())]
    rows, needed, hits, kept, above_hits, above_kept = (float(value) for value in total)
    return {
        "recall": hits / max(needed, 1), "precision": hits / max(kept, 1), "density": kept / (rows * n_neurons),
        "threshold_recall": above_hits / max(needed, 1), "threshold_precision": above_hits / max(above_kept, 1),
        "threshold_density": above_kept / (rows * n_neurons), "rows": rows,
    }


def _equal_size(logits: Tensor, sizes: Tensor) -> Tensor:
    """The largest logits of each row, as many as `sizes` says."""
    order = logits.argsort(dim=1, descending=True)
    places = torch.arange(logits.shape[1], device=logits.device)[None] < sizes[:, None]
    return torch.zeros_like(places).scatter_(1, order, places)


class _Best:
    """The best predictor so far by validation recall at equal size."""

    def __init__(self) -> None:
        self.validation: dict[str, float] = {"recall": -1.0}

    def offer(self, predictor: Predictor, validation: dict[str, float]) -> bool:
        """Keep a copy if it is better; says whether it was."""
        if not validation["recall"] > self.validation["recall"]:
            return False
        self.validation = validation
        self.down, self.up = predictor.down.detach().clone(), predictor.up.detach().clone()
        return True


def _fresh(d: int, n_neurons: int, rank: int, seed: int, device: torch.device | str) -> Predictor:
    """Uniform first weights as in torch's Linear, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    down, up = ((torch.rand(rows, columns, generator=generator) * 2 - 1) / math.sqrt(columns)
                for rows, columns in ((rank, d), (n_neurons, rank)))
    return Predictor(down.to(device).requires_grad_(), up.to(device).requires_grad_())


def _step(predictor: Predictor, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One step of weighted binary cross-entropy."""
    with torch.enable_grad():
        logits = (x @ predictor.down.T) @ predictor.up.T
        weight = torch.where(y, 1.0, float(y.float().mean()) + 0.005)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y.float(), weight=weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    optimizer.step()


def _scale(documents: Documents, training: Sequence[int], settings: Settings) -> float:
    """RMS of the input over the first documents; residual streams differ by orders of magnitude between layers and models."""
    squares = [np.square(documents[number][0].astype(np.float32)).mean() for number in training[: settings.buffer]]
    return float(np.sqrt(np.mean(squares))) or 1.0


def _batches(
    documents: Documents, training: Sequence[int], n_neurons: int, seed: int, settings: Settings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches; only `buffer` documents are in memory at a time."""
    random = np.random.default_rng(seed)
    order = random.permutation(training)
    for start in range(0, len(order), settings.buffer):
        chosen = [documents[int(number)] for number in order[start : start + settings.buffer]]
        x = np.concatenate([states for states, _ in chosen])
        packed = np.concatenate([labels for _, labels in chosen])
        rows = random.permutation(len(x))
        for first in range(0, len(rows), settings.batch):
            picked = rows[first : first + settings.batch]
            labels = sets.unpack(packed[picked], n_neurons)
            yield torch.from_numpy(x[picked].astype(np.float32)), torch.from_numpy(labels.copy())
