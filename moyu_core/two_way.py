"""The balanced two-way design probe x history: uncertainty, history share, variance components, with intervals over both factors.

Everything comes from four sums of products of the rows, so it is linear in the number of cells, and leaving a probe or a history
out costs nothing. For 0/1 rows a product counts shared neurons; for values it gives the sums of squares.

Intervals (our definition): probes and histories are both drawn from many, so the variance is that of the jackknife over probes plus
that over histories, with a t quantile of the smaller number less one. It counts the interaction twice, so it errs to the wide side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from moyu_core.intervals import LEVEL, Interval, bands

Floats = NDArray[np.float64]
BAND_DRAWS = 1000
"""Of the simulated critical value: there are many bands, and its error at this number is 2 %."""


@dataclass(frozen=True)
class PairSums:
    """Sums of products x . y of the rows of a T x H table, by the row x they belong to; each array is (T, H, ...).

    Attributes:
        own: y = x.
        same_token: over the rows of the same probe, itself included.
        same_history: over the rows of the same history, itself included.
        whole: over all rows.
    """

    own: Floats
    same_token: Floats
    same_history: Floats
    whole: Floats

    @staticmethod
    def of(rows: NDArray[np.generic]) -> PairSums:
        """From (T, H, F) rows, numbers or booleans."""
        exact = np.float32 if rows.dtype == bool else np.float64  # counts of zeros and ones are exact either way
        rows = rows.astype(np.float32)
        by_token, by_history = rows.sum(axis=1, dtype=exact), rows.sum(axis=0, dtype=exact)
        total = by_token.sum(axis=0)
        return PairSums(
            np.einsum("thf,thf->th", rows, rows, dtype=exact).astype(np.float64),
            np.stack([row @ sums.astype(np.float32) for row, sums in zip(rows, by_token, strict=True)]).astype(np.float64),
            np.stack([rows[:, h] @ sums.astype(np.float32) for h, sums in enumerate(by_history)], axis=1).astype(np.float64),
            (rows @ total.astype(np.float32)).astype(np.float64),
        )

    @staticmethod
    def stack(parts: list[PairSums]) -> PairSums:
        """Several tables of the same shape, for instance one a layer, along a last axis."""
        names = PairSums.__dataclass_fields__
        return PairSums(**{name: np.stack([getattr(part, name) for part in parts], axis=-1) for name in names})


@dataclass(frozen=True)
class Totals:
    """The sums of `PairSums` over a whole table of T probes and H histories; arrays (...)."""

    own: Floats
    same_token: Floats
    same_history: Floats
    whole: Floats
    probes: int
    histories: int


def totals(sums: PairSums) -> Totals:
    """Over every row."""
    probes, histories = sums.own.shape[:2]
    own, same_token, same_history, whole = (getattr(sums, name).sum(axis=(0, 1)) for name in PairSums.__dataclass_fields__)
    return Totals(own, same_token, same_history, whole, probes, histories)


def without_history(sums: PairSums, history: int, whole: Totals | None = None) -> Totals:
    """As if one history had not been drawn; `whole` saves adding everything up again."""
    all_rows, gone = whole or totals(sums), PairSums(*(getattr(sums, n)[:, history] for n in PairSums.__dataclass_fields__))
    return Totals(
        all_rows.own - gone.own.sum(axis=0),
        all_rows.same_token - 2 * gone.same_token.sum(axis=0) + gone.own.sum(axis=0),
        all_rows.same_history - gone.same_history.sum(axis=0),
        all_rows.whole - 2 * gone.whole.sum(axis=0) + gone.same_history.sum(axis=0),
        all_rows.probes,
        all_rows.histories - 1,
    )


def without_probe(sums: PairSums, probe: int, whole: Totals | None = None) -> Totals:
    """As if one probe had not been asked for; `whole` saves adding everything up again."""
    all_rows, gone = whole or totals(sums), PairSums(*(getattr(sums, n)[probe] for n in PairSums.__dataclass_fields__))
    return Totals(
        all_rows.own - gone.own.sum(axis=0),
        all_rows.same_token - gone.same_token.sum(axis=0),
        all_rows.same_history - 2 * gone.same_history.sum(axis=0) + gone.own.sum(axis=0),
        all_rows.whole - 2 * gone.whole.sum(axis=0) + gone.same_token.sum(axis=0),
        all_rows.probes - 1,
        all_rows.histories,
    )


def disagreements(t: Totals) -> tuple[Floats, Floats, Floats]:
    """Mean |A xor B| of pairs (same token other history, other token same history, both different), for rows of 0 and 1.

    For sets of equal size k the overlap is 1 - disagreement / 2k, so every ratio of disagreements is the ratio of 1 - overlap;
    for unequal sizes it is the sum of p(1-q) + q(1-p) over neurons with the self-pairs left out.
    """
    cells, others_t, others_h = t.probes * t.histories, t.probes - 1, t.histories - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        same_token = 2 * (others_h * t.own - (t.same_token - t.own)) / (cells * others_h)
        same_history = 2 * (others_t * t.own - (t.same_history - t.own)) / (cells * others_t)
        shared = t.whole - t.same_token - t.same_history + t.own
        different = 2 * (others_t * others_h * t.own - shared) / (cells * others_t * others_h)
    return same_token, same_history, different


def uncertainty(t: Totals) -> dict[str, Floats]:
    """U, history share, interaction and the three mean overlaps; NaN where both-different pairs do not differ.

    `uncertainty` U: 0 = the token alone decides the set, 1 = knowing the token says nothing. `history_share`: what of the
    set knowing the history alone tells. `interaction` = U - history share.
    """
    same_token, same_history, different = disagreements(t)
    size = t.own / (t.probes * t.histories)
    with np.errstate(invalid="ignore", divide="ignore"):
        u = np.where(different > 0, same_token / different, np.nan)
        share = np.where(different > 0, 1 - same_history / different, np.nan)
        overlaps = [1 - d / (2 * size) for d in (same_token, same_history, different)]
    return {
        "uncertainty": u,
        "history_share": share,
        "interaction": u - share,
        "overlap_same_token": overlaps[0],
        "overlap_same_history": overlaps[1],
        "overlap_different": overlaps[2],
    }


def components(t: Totals) -> dict[str, Floats]:
    """Variance components of token, history and interaction, each over their sum; negative ones stay negative.

    sigma2_T = (MS_T - MS_TH) / H, sigma2_H = (MS_H - MS_TH) / T, sigma2_TH = MS_TH, summed over neurons.
    """
    cells = t.probes * t.histories
    mean = t.whole / cells
    ss_token, ss_history = t.same_token / t.histories - mean, t.same_history / t.probes - mean
    ss_rest = t.own - mean - ss_token - ss_history
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = ss_rest / ((t.probes - 1) * (t.histories - 1))
        token = (ss_token / (t.probes - 1) - rest) / t.histories
        history = (ss_history / (t.histories - 1) - rest) / t.probes
        whole = token + history + rest
        return {"variance_token": token / whole, "variance_history": history / whole, "variance_interaction": rest / whole}


Statistic = Callable[[Totals], dict[str, Floats]]
Estimates = dict[str, tuple[Floats, Floats, Floats, Interval]]
"""measure -> (value (L,), low (L,), high (L,), mean over layers with its interval)."""


def estimates(sums: PairSums, statistic: Statistic, banded: Collection[str] | None = None) -> Estimates:
    """Each measure by layer with simultaneous bounds, and its mean over layers with its interval.

    Args:
        sums: (T, H, L), at least three probes and three histories.
        statistic: `uncertainty` or `components`.
        banded: measures that get bounds by layer, which are simulated and the dear part; None = all.

    Returns:
        measure -> (value (L,), low (L,), high (L,), mean over layers); bounds are NaN where none were asked for.
    """
    probes, histories, _ = sums.own.shape
    every = totals(sums)
    by_probe = [statistic(without_probe(sums, probe, every)) for probe in range(probes)]
    by_history = [statistic(without_history(sums, history, every)) for history in range(histories)]
    return jackknifed(statistic(every), by_probe, by_history, banded)


def jackknifed(
    whole: dict[str, Floats],
    by_probe: Sequence[dict[str, Floats]],
    by_history: Sequence[dict[str, Floats]],
    banded: Collection[str] | None = None,
) -> Estimates:
    """What `estimates` returns, of measures that were computed whole and with each probe and each history left out.

    Args:
        whole: measure -> (L,) values of the whole table.
        by_probe, by_history: the same without probe t, without history h.
        banded: as in `estimates`.
    """
    found = {}
    for name, value in whole.items():
        pseudo = [_pseudo(value, [values[name] for values in each]) for each in (by_probe, by_history)]
        half = np.full(len(value), np.nan)
        if banded is None or name in banded:
            half = np.sqrt(sum((_half_band(units) ** 2 for units in pseudo), np.zeros(len(value))))
        error = float(np.sqrt(sum(_variance(units.mean(axis=1)) for units in pseudo)))
        found[name] = (value, value - half, value + half, interval(float(value.mean()), error, len(by_probe), len(by_history)))
    return found


def interval(mean: float, error: float, probes: int, histories: int) -> Interval:
    """mean +- t * error, with the smaller number of units less one as degrees of freedom."""
    n = min(probes, histories)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error if n > 1 else float("nan")
    return Interval(mean, mean - half, mean + half, error, n)


def mean_interval(values: NDArray[np.floating]) -> Interval:
    """Mean of a (T, H) table of numbers, with its interval over probes and histories."""
    values = np.asarray(values, np.float64)
    error = float(np.sqrt(_variance(values.mean(axis=1)) + _variance(values.mean(axis=0))))
    return interval(float(values.mean()), error, *values.shape)


def _pseudo(whole: Floats, left_out: list[Floats]) -> Floats:
    """Jackknife pseudo-values, (n, L)."""
    n = len(left_out)
    return n * whole - (n - 1) * np.stack(left_out)


def _variance(units: Floats) -> float:
    """Of the mean of units; 0 for fewer than two, which then say nothing."""
    return float(units.var(ddof=1) / len(units)) if len(units) > 1 else 0.0


def _half_band(units: Floats) -> Floats:
    """Half width of the simultaneous band over layers; NaN where a layer has no value."""
    finite = np.isfinite(units).all(axis=0)
    half = np.full(units.shape[1], np.nan)
    if finite.any():
        mean, _, high = bands(units[:, finite], draws=BAND_DRAWS)
        half[finite] = high - mean
    return half
