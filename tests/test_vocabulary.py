"""Promoted tokens against the plain product of column, final norm and unembedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import plain
import pytest
import tiny
import torch

from moyu_core import query, store
from moyu_core.errors import InputError, NotInRunError
from moyu_core.home import Home
from moyu_core.models import LoadedModel
from moyu_core.studies.requests import VocabularyRequest
from moyu_core.studies.vocabulary import final_norm, output_directions, vocabulary_run

NORMS = {"llama": "norm", "gpt2": "ln_f", "opt": "decoder.final_layer_norm", "gemma": "norm", "cohere": "norm",
         "olmo": "norm", "nemotron": "norm", "bloom": "ln_f", "gpt_neox": "final_layer_norm", "mpt": "norm_f"}
CENTRED = {"gpt2", "opt", "cohere", "olmo", "nemotron", "bloom", "gpt_neox", "mpt"}
"""Families whose final norm takes the mean out, whatever its class is called."""


def model(family: str) -> LoadedModel:
    loaded = plain.model(family)
    norm = dict(loaded.decoder.named_modules())[NORMS[family]]
    with torch.no_grad():  # a scale that is not 1 everywhere, and a bias that must not matter
        for name, parameter in norm.named_parameters():
            parameter.copy_(torch.linspace(0.5, 2, len(parameter)) if name == "weight" else torch.full_like(parameter, 3))
    return loaded


@pytest.mark.parametrize("family", NORMS)
def test_the_final_norm_is_found(family: str) -> None:
    loaded = model(family)
    assert final_norm(loaded.decoder) is dict(loaded.decoder.named_modules())[NORMS[family]]


@pytest.mark.parametrize("family", NORMS)
def test_a_direction_is_what_the_norm_lets_through(family: str) -> None:
    """Add a neuron's column to a state that is orthogonal to it, and take it away: the norm divides both by the same."""
    loaded = model(family)
    norm, site = final_norm(loaded.decoder), loaded.sites[1]
    column = site.weight()[:, 7]
    state = torch.randn(tiny.D, generator=torch.Generator().manual_seed(0))
    seen = column - column.mean() if family in CENTRED else column
    if family in CENTRED:
        state -= state.mean()
    state -= seen * (state @ seen) / (seen @ seen)
    divided_by = (state.square() + seen.square()).mean().sqrt()
    expected = (norm((state + column)[None, None]) - norm((state - column)[None, None]))[0, 0] / 2 * divided_by
    direction = output_directions(loaded, site)[7]
    np.testing.assert_allclose(direction, expected, rtol=1e-3, atol=1e-4 * float(direction.abs().max()))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_the_table_holds_the_strongest_tokens(family: str, home: Home) -> None:
    loaded = model(family)
    run = store.find_run(home, vocabulary_run(loaded, VocabularyRequest("tiny", 4), home))
    run.verify()
    assert run.table("vocabulary").num_rows == tiny.LAYERS * tiny.F * 8
    unembedding = loaded.model.get_output_embeddings().weight.detach().numpy()
    for layer, neuron in ((0, 0), (1, 13), (1, tiny.F - 1)):
        direction = output_directions(loaded, loaded.sites[layer])[neuron].numpy()
        logits = unembedding @ direction
        frame = query.vocabulary(run, layer, neuron)
        assert len(frame) == 8
        for sign, order in ((1, np.argsort(-logits)[:4]), (-1, np.argsort(logits)[:4])):
            part = frame[frame["sign"] == sign].sort_values("rank")
            assert part["token_id"].tolist() == order.tolist()
            assert part["token"].tolist() == [plain.WORDS[i] for i in order]
            np.testing.assert_allclose(part["logit"].astype(float), logits[order], rtol=2e-3, atol=1e-3)


def test_one_run_serves_all_and_a_neuron_that_is_not_there_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = model("llama")
    first = vocabulary_run(loaded, VocabularyRequest("tiny", 4), home)
    monkeypatch.setattr("moyu_core.studies.vocabulary.strongest", lambda *_: pytest.fail("computed again"))
    assert vocabulary_run(loaded, VocabularyRequest("another name", 4), home) == first
    run = store.find_run(home, first)
    for layer, neuron in ((0, tiny.F), (5, 0), (0, -1)):
        with pytest.raises(NotInRunError, match=f"no neuron {neuron} of layer {layer}"):
            query.vocabulary(run, layer, neuron)


@pytest.mark.parametrize(("family", "changes", "message"), [
    ("mixtral", {}, "mixture of experts"), ("llama", {"tokens": 127}, "has 96 tokens"),
])
def test_what_cannot_be_made_is_refused(family: str, changes: dict[str, Any], message: str, home: Home) -> None:
    with pytest.raises(InputError, match=message):
        vocabulary_run(plain.model(family), VocabularyRequest("tiny", **changes), home)
    assert not home.runs.exists()
