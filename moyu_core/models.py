"""A name -> a causal language model with its tokenizer and its FFN sites, checked.

Only safetensors are read and code of a model folder is never run. What a site is, is proved on every load.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moyu_core import model_files, placement, registry
from moyu_core.architectures import TABLE, Architecture, shape
from moyu_core.devices import choose_device, choose_dtype
from moyu_core.errors import ModelError
from moyu_core.fetch import fetch, fetch_hub
from moyu_core.home import Home
from moyu_core.identity_check import check_identity
from moyu_core.model_folder import VOLATILE
from moyu_core.model_sources import SOURCES, canonical_name
from moyu_core.progress import Reporter, silent
from moyu_core.sites import Site, find_sites, unknown_architecture
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
    config = model_files.checked_config(folder, name)
    report("identifying the weights", 0, 3)
    identity = registry.identity(name, home, dtype)
    if identity is None:
        raise ModelError(f"The weights of {name} were there a moment ago and are gone.")
    facts = registry.model_facts(folder)
    model_files.refuse_altered(folder, identity)
    report("loading the weights", 1, 3)
    model, where_else = _placed(folder, config, torch_dtype, where, device, name)
    tokenizer = model_files.read_tokenizer(folder)
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
    model_files.refuse_bypass(model.config, name)
    dtype = str(model.dtype).removeprefix("torch.")
    identity = ModelIdentity(name, fingerprint or state_fingerprint(model), dtype)
    return _assemble(model, tokenizer, identity, sink_token_id)


def state_fingerprint(model: Any) -> str:
    """SHA-256 over the configuration and the state dict (name, dtype, shape, bytes), 64 hex digits."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in VOLATILE}
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
        known = canonical_name(name)
        return fetch(known, home, report=report) if known in SOURCES else place
    return registry.hub_snapshot(place) or fetch_hub(place, report)


def _placed(
    folder: Path, config: Any, dtype: torch.dtype, where: torch.device, requested: str | None, name: str
) -> tuple[Any, str]:
    """The model on its device, or spread over all GPUs where one cannot hold it; and why it is spread, else nothing."""
    spread = placement.spread(placement.weight_bytes(folder, dtype), requested, name) if where.type == "cuda" else None
    if spread:
        model = model_files.read_weights(folder, config, dtype, **placement.loading(spread[0]))
        placement.refuse_offloaded(model, name)
        return model, spread[1]
    model = model_files.read_weights(folder, config, dtype)
    try:
        return model.to(where), ""
    except torch.OutOfMemoryError:
        raise ModelError(f"{name} in {str(dtype).removeprefix('torch.')} does not fit on {where}; take bfloat16, another device or "
                         "a smaller model.") from None
