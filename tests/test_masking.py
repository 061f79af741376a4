"""The masked forward and the set transplant, on every family, against plain passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.masking import fixed, from_packed, kl_divergence, masked
from moyu_core.models import LoadedModel
from moyu_core.sets import pack
from moyu_core.sites import Activation, watch
from moyu_core.transplant import history, transplant
from tests import tiny

MIXTURES = {"mixtral", "qwen3_moe", "olmoe", "gpt_oss"}
DENSE = sorted(tiny.CONFIGS.keys() - MIXTURES)


def logits(model: LoadedModel, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.model(input_ids=ids).logits


def random_masks(model: LoadedModel, rows: int, seed: int = 0) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {site.layer: torch.rand(rows, site.n_neurons, generator=generator) < 0.3 for site in model.sites}


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_keeping_all_neurons_changes_nothing(family: str) -> None:
    model, ids = tiny.load(family), tiny.ids()
    with masked(model, lambda activation: torch.ones(activation.a.shape[-1], dtype=torch.bool)):
        kept = logits(model, ids)
    torch.testing.assert_close(kept, logits(model, ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_the_mask_reaches_the_down_projection_and_goes_away(family: str) -> None:
    model, ids = tiny.load(family), tiny.ids()
    before, seen = logits(model, ids), {}

    def keep_even(activation: Activation) -> Tensor:
        return torch.arange(activation.a.shape[-1]) % 2 == 0

    def note(activation: Activation) -> None:
        seen[activation.site.layer] = activation.a.clone()

    with masked(model, keep_even), watch(model, None, note):
        during = logits(model, ids)
    if family not in MIXTURES:  # there the watcher's own experts function sees what the mask left
        assert all((a[..., 1::2] == 0).all() and (a[..., ::2] != 0).any() for a in seen.values())
    assert (during - before).abs().max() > 1e-4
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize(("family", "changes"), [*((family, {}) for family in DENSE), ("llama", {"hidden_act": "sigmoid"})])
def test_a_masked_neuron_is_a_zeroed_column(family: str, changes: dict[str, Any]) -> None:
    """Also where act(0) is not 0, so that a masked gate alone would leave something."""
    model, ids = tiny.load(family, **changes), tiny.ids()
    masks = {layer: mask[0] for layer, mask in random_masks(model, 1).items()}
    with masked(model, fixed(masks)):
        by_hook = logits(model, ids)
    with torch.no_grad():
        for site in model.sites:
            site.weight()[:, ~masks[site.layer]] = 0
    torch.testing.assert_close(by_hook, logits(model, ids), rtol=1e-4, atol=1e-5)


def test_only_the_named_layers_are_masked() -> None:
    model, ids = tiny.load("llama"), tiny.ids()
    nothing = {site.layer: torch.zeros(site.n_neurons, dtype=torch.bool) for site in model.sites}
    with masked(model, fixed(nothing), layers=[1]):
        one = logits(model, ids)
    with masked(model, fixed({1: nothing[1]})):
        same = logits(model, ids)
    assert torch.equal(one, same)
    with pytest.raises(InputError, match="layer 7 does not exist"), masked(model, fixed(nothing), layers=[7]):
        pass


@pytest.mark.parametrize("family", DENSE)
def test_a_transplant_is_a_full_pass_with_the_last_token_masked(family: str) -> None:
    model, ids = tiny.load(family), tiny.ids(batch=1, length=9)
    masks = random_masks(model, 3)
    found = transplant(model, ids[0], masks)
    for row in range(3):

        def keep(activation: Activation, row: int = row) -> Tensor:
            rows = torch.ones_like(activation.a, dtype=torch.bool)
            rows[-1] = masks[activation.site.layer][row]
            return rows

        with masked(model, keep):
            sparse = logits(model, ids)[:, -1]
        expected = kl_divergence(logits(model, ids)[:, -1], sparse)
        torch.testing.assert_close(found[row], expected[0], rtol=1e-4, atol=1e-9)


def test_a_transplant_of_everything_costs_nothing_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny.load("gpt2"), tiny.ids(batch=1)[0]
    masks = random_masks(model, 5)
    whole = transplant(model, ids, masks)
    monkeypatch.setattr("moyu_core.transplant.BATCH_ROWS", 2)
    past = history(model, ids[None, :-1])
    for _ in range(2):  # the history is not used up
        torch.testing.assert_close(transplant(model, ids, masks, past), whole, rtol=1e-4, atol=1e-9)
    everything = {layer: torch.ones_like(mask) for layer, mask in masks.items()}
    assert transplant(model, ids, everything).max() < 1e-9


def test_what_a_transplant_refuses() -> None:
    mixture, dense = tiny.load("mixtral"), tiny.load("llama")
    with pytest.raises(InputError, match="mixture of experts"):
        transplant(mixture, [1, 5], random_masks(dense, 1))
    with pytest.raises(InputError, match="at least one more token"):
        transplant(dense, [1], random_masks(dense, 1))


def test_kl_against_its_definition() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(0.25 * torch.log(torch.tensor(2.0)).item(), rel=1e-6)
    assert kl_divergence(p.log(), p.log() + 3).item() == pytest.approx(0, abs=1e-7)


def test_packed_sets_become_masks() -> None:
    mask = torch.rand(2, 13) < 0.5
    assert torch.equal(from_packed(pack(mask.numpy()), 13), mask)
