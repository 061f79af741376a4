"""Tiny models for tests, from `moyu_core.random_models`, as loaded models, on disk, and token ids for them.

    model = build("gpt2")            # a transformers model: 2 layers, d 32, F 64, random biases
    loaded = load("qwen3_moe")       # the same as a checked `LoadedModel`
    folder = save("llama", tmp_path) # the same on disk, without a tokenizer
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moyu_core.models import LoadedModel, from_module
from moyu_core.random_models import CONFIGS, HEADS, LAYERS, MAX_PARAMETERS, VOCAB, D, F, build

__all__ = ["CONFIGS", "HEADS", "LAYERS", "MAX_PARAMETERS", "VOCAB", "D", "F", "build", "ids", "load", "save"]

torch.set_num_threads(1)


def load(model_type: str, seed: int = 0, **changes: Any) -> LoadedModel:
    """The tiny model as a checked `LoadedModel` without tokenizer."""
    return from_module(build(model_type, seed, **changes), name=f"tiny-{model_type}", sink_token_id=1)


def save(model_type: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """The tiny model as a folder with config.json and model.safetensors."""
    build(model_type, seed, **changes).save_pretrained(folder)
    return folder


def ids(batch: int = 2, length: int = 7, seed: int = 0) -> torch.Tensor:
    """Random token ids, (batch, length) int64, none of them special."""
    return torch.randint(5, VOCAB - 5, (batch, length), generator=torch.Generator().manual_seed(seed))
