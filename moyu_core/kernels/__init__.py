"""Kernels for CUDA devices, in Triton and one in CUDA C++. Nothing is compiled, nor is Triton imported, before the first call on
such a device.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = ("size", "l2_norm", "abs_max", "effective_neurons", "zero_share", "nonfinite")
"""Order of a row's statistics on a device, four bytes each; `size` and `nonfinite` are int32, the others float32."""


ACTIVATIONS = {"linear": 0, "silu": 1, "gelu": 2, "gelu_pytorch_tanh": 3, "gelu_new": 3, "relu": 4, "relu2": 5}
"""Activation functions that `ffn.inner` knows, by the name in a model's configuration; `linear` is none."""


@cache
def installed() -> bool:
    """Whether Triton is there."""
    return find_spec("triton") is not None


def usable(tensor: Tensor) -> bool:
    """Whether the kernels can work on this tensor: it lies on a CUDA device, and Triton is installed.

    With TRITON_INTERPRET=1 Triton runs kernels in Python on the CPU, slowly: so they can be tested where there is no GPU.
    """
    interpreted = tensor.is_cpu and os.environ.get("TRITON_INTERPRET") == "1"
    return (tensor.is_cuda or interpreted) and installed()
