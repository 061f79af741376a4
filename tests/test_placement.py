"""Where a model's weights go when one GPU cannot hold them: the decision anywhere, the placing itself on two GPUs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plain
import pytest
import tiny
import torch

from moyu_core import capture, placement
from moyu_core.capture import CaptureOptions
from moyu_core.errors import ModelError
from moyu_core.home import Home
from moyu_core.models import load_model
from moyu_core.spec import SetRule
from moyu_core.token_sequences import tokenise


def gpus(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
    monkeypatch.setattr(placement, "free_memory", lambda: list(free))


def test_bytes_are_those_of_all_tensors_in_the_asked_dtype(tmp_path: Path) -> None:
    model = tiny.build("llama")
    model.save_pretrained(tmp_path)
    held = {id(p): p.numel() for p in model.parameters()}
    assert placement.weight_bytes(tmp_path, torch.bfloat16) == 2 * sum(held.values())
    assert placement.weight_bytes(tmp_path, torch.float32) == 4 * sum(held.values())


def test_a_model_is_spread_only_where_one_gpu_cannot_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 100, 100)
    assert placement.spread(80, None, "m") is None
    found = placement.spread(120, None, "m")
    assert found is not None
    rooms, why = found
    assert rooms == {0: 70, 1: 85}
    assert "2 GPUs" in why
    assert placement.loading(rooms)["max_memory"] == {0: 70, 1: 85, "cpu": 0}
    assert placement.spread(120, "cuda:0", "m") is None, "who names a GPU means that one"
    gpus(monkeypatch, 100)
    assert placement.spread(120, None, "m") is None, "one GPU: loading says that it does not fit"
    gpus(monkeypatch)
    assert placement.spread(120, None, "m") is None


def test_a_model_that_all_gpus_cannot_hold_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 10**9, 10**9)
    with pytest.raises(ModelError, match=r"needs 2\.0 GB .* the 2 GPUs have room for 1\.[56] GB"):
        placement.spread(2 * 10**9, "cuda", "m")


def test_a_part_that_found_no_gpu_is_refused_and_named() -> None:
    placed: Any = SimpleNamespace(hf_device_map={"model.embed_tokens": 0, "model.layers.0": 1})
    placement.refuse_offloaded(placed, "m")
    placed.hf_device_map |= {"model.layers.2": "disk", "model.layers.1": "cpu"}
    with pytest.raises(ModelError, match=r"m does not fit on the GPUs: model\.layers\.1 and 1 more"):
        placement.refuse_offloaded(placed, "m")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, and there are fewer")
def test_a_spread_model_captures_what_one_gpu_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.model("llama").model.save_pretrained(tmp_path / "m")
    plain.model("llama").tokenizer.save_pretrained(tmp_path / "m")
    home = Home(tmp_path)
    whole = load_model(str(tmp_path / "m"), home, device="cuda:0", sink_token_id=1)
    size = placement.weight_bytes(tmp_path / "m", torch.float32)
    monkeypatch.setattr(placement, "free_memory", lambda: [int(1.17 * size)] * 2)
    halves = load_model(str(tmp_path / "m"), home, sink_token_id=1)
    assert {str(parameter.device) for parameter in halves.model.parameters()} == {"cuda:0", "cuda:1"}
    assert "spread over 2 GPUs" in halves.device_reason
    options = CaptureOptions(SetRule("top"), (0, 1), cett=True, values=None, batch_tokens=40)
    runs = [list(capture.capture(m, tokenise(m, plain.prompts(3, 17, 9)), options)) for m in (whole, halves)]
    for one, other in zip(*runs, strict=True):
        for name, column in one.columns.items():
            np.testing.assert_array_equal(other.columns[name], column, err_msg=name)
