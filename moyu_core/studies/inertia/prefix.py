"""GRIFFIN's statistic: which neurons a stretch of text uses most, relative to each token's length.

s_i^2 = sum over the stretch's tokens of a_i^2 / ||a||^2. The sink token is left out here, as of every statistic of this study.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from moyu_core import capture, sets
from moyu_core.methods.griffin import relative_squares
from moyu_core.sites import Activation, watch
from moyu_core.studies.inertia.units import Reader, as_sequences
from moyu_core.token_sequences import batches

Span = tuple[int, int]


@torch.inference_mode()
def statistic(reader: Reader, ids: Sequence[np.ndarray], spans: Sequence[Sequence[Span]], stage: str) -> np.ndarray:
    """(L, S, K, F) float32: mean of a_i^2 / ||a||^2 over each of K spans of each of S sequences.

    Args:
        reader: what runs the model.
        ids: token ids of each sequence, sink token first.
        spans: [start, stop) positions, K for each sequence.
        stage: told to the reporter.
    """
    found = np.zeros((len(reader.layers), len(ids), len(spans[0]), reader.n_neurons), np.float32)
    place = {layer: number for number, layer in enumerate(reader.layers)}
    total, done = sum(map(len, ids)), 0
    for batch in batches(as_sequences(ids), capture.default_batch_tokens(reader.model.device)):
        numbers, width = [int(sequence.prompt.id) for sequence in batch], max(map(len, batch))

        def receive(activation: Activation, numbers: list[int] = numbers, width: int = width) -> None:
            rows = activation.a.float()
            rows = torch.where(rows.isfinite(), rows, 0)
            shares = relative_squares(rows).view(len(numbers), width, -1)
            for row, number in enumerate(numbers):
                for span, (start, stop) in enumerate(spans[number]):
                    found[place[activation.site.layer], number, span] = shares[row, start:stop].mean(0).cpu().numpy()

        with watch(reader.model, None, receive):
            reader.forward(batch, numbers, width)
        done += sum(map(len, batch))
        reader.report(stage, done, total)
    reader.tokens += total
    return found


def top(scores: np.ndarray, sizes: np.ndarray) -> sets.Packed:
    """(L, N, ceil(F/8)): the sizes[l] largest scores of each row of layer l. (L, N, F) float32, (L,) int."""
    return np.stack([sets.top_sets(np.ascontiguousarray(rows), int(size)) for rows, size in zip(scores, sizes, strict=True)])


def leave_out(statistics: np.ndarray, groups: np.ndarray, left_out: Sequence[Any]) -> np.ndarray:
    """(L, len(left_out), F): the mean statistic over all texts that belong to another group than the one named.

    Args:
        statistics: (L, S, F).
        groups: (S,) group of each text.
        left_out: which group is left out, one a row of the answer.
    """
    return np.stack([statistics[:, groups != group].mean(axis=1) for group in left_out], axis=1)
