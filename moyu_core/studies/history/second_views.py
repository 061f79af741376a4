"""Second views of the table probe x history: overlap weighted by energy, and entropy.

Near-threshold swaps of small neurons change an overlap by count and hardly one by energy. Entropy asks the same question as U with
another measure of what is open; it needs many histories, so it stands beside U and never in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moyu_core.two_way import Estimates, Floats, PairSums, estimates, jackknifed, uncertainty

Rows = NDArray[np.bool_]
KEPT = {
    "uncertainty": "uncertainty_energy",
    "overlap_same_token": "overlap_same_token_energy",
    "overlap_different": "overlap_different_energy",
}


def energy_weighted(active: Sequence[Rows], logs: Sequence[np.ndarray], norms: np.ndarray) -> Estimates:
    """U and overlaps with neurons counted by their energy; bounds by layer for U.

    Args:
        active: by layer (T, H, F) sets.
        logs: by layer (T, H, F) log(1 + |a|).
        norms: (L, F) column norms.
    """
    pairs = [energy_sums(*each) for each in zip(active, logs, norms, strict=True)]
    found = estimates(PairSums.stack(pairs), uncertainty, ("uncertainty",))
    return {KEPT[name]: values for name, values in found.items() if name in KEPT}


def energy_sums(active: Rows, logs: np.ndarray, norms: np.ndarray) -> PairSums:
    """Pair sums whose product of two rows is the mean, both ways, of the share of one set's energy that lies in the other.

    A row with itself gives 1, so `uncertainty` of these sums is (1 - O) over (1 - O) of energy-weighted overlaps O.

    Args:
        active: (T, H, F) sets.
        logs: (T, H, F) log(1 + |a|).
        norms: (F,) column norms.
    """
    chosen = np.flatnonzero(active)
    share = np.zeros(active.shape, np.float32)
    share.reshape(-1)[chosen] = np.square(np.expm1(logs.reshape(-1)[chosen]) * norms[chosen % active.shape[2]])
    share /= np.maximum(share.sum(axis=2, keepdims=True), np.finfo(np.float32).tiny)
    rows = active.astype(np.float32)
    shares, members = ([table.sum(axis=1), table.sum(axis=0)] for table in (share, rows))
    token, history = ((each[:, :, None], other[:, :, None]) for each, other in zip(shares, members, strict=True))
    whole = shares[0].sum(axis=0)[:, None], members[0].sum(axis=0)[:, None]
    flip = (1, 0, 2)
    return PairSums(
        share.sum(axis=2, dtype=np.float64),
        _both(share, rows, *token),
        _both(share.transpose(flip), rows.transpose(flip), *history).T,
        _both(share, rows, *whole),
    )


def _both(share: np.ndarray, rows: np.ndarray, shares: np.ndarray, members: np.ndarray) -> Floats:
    """(n, m) of a table's rows against sums over others: (share . their members + row . their shares) / 2."""
    return ((share @ members + rows @ shares)[:, :, 0] / 2).astype(np.float64)


def entropy_view(active: Sequence[Rows]) -> Estimates:
    """H(active | token) / H(active) by layer, summed over neurons, with the intervals of the two-way design. Our definition.

    Within a token the H histories are the draws, over the whole table its T * H cells; both entropies are Miller-Madow's.

    Args:
        active: by layer (T, H, F) sets.
    """
    layers = [_entropy_ratios(rows) for rows in active]
    whole, by_probe, by_history = (np.stack(values, axis=-1) for values in zip(*layers, strict=True))
    name = "uncertainty_entropy"
    return jackknifed({name: whole}, [{name: row} for row in by_probe], [{name: row} for row in by_history])


def _entropy_ratios(rows: Rows) -> tuple[Floats, Floats, Floats]:
    """() of the whole table, (T,) without each probe, (H,) without each history."""
    probes, histories, _ = rows.shape
    by_token, by_history = rows.sum(axis=1), rows.sum(axis=0)
    counts = by_token.sum(axis=0)
    within = miller_madow(histories)[by_token].sum(axis=1)  # (T,)
    whole = _ratio(within.mean(), counts, probes * histories)
    no_probe = [
        _ratio((within.sum() - within[t]) / (probes - 1), counts - by_token[t], (probes - 1) * histories) for t in range(probes)
    ]
    fewer = miller_madow(histories - 1)
    no_history = [
        _ratio(fewer[by_token - rows[:, h]].sum() / probes, counts - by_history[h], probes * (histories - 1))
        for h in range(histories)
    ]
    return np.asarray(whole), np.asarray(no_probe), np.asarray(no_history)


def _ratio(within: float, counts: NDArray[np.int64], cells: int) -> float:
    """NaN where every neuron is always or never active."""
    over_all = float(miller_madow(cells)[counts].sum())
    return within / over_all if over_all > 0 else float("nan")


@cache
def miller_madow(n: int) -> Floats:
    """(n + 1,): entropy in nats of a neuron that was active in k of n draws, plug-in plus (outcomes seen - 1) / 2n."""
    share = np.arange(n + 1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        plug_in = -np.nan_to_num(share * np.log(share)) - np.nan_to_num((1 - share) * np.log1p(-share))
    return plug_in + np.where((share > 0) & (share < 1), 1 / (2 * n), 0.0)
