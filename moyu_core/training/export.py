"""A finished run as an ordinary Hugging Face folder in bfloat16, which every page and any other program can load."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from moyu_core.errors import ModelError
from moyu_core.model_files import quiet
from moyu_core.model_folder import FACTS_FILE, weights_fingerprint
from moyu_core.training.tiny_models import Size, build
from moyu_core.training.tokenizer import SINK_ID, hugging_face
from moyu_core.training.train import Config, Result

if TYPE_CHECKING:
    from moyu_core.home import Home

TITLES = {"relu": "Tiny ReLU", "gelu": "Tiny GELU", "swiglu": "Tiny SwiGLU"}


def config_of(result: Result) -> Config:
    """The configuration that a result was made with."""
    return Config(**{**result.config, "size": Size(**result.config["size"])})


def export(result: Result, weights: Path, tokenizer: Path, folder: Path) -> Path:
    """Writes config.json, model.safetensors, the tokenizer and moyu.json; the folder is replaced as a whole.

    Args:
        result: of the run.
        weights: its weights.safetensors.
        tokenizer: tokenizer.json of the corpus.
        folder: where to; a README.md that is there is kept.

    Raises:
        ModelError: the weights are not those of the configuration.
    """
    config = config_of(result)
    model = _with_weights(build(config.activation, config.size, config.seed), weights)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        model.to(torch.bfloat16).save_pretrained(temporary)
        hugging_face(tokenizer, config.size.positions).save_pretrained(temporary)
    (temporary / "training.json").write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    length = "" if config.steps == Config.steps else f", {config.steps} steps"
    facts = {
        "name": folder.name, "title": f"{TITLES[config.activation]}{length}", "licence": "Apache-2.0",
        "source": "trained here by `moyu train tiny` (README.md)", "sink_token_id": SINK_ID,
        "note": "a model of 4.4 million weights, trained here to compare activations", "weights": weights_fingerprint(temporary),
    }
    (temporary / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if (folder / "README.md").is_file():
        shutil.copy(folder / "README.md", temporary / "README.md")
    for file in temporary.iterdir():
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    return temporary.rename(folder)


def _with_weights(model: Any, path: Path) -> Any:
    saved = load_file(path)
    wanted = dict(model.named_parameters())
    if {n: tuple(t.shape) for n, t in saved.items()} != {n: tuple(p.shape) for n, p in wanted.items()}:
        raise ModelError(f"{path} does not hold the weights of this configuration: expected {len(wanted)} tensors from "
                         f"{next(iter(wanted))} on, received {len(saved)}.")
    for name, parameter in wanted.items():
        parameter.data.copy_(saved[name].float())
    return model


def export_run(result: Result, home: Home, folder: Path) -> Path:
    """`export` for a run that was trained under this home."""
    from moyu_core.training import corpus

    place = home.root / "training" / result.identity
    return export(result, place / "weights.safetensors", corpus.folder(home) / "tokenizer.json", folder)
