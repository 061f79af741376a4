"""What is read of a model folder: configuration, weights, tokenizer, each refused with its reason where it cannot be used.

Only safetensors are read and code of a model folder is never run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from moyu_core.architectures import TABLE
from moyu_core.errors import ModelError
from moyu_core.model_folder import FACTS_FILE, read_json
from moyu_core.sites import unknown_architecture
from moyu_core.spec import ModelIdentity


def checked_config(folder: Path, name: str) -> Any:
    """The configuration of a folder that may be loaded.

    Raises:
        ModelError: no configuration, no safetensors, quantised, or an architecture without a row.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so it is not a model folder.")
    _require_safetensors(folder)
    data = read_json(folder / "config.json")
    if data.get("quantization_config"):
        method = data["quantization_config"].get("quant_method", "unknown method")
        raise ModelError(f"{name} is quantised ({method}); activations are read from full weights only. Save it "
                         "de-quantised first.")
    if data.get("model_type") not in TABLE:
        raise _unknown(folder, data.get("model_type"))
    with _readable(f"The configuration in {folder}"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    refuse_bypass(config, name)
    return config


def refuse_bypass(config: Any, name: str) -> None:
    """BLOOM can multiply by slices of its down projection by hand; the module is then never called."""
    if getattr(config, "pretraining_tp", 1) > 1 and getattr(config, "slow_but_exact", False):
        raise ModelError(f"{name} has pretraining_tp={config.pretraining_tp} with slow_but_exact: its FFN then "
                         "bypasses the down projection. Set slow_but_exact to false in its configuration.")


def _require_safetensors(folder: Path) -> None:
    """Refuses folders without safetensors; says so where they hold pickles."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
    if pickles:
        raise ModelError(f"{folder} holds only pickled weights ({', '.join(pickles[:3])}). Loading a pickle can run "
                         "code, so only safetensors are read: save the model with safetensors first.")
    raise ModelError(f"{folder} has a config.json but no *.safetensors files.")


def _unknown(folder: Path, model_type: str | None) -> ModelError:
    """The error for an architecture without a row, with what its modules look like (built without weights)."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers does not know it either; its words are all there is
        first = str(error).strip().splitlines()[0]
        return ModelError(f"Architecture {model_type!r} is not in the table of moyu_core/architectures.py, and "
                          f"transformers cannot build it without running its own code ({first})")
    return unknown_architecture(model_type, model)


def refuse_altered(folder: Path, identity: ModelIdentity) -> None:
    """Compares a converted model with what its conversion wrote down."""
    if not (folder / FACTS_FILE).is_file():
        return
    expected = read_json(folder / FACTS_FILE).get("weights")
    if expected and expected != identity.weights:
        raise ModelError(f"{folder} was altered after its conversion: expected fingerprint {expected}, found "
                         f"{identity.weights}. Delete the folder and fetch the model again.")


def read_weights(folder: Path, config: Any, dtype: torch.dtype, **loading: Any) -> Any:
    """The model with every weight read from safetensors; `loading` goes to transformers as it is.

    Raises:
        ModelError: unreadable files, or weights that are missing (transformers would make them up at random).
    """
    with quiet(), _readable(f"The weights in {folder}"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False,
            ignore_mismatched_sizes=True, output_loading_info=True, **loading)  # both are refused below, by name
    model, info = loaded
    missing = sorted(info["missing_keys"]) + sorted(key[0] for key in info["mismatched_keys"])
    if missing:
        raise ModelError(f"{len(missing)} weights that {config.model_type} needs are not in {folder} or have another "
                         f"shape, {missing[0]} first; they would have been random.")
    return model


def read_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, None where it has none."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if not any((folder / name).is_file() for name in names):
        return None
    with quiet(), _readable(f"The tokenizer in {folder}"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turns whatever a damaged file makes transformers raise into one sentence; the cause stays attached."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no details"]
        raise ModelError(f"{what} cannot be read ({type(error).__name__}: {lines[0]}).") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and warnings off the terminal; progress goes to the reporter."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
