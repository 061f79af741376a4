"""Token x token overlap matrices of packed sets: 32 layers x 1024 x 1024 tokens x 11,008 neurons.

    python -m benchmarks.h200.overlap [--shape tiny]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.h200 import common
from moyu_core import sets
from moyu_core.device_reducers import overlap_matrices


def main() -> None:
    """Measure, compare with numpy, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=["tiny", "full"], default="full")
    shape = parser.parse_args().shape
    layers, tokens, neurons = (3, 32, 200) if shape == "tiny" else (32, 1024, 11008)
    random = np.random.default_rng(0)
    packed = np.stack([sets.pack(random.random((tokens, neurons), np.float32) < 0.1) for _ in range(layers)])
    inputs = [torch.from_numpy(np.roll(packed, turn, axis=1)).to(common.DEVICE) for turn in range(4)]
    milliseconds = common.device_milliseconds(lambda turn: overlap_matrices(inputs[turn % 4], neurons))
    found = overlap_matrices(inputs[0], neurons)[-1, :16].cpu().numpy()
    difference = float(np.abs(found - sets.overlap_matrix(packed[-1, :16], packed[-1])).max())
    print(f"overlap {layers} x {tokens} x {tokens} x {neurons}: {milliseconds:.2f} ms; off numpy by {difference:.1e} at most")
    common.save("overlap", "tiny" if shape == "tiny" else "", {
        "size": [layers, tokens, tokens, neurons], "milliseconds": milliseconds, "largest_difference": difference})  # fmt: skip


if __name__ == "__main__":
    main()
