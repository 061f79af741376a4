"""The decode loop: gathered weights give what masking gives, density 1 gives the dense model, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from moyu_core import methods
from moyu_core.decode import Lane, twin
from moyu_core.errors import InputError
from moyu_core.methods.protocol import Ready
from moyu_core.models import LoadedModel
from moyu_core.prompts import make_prompt
from moyu_core.studies.trinity.forward import method_logits
from moyu_core.token_sequences import TokenSequence

FAMILIES = ["llama", "gemma3_text", "phi3", "gpt2", "opt", "gpt_neox", "falcon", "olmo2", "nemotron", "bloom"]
PROMPT, STEPS = 9, 5


def documents(model: LoadedModel, count: int = 12, length: int = 48) -> list[TokenSequence]:
    """Random token ids as calibration text."""
    rng = np.random.default_rng(5)
    return [TokenSequence(make_prompt(f"d{n}", f"d{n}"), np.r_[1, rng.integers(3, tiny.VOCAB, length)]) for n in range(count)]


@pytest.fixture(scope="module")
def prepared() -> Any:
    """(family, method) -> the model and the ready method, fitted once; None where the method does not apply."""
    models: dict[str, LoadedModel] = {}
    parts: dict[tuple[str, str], Any] = {}

    def get(family: str, name: str) -> tuple[LoadedModel, Ready | None]:
        model = models.setdefault(family, tiny.load(family))
        method = methods.find(name)
        if method.applies(model):
            return model, None
        key = (family, method.part)
        if method.part and key not in parts:
            parts[key] = method.fit(model, documents(model))
        return model, method.prepare(model, parts.get(key))

    return get


def decoded(model: LoadedModel, ready: Ready | None, density: float, ids: Tensor) -> tuple[Tensor, Lane]:
    """Logits of each step while the given tokens are fed one by one behind the prompt."""
    lane = Lane(twin(model), ready, density)
    found = []
    with lane.prompted(ids[:PROMPT], STEPS):
        for token in ids[PROMPT:].tolist():
            lane.step(token)
            found.append(lane.logits)
    return torch.stack(found), lane


@pytest.mark.parametrize("name", list(methods.every()))
@pytest.mark.parametrize("family", FAMILIES)
def test_gathered_is_masked_and_density_1_is_dense(prepared: Any, family: str, name: str) -> None:
    model, ready = prepared(family, name)
    if ready is None:
        pytest.skip("does not apply")
    ids = tiny.ids(batch=1, length=PROMPT + STEPS)[0]
    with torch.inference_mode():
        dense = model.model(input_ids=ids[None]).logits[0, PROMPT:]
    for density in (0.1, 0.4, 1.0):
        found, lane = decoded(model, ready, density, ids)
        masked = method_logits(model, ids[None], [len(ids)], ready, density, PROMPT)
        expected = masked.logits[0, PROMPT:]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
        assert lane.density == pytest.approx(float(masked.kept[0]), abs=1e-6)
        if density == 1.0:
            torch.testing.assert_close(found, dense, atol=2e-4, rtol=1e-4)
        elif lane.density < 0.9:
            assert (found - dense).abs().max() > 1e-3, "or the test would mean nothing"
    with torch.inference_mode():
        assert torch.equal(model.model(input_ids=ids[None]).logits[0, PROMPT:], dense), "nothing may be left behind"


def test_the_twin_shares_every_weight_and_no_module() -> None:
    model = tiny.load("llama")
    other = twin(model)
    mine, its = dict(model.model.named_parameters()), dict(other.model.named_parameters())
    assert all(its[name].data_ptr() == parameter.data_ptr() for name, parameter in mine.items())
    assert not set(map(id, model.model.modules())) & set(map(id, other.model.modules()))
    assert all(site.module is not twin_site.module for site, twin_site in zip(model.sites, other.sites, strict=True))
    assert Lane(other).extra_bytes(model) == 0


def test_a_second_prompt_does_not_see_the_first(prepared: Any) -> None:
    model, ready = prepared("llama", "griffin")
    first, second = tiny.ids(1, PROMPT + STEPS, 1)[0], tiny.ids(1, PROMPT + STEPS, 2)[0]
    lane = Lane(twin(model), ready, 0.2)
    with lane.prompted(first[:PROMPT]):
        lane.step(int(first[PROMPT]))
    with lane.prompted(second[:PROMPT]):
        lane.step(int(second[PROMPT]))
    torch.testing.assert_close(lane.logits, decoded(model, ready, 0.2, second[: PROMPT + 1])[0][0])


def test_a_prompt_longer_than_the_context_is_refused(prepared: Any) -> None:
    model, _ = prepared("llama", "griffin")
    with pytest.raises(InputError, match="takes 64 in all; shorten the prompt"), Lane(model).prompted(tiny.ids(1, 60)[0], 5):
        pass


def test_extra_memory_is_that_of_the_copies(prepared: Any) -> None:
    model, ready = prepared("llama", "griffin")
    lane = Lane(twin(model), ready, 0.25)
    with lane.prompted(tiny.ids(1, PROMPT)[0]):
        assert lane.extra_bytes(model) == 4 * 3 * tiny.D * (tiny.F // 4) * tiny.LAYERS
    assert lane.extra_bytes(model) == 0
