"""Decoding one token at a time, batch 1: dense, on frozen sets, and with the gather kernels.

    python -m benchmarks.h200.decode --shape llama-2-7b [--rounds 7]

Each variant's whole step (decoder, head, 512 tokens in the cache) is one CUDA graph, so Python's own time, which would hide
everything at batch 1, is out of it. The variants replay in turn. Random neurons, other ones in every layer.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.h200 import common
from moyu_core.models import LoadedModel
from moyu_core.sparse_ffn import frozen, gathered

CONTEXT = 512
DATASHEET_GB_S = 4800.0


def random_sets(model: LoadedModel, density: float) -> dict[int, Tensor]:
    """Sorted random neurons of every layer."""
    generator = torch.Generator(model.device).manual_seed(0)
    sets = {}
    for site in model.sites:
        order = torch.randperm(site.n_neurons, device=model.device, generator=generator)
        sets[site.layer] = order[: int(density * site.n_neurons)].sort().values
    return sets


@contextmanager
def gathering(model: LoadedModel, sets: dict[int, Tensor]) -> Iterator[None]:
    """`gathered` with sets chosen."""
    with gathered(model) as choices:
        for layer, choice in choices.items():
            choice.neurons, choice.settled = sets[layer], True
        yield


class FixedCache:
    """Keys and values of CONTEXT random tokens and room for one more, which every step writes again.

    What a step costs does not depend on what the keys are; writing the same place lets a graph be replayed for ever.
    """

    is_compileable = False

    def __init__(self, model: LoadedModel) -> None:
        config = model.model.config
        size = (1, config.num_key_value_heads, CONTEXT + 1, config.hidden_size // config.num_attention_heads)
        torch.manual_seed(1)
        self._place = torch.full((1,), CONTEXT, device=model.device)
        self._kept = [tuple(torch.randn(size, dtype=common.DTYPE, device=model.device) for _ in "kv") for _ in model.sites]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Put the step's key and value at their place; everything to attend to."""
        keys, values = self._kept[layer]
        keys.index_copy_(2, self._place, key)
        values.index_copy_(2, self._place, value)
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        """Tokens that are there."""
        return CONTEXT


def quicken(model: LoadedModel) -> None:
    """Norms and rotary embedding as one kernel each, alike for every variant: eager they are 20 small ones a layer."""
    from transformers.models.llama import modeling_llama as llama

    if common.DEVICE.type == "cuda":
        llama.apply_rotary_pos_emb = torch.compile(llama.apply_rotary_pos_emb, dynamic=False)
    norm = torch.compile(_norm, dynamic=False) if common.DEVICE.type == "cuda" else _norm
    for module in model.model.modules():
        if isinstance(module, llama.LlamaRMSNorm):
            module.forward = partial(norm, module.weight, module.variance_epsilon)


def _norm(weight: Tensor, epsilon: float, x: Tensor) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)


class Step:
    """One decode step as a graph; eager where there is no CUDA device."""

    def __init__(self, model: LoadedModel, context: Any) -> None:
        self._cache = FixedCache(model)
        self._token = torch.full((1, 1), 7, device=model.device)
        self._position = torch.full((1, 1), CONTEXT, device=model.device)
        self._mask = torch.ones(1, 1, 1, CONTEXT + 1, dtype=torch.bool, device=model.device)
        with context:
            self._run(model)
            self.eager = 1e3 * statistics.median(common.seconds(lambda: self._run(model)) for _ in range(5))
            self.logits = self._run(model)
            self._replay = self._graph(model)
            self._weights = list(model.model.modules())  # the graph reads them after the block

    def _run(self, model: LoadedModel) -> Tensor:
        return model.model(input_ids=self._token, attention_mask=self._mask, position_ids=self._position,
                           past_key_values=self._cache, use_cache=True).logits  # fmt: skip

    def _graph(self, model: LoadedModel) -> Callable[[], object]:
        if common.DEVICE.type != "cuda":
            return lambda: self._run(model)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.logits = self._run(model)
        return graph.replay

    def milliseconds(self, replays: int) -> float:
        """Of one step, over so many."""
        return 1e3 * common.seconds(lambda: [self._replay() for _ in range(replays)]) / replays


def kernel_times(model: LoadedModel, densities: list[tuple[float, bool]], peak: float) -> dict[str, Any]:
    """The gather kernel alone, layer after layer so that nothing is left in the cache: share of its bytes-bound.

    Once with sets that were there before, as they are for frozen sets, and once with sets that the kernel in front may have made.
    """
    if common.DEVICE.type != "cuda":
        return {}
    from moyu_core.kernels import gated

    layers = model.model.model.layers
    downs = [layer.mlp.down_proj.weight.T.contiguous() for layer in layers]
    d, n_neurons = downs[0].shape[1], downs[0].shape[0]
    x = torch.randn(d, dtype=common.DTYPE, device=common.DEVICE)
    found = {}
    for density, settled in densities:
        sets = random_sets(model, density)

        def once(sets: dict[int, Tensor] = sets, settled: bool = settled) -> None:
            for index, layer in enumerate(layers):
                weights = (layer.mlp.up_proj.weight, layer.mlp.gate_proj.weight, downs[index])
                gated.whole(x, *weights, sets[index], "silu", settled=settled)

        def dense() -> None:
            for layer in layers:
                layer.mlp(x[None, None])

        action = once if density < 1 else dense
        milliseconds = common.graph_milliseconds(action) / len(layers)
        size = 3 * int(density * n_neurons) * d * 2
        name = f"gather {100 * density:.0f} %{'' if settled else ', chosen just before'}" if density < 1 else "dense FFN (cuBLAS)"
        bound = size / peak / 1e6
        found[name] = {"microseconds": 1e3 * milliseconds, "bytes": size, "share_of_peak": bound / milliseconds}
    return found


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=common.SHAPES, default="tiny")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--replays", type=int, default=60)
    arguments = parser.parse_args()
    bandwidth = common.peak_bandwidth()
    peak = max(bandwidth.values())
    model = common.random_model(arguments.shape)
    quicken(model)
    contexts: dict[str, tuple[float, Any]] = {"dense": (1.0, nullcontext())}
    for density in (0.5, 0.25):
        contexts[f"frozen {100 * density:.0f} %"] = (density, frozen(model, random_sets(model, density)))
    for density in (0.5, 0.25, 0.1):
        contexts[f"gather {100 * density:.0f} %"] = (density, gathering(model, random_sets(model, density)))
    steps = {name: Step(model, context) for name, (_, context) in contexts.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.rounds + 1):
        for name, step in steps.items():
            took = step.milliseconds(arguments.replays)
            if turn:
                times[name].append(took)
    rows = _rows(model, contexts, steps, times, peak)
    gathers = [(density, settled) for density in (0.1, 0.25, 0.5) for settled in (True, False)]
    kernels = kernel_times(model, [*gathers, (1.0, True)], peak)
    for name, row in rows.items():
        print(f"{name:12} {row['milliseconds']['median']:.3f} ms a token (eager {row['eager_milliseconds']:.1f}), "
              f"{row['speed_against_dense']['median']:.2f} of dense speed (bound {row['bound_against_dense']:.2f}), "
              f"{100 * row['share_of_peak']:.0f} % of peak; logits off frozen's by {row['logits_off_frozen']}")  # fmt: skip
    for name, row in kernels.items():
        print(f"FFN alone: {name:20} {row['microseconds']:.1f} us, {100 * row['share_of_peak']:.0f} % of its bytes-bound")
    print("bandwidth", {name: round(value) for name, value in bandwidth.items()}, "GB/s")
    common.save("decode", arguments.shape, {"bandwidth_gb_s": bandwidth, "datasheet_gb_s": DATASHEET_GB_S, "context": CONTEXT,
                                            "rounds": arguments.rounds, "replays": arguments.replays, "variants": rows,
                                            "ffn_alone": kernels})  # fmt: skip


def _rows(
    model: LoadedModel, contexts: dict[str, Any], steps: dict[str, Step], times: dict[str, list[float]], peak: float
) -> dict[str, Any]:
    """Times, ratios and bytes of each variant; frozen and gathered sets of one density must give the same logits."""
    ffn = sum(3 * site.n_neurons * model.d_model for site in model.sites) * 2
    embedding = model.model.get_input_embeddings().weight
    whole = sum(p.numel() * p.element_size() for p in model.model.parameters()) - embedding.numel() * embedding.element_size()
    rows = {}
    for name, (density, _) in contexts.items():
        size = whole - (1 - density) * ffn
        median = statistics.median(times[name])
        other = name.replace("gather", "frozen")
        apart = steps[name].logits - steps[other].logits if other in steps else torch.zeros(1)
        rows[name] = {
            "milliseconds": common.summary(times[name]),
            "eager_milliseconds": steps[name].eager,
            "speed_against_dense": common.summary([a / b for a, b in zip(times["dense"], times[name], strict=True)]),
            "bound_against_dense": whole / size,
            "weight_bytes": size,
            "share_of_peak": size / median / 1e6 / peak,
            "logits_off_frozen": float(apart.norm() / steps[other].logits.norm()) if other in steps else None,
        }
    return rows


if __name__ == "__main__":
    main()
