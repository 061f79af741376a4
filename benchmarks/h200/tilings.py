"""Which tiling of the Hopper kernel is the fastest: changes one thing at a time from the one that is in use, and keeps what helps.

    python -m benchmarks.h200.tilings [--width 4096 --neurons 11008 --layers 32]

Shares of the bytes-bound at 10, 25 and 50 % of random neurons, layer after layer in one CUDA graph, beside the Triton kernel. A
tiling whose result is off float64's by more than rounding is not taken. What is found goes by hand into `kernels.hopper.TILINGS`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

import torch
from torch import Tensor

from benchmarks.h200 import common
from moyu_core.kernels import hopper
from moyu_core.kernels.hopper import Tiling

DENSITIES = (0.1, 0.25, 0.5)
ERROR = 4e-3
"""Of a result that is rounded to bfloat16."""
CHANGES: tuple[tuple[dict[str, int], ...], ...] = (
    ({"teams": 1}, {"teams": 2}, {"teams": 4}),
    ({"pace": 2}, {"pace": 3}, {"pace": 4}, {"pace": 8}),
    ({"unroll": 1}, {"unroll": 3}, {"unroll": 9}),
    ({"slots": 9, "threads": 512}, {"slots": 5, "threads": 1024}, {"slots": 18, "threads": 256}),
)


class Layers:
    """Random FFNs of one shape, and chosen neurons of each."""

    def __init__(self, width: int, n_neurons: int, layers: int) -> None:
        generator = torch.Generator(common.DEVICE).manual_seed(0)
        place = {"device": common.DEVICE, "generator": generator}
        self.x = torch.randn(width, dtype=torch.bfloat16, **place)
        self.weights = [[0.02 * torch.randn(n_neurons, width, dtype=torch.bfloat16, **place) for _ in range(3)]
                        for _ in range(layers)]  # fmt: skip
        self.sets = {density: [torch.randperm(n_neurons, **place)[: int(density * n_neurons)].sort().values
                               for _ in range(layers)] for density in DENSITIES}  # fmt: skip

    def run(self, density: float, layer: int, settled: bool = True) -> Tensor:
        """One layer."""
        from moyu_core.kernels import gated

        up, gate, down = self.weights[layer]
        return gated.whole(self.x, up, gate, down, self.sets[density][layer], "silu", settled=settled)

    def error(self) -> float:
        """Of the first layer at the middle density, relative, against float64."""
        up, gate, down = (weight[self.sets[DENSITIES[1]][0]].double() for weight in self.weights[0])
        x = self.x.double()
        expected = (torch.nn.functional.silu(gate @ x) * (up @ x)) @ down
        return float((self.run(DENSITIES[1], 0).double() - expected).norm() / expected.norm())

    def shares(self, peak: float, settled: bool = True) -> list[float]:
        """Of the bytes-bound, by density."""
        found, layers = [], range(len(self.weights))
        for density in DENSITIES:
            milliseconds = common.graph_milliseconds(lambda d=density: [self.run(d, i, settled) for i in layers], 40) / len(layers)
            size = 3 * len(self.sets[density][0]) * len(self.x) * 2
            found.append(size / peak / 1e6 / milliseconds)
        return found


def _percent(shares: list[float]) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in shares)


def search(layers: Layers, peak: float, start: Tiling) -> Tiling:
    """The best tiling found from a first one."""
    width = len(layers.x)

    def score(tiling: Tiling) -> float:
        hopper.TILINGS[width] = tiling
        error, shares = layers.error(), layers.shares(peak)
        print(f"{asdict(tiling)}: {_percent(shares)}, off by {error:.1e}", flush=True)
        return sum(shares) if error < ERROR else 0.0

    best, most = start, score(start)
    for group in CHANGES:
        for other in [replace(best, **change) for change in group]:
            if other != best and other.hold % other.teams == 0 and (found := score(other)) > most:
                best, most = other, found
    hopper.TILINGS[width] = best
    return best


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--neurons", type=int, default=11008)
    parser.add_argument("--layers", type=int, default=32)
    arguments = parser.parse_args()
    if common.DEVICE.type != "cuda" or torch.cuda.get_device_capability() != hopper.CAPABILITY:
        raise SystemExit("This needs a GPU of compute capability 9.0, and there is none.")
    layers, peak = Layers(arguments.width, arguments.neurons, arguments.layers), max(common.peak_bandwidth().values())
    usual = Tiling(hold=32768 // arguments.width, pace=3, teams=2, columns=arguments.width // 128, threads=512, slots=9, unroll=1)
    start = hopper.TILINGS.pop(arguments.width, usual)
    print(f"Triton: {_percent(layers.shares(peak))}", flush=True)
    best = search(layers, peak, start)
    print(f"best: {best}; chosen just before: {_percent(layers.shares(peak, settled=False))}")


if __name__ == "__main__":
    main()
