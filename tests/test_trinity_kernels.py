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
from moyu_core.capture import tokenise
from moyu_core.home import Home
from moyu_core.models import from_module
from moyu_core.queries import trinity as queries
from moyu_core.routed_ffn import ACTIVATION, BEFORE, stage
from moyu_core.studies import perform
from moyu_core.studies.trinity.forward import method_logits
from moyu_core.studies.trinity.requests import SpeedRequest, evaluation_prompts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
USABLE = kernels.usable(torch.empty(0, device=DEVICE))
KERNELS = pytest.param(True, id="kernels", marks=[
    pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason="needs a CUDA device and Triton")])  # fmt: skip
STAND_IN = pytest.param(False, id="stand-in")
BY_TOKEN = ("oracle", "token-table-prompt", "dejavu", "cats", "moefication")
"""Every moment of deciding, and every kind of router."""
FAMILIES = {"llama": {"mlp_bias": True}, "phi3": {}, "gpt2": {}}
"""Gate, up and down with biases; gate and up in one; no gate, and weights that lie the other way."""


def reference_inner(
    x: Tensor, up: Tensor, gate: Tensor | None, neurons: Tensor, activation: str = "linear",
    up_bias: Tensor | None = None, gate_bias: Tensor | None = None, dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """What `kernels.ffn.inner` is to give, in float64."""

    def rows(weight: Tensor, bias: Tensor | None) -> Tensor:
        return weight[neurons].double() @ x.flatten().double() + (0 if bias is None else bias[neurons].double())

    act = (lambda value: value) if activation == "linear" else ACT2FN[activation]
    found = act(rows(up, up_bias)) if gate is None else act(rows(gate, gate_bias)) * rows(up, up_bias)
    return found.to(dtype)


def reference_outer(a: Tensor, down: Tensor, neurons: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What `kernels.ffn.outer` is to give, in float64."""
    return (a.flatten().double() @ down[neurons].double() + (0 if bias is None else bias.double())).to(dtype)


@pytest.fixture
def called(real: bool, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kernel was asked; without the real ones the sums above answer."""
    counts: Counter[str] = Counter()
    if real:
        from moyu_core.kernels import ffn
    else:
        ffn: Any = ModuleType("moyu_core.kernels.ffn")
        ffn.inner, ffn.outer = reference_inner, reference_outer
        monkeypatch.setitem(sys.modules, "moyu_core.kernels.ffn", ffn)
        monkeypatch.setattr(kernels, "ffn", ffn, raising=False)
        monkeypatch.setattr(kernels, "installed", lambda: True)
        monkeypatch.setattr(kernels, "usable", lambda tensor: True)
    for name in ("inner", "outer"):
        answer = getattr(ffn, name)
        monkeypatch.setattr(ffn, name, lambda *a, answer=answer, name=name, **k: counts.update([name]) or answer(*a, **k))
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
        assert called["outer"] == passes, "the down projection of every layer and token"
        if stage(method) == ACTIVATION:
            assert not called["inner"], "the whole activation is computed before it is known what to leave out"
        elif stage(method) == BEFORE:
            assert called["inner"] == passes, "gate and up in one, or there is no gate of its own"
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
