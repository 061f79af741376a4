"""The whole state of a training run in one safetensors file, so that a killed run goes on bit for bit. No pickles."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from moyu_core.training.train import Trainer

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""AdamW's state of one weight."""


def save_tensors(tensors: dict[str, Tensor], path: Path, facts: dict[str, str] | None = None) -> None:
    """Writes beside the target, forces it to disk and renames: the name always stands for a whole file."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata={"format": "pt", **(facts or {})})
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)


class Checkpoint:
    """One file that holds weights, moments, generator state, step, log and time.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, trainer: Trainer) -> None:
        """Writes the state of a trainer between two steps."""
        tensors = {"generator": torch.get_rng_state()}
        for name, parameter in trainer.model.named_parameters():
            tensors[f"weight/{name}"] = parameter.data
            for key, value in trainer.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
        facts = {"step": trainer.step, "seconds": trainer.seconds, "recent": trainer.recent, "log": trainer.log}
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_tensors(state, self.path, {"facts": json.dumps(facts)})

    def restore(self, trainer: Trainer) -> bool:
        """Puts a saved state into a new trainer; False where there is none."""
        if not self.path.is_file():
            return False
        with safe_open(self.path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            names = set(file.keys())
            torch.set_rng_state(file.get_tensor("generator"))
            for name, parameter in trainer.model.named_parameters():
                parameter.data.copy_(file.get_tensor(f"weight/{name}"))
                state = {key: file.get_tensor(f"{key}/{name}") for key in MOMENTS if f"{key}/{name}" in names}
                if state:
                    trainer.optimizer.state[parameter] = {
                        key: value if key == "step" and not _fused(trainer) else value.to(parameter.device)
                        for key, value in state.items()}
        trainer.step, trainer.seconds = facts["step"], facts["seconds"]
        trainer.recent, trainer.log = facts["recent"], facts["log"]
        return True


def _fused(trainer: Trainer) -> bool:
    """Fused AdamW keeps its step count on the device, the plain one on the CPU."""
    return bool(trainer.optimizer.param_groups[0].get("fused"))
