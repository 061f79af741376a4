"""Fitted parts: training by document, honest on random labels, the same twice, refused for other weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from moyu_core import methods, sets
from moyu_core.commands import fit as command
from moyu_core.errors import Cancelled, InputError
from moyu_core.methods import calibration, dejavu, parts, roda, spool, token_table
from moyu_core.methods.text import calibration_documents, documents_hash
from moyu_core.prompts import write_prompts
from moyu_core.spec import ModelIdentity
from moyu_core.token_sequences import tokenise
from tests import plain, tiny

F, D = 128, 24
FAST = dejavu.Settings(epochs=6, batch=128)


def documents(count: int = 20, rows: int = 120, planted: bool = True, seed: int = 0) -> list[dejavu.Document]:
    """Documents whose 10 % labels follow from the state, or from nothing."""
    random = np.random.default_rng(seed)
    weight = np.random.default_rng(99).standard_normal((D, F)).astype(np.float32)
    found = []
    for _ in range(count):
        x = 7 * random.standard_normal((rows, D)).astype(np.float32)
        score = np.abs(x @ weight) * (x @ weight > 0) + 1e-6 if planted else random.random((rows, F)).astype(np.float32)
        found.append((x.astype(np.float16), sets.top_sets(score.astype(np.float32), 12)))
    return found


def test_a_predictor_learns_what_can_be_learnt() -> None:
    found = dejavu.train(documents(), F, D, seed=0, settings=dataclasses.replace(FAST, epochs=12)).validation
    assert found["recall"] > 0.6 and found["recall"] == pytest.approx(found["precision"])
    assert found["density"] == pytest.approx(12 / F)


def test_on_random_labels_recall_is_the_share_that_is_kept() -> None:
    found = dejavu.train(documents(40, planted=False), F, D, seed=0, settings=FAST).validation
    assert found["recall"] == pytest.approx(found["density"], abs=0.015)
    assert found["threshold_recall"] == pytest.approx(found["threshold_density"], abs=0.02)


def test_the_same_seed_gives_the_same_predictor_and_another_seed_another() -> None:
    first, second, other = (dejavu.train(documents(), F, 8, seed, FAST) for seed in (0, 0, 1))
    assert torch.equal(first.down, second.down) and torch.equal(first.up, second.up)
    assert not torch.equal(first.up, other.up)
    x = np.random.default_rng(3).standard_normal((5, D)).astype(np.float32)
    torch.testing.assert_close(first.scores(x), torch.from_numpy(x) @ first.down.T @ first.up.T)
    assert first.choose(x, 12).sum(1).tolist() == [12] * 5


def test_documents_are_split_whole_and_read_a_buffer_at_a_time() -> None:
    class Lazy:
        """Counts how many documents are held at once; a held one is a live array."""

        def __init__(self) -> None:
            self.data, self.asked = documents(), []

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> dejavu.Document:
            self.asked.append(index)
            return self.data[index]

    training, held_out = dejavu.split(20, 0.1, 0)
    assert not set(training) & set(held_out) and len(held_out) == 2 and len(training) + len(held_out) == 20
    lazy = Lazy()
    batches = dejavu._batches(lazy, training, F, 0, dejavu.Settings(buffer=4, batch=128))
    x, y = next(batches)
    assert len(set(lazy.asked)) == 4 and x.shape == (128, D) and y.shape == (128, F) and y.dtype == torch.bool
    assert sum(len(rows) for rows, _ in batches) + 128 == 18 * 120
    assert not set(lazy.asked) & set(held_out)
    with pytest.raises(InputError, match="at least 2 documents"):
        dejavu.train(documents(1), F)


def test_a_cancelled_training_stops() -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        dejavu.train(documents(), F, settings=FAST, report=stop)


def test_the_spool_gives_back_what_passed_by_without_position_0() -> None:
    model = plain.model("llama")
    sequences = tokenise(model, plain.prompts(30, 12, 25, 58))
    with spool.spooled(model, sequences, ("residual",), lambda rows: {"x": spool.half(rows.inputs["residual"])}) as kept:
        found = kept.documents(1, ("x",))
        assert [len(found[number][0]) for number in range(4)] == [len(sequence) - 1 for sequence in sequences]
        for number, sequence in enumerate(sequences):
            hidden: list[Any] = []
            norm = model.model.model.layers[1].post_attention_layernorm
            handle = norm.register_forward_pre_hook(lambda module, args, hidden=hidden: hidden.append(args[0][0, 1:]))
            torch.inference_mode()(model.decoder)(input_ids=torch.from_numpy(sequence.token_ids)[None])
            handle.remove()
            np.testing.assert_allclose(found[number][0], hidden[0].numpy(), rtol=5e-3, atol=5e-3)


def test_the_narrow_weights_are_close_and_judged_as_they_are_stored() -> None:
    weight = torch.randn(6, 9)
    stored, scale = roda.narrow(weight)
    assert stored.dtype == torch.int8
    torch.testing.assert_close(stored.float() * scale[:, None], weight, rtol=0, atol=float(scale.max()) / 1.9)
    model = plain.model("llama")
    sequences = tokenise(model, plain.prompts(*[58] * 12))
    part = roda.DejaVu().fit(model, sequences)
    found = roda.predictors(part, model.device)
    held_out = dejavu.split(12, 0.1, 0)[1]
    with spool.spooled(model, sequences, ("residual",), lambda rows: roda.DejaVu()._kept(rows, roda.LABELS)) as kept:
        again = [dejavu.evaluate(found[layer], kept.documents(layer, ("x", "active")), held_out, tiny.F) for layer in (0, 1)]
    assert part.validation["recall_by_layer"] == [round(record["recall"], 4) for record in again]


def test_labels_of_relu_models_are_the_neurons_that_fire() -> None:
    assert roda.labels_of(tiny.load("opt")).name == "positive"
    assert roda.labels_of(tiny.load("llama")).name == "top"


def test_thresholds_keep_the_share_that_was_asked_for() -> None:
    values = torch.randn(4000)
    tensors = {"layers": torch.tensor([5]), "x_quantiles": calibration.quantiles(values)[None]}
    part = parts.Part("calibration", "w", "m", tensors, {}, "")
    threshold = calibration.threshold_of(part, "x")
    for density in (0.05, 0.123, 0.5, 0.97):
        assert float((values >= threshold(5, density)).float().mean()) == pytest.approx(density, abs=0.005)


def test_lambda_is_the_one_that_keeps_most_on_documents_the_table_never_saw() -> None:
    model = plain.model("llama")
    part = methods.find("token-table").fit(model, tokenise(model, plain.prompts(*[58] * 10)))
    shares = part.validation["energy_by_lambda"]
    assert set(part.tensors["lambda"].tolist()) <= set(token_table.LAMBDAS) and len(shares) == len(token_table.LAMBDAS)
    assert part.recipe["held_out_documents"] == 2


# --- files -----------------------------------------------------------------------------------------------------------------


def part_of(weights: str = "a" * 64, **changes: Any) -> parts.Part:
    tensors = {"x": torch.arange(6.0).view(2, 3).T}
    return parts.Part("dejavu", weights, "m", tensors, {"rank": 3}, "hash", {"recall": 0.5}, 1.0, **changes)


def test_a_part_comes_back_as_it_was_and_says_what_it_is_without_torch(home: Any) -> None:
    path = parts.save(part_of(), home.root / "fitted")
    back = parts.load(path)
    assert torch.equal(back.tensors["x"], part_of().tensors["x"]) and back.facts() == part_of().facts()
    found = parts.find("dejavu", ModelIdentity("m", "a" * 64, "float32"), home)
    assert found is not None and found.data_hash == "hash"
    assert [facts["name"] for facts in parts.listed(home) if facts["weights"] == "a" * 64] == ["dejavu"]
    assert not list((home.root / "fitted").glob("*.partial"))


def test_two_workers_that_save_a_part_at_once_do_not_take_each_others_file(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write = safetensors.torch.save_file

    def interrupted(*given: Any, **more: Any) -> None:
        monkeypatch.setattr(safetensors.torch, "save_file", write)
        write(*given, **more)
        parts.save(part_of(), home.root / "fitted")

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    path = parts.save(part_of(), home.root / "fitted")
    assert parts.load(path).facts() == part_of().facts() and list(path.parent.iterdir()) == [path]


def test_a_part_of_another_model_is_refused(home: Any) -> None:
    model = tiny.load("llama")
    with pytest.raises(InputError, match=r"was made for m \(weights bbbbbbbbbbbb\), not for tiny-llama"):
        roda.DejaVu().prepare(model, part_of("b" * 64))
    assert parts.find("dejavu", model.identity, home) is None
    with pytest.raises(InputError, match="moyu fit dejavu --model tiny-llama"):
        roda.DejaVu().prepare(model)
    renamed = parts.save(part_of("b" * 64), home.root / "fitted")
    renamed.rename(renamed.with_name(parts.file_name("dejavu", model.identity.weights)))
    with pytest.raises(InputError, match="was made for m"):
        parts.find("dejavu", model.identity, home)


@pytest.mark.parametrize("harm", ["truncated", "text", "version"])
def test_a_damaged_part_is_named(home: Any, harm: str) -> None:
    path = parts.save(part_of(), home.root)
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif harm == "text":
        path.write_text("no part")
    else:
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, path, {"moyu": json.dumps({**part_of().facts(), "version": 99})})
    with pytest.raises(InputError, match=path.name):
        parts.load(path)


def test_calibration_text_from_a_file(home: Any, tmp_path: Path) -> None:
    model = plain.model("llama")
    write_prompts(tmp_path / "mine.jsonl", plain.prompts(30, 30, 30))
    found = calibration_documents(model, home, 50, tmp_path / "mine.jsonl")
    assert [len(document) for document in found] == [31, 31]
    assert documents_hash(found) != documents_hash(found[:1])


def test_the_command_finds_a_method_by_its_name_or_its_part() -> None:
    assert [method.name for method in command.methods_of("dejavu-threshold")] == ["dejavu-threshold"]
    assert [method.name for method in command.methods_of("token_table")] == ["token-table", "token-table-prompt"]
    with pytest.raises(InputError, match="nothing to be fitted"):
        command.methods_of("griffin")
    with pytest.raises(InputError, match="those that are fitted are"):
        command.methods_of("no")


def test_nothing_is_fitted_that_the_model_cannot_use() -> None:
    """A method that does not apply is refused; a part is fitted for the first method that needs it and applies."""
    mixture = tiny.load("mixtral")
    with pytest.raises(InputError, match="CATS does not apply to tiny-gpt2: its FFN has no gate"):
        command.applicable(command.methods_of("cats"), tiny.load("gpt2"))
    with pytest.raises(InputError, match="MoEfication does not apply to tiny-mixtral: it is a mixture"):
        command.applicable(command.methods_of("moefication"), mixture)
    assert command.methods_of("calibration")[0].applies(mixture)
    assert command.applicable(command.methods_of("calibration"), mixture).name == "tda"


@pytest.mark.parametrize("name", ["static", "dejavu", "moefication", "token-table"])
def test_a_model_that_mixes_dense_layers_and_mixtures_is_refused_in_words(name: str) -> None:
    mixed = plain.model("qwen3_moe")
    assert {site.experts > 0 for site in mixed.sites} == {True, False}
    texts = tokenise(mixed, plain.prompts(*[58] * 10, seed=7))
    with pytest.raises(InputError, match=r"mixes dense layers and mixtures .layer 0: .* neurons, layer 1: .* griffin"):
        methods.find(name).fit(mixed, texts)
