"""Decoding with weights left out gives what masking gives, in every dense family, and leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from moyu_core.errors import InputError, ModelError
from moyu_core.masking import fixed, masked
from moyu_core.models import LoadedModel, from_module
from moyu_core.sparse_ffn import ffn_of, frozen, gathered

FAMILIES = [family for family in tiny.CONFIGS if family not in ("mixtral", "qwen3_moe", "olmoe", "gpt_oss")]
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")])]
DENSITIES = [0.01, 0.1, 0.5, 1.0]


def load(family: str, device: str = "cpu") -> LoadedModel:
    return from_module(tiny.build(family).to(device), sink_token_id=1)


def chosen(model: LoadedModel, density: float, seed: int = 0) -> dict[int, Tensor]:
    """Other neurons in every layer, in no order."""
    generator = torch.Generator().manual_seed(seed)
    return {site.layer: torch.randperm(site.n_neurons, generator=generator)[: max(1, int(density * site.n_neurons))]
            .to(model.device) for site in model.sites}


def masks(model: LoadedModel, sets: dict[int, Tensor]) -> dict[int, Tensor]:
    """The same as booleans, (F,) a layer."""
    found = {layer: torch.zeros(model.sites[layer].n_neurons, dtype=torch.bool, device=model.device) for layer in sets}
    for layer, neurons in sets.items():
        found[layer][neurons] = True
    return found


def logits(model: LoadedModel, ids: Tensor, **more: Any) -> Any:
    with torch.no_grad():
        return model.model(input_ids=ids.to(model.device), **more)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert torch.isfinite(expected).all()
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_and_gathered_are_the_masked_pass(family: str, device: str) -> None:
    model, ids = load(family, device), tiny.ids()
    dense = logits(model, ids).logits
    for density in DENSITIES:
        sets = chosen(model, density)
        with masked(model, fixed(masks(model, sets))):
            expected = logits(model, ids).logits
        assert ((expected - dense).abs().max() > 1e-3) == (density < 1), "or the test would mean nothing"
        with frozen(model, sets):
            assert_close(logits(model, ids).logits, expected)
        with gathered(model) as choices:
            for layer, neurons in sets.items():
                choices[layer].neurons = neurons
            assert_close(logits(model, ids).logits, expected)
    assert torch.equal(logits(model, ids).logits, dense), "nothing may be left behind"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "phi3", "opt", "bloom", "falcon", "nemotron"])
def test_every_token_takes_its_own_neurons(family: str, device: str) -> None:
    """Token by token with a cache against one masked pass whose rows have masks of their own; the first token is dense."""
    model, ids = load(family, device), tiny.ids(batch=1, length=6)
    steps = [chosen(model, (step + 1) / 8, step) for step in range(ids.shape[1] - 1)]
    own = [masks(model, step) for step in steps]
    rows = {layer: torch.stack([torch.ones_like(own[0][layer]), *(step[layer] for step in own)]) for layer in own[0]}
    with masked(model, fixed(rows)):
        expected = logits(model, ids).logits
    cache, found = None, []
    with gathered(model) as choices:
        for position, step in enumerate([None, *steps]):
            for layer, choice in choices.items():
                choice.neurons = None if step is None else step[layer]
            out = logits(model, ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
    assert_close(torch.cat(found, dim=1), expected)


def test_single_layers_and_nesting() -> None:
    model, ids = load("llama"), tiny.ids()
    sets = chosen(model, 0.25)
    with masked(model, fixed(masks(model, {1: sets[1]}))):
        expected = logits(model, ids).logits
    with frozen(model, {1: sets[1]}):
        assert_close(logits(model, ids).logits, expected)
    with gathered(model, [1]) as choices:
        assert list(choices) == [1]
        assert_close(logits(model, ids).logits, logits(load("llama"), ids).logits)
        choices[1].neurons = sets[1]
        assert_close(logits(model, ids).logits, expected)


def test_an_error_puts_everything_back() -> None:
    model, ids = load("gpt2"), tiny.ids()
    before, modules = logits(model, ids).logits, list(model.model.modules())
    for block in (frozen(model, chosen(model, 0.5)), gathered(model)):
        with pytest.raises(RuntimeError, match="stop"), block:
            raise RuntimeError("stop")
    assert list(model.model.modules()) == modules
    assert torch.equal(logits(model, ids).logits, before)


def test_what_cannot_be_is_refused() -> None:
    model = load("llama")
    for neurons in ([], [0, 0], [-1], [tiny.F]):
        with pytest.raises(InputError, match=f"Layer 1 needs different neurons from 0 to {tiny.F - 1}"), \
                frozen(model, {1: torch.tensor(neurons)}):
            pass
    with pytest.raises(InputError, match="layer 9 does not exist"), gathered(model, [9]):
        pass
    mixture = load("mixtral")
    with pytest.raises(InputError, match="mixture of experts"), gathered(mixture):
        pass
    ffn = ffn_of(model, model.sites[0])
    assert ffn.inputs == ("gate_proj", "up_proj")
    del ffn.parent.up_proj
    with pytest.raises(ModelError, match="not found beside it"):
        ffn_of(model, model.sites[0])
