"""The run `speed`: tokens per second with the weights really gathered, dense and sparse in turn in one process.

A pair of samples is a few dense steps and the same number of sparse ones right after or before them, so whatever slows the machine
down slows both. A time is a median over the pairs, after a warm-up; settings whose quartiles lie far apart are marked as noisy.
The machine is part of the run's identity: on another one this is another run.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from moyu_core import claims, kernels
from moyu_core.decode import Lane, sees_prompt, stays, twin
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.intervals import t_interval
from moyu_core.methods.protocol import Method, Shape
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import make_prompt, prompts_hash
from moyu_core.routed_ffn import stage
from moyu_core.run_writer import RunFolder
from moyu_core.schema.trinity import METHOD_COLUMNS, SAMPLE_COLUMNS, SPEED_COLUMNS
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.studies import shared
from moyu_core.studies.predictors.study import part_hashes
from moyu_core.studies.trinity.contenders import Contender, asked, contenders
from moyu_core.studies.trinity.requests import SpeedRequest as Request
from moyu_core.token_sequences import tokenise

NAME = "speed"
REFERENCES = ("oracle", "static", "random")
WARM_UP = 3
"""Steps of each lane before the first sample."""
SPREAD_LIMIT = 0.15
"""Distance of the quartiles / median above which a setting is marked as noisy."""
ROUTER_STEPS = 8
"""Steps of a second pass in which the time spent choosing is taken; waiting for the device would slow the samples."""

Row = dict[str, Any]


def machine(device: torch.device) -> dict[str, Any]:
    """What the speed depends on and can be told: processor, cores, threads; on a GPU also what gathers there."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        **({"gather": gathering()} if device.type == "cuda" else {}),
    }


def gathering() -> str:
    """What reads the chosen weights of a single token on a CUDA device."""
    return f"Triton {import_module('triton').__version__}" if kernels.installed() else "torch"


def spec_of(request: Request, home: Home, device: torch.device, identity: ModelIdentity, sink_token_id: int) -> RunSpec:
    """The identity of the run, the machine included."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    parameters = {name: getattr(request, name) for name in ("settings", "points", "prompt_tokens", "repeats", "tokens")}
    parameters |= {
        "machine": machine(device),
        "device": name,
        "parts": part_hashes(request.model, [method for method, _ in request.settings], identity, home),
    }
    return RunSpec(NAME, identity, prompts_hash([make_prompt(request.text)]), SetRule("positive"), sink_token_id, parameters)


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model and measure; returns the run id. A finished run of this machine is returned."""
    from moyu_core.devices import choose_device

    where, _ = choose_device(device)
    known = shared.finished(
        lambda identity, sink: spec_of(request, home, where, identity, sink), request.model, home, request.dtype
    )
    if known is not None:
        return known
    report("loading the model", 0, 0)
    return speed_run(load_model(request.model, home, dtype=request.dtype, device=device, report=report), request, home, report)


def speed_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """Measure a loaded model; parts that are missing are fitted first. Returns the run id."""
    everyone = contenders(model, list(dict.fromkeys(name for name, _ in request.settings)), home, report)
    spec = spec_of(request, home, model.device, model.identity, model.sink_token_id)
    return shared.make(spec, home, lambda folder: _write(folder, model, request, everyone, report), report)


def _write(folder: RunFolder, model: LoadedModel, request: Request, everyone: list[Contender], report: Reporter) -> None:
    started, load = time.perf_counter(), os.getloadavg()
    by_name = {one.method.name: one for one in everyone}
    settings = [(by_name[name], density) for name, density in request.settings if by_name[name].ready]
    if not settings:
        raise InputError(f"No method can be applied to {model.identity.name}: {'; '.join(one.reason for one in everyone)}")
    bench = Bench(model, request)
    for number, (one, density) in enumerate(settings):
        report(f"timing {one.method.name} at {density:g}", number, len(settings))
        bench.measure(one, density)
    tables = {
        "methods": (METHOD_COLUMNS, [one.row() for one in everyone]),
        "speeds": (SPEED_COLUMNS, bench.speeds),
        "samples": (SAMPLE_COLUMNS, bench.samples),
    }
    for name, (columns, rows) in tables.items():
        folder.write(name, shared.table(columns, {c.name: [row[c.name] for row in rows] for c in columns}))
    fastest = max(bench.speeds, key=lambda row: row["ratio"])
    folder.facts = {
        "title": request.title or f"Decoding speed of {model.identity.name}",
        "model": shared.model_facts(model),
        "layers": [site.layer for site in model.sites],
        "machine": {**machine(model.device), "load_before": load[0], "load_after": os.getloadavg()[0]},
        "spread_limit": SPREAD_LIMIT,
        "scope": {"prompt_tokens": len(bench.ids), "pairs": request.repeats, "tokens_a_sample": request.tokens},
        "weights": weights(model),
        "claims": [claims.judge([claim(bench, request, model)])[0].as_json()],
        "headline": {
            "dense_tokens_per_second": 1 / statistics.median(row["dense_seconds"] for row in bench.speeds),
            "fastest": f"{fastest['method']} at {fastest['density']:g}: {fastest['ratio']:.2f} x dense",
            "noisy": f"{sum(row['noisy'] for row in bench.speeds)} of {len(bench.speeds)} settings",
        },
        **shared.provenance(model, time.perf_counter() - started),
    }


def claim(bench: Bench, request: Request, model: LoadedModel) -> claims.Claim:
    """That a method within the budget is faster than dense, by the fastest of those that a run of `trinity` confirmed.

    References are left out: an oracle cannot be built, static and random sets decide nothing.
    """
    pairs: dict[tuple[str, float], list[float]] = {}
    for sample in bench.samples:
        setting = (sample["method"], sample["density"])
        if setting in request.points and sample["method"] not in REFERENCES:
            pairs.setdefault(setting, []).append(sample["dense_seconds"] / sample["seconds"])
    best = max(pairs.values(), key=statistics.median, default=[])
    which = f"; the fastest of {len(pairs)}" if pairs else "; no method was confirmed to be within the budget"
    busy = any(row["noisy"] for row in bench.speeds if pairs and (row["method"], row["density"]) in pairs)
    which += ", on a busy machine: noisy" if busy else ""
    return claims.Claim(
        "trinity",
        "A dynamic activation method that costs at most 1 % perplexity decodes faster than the dense model.",
        "arXiv 2406.12569, the impossible trinity, in the negative",
        f"decoding speed at the operating point, sparse / dense{which}",
        1.0,
        t_interval(best),
        model.identity.name,
        f"{len(best)} pairs of samples",
    )


class Bench:
    """One model on this machine, dense in the model itself and sparse in its twin.

    Attributes:
        ids: (T,) the prompt.
        speeds, samples: rows of the tables.
    """

    def __init__(self, model: LoadedModel, request: Request) -> None:
        self._model, self._request = model, request
        self.ids = torch.from_numpy(tokenise(model, [make_prompt(request.text)], request.prompt_tokens)[0].token_ids)
        self.speeds: list[Row] = []
        self.samples: list[Row] = []
        self._first: dict[str, tuple[float, float]] = {}

    def measure(self, one: Contender, density: float) -> None:
        """Adds one row to `speeds`, and its samples."""
        assert one.ready is not None
        request, model, method = self._request, self._model, one.method
        steps = WARM_UP + request.repeats * request.tokens
        dense, sparse = Lane(model), Lane(twin(model), one.ready, asked(density))
        with dense.prompted(self.ids, steps), sparse.prompted(self.ids, steps):
            for lane in (dense, sparse):
                steps_time(lane, WARM_UP)
            pairs = np.array([self._pair(dense, sparse, number) for number in range(request.repeats)])
            extra, kept, choose = sparse.extra_bytes(model), sparse.density, sparse.seconds["choose"]
        first = self._first_token(one)
        bounds = bound(model, method, kept)
        self.speeds.append(
            {
                "method": method.name,
                "density": density,
                "kept": kept,
                "path": "frozen" if stays(method) else stage(method),
                **summary(pairs),
                "router_share": 0.0 if stays(method) else self._router_share(one, density),
                "first_token_ratio": first[0],
                "first_token_seconds": first[1],
                "choose_seconds": choose,
                "extra_bytes": extra,
                "bound": bounds[0],
                "ffn_bound": bounds[1],
                "agreeing": agreeing(dense, sparse),
                "decoded": len(dense.written),
            }
        )
        self.samples += [
            {"method": method.name, "density": density, "sample": number, "dense_seconds": pair[0], "seconds": pair[1]}
            for number, pair in enumerate(pairs.tolist())
        ]

    def _pair(self, dense: Lane, sparse: Lane, number: int) -> tuple[float, float]:
        """(dense, sparse) seconds a token; who goes first changes from pair to pair."""
        found = {}
        for lane in (dense, sparse) if number % 2 else (sparse, dense):
            found[lane is sparse] = steps_time(lane, self._request.tokens)
        return found[False], found[True]

    def _first_token(self, one: Contender) -> tuple[float, float]:
        """(dense / sparse, seconds of sparse) until the first token; the same code where nothing is seen of the prompt."""
        assert one.ready is not None
        looks = sees_prompt(one.method, one.ready.begin())
        name = one.method.name if looks else ""
        if name not in self._first:
            lanes = (Lane(self._model), Lane(self._model, one.ready)) if looks else (Lane(self._model),)
            times = [[lane.prompt_seconds(self.ids) for lane in lanes] for _ in range(self._request.repeats + 1)]
            pairs = np.array(times[1:])  # the first one is the warm-up
            self._first[name] = float(np.median(pairs[:, 0] / pairs[:, -1])), float(np.median(pairs[:, -1]))
        return self._first[name]

    def _router_share(self, one: Contender, density: float) -> float:
        lane = Lane(twin(self._model), one.ready, asked(density), timed=True)
        with lane.prompted(self.ids, ROUTER_STEPS + 2):
            assert lane.router is not None
            steps_time(lane, 2)
            lane.router.seconds = 0.0
            seconds = steps_time(lane, ROUTER_STEPS) * ROUTER_STEPS
            return lane.router.seconds / seconds


def steps_time(lane: Lane, tokens: int) -> float:
    """Seconds a token over some steps, the device waited for at the end."""
    began, token = lane.now(), lane.first
    for _ in range(tokens):
        token = lane.step(token)
    return (lane.now() - began) / tokens


def agreeing(dense: Lane, sparse: Lane) -> int:
    """Tokens that the sparse lane wrote like the dense one before the first that differs."""
    same = [a == b for a, b in zip(dense.written, sparse.written, strict=True)]
    return same.index(False) if False in same else len(same)


def summary(pairs: np.ndarray) -> Row:
    """Medians, the ratio with its distribution-free interval, and the spread, of (n, 2) dense and sparse seconds."""
    ratios = np.sort(pairs[:, 0] / pairs[:, 1])
    n = len(ratios)
    low = max(int(stats.binom.ppf(0.025, n, 0.5)) - 1, 0)
    quartiles = np.quantile(pairs, [0.25, 0.5, 0.75], axis=0)
    spread = float(((quartiles[2] - quartiles[0]) / quartiles[1]).max())
    return {
        "dense_seconds": float(quartiles[1, 0]),
        "seconds": float(quartiles[1, 1]),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios[low]),
        "ratio_high": float(ratios[n - 1 - low]),
        "spread": spread,
        "noisy": spread > SPREAD_LIMIT,
    }


def weights(model: LoadedModel) -> dict[str, int]:
    """Bytes of weights that a decoded token reads, and of the FFNs among them; an embedding that is no output is looked up."""
    seen = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in model.model.parameters()}
    embedding, head = model.model.get_input_embeddings(), model.model.get_output_embeddings()
    if head is None or embedding.weight.data_ptr() != head.weight.data_ptr():
        seen.pop(embedding.weight.data_ptr(), None)
    ffn = sum(shape_of(model, place).matrices * model.d_model * site.n_neurons for place, site in enumerate(model.sites))
    return {"all": sum(seen.values()), "ffn": ffn * model.dtype.itemsize}


def shape_of(model: LoadedModel, layer: int) -> Shape:
    """Sizes of one FFN as costs are told in."""
    site = model.sites[layer]
    return Shape(model.d_model, site.n_neurons, site.gated, model.dtype.itemsize)


def bound(model: LoadedModel, method: Method, kept: float) -> tuple[float, float]:
    """Largest speed-up, of the model and of its FFNs, if a token's time were the bytes of weights it reads."""
    read = weights(model)
    sparse = 0.0
    for place in range(len(model.sites)):
        shape = shape_of(model, place)
        cost = method.cost(shape, min(1.0, max(kept, 1 / shape.n_neurons)))
        sparse += cost.ffn_bytes + cost.choosing_bytes
    return read["all"] / (read["all"] - read["ffn"] + sparse), read["ffn"] / sparse
