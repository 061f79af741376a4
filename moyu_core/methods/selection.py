"""The k largest scores of each row, exactly k of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from moyu_core.errors import InputError


def top_mask(score: Tensor, k: int) -> Tensor:
    """Which scores are among the k largest of their row; among equal ones at the border the lower index wins.

    Unlike `sets.top_sets`, zeros and negative scores count: a predictor that says "0" for everything still keeps k neurons.

    Args:
        score: (..., F) without NaN.
        k: from 1 to F.

    Returns:
        (..., F) bool with k true in each row.
    """
    n_neurons = score.shape[-1]
    if not 1 <= k <= n_neurons:
        raise InputError(f"A set must keep between 1 and {n_neurons} neurons, not {k}.")
    if k == n_neurons:
        return torch.ones_like(score, dtype=torch.bool)
    if score.device.type != "cpu":
        chosen = torch.topk(score, k, dim=-1).indices
        return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, chosen, True)
    rows = score.float().numpy().reshape(-1, n_neurons)
    border = np.partition(rows, n_neurons - k, axis=1)[:, n_neurons - k, None]
    mask = rows >= border
    for row in np.flatnonzero(np.count_nonzero(mask, axis=1) > k):
        ties = np.flatnonzero(rows[row] == border[row])
        mask[row, ties[k - int((rows[row] > border[row]).sum()) :]] = False
    return torch.from_numpy(mask).view(score.shape)
