"""The reduction of `reducers` in torch, for activations that live on a GPU; equal up to the rounding of sums.

Only the packed sets and five numbers a row leave the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moyu_core.reducers import ReducedRows, RowReducer
from moyu_core.statistics import TokenStatistics

_BITS = tuple(1 << bit for bit in range(8))


def reduce_on_device(reducer: RowReducer, rows: Tensor, norms: Tensor) -> ReducedRows:
    """Reduce (N, F) rows where they are.

    Args:
        reducer: rule and threshold.
        rows: (N, F), any floating dtype; computed in float32.
        norms: (F,) or (N, F) float32 on the same device.
    """
    rows = rows.float()
    finite = torch.isfinite(rows)
    nonfinite = (~finite).sum(dim=1, dtype=torch.int32)
    rows = torch.where(finite, rows, 0)
    magnitude = rows.abs()
    active = active_mask(reducer, rows, magnitude, norms)
    squares = rows.double().square() if rows.device.type != "mps" else rows.square()
    energy = squares.sum(dim=1)
    entropy = energy.log() - torch.xlogy(squares, squares).sum(dim=1) / energy
    effective = torch.where(energy > 0, entropy.exp(), torch.zeros_like(energy))
    zero_share = ((rows == 0) & finite).float().mean(dim=1)
    columns = torch.stack([energy.sqrt().float(), magnitude.amax(dim=1), effective.float(), zero_share])
    l2_norm, abs_max, effective_neurons, zeros = columns.cpu().numpy()
    statistics = TokenStatistics(l2_norm, abs_max, effective_neurons, zeros, nonfinite.cpu().numpy())
    return ReducedRows(pack(active).cpu().numpy(), statistics)


def active_mask(reducer: RowReducer, rows: Tensor, magnitude: Tensor, norms: Tensor) -> Tensor:
    """(N, F) booleans: the active set of each clean row under the reducer's rule."""
    if reducer.rule.name == "positive":
        return rows > 0
    score = magnitude if reducer.rule.name == "magnitude" else magnitude * norms
    if reducer.threshold is not None:
        return (score >= reducer.threshold) & (score > 0)
    return top_mask(score, reducer.rule.count(rows.shape[1]))


def top_mask(score: Tensor, k: int) -> Tensor:
    """The k largest non-zero scores of each row; at the border the lower index wins. (N, F) -> (N, F) booleans."""
    border = torch.topk(score, k, dim=1, sorted=True).values[:, -1:]
    above = score > border
    tied = (score == border) & (score > 0)
    room = k - above.sum(dim=1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=1) <= room))


def pack(mask: Tensor) -> Tensor:
    """(N, F) booleans -> (N, ceil(F/8)) bytes, least significant bit first."""
    n_rows, n_neurons = mask.shape
    padded = torch.nn.functional.pad(mask, (0, -n_neurons % 8)).view(n_rows, -1, 8)
    return (padded.to(torch.uint8) * mask.new_tensor(_BITS, dtype=torch.uint8)).sum(dim=2, dtype=torch.uint8)
