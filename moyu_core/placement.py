"""Which of several GPUs holds which layers, where one cannot hold a model; the layers stay whole and in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moyu_core.errors import ModelError

SHARE = 0.85
"""Of a GPU's free memory that weights may take; the rest is for activations, and on the first GPU for the sets of a batch."""
FIRST_SHARE = 0.7


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Bytes of a model folder's safetensors once they are of this dtype; only the files' headers are read."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                size = 1
                for extent in file.get_slice(name).get_shape():
                    size *= extent
                count += size
    return count * dtype.itemsize


def free_memory() -> list[int]:
    """Free bytes of every visible GPU."""
    return [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]


def spread(needed: int, requested: str | None, name: str) -> tuple[dict[int, int], str] | None:
    """How much of a model each GPU may take, and why; None where one GPU holds it, or one was named.

    Args:
        needed: bytes of the weights.
        requested: what the user asked for, as `choose_device` takes it; only None and `cuda` leave a choice.
        name: of the model, for the message.

    Raises:
        ModelError: all GPUs together cannot hold it.
    """
    if requested not in (None, "cuda") or not torch.cuda.is_available():
        return None
    free = free_memory()
    rooms = {number: int(size * (SHARE if number else FIRST_SHARE)) for number, size in enumerate(free)}
    if len(free) < 2 or needed <= free[0] * SHARE:
        return None
    if needed > sum(rooms.values()):
        raise ModelError(f"{name} needs {needed / 1e9:.1f} GB for its weights and the {len(free)} GPUs have room for "
                         f"{sum(rooms.values()) / 1e9:.1f} GB; take bfloat16, more GPUs, or --device cpu.")  # fmt: skip
    return rooms, (f"cuda, spread over {len(free)} GPUs because the weights ({needed / 1e9:.1f} GB) "
                   f"do not fit one ({free[0] / 1e9:.1f} GB free)")  # fmt: skip


def loading(rooms: dict[int, int]) -> dict[str, Any]:
    """What transformers takes to load a model that way: balanced, a layer never cut, nothing on processor or disk."""
    return {"device_map": "auto", "max_memory": {**rooms, "cpu": 0}}


def refuse_offloaded(model: Any, name: str) -> None:
    """ModelError where a part of a model found no room on any GPU: layers are not cut, so more than the sum may be needed."""
    elsewhere = sorted(part for part, place in model.hf_device_map.items() if place in ("cpu", "disk"))
    if elsewhere:
        raise ModelError(f"{name} does not fit on the GPUs: {elsewhere[0]} and {len(elsewhere) - 1} more parts are left over; "
                         "take bfloat16, more GPUs, or --device cpu.")  # fmt: skip
