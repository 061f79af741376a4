"""Numba's compiler, set up in one place before anything is compiled: else sums would depend on which module came first."""

from __future__ import annotations

from llvmlite.binding import get_host_cpu_features
from numba import config

if not getattr(config, "CPU_FEATURES", None) and (_features := get_host_cpu_features()).get("avx512f"):
    # The compiler halves its vectors on these processors by itself, for fear of a lower clock that torch's products bring anyway.
    config.CPU_FEATURES = _features.flatten() + ",-prefer-256-bit"  # pyright: ignore[reportAttributeAccessIssue]

from numba import njit  # after the setting, which the first function that is compiled reads

__all__ = ["njit"]
