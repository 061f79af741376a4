"""Packed products are the plain ones up to rounding, and leave no trace behind."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from moyu_core import packed_linear
from moyu_core.packed_linear import packed

pytestmark = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "pays", lambda: True)
    monkeypatch.setattr(packed_linear, "SMALLEST", 500)


def three_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.SiLU(), nn.Linear(96, 48, bias=False), nn.Linear(48, 3)).requires_grad_(False)


@pytest.fixture
def layers() -> nn.Sequential:
    return three_layers()


def model(layers: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(decoder=layers, device=torch.device("cpu"))


def replaced(layers: nn.Sequential) -> list[int]:
    return [index for index, layer in enumerate(layers) if "forward" in vars(layer)]


@pytest.mark.parametrize("rows", [(1,), (7,), (512,), (2, 33)])
@torch.inference_mode()
def test_results_are_the_plain_ones(layers: nn.Sequential, rows: tuple[int, ...]) -> None:
    x = torch.randn(*rows, 48)
    expected = layers(x)
    with packed(model(layers)):
        assert replaced(layers) == [0, 2], "the last layer is too small to gain"
        found = layers(x)
    assert replaced(layers) == []
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_hooks_are_called_as_before(layers: nn.Sequential) -> None:
    seen = []
    handle = layers[2].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    x = torch.randn(5, 48)
    layers(x)
    with packed(model(layers)):
        layers(x)
    handle.remove()
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=1e-6)


def test_a_weight_that_changed_is_packed_again(layers: nn.Sequential) -> None:
    x = torch.randn(5, 48)
    with packed(model(layers)):
        first = layers[0](x)
    layers[0].weight.mul_(2)
    layers[0].bias.mul_(2)
    with packed(model(layers)):
        torch.testing.assert_close(layers[0](x), 2 * first)
    layers[0].weight = nn.Parameter(torch.zeros(96, 48), requires_grad=False)
    layers[0].bias = None
    with packed(model(layers)):
        assert not layers[0](x).any()


def test_a_weight_that_stayed_is_packed_once() -> None:
    layers = three_layers()
    kept = len(packed_linear._kept)
    with packed(model(layers)):
        before = layers[0].forward
    with packed(model(layers)):
        assert layers[0].forward is before
    assert len(packed_linear._kept) == kept + 2
    del layers
    gc.collect()
    assert len(packed_linear._kept) == kept, "copies go with the model"


def test_what_is_not_packed(layers: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    own = layers[0].forward = lambda rows: rows  # as accelerate does where a model is spread over devices
    with packed(model(layers)):
        assert layers[0].forward is own
        assert replaced(layers) == [0, 2]
    assert layers[0].forward is own
    del layers[0].forward
    for other in (SimpleNamespace(decoder=layers, device=torch.device("meta")), model(layers.to(torch.bfloat16))):
        with packed(other):
            assert replaced(layers) == []
    monkeypatch.setattr(packed_linear, "MOST_BYTES", 4 * 48 * 96 * 2 - 1)
    with packed(model(layers.float())):
        assert replaced(layers) == []
    monkeypatch.setattr(packed_linear, "MOST_BYTES", 4 * 48 * 96 * 2)
    with packed(model(layers)):
        assert replaced(layers) == [0, 2]
    monkeypatch.setattr(packed_linear, "pays", lambda: False)
    with packed(model(layers)):
        assert replaced(layers) == []


def test_an_error_leaves_the_layers_as_they_were(layers: nn.Sequential) -> None:
    with pytest.raises(RuntimeError, match="enough"), packed(model(layers)):
        raise RuntimeError("enough")
    assert replaced(layers) == []
