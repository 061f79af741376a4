"""Masks of the default model on the GPU against those on the CPU, both in float32.

    python -m benchmarks.h200.default_masks --gguf FILE     # or --model FOLDER

Two questions: is the GPU's reduction of the same activations the CPU's bit for bit; and how far do sets differ when the
activations come from two machines' sums? A neuron that is in one set and not in the other is `explained` when its score
lies within TOLERANCE of the row's border.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.h200 import common
from moyu_core import sets
from moyu_core.device_reducers import reduce_on_device
from moyu_core.home import REPOSITORY, Home
from moyu_core.models import LoadedModel, convert, load_model
from moyu_core.prompts import Prompt
from moyu_core.reducers import RowReducer
from moyu_core.sites import watch
from moyu_core.spec import SetRule
from moyu_core.token_sequences import pad, tokenise

TOLERANCE = 1e-3
"""Largest |score - border| / border at which float32 sums in another order may put a neuron on the other side."""
FILES = ("data/prompts/demo.jsonl", "data/prompts/topics.jsonl")


def tokens(model: LoadedModel) -> list[torch.Tensor]:
    """The repository's own prompts, those of a file one after the other: (1, 512) ids each."""
    lines = [(REPOSITORY / name).read_text(encoding="utf-8").splitlines() for name in FILES]
    texts = [" ".join(json.loads(line)["text"] for line in some) for some in lines]
    prompts = [Prompt(f"text-{index}", text) for index, text in enumerate(texts)]
    return [pad([sequence], 0) for sequence in tokenise(model, prompts, 512)]


def activations(model: LoadedModel) -> list[np.ndarray]:
    """(N, F) float32 of every layer, over all tokens."""
    seen: dict[int, list[np.ndarray]] = {site.layer: [] for site in model.sites}
    with torch.inference_mode(), watch(model, None, lambda f: seen[f.site.layer].append(f.a.float().cpu().numpy().copy())):
        for ids in tokens(model):
            model.decoder(input_ids=ids.to(model.device), use_cache=False)
    return [np.concatenate(parts) for parts in seen.values()]


def compare(host: LoadedModel, device: LoadedModel, rule: SetRule) -> dict[str, Any]:
    """Counts over all layers and tokens."""
    reducer = RowReducer(rule)
    total = {"rows": 0, "active": 0, "differing": 0, "explained": 0, "differing_on_same_input": 0}
    largest = 0.0
    for index, (a, b) in enumerate(zip(activations(host), activations(device), strict=True)):
        norms = host.sites[index].column_norms().numpy()
        on_host, elsewhere = reducer(a, norms), reducer(b, norms)
        same = reduce_on_device(reducer, torch.from_numpy(b).to(device.device), torch.from_numpy(norms).to(device.device)).fetch()
        total["differing_on_same_input"] += int(sets.sizes(same.active ^ elsewhere.active).sum())
        odd = sets.unpack(on_host.active ^ same.active, a.shape[1])
        score = np.abs(a) * norms if rule.name == "top" else np.abs(a)
        border = np.sort(score, axis=1)[:, -rule.count(a.shape[1])][:, None]
        distance = np.where(odd, np.abs(score - border) / border, 0)
        total["rows"] += len(a)
        total["active"] += int(on_host.sizes.sum())
        total["differing"] += int(odd.sum())
        total["explained"] += int((odd & (distance <= TOLERANCE)).sum())
        largest = max(largest, float(distance.max()))
    return {**total, "largest_relative_distance_from_border": largest, "tolerance": TOLERANCE}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--model", default="tiny-swiglu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        name = arguments.model
        if arguments.gguf is not None:
            name = str(Path(folder) / "model")
            convert(arguments.gguf, Path(name), sink_token_id=0)
        host, device = (load_model(name, Home.default(), device=kind) for kind in ("cpu", common.DEVICE.type))
        found = {rule.label(): compare(host, device, rule) for rule in (SetRule("top"), SetRule("top", 0.3), SetRule("magnitude"))}
        weights = host.identity.weights
    title = "smollm2-135m-instruct" if arguments.gguf is not None else str(arguments.model)
    print(title, weights, *(f"{label}: {counts}" for label, counts in found.items()), sep="\n")
    common.save("default_masks", "", {"model": title, "weights": weights, "dtype": "float32", "rules": found})


if __name__ == "__main__":
    main()
