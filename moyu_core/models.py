"""A name -> a causal language model with its tokenizer and its FFN sites, checked.

Only safetensors are read and code of a model folder is never run. What a site is, is proved on every load.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from moyu_core import placement, registry
from moyu_core.architectures import TABLE, Architecture, shape
from moyu_core.devices import choose_device, choose_dtype
from moyu_core.errors import ModelError
from moyu_core.fetch import fetch, fetch_hub
from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.sites import Site, check_identity, find_sites, unknown_architecture
from moyu_core.spec import ModelIdentity
from moyu_core.tokens import sink_token


@dataclass(eq=False)
class LoadedModel:
    """A model in memory, ready to be watched.

    Attributes:
        identity: name, fingerprint of the weights, dtype.
        model: the transformers model, in evaluation mode, without gradients.
        tokenizer: None where only token ids are used.
        sites: the FFN of every layer, in order.
        architecture: the row of the table that fits.
        sink_token_id: stands first in every sequence.
        max_positions: longest sequence in tokens, sink token included.
        device, device_reason: where it runs, and why there.
        vocab_size: rows of the embedding.
        d_model: width of the residual stream.
        check_error: largest relative error of activation x down projection = output.
        note: what to say beside every finding; empty where nothing.
    """

    identity: ModelIdentity
    model: Any
    tokenizer: Any
    sites: list[Site]
    architecture: Architecture
    sink_token_id: int
    max_positions: int
    device: torch.device
    device_reason: str
    vocab_size: int
    d_model: int
    check_error: float = float("nan")
    note: str = ""

    @property
    def decoder(self) -> Any:
        """The model without its head: a forward pass through it runs every FFN and computes no logits."""
        return self.model.base_model

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.model.dtype


def load_model(
    name: str,
    home: Home,
    *,
    dtype: str = "float32",
    device: str | None = None,
    sink_token_id: int | None = None,
    report: Reporter = silent,
) -> LoadedModel:
    """A model by registry name (fetched if need be), folder or Hugging Face id.

    Args:
        name: as `registry.locate` takes it.
        home: where converted models are.
        dtype: float32, bfloat16 or float16.
        device: None chooses cuda, else mps, else cpu.
        sink_token_id: None takes the registry's, else the tokenizer's BOS or end-of-text token.
        report: called between the steps; may raise `Cancelled`.

    Raises:
        ModelError: not found, refused (pickles, quantised, own code), unknown architecture, or a site that fails its
            check.
        InputError: unknown dtype.
    """
    where, reason = choose_device(device)
    torch_dtype, remark = choose_dtype(dtype, where)
    folder = _folder(name, home, report)
    config = _checked_config(folder, name)
    report("identifying the weights", 0, 3)
    identity = registry.identity(name, home, dtype)
    if identity is None:
        raise ModelError(f"The weights of {name} were there a moment ago and are gone.")
    facts = registry.model_facts(folder)
    _refuse_altered(folder, identity)
    report("loading the weights", 1, 3)
    model, where_else = _placed(folder, config, torch_dtype, where, device, name)
    tokenizer = _read_tokenizer(folder)
    chosen = sink_token_id if sink_token_id is not None else facts.sink_token_id
    report("checking the activations", 2, 3)
    loaded = _assemble(model, tokenizer, identity, sink_token(tokenizer, name, chosen))
    loaded.device_reason = "; ".join(part for part in (where_else or reason, remark) if part)
    loaded.note = facts.note
    report("checking the activations", 3, 3)
    return loaded


def from_module(
    model: Any,
    tokenizer: Any = None,
    *,
    name: str = "in-memory",
    sink_token_id: int = 0,
    fingerprint: str | None = None,
) -> LoadedModel:
    """Wraps a transformers model that is in memory already, for notebooks and tests; checks it as `load_model` does.

    Args:
        model: a causal language model; switched to evaluation mode, gradients off.
        tokenizer: its tokenizer, None for work on token ids.
        name: what to call it.
        sink_token_id: stands first in every sequence.
        fingerprint: what identifies the weights; None hashes the state dict.
    """
    _refuse_bypass(model.config, name)
    dtype = str(model.dtype).removeprefix("torch.")
    identity = ModelIdentity(name, fingerprint or state_fingerprint(model), dtype)
    return _assemble(model, tokenizer, identity, sink_token_id)


def state_fingerprint(model: Any) -> str:
    """SHA-256 over the configuration and the state dict (name, dtype, shape, bytes), 64 hex digits."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in registry.VOLATILE}
    digest = hashlib.sha256(repr(sorted(config.items())).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _assemble(model: Any, tokenizer: Any, identity: ModelIdentity, sink_token_id: int) -> LoadedModel:
    """Sites, sizes and the check."""
    model.eval().requires_grad_(False)
    row = TABLE.get(model.config.model_type)
    if row is None:
        raise unknown_architecture(model.config.model_type, model)
    sizes = shape(model.config.to_dict())
    vocab_size = model.get_input_embeddings().weight.shape[0]
    if not 0 <= sink_token_id < vocab_size:
        raise ModelError(f"The sink token must be an id from 0 to {vocab_size - 1} for {identity.name}, not "
                         f"{sink_token_id}.")
    loaded = LoadedModel(
        identity, model, tokenizer, find_sites(model, row, sizes), row, sink_token_id, sizes.max_positions,
        model.device, f"{model.device.type}, where the model was", vocab_size, sizes.d_model,
    )
    loaded.check_error = check_identity(loaded)
    return loaded


def _folder(name: str, home: Home, report: Reporter) -> Path:
    """The model's folder, fetched where it can be."""
    place = registry.locate(name, home)
    if isinstance(place, Path):
        known = registry.canonical_name(name)
        return fetch(known, home, report=report) if known in registry.SOURCES else place
    return registry.hub_snapshot(place) or fetch_hub(place, report)


def _checked_config(folder: Path, name: str) -> Any:
    """The configuration of a folder that may be loaded.

    Raises:
        ModelError: no configuration, no safetensors, quantised, or an architecture without a row.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so it is not a model folder.")
    _require_safetensors(folder)
    data = registry.read_json(folder / "config.json")
    if data.get("quantization_config"):
        method = data["quantization_config"].get("quant_method", "unknown method")
        raise ModelError(f"{name} is quantised ({method}); activations are read from full weights only. Save it "
                         "de-quantised first.")
    if data.get("model_type") not in TABLE:
        raise _unknown(folder, data.get("model_type"))
    with _readable(f"The configuration in {folder}"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    _refuse_bypass(config, name)
    return config


def _refuse_bypass(config: Any, name: str) -> None:
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


def _refuse_altered(folder: Path, identity: ModelIdentity) -> None:
    """Compares a converted model with what its conversion wrote down."""
    if not (folder / registry.FACTS_FILE).is_file():
        return
    expected = registry.read_json(folder / registry.FACTS_FILE).get("weights")
    if expected and expected != identity.weights:
        raise ModelError(f"{folder} was altered after its conversion: expected fingerprint {expected}, found "
                         f"{identity.weights}. Delete the folder and fetch the model again.")


def _placed(
    folder: Path, config: Any, dtype: torch.dtype, where: torch.device, requested: str | None, name: str
) -> tuple[Any, str]:
    """The model on its device, or spread over all GPUs where one cannot hold it; and why it is spread, else nothing."""
    spread = placement.spread(placement.weight_bytes(folder, dtype), requested, name) if where.type == "cuda" else None
    if spread:
        model = _read_weights(folder, config, dtype, **placement.loading(spread[0]))
        placement.refuse_offloaded(model, name)
        return model, spread[1]
    model = _read_weights(folder, config, dtype)
    try:
        return model.to(where), ""
    except torch.OutOfMemoryError:
        raise ModelError(f"{name} in {str(dtype).removeprefix('torch.')} does not fit on {where}; take bfloat16, another device or "
                         "a smaller model.") from None


def _read_weights(folder: Path, config: Any, dtype: torch.dtype, **loading: Any) -> Any:
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


def _read_tokenizer(folder: Path) -> Any:
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


def convert(gguf: Path, target: Path, sink_token_id: int) -> None:
    """Writes a GGUF file as float32 safetensors with its tokenizer, loads that and writes the check's error beside it.

    Raises:
        ModelError: the packages that read GGUF files are missing, or what was written fails its check.
    """
    try:
        import accelerate  # noqa: F401
        import gguf as _  # noqa: F401
    except ImportError as error:
        raise ModelError(f"reading GGUF files needs `pip install gguf accelerate`: {error}") from None
    from transformers import GgufConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    _split_digits(tokenizer, gguf)
    tokenizer.save_pretrained(target)
    # Without dequantize=True transformers takes the model for a quantised one and refuses to save it.
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
    model.config._name_or_path = ""
    model.save_pretrained(target)
    del model
    written = _read_weights(target, _checked_config(target, target.name), torch.float32)
    checked = from_module(written, name=target.name, sink_token_id=sink_token_id, fingerprint="being written")
    (target / "check_error").write_text(repr(checked.check_error))


def _split_digits(tokenizer: Any, gguf: Path) -> None:
    """Restores the pre-tokenizer that GGUF calls `smollm`: every numeral on its own, then byte level.

    transformers reads the file as plain byte level, which differs for numerals such as a superscript after a space.
    """
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        steps: Any = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(steps)


if __name__ == "__main__":  # moyu_core.fetch runs this in a process of its own
    convert(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
