"""Thresholds by cumulative errors of tail truncation (CETT): how small may a neuron be and still be left out?

CETT of a token = ||sum of the contributions of the neurons below eps|| / ||down-projection output without bias||. The
threshold of a layer is the largest candidate whose mean CETT over the calibration tokens stays within the target
(arXiv 2411.02335, eq. 2 and 3, and the search of its public code: 65,536 candidates from the smallest contribution norm to
their 99 % quantile, bisection). All layers are calibrated in one dense pass, each while its activations pass by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.progress import Reporter, silent
from moyu_core.sites import Activation, watch

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel
    from moyu_core.token_sequences import TokenSequence

CANDIDATES = 65_536
CALIBRATION_TOKENS = 1024


@dataclass(frozen=True)
class Threshold:
    """One layer's threshold eps in units of |a|*c, and the mean CETT it gives on the calibration tokens."""

    layer: int
    value: float
    cett: float


def mean_cett(contribution: Tensor, rows: Tensor, threshold: float, down, output_norm: Tensor) -> float:
    """Mean over tokens of ||tail|| / ||output||; tokens with an output of 0 are left out.

    Args:
        contribution: (N, F) |a|*c.
        rows: (N, F) activations.
        threshold: eps; the tail is what lies below it.
        down: (N, F) -> (N, d), the down projection without bias.
        output_norm: (N,) norm of the whole output.
    """
    tail = down(rows.masked_fill(contribution >= threshold, 0)).float().norm(dim=1)
    valid = output_norm > 0
    return float((tail[valid] / output_norm[valid]).mean()) if bool(valid.any()) else 0.0


def find_threshold(contribution: Tensor, rows: Tensor, target: float, down) -> tuple[float, float]:
    """(eps, mean CETT at eps): the largest candidate with a mean CETT of at most `target`, else the smallest candidate.

    Shapes as in `mean_cett`. The mean of vector norms is not strictly monotone in eps; bisection finds a border all the same.
    """
    flat = contribution.flatten()
    sample = flat[:: max(flat.numel() // CANDIDATES, 1)]
    top = float(torch.from_numpy(sample.cpu().numpy().copy()).kthvalue(max(1, int(0.99 * sample.numel()))).values)
    candidates = torch.linspace(float(flat.min()), top, CANDIDATES)
    output_norm = down(rows).float().norm(dim=1)
    low, high = 0, CANDIDATES - 1
    best, reached = float(candidates[0]), mean_cett(contribution, rows, float(candidates[0]), down, output_norm)
    while low <= high:
        middle = (low + high) // 2
        value = float(candidates[middle])
        error = mean_cett(contribution, rows, value, down, output_norm)
        if error <= target:
            best, reached, low = value, error, middle + 1
        else:
            high = middle - 1
    return best, reached


def calibrate(
    model: LoadedModel,
    sequences: Sequence[TokenSequence],
    target: float,
    layers: Sequence[int],
    report: Reporter = silent,
    tokens: int = CALIBRATION_TOKENS,
) -> list[Threshold]:
    """Thresholds of all layers from one dense pass over the first prompts, up to `tokens` tokens, sink left out."""
    from moyu_core.capture import flat_rows
    from moyu_core.token_sequences import pad

    batch = _calibration_batch(sequences, tokens)
    real = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.bool)
    for row, sequence in enumerate(batch):
        real[row, 1 : len(sequence)] = True
    found: list[Threshold] = []

    def receive(activation: Activation) -> None:
        rows, norms, experts = flat_rows(activation, activation.site.column_norms().to(model.device))
        slots = len(rows) // real.numel()
        keep = real.flatten().repeat_interleave(slots).to(model.device)
        rows = rows[keep].float()
        rows = torch.where(rows.isfinite(), rows, 0)
        norms = norms if norms.ndim == 1 else norms[keep]
        kept_experts = None if experts is None else experts[keep]
        down = activation.site.down if kept_experts is None else (lambda x: activation.site.down(x, kept_experts))
        eps, reached = find_threshold(rows.abs() * norms, rows, target, down)
        found.append(Threshold(activation.site.layer, eps, reached))
        report("calibrating thresholds", len(found), len(layers))

    with torch.inference_mode(), watch(model, layers, receive):
        model.decoder(input_ids=pad(batch, model.sink_token_id).to(model.device), use_cache=False)
    return sorted(found, key=lambda threshold: threshold.layer)


def _calibration_batch(sequences: Sequence[TokenSequence], tokens: int) -> list[TokenSequence]:
    """The first prompts, cut where they are long, so that a batch of at most `tokens` with padding holds most of them."""
    lengths = np.asarray([len(sequence) for sequence in sequences[: max(tokens // 2, 1)]])
    widths = [min(int(lengths[:k].max()), tokens // k) for k in range(1, len(lengths) + 1)]
    kept = [int(np.minimum(lengths[:k], width).sum()) - k for k, width in enumerate(widths, 1)]
    best = int(np.argmax(kept))
    if kept[best] < 1:
        raise InputError("CETT thresholds need at least one token behind the sink token to be calibrated on.")
    return [replace(sequence, token_ids=sequence.token_ids[: widths[best]])
            for sequence in sequences[: best + 1]]
