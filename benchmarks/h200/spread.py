"""Capture of a model that one GPU cannot hold against its bare forward passes: layers spread over all GPUs of the machine.

    python -m benchmarks.h200.spread --layers 132 [--batches 4] [--rounds 2]

The shape of 70B layers, random weights made where they lie, dispatched by accelerate as `device_map="auto"` does (the first
GPU gets fewer layers: the sets of a batch are gathered there). `--layers 4 --shape tiny` tries it on a CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.h200 import common
from benchmarks.h200.capture import Bench
from moyu_core.models import LoadedModel, from_module
from moyu_core.placement import FIRST_SHARE, SHARE
from moyu_core.spec import SetRule


def random_spread_model(shape: str, layers: int) -> tuple[LoadedModel, dict[str, int]]:
    """A Llama of so many layers over all devices, and layers by device."""
    from accelerate import dispatch_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    sizes = {**common.SHAPES[shape], "num_hidden_layers": layers}
    config = LlamaConfig(**sizes, max_position_embeddings=4096, dtype=common.DTYPE)
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())] or [torch.device("cpu")]
    shares = torch.tensor([FIRST_SHARE] + [SHARE] * (len(devices) - 1)).cumsum(0)
    bounds = (shares / shares[-1] * layers).round().int().tolist()
    places = [next(number for number, bound in enumerate(bounds) if layer < bound) for layer in range(layers)]
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(common.DTYPE)
    with devices[0]:
        model.model.rotary_emb = LlamaRotaryEmbedding(config)
    modules = {"model.embed_tokens": 0, "model.norm": places[-1], "lm_head": places[-1]}
    modules |= {f"model.layers.{layer}": place for layer, place in enumerate(places)}
    for name, place in modules.items():
        part = model.get_submodule(name).to_empty(device=devices[place])
        for parameter in part.parameters():
            parameter.data.normal_(0, 0.02) if parameter.ndim > 1 else parameter.data.fill_(1)
    if devices[0].type == "cuda":
        dispatch_model(model, device_map={**modules, "model.rotary_emb": 0}, force_hooks=True)
    loaded = from_module(model, name=f"{shape} x {layers}", sink_token_id=1, fingerprint=f"random-{shape}-{layers}")
    return loaded, {str(device): places.count(number) for number, device in enumerate(devices)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=common.SHAPES, default="llama-70b-layers")
    parser.add_argument("--layers", type=int, default=132)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    prompts, tokens = (2, 16) if arguments.shape.startswith("tiny") else (8, 1024)
    model, places = random_spread_model(arguments.shape, arguments.layers)
    bench = Bench(model, arguments.batches, prompts, tokens, arguments.folder)
    top = bench.options(SetRule("top"))
    actions: dict[str, Callable[[], object]] = {
        "forward": bench.forward,
        "capture in memory": lambda: bench.in_memory(top),
        "capture to a run, top 10 %": lambda: bench.run(top),
    }
    times = common.interleaved(actions, arguments.rounds, bench.tidy)
    found = common.ratios(times, "forward")
    for name, ratio in found.items():
        print(f"{model.identity.name}: {name:30} / forward {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})")
    gb = sum(p.numel() * p.element_size() for p in model.model.parameters()) / 1e9
    data: dict[str, Any] = {
        "shape_name": arguments.shape, "layers": arguments.layers, "layers_by_device": places, "weights_gb": gb,
        "batch": [prompts, tokens], "batches": arguments.batches, "rounds": arguments.rounds, "bytes_on_disk": bench.bytes_written,
        "seconds": {name: common.summary(values) for name, values in times.items()}, "ratios": found,
        "check_error": model.check_error, **common.where(),
    }  # fmt: skip
    print(f"{gb:.1f} GB of weights, layers by device: {places}")
    if common.DEVICE.type == "cuda":
        record.save("h200-multi/spread", data)


if __name__ == "__main__":
    main()
