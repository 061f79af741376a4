"""What the GPU benchmarks share: shapes, models with random weights, sequences, timing, the record."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import record
from moyu_core.models import LoadedModel, from_module
from moyu_core.prompts import Prompt
from moyu_core.token_sequences import TokenSequence

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 4, "vocab_size": 300},
    "tiny-moe": {"hidden_size": 64, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": 4,
                 "num_key_value_heads": 4, "vocab_size": 300, "num_local_experts": 4, "num_experts_per_tok": 2},
    "llama-2-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 32, "vocab_size": 32000},
    "llama-3-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "vocab_size": 128256},
    "llama-70b-layers": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 60,
                         "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000},
    "llama-70b-8-layers": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 8,
                           "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000},
    "mixtral-layers": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 16,
                       "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
                       "num_local_experts": 8, "num_experts_per_tok": 2},
}  # fmt: skip
"""Configuration keys. `llama-70b-layers`: as many layers of the 70B shape as fit beside the captured sets (120 GB of
weights), 8 of them for decoding beside compacted copies; `mixtral-layers`: half of Mixtral-8x7B's layers."""


def random_model(shape: str) -> LoadedModel:
    """A model of the shape with normally distributed weights (0.02, biases none), made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    sizes = SHAPES[shape]
    mixture = "num_local_experts" in sizes
    config = (MixtralConfig if mixture else LlamaConfig)(**sizes, max_position_embeddings=4096)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        former = torch.get_default_dtype()
        torch.set_default_dtype(DTYPE)
        try:
            model = (MixtralForCausalLM if mixture else LlamaForCausalLM)(config)
        finally:
            torch.set_default_dtype(former)
    return from_module(model, name=shape, sink_token_id=1, fingerprint=f"random-{shape}")


def sequences(count: int, tokens: int, vocabulary: int, seed: int = 0) -> list[TokenSequence]:
    """Random token ids, sink token first."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        ids = random.integers(5, vocabulary, tokens)
        ids[0] = 1
        found.append(TokenSequence(Prompt(f"bench-{index}", "random token ids"), ids, {int(i): f"t{i}" for i in ids}))
    return found


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds until the device is done too."""
    synchronize()
    start = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for all devices."""
    for number in range(torch.cuda.device_count()):
        torch.cuda.synchronize(number)


def interleaved(
    actions: dict[str, Callable[[], object]], rounds: int, after: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each action, taken in turn so that drift hits all alike; one warm-up round. `after` is not timed."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for name, action in actions.items():
            took = seconds(action)
            after()
            if turn:
                times[name].append(took)
    return times


def graph_milliseconds(action: Callable[[], object], repeats: int = 20) -> float:
    """As `device_milliseconds`, of an action that is recorded as a CUDA graph first, so that Python's own time is out of it."""
    action()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return device_milliseconds(lambda _: graph.replay(), repeats)


def device_milliseconds(action: Callable[[int], object], repeats: int = 20) -> float:
    """Median milliseconds of one call by device events; the action gets the number of the call, to change its inputs."""
    if DEVICE.type != "cuda":
        return 1e3 * statistics.median(seconds(lambda i=i: action(i)) for i in range(3))
    for index in range(3):
        action(index)
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for index, (before, after) in enumerate(marks):
        before.record()
        action(index)
        after.record()
    synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in marks)


def summary(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(times: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Each action's time over that of `base`, round by round."""
    return {name: summary([a / b for a, b in zip(values, times[base], strict=True)]) for name, values in times.items()}


def peak_bandwidth() -> dict[str, float]:
    """GB/s that the device's memory gives: a large copy (bytes read and written), and a large sum (bytes read)."""
    count = 1 << (31 if DEVICE.type == "cuda" else 20)
    source = torch.ones(count, dtype=torch.bfloat16, device=DEVICE)
    target = torch.empty_like(source)
    copy = device_milliseconds(lambda _: target.copy_(source), 10)
    words = source.view(torch.float32)
    read = device_milliseconds(lambda _: words.sum(), 10)
    return {"copy": 4 * count / copy / 1e6, "read": 2 * count / read / 1e6}


def where() -> dict[str, Any]:
    """Versions and device, for a record."""
    import pyarrow
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "pyarrow": pyarrow.__version__}
    device: dict[str, Any] = {"name": "cpu"}
    if DEVICE.type == "cuda":
        import triton

        versions |= {"triton": triton.__version__, "cuda": str(torch.version.cuda)}
        properties = torch.cuda.get_device_properties(DEVICE)
        device = {"name": properties.name, "memory_gb": properties.total_memory / 1e9, "count": torch.cuda.device_count()}
    return {"dtype": "bfloat16", "versions": versions, "device": device}


def save(name: str, shape: str, data: dict[str, Any]) -> None:
    """Write benchmarks/results/h200/<name>-<shape>.json with the versions and the device; `tiny` shapes are not kept."""
    full = {"shape_name": shape, "shape": SHAPES.get(shape, {}), **where(), **data}
    if shape.startswith("tiny") or DEVICE.type != "cuda":
        print("not kept:", full)
    else:
        record.save(f"h200/{name}-{shape}" if shape else f"h200/{name}", full)
