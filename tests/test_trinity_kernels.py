"""Decoding reaches the gather kernels: every method that chooses by token, through the loop that `speed` times.

The kernels' place is taken by the same sums in torch, so that what is handed to them (rows, biases, activation, the order of the
choice) is judged on every machine; marked `gpu`, the same tests run the kernels themselves (or TRITON_INTERPRET=1, on a CPU).
"""

from __future__ import annotations

import sys
from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_trinity_decode import PROMPT, STEPS, decoded, documents
from torch import Tensor
from transformers.activations import ACT2FN

from moyu_core import kernels, methods, store
from moyu_core.home import Home
from moyu_core.models import from_module
from moyu_core.queries import trinity as queries
from moyu_core.routed_ffn import ACTIVATION, BEFORE, stage
from moyu_core.studies import perform
from moyu_core.studies.trinity.forward import method_logits
from moyu_core.studies.trinity.requests import SpeedRequest, evaluation_prompts
from moyu_core.token_sequences import tokenise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
USABLE = kernels.usable(torch.empty(0, device=DEVICE))
KERNELS = pytest.param(True, id="kernels", marks=[
    pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason="needs a CUDA device and Triton")])  # fmt: skip
STAND_IN = pytest.param(False, id="stand-in")
BY_TOKEN = ("oracle", "token-table-prompt", "dejavu", "cats", "moefication")
"""Every moment of deciding, and every kind of router."""
FAMILIES = {"llama": {"mlp_bias": True}, "phi3": {}, "gpt2": {}}
"""Gate, up and down with biases; gate and up in one; no gate, and weights that lie the other way."""


def reference_inner(x: Tensor, weight: Tensor, neurons: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What `kernels.ffn.inner` is to give, in float64."""
    return (weight[neurons].double() @ x.flatten().double() + (0 if bias is None else bias[neurons].double())).to(dtype)


def reference_whole(
    x: Tensor, up: Tensor, gate: Tensor, down: Tensor, neurons: Tensor, activation: str,
    up_bias: Tensor | None = None, gate_bias: Tensor | None = None, bias: Tensor | None = None, settled: bool = False,
) -> Tensor:  # fmt: skip
    """What `kernels.gated.whole` is to give, in float64."""
    assert not settled, "a method chooses for the token that is on its way"
    opening = ACT2FN[activation](reference_inner(x, gate, neurons, gate_bias, torch.float64))
    a = opening * reference_inner(x, up, neurons, up_bias, torch.float64)
    return reference_outer(a, down, neurons, bias, x.dtype)


def reference_outer(a: Tensor, down: Tensor, neurons: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What `kernels.ffn.outer` is to give, in float64."""
    return (a.flatten().double() @ down[neurons].double() + (0 if bias is None else bias.double())).to(dtype)


@pytest.fixture
def called(real: bool, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kernel was asked; without the real ones the sums above answer."""
    counts: Counter[str] = Counter()
    if real:
        from moyu_core.kernels import ffn, gated
    else:
        ffn, gated = (ModuleType(f"moyu_core.kernels.{name}") for name in ("ffn", "gated"))
        vars(ffn).update(inner=reference_inner, outer=reference_outer)
        vars(gated).update(whole=reference_whole)
        for name, module in (("ffn", ffn), ("gated", gated)):
            monkeypatch.setitem(sys.modules, module.__name__, module)
            monkeypatch.setattr(kernels, name, module, raising=False)
        monkeypatch.setattr(kernels, "installed", lambda: True)
        monkeypatch.setattr(kernels, "usable", lambda tensor: True)
    for module, name in ((ffn, "inner"), (ffn, "outer"), (gated, "whole")):
        answer = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, answer=answer, name=name, **k: counts.update([name]) or answer(*a, **k))
    return counts


@pytest.mark.parametrize("real", [STAND_IN, KERNELS])
@pytest.mark.parametrize("name", BY_TOKEN)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_decoding_goes_through_the_kernels_and_is_the_masked_pass(
    family: str, name: str, real: bool, called: Counter[str]
) -> None:
    module, method = tiny.build(family, **FAMILIES[family]), methods.find(name)
    model = from_module(module.to(DEVICE if real else "cpu"), sink_token_id=1)
    if method.applies(model):
        pytest.skip("does not apply")
    ready = method.prepare(model, method.fit(model, documents(model)) if method.part else None)
    ids = tiny.ids(batch=1, length=PROMPT + STEPS)[0]
    for density in (0.1, 0.5, 1.0):
        called.clear()
        found, _ = decoded(model, ready, density, ids)
        passes = STEPS * len(model.sites)
        assert called["outer"] + called["whole"] == passes, "the down projection of every layer and token"
        if stage(method) == ACTIVATION:
            assert not called["inner"], "the whole activation is computed before it is known what to leave out"
        elif stage(method) == BEFORE:
            assert called["inner"] + called["whole"] == passes, "gate and up in one, or there is no gate of its own"
            assert called["whole"] == (passes if family == "llama" else 0)
        expected = method_logits(model, ids[None], [len(ids)], ready, density, PROMPT).logits[0, PROMPT:]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_speed_is_measured_on_a_gpu_through_the_same_interface(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way of gathering, from the request to the run; calibration text would come from the internet."""
    texts = evaluation_prompts(home, 12)
    monkeypatch.setattr(
        "moyu_core.studies.predictors.study.calibration_documents", lambda model, *args, **more: tokenise(model, texts, 64)
    )
    settings = tuple((name, density) for name in ("griffin", "dejavu", "cats", "oracle") for density in (0.1, 0.9))
    request = SpeedRequest("tiny-swiglu", texts[0].text, settings, (), 12, 20, 1)
    made = store.find_run(home, perform("speed", request.as_json(), home, device="cuda"))
    frame: Any = queries.speeds(made)
    assert made.spec.parameters["device"] == torch.cuda.get_device_name()
    assert made.spec.parameters["machine"]["gather"].startswith("Triton") == kernels.installed()
    assert set(frame["path"]) == {"frozen", "before", "gate", "activation"} and len(frame) == len(settings)
    assert np.isfinite(frame[["ratio", "tokens_per_second", "bound"]].to_numpy()).all()
