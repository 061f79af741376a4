"""The reduction of `reducers` where a GPU holds the activation: the same sets bit for bit, statistics up to rounding of sums.

On CUDA one Triton kernel reads each row once (`kernels.rows`); elsewhere, and where Triton is not installed, plain torch
does it. Nothing here waits for the device: what comes back is still being computed, and `DeviceRows.fetch` waits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moyu_core import kernels, sets
from moyu_core.companding import LEVELS_PER_OCTAVE, NOT_FINITE, TOP_LEVEL
from moyu_core.reducers import ReducedRows, RowReducer
from moyu_core.statistics import TokenStatistics

_BITS = tuple(1 << bit for bit in range(8))


@dataclass(frozen=True)
class DeviceRows:
    """What is left of N rows, on their device.

    Attributes:
        packed: (N, ceil(F/8)) uint8 active sets.
        statistics: (6, N) float32 in the order of kernels.STATISTICS.
    """

    packed: Tensor
    statistics: Tensor

    def fetch(self) -> ReducedRows:
        """The same in numpy; waits for the device."""
        active = self.packed.cpu().numpy()
        return ReducedRows(active, sets.sizes(active), token_statistics(self.statistics.cpu().numpy()))


def token_statistics(rows: NDArray[np.float32]) -> TokenStatistics:
    """The statistics out of a (6, N) block that came from a device."""
    _, l2_norm, abs_max, effective, zero_share, nonfinite = rows
    return TokenStatistics(l2_norm, abs_max, effective, zero_share, nonfinite.view(np.int32))


def reduce_on_device(
    reducer: RowReducer, rows: Tensor, norms: Tensor, experts: Tensor | None = None, packed: Tensor | None = None
) -> DeviceRows:
    """Reduce (N, F) rows where they are.

    Args:
        reducer: rule and threshold.
        rows: (N, F), any floating dtype; computed in float32.
        norms: float32 column norms on the same device, (F,), or (E, F) with `experts`, or (N, F).
        experts: (N,) int64, whose norms a row takes (mixture models).
        packed: (N, ceil(F/8)) uint8 to write the sets into; None makes one.
    """
    if not kernels.usable(rows):
        found = _plain(reducer, rows, norms if experts is None else norms[experts])
        return found if packed is None else DeviceRows(packed.copy_(found.packed), found.statistics)
    from moyu_core.kernels import rows as kernel

    rules = {"top": kernel.BY_PRODUCT, "magnitude": kernel.BY_MAGNITUDE, "cett": kernel.BY_THRESHOLD, "positive": kernel.POSITIVE}
    rule, threshold = rules[reducer.rule.name], reducer.threshold or 0.0
    if experts is None and norms.ndim == 2:
        experts = torch.arange(len(norms), device=norms.device)
    k = rows.shape[1] if reducer.rule.density is None else reducer.rule.count(rows.shape[1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    return DeviceRows(*kernel.reduce_rows(rows, norms, rule, k, threshold, experts, packed))


def reduce_anywhere(reducer: RowReducer, rows: Tensor, norms: Tensor) -> ReducedRows:
    """Reduce (N, F) rows where they are, a processor too; waits for the result.

    Args:
        reducer: rule and threshold.
        rows: (N, F), any floating dtype; computed in float32.
        norms: (F,) float32 column norms on the same device.
    """
    if rows.device.type == "cpu":
        return reducer(rows.float().numpy(), norms.numpy())
    return reduce_on_device(reducer, rows, norms).fetch()


def _plain(reducer: RowReducer, rows: Tensor, norms: Tensor) -> DeviceRows:
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
    sizes = active.sum(dim=1, dtype=torch.int32).view(torch.float32)
    columns = [sizes, energy.sqrt().float(), magnitude.amax(dim=1), effective.float(), zero_share, nonfinite.view(torch.float32)]
    return DeviceRows(pack(active), torch.stack(columns))


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


def unpack(packed: Tensor, n_neurons: int) -> Tensor:
    """(..., ceil(F/8)) bytes -> (..., F) booleans, the inverse of `pack`."""
    bits = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten(-2)[..., :n_neurons].bool()


def add_firing(packed: Tensor, kept: Tensor, counts: Tensor) -> None:
    """Add to `counts` (F,) int32 how often each neuron is active in the rows of `packed` where `kept` (N,) uint8 is 1."""
    if kernels.usable(packed):
        from moyu_core.kernels import rows as kernel

        kernel.add_firing(packed, kept, counts)
    else:
        counts += (unpack(packed, len(counts)) & kept[:, None].bool()).sum(dim=0, dtype=torch.int32)


def compand(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`companding.encode` on the device: (N, F) -> codes (N, F) uint8 and scale (N,) float32.

    A value at the border of two levels may fall to the other one, where the device's log2 rounds otherwise.
    """
    rows = rows.float()
    finite = rows.isfinite()
    magnitude = torch.where(finite, rows.abs(), 0)
    scale = magnitude.amax(dim=1)
    unit = torch.where(scale > 0, scale, 1)[:, None]
    level = (magnitude / unit).log2_().mul_(LEVELS_PER_OCTAVE).add_(TOP_LEVEL)
    kept = level >= 1 - LEVELS_PER_OCTAVE  # half of level 1 is one octave below it
    codes = level.round_().clamp_(1, TOP_LEVEL).to(torch.uint8)
    codes = torch.where(kept, codes + (rows < 0).to(torch.uint8) * 128, 0)
    return codes.masked_fill_(~finite, NOT_FINITE), scale


def overlap_matrices(packed: Tensor, n_neurons: int) -> Tensor:
    """`sets.overlap` of all pairs of rows, stack by stack: (L, N, ceil(F/8)) uint8 -> (L, N, N) float32, NaN for empty sets.

    The shared neurons are counted by a matrix product of zeros and ones, which bfloat16 holds and float32 sums exactly
    (up to 2^24 neurons); on CUDA that runs on the tensor cores.
    """
    members = unpack(packed, n_neurons)
    if packed.is_cuda:
        members = members.to(torch.bfloat16)
        shared = torch.bmm(members, members.mT, out_dtype=torch.float32)
    else:
        members = members.float()
        shared = members @ members.mT
    sizes = shared.diagonal(dim1=-2, dim2=-1)
    return shared / torch.sqrt(sizes.unsqueeze(-1) * sizes.unsqueeze(-2))
