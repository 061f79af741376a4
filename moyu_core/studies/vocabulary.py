"""Which tokens a neuron writes for: its output column through the final norm's scale and the unembedding.

For neuron i of layer l the row is W_U (g * w_i), w_i its down-projection column (before any norm that follows the FFN), g the
scale of the final norm (a LayerNorm also takes the mean out). It ignores what later layers do with the column: a direct
effect, not the whole one. Depends on the model alone, so one run serves every capture of that model.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from moyu_core import schema
from moyu_core.errors import InputError, ModelError
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.run_writer import RunFolder
from moyu_core.sites import Site
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.studies import shared
from moyu_core.studies.requests import VocabularyRequest as Request
from moyu_core.tokens import token_texts

NAME = "vocabulary"
BLOCK = 256
"""Neurons whose logits over the vocabulary are held at a time."""


def spec_of(request: Request, identity: ModelIdentity) -> RunSpec:
    """The identity of the run; prompts, set rule and sink token play no part in it."""
    return RunSpec(NAME, identity, "", SetRule("positive"), 0, {"tokens": request.tokens})


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model and make the table `vocabulary`; returns the run id."""
    run_id = shared.finished(lambda identity, _sink: spec_of(request, identity), request.model, home)
    if run_id is not None:
        return run_id
    report("loading the model", 0, 0)
    return vocabulary_run(load_model(request.model, home, device=device, report=report), request, home, report)


def vocabulary_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """Make the table with a loaded model; returns the run id.

    Raises:
        InputError: mixture-of-experts layers, whose neurons are counted per expert.
    """
    if any(site.experts for site in model.sites):
        raise InputError(
            f"{model.identity.name} is a mixture of experts; promoted tokens are made for dense FFNs only."
        )
    spec = spec_of(request, model.identity)
    if request.tokens > model.vocab_size:
        raise InputError(f"{model.identity.name} has {model.vocab_size} tokens; {request.tokens} cannot be kept.")
    return shared.make(spec, home, lambda folder: _write(folder, model, request, report), report)


def _write(folder: RunFolder, model: LoadedModel, request: Request, report: Reporter) -> None:
    started = time.perf_counter()
    tables = []
    with torch.inference_mode():
        for done, site in enumerate(model.sites):
            report("promoted tokens", done, len(model.sites))
            tables.append(_table(model, site, *strongest(model, site, request.tokens)))
    folder.write("vocabulary", pa.concat_tables(tables), row_group_size=tables[0].num_rows)  # a row group a layer
    folder.facts = {
        "title": f"Promoted tokens of {model.identity.name}",
        "model": {"name": model.identity.name},
        "seconds": round(time.perf_counter() - started, 3),
    }


def strongest(model: LoadedModel, site: Site, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(logits, ids), each (F, 2, k): the k most promoted and the k most suppressed tokens of each neuron."""
    unembedding = model.model.get_output_embeddings().weight.float()
    directions = output_directions(model, site)
    logits, ids = [], []
    for start in range(0, len(directions), BLOCK):
        scores = directions[start : start + BLOCK] @ unembedding.T
        high, low = scores.topk(k, dim=1), scores.topk(k, dim=1, largest=False)
        logits.append(torch.stack([high.values, low.values], dim=1))
        ids.append(torch.stack([high.indices, low.indices], dim=1))
    return torch.cat(logits).cpu().numpy(), torch.cat(ids).cpu().numpy()


def output_directions(model: LoadedModel, site: Site) -> Tensor:
    """(F, d): each neuron's column as the unembedding sees it, final norm's scale folded in, its division left out."""
    norm = final_norm(model.decoder)
    columns = site.weight().T.float()
    probe = torch.ones(columns.shape[1], device=columns.device)
    probe[1::2] = -1
    scale = _odd_part(norm, probe.to(model.dtype)) * probe
    if not _odd_part(norm, torch.ones_like(probe, dtype=model.dtype)).any():
        columns = columns - columns.mean(dim=1, keepdim=True)
    return columns * scale


def _odd_part(norm: nn.Module, x: Tensor) -> Tensor:
    """What a norm makes of x without its bias. Zero for a constant x: the norm takes the mean out, as a LayerNorm does."""
    x = x[None, None]
    return ((norm(x) - norm(-x)) / 2)[0, 0].float()


def final_norm(decoder: nn.Module) -> nn.Module:
    """The norm between the last layer and the unembedding: the last norm that stands outside the numbered layers."""
    found = [
        module
        for name, module in decoder.named_modules()
        if "norm" in type(module).__name__.lower()
        and "embed" not in name
        and not any(part.isdigit() for part in name.split("."))
    ]
    if not found:
        raise ModelError(f"{type(decoder).__name__} has no final norm outside its layers; promoted tokens need one.")
    return found[-1]


def _table(model: LoadedModel, site: Site, logits: np.ndarray, ids: np.ndarray) -> pa.Table:
    n_neurons, _, k = ids.shape
    distinct, inverse = np.unique(ids, return_inverse=True)
    texts = pa.array(token_texts(model.tokenizer, distinct.tolist()))
    return pa.table(
        [
            np.full(ids.size, site.layer, np.int16),
            np.repeat(np.arange(n_neurons, dtype=np.int32), 2 * k),
            np.tile(np.repeat(np.asarray([1, -1], np.int8), k), n_neurons),
            np.tile(np.arange(k, dtype=np.int8), 2 * n_neurons),
            ids.ravel().astype(np.int32),
            texts.take(pa.array(inverse.ravel())),
            logits.ravel().astype(np.float16),
        ],
        schema=schema.arrow_schema(schema.VOCABULARY_COLUMNS),
    )
