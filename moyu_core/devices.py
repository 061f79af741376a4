"""Which device and which arithmetic a model runs in, each with the reason that is shown beside the numbers."""

from __future__ import annotations

import torch

from moyu_core.errors import InputError, ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(requested: str | None = None) -> tuple[torch.device, str]:
    """The device to run on, and why.

    Args:
        requested: `cpu`, `cuda`, `cuda:1`, `mps`; None chooses cuda, else mps, else cpu.

    Raises:
        ModelError: the requested device is unknown or not on this machine.
    """
    if requested is not None:
        return _requested(requested), f"{requested}, as asked for"
    if torch.cuda.is_available():
        return torch.device("cuda"), f"cuda, because this machine has {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "mps, because there is no CUDA device and this is an Apple GPU"
    return torch.device("cpu"), f"cpu, because no GPU is available (threads: {torch.get_num_threads()})"


def _requested(name: str) -> torch.device:
    """The named device, checked to be there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"Device {name!r} is not known; use cpu, cuda, cuda:<number> or mps.") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ModelError(f"Device {name!r} is not supported; use cpu, cuda, cuda:<number> or mps.")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= present:
        raise ModelError(f"Device {name!r} was asked for, but this machine has {present} of kind {device.type}; "
                         "leave the device out to have one chosen.")
    return device


def choose_dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The arithmetic by name, and what to know about it on this device (empty where nothing).

    Raises:
        InputError: the name is none of float32, bfloat16, float16.
    """
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {name!r}.")
    if device.type == "cpu" and name == "float16":
        return DTYPES[name], "float16 is slow on a CPU; bfloat16 or float32 is faster"
    return DTYPES[name], ""
