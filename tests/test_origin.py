"""The sign measure: gradients as autograd gives them, divergences as finite differences do, verdicts by the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional

from moyu_core import store
from moyu_core.claims import NOT_APPLICABLE, NOT_SUPPORTED, SUPPORTED
from moyu_core.errors import Cancelled, InputError, ModelError, NotInRunError
from moyu_core.home import REPOSITORY, Home
from moyu_core.models import LoadedModel
from moyu_core.prompts import read_prompts
from moyu_core.queries import origin as queries
from moyu_core.schema import arrow_schema
from moyu_core.schema.origin import SIGN_COLUMNS
from moyu_core.studies import origin, perform
from moyu_core.studies import origin_gradients as measured
from moyu_core.studies.origin_requests import OriginRequest
from moyu_core.studies.vocabulary import final_norm
from moyu_core.training import measures

PROMPTS = read_prompts(REPOSITORY / "data" / "prompts" / "topics.jsonl").prompts
TRACKED = Home(Path("nowhere"))
FAMILIES = ("llama", "gpt2", "opt", "stablelm", "starcoder2")


def initialised(family: str, seed: int = 0) -> LoadedModel:
    model = tiny.load(family)
    measured.initialise(model.model, seed)
    return model


def sequence(seed: int = 0) -> torch.Tensor:
    return tiny.ids(1, 9, seed)[0]


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_autograds(family: str) -> None:
    model, ids = tiny.load(family), sequence()
    found = measured.gradients(model, ids)
    assert all(weight.grad is None and not weight.requires_grad for weight in model.model.parameters())
    with measures.captured([site.module for site in model.sites]) as seen:
        model.model.requires_grad_(True)
        logits = model.model(input_ids=ids[None, :-1], use_cache=False).logits
        expected = torch.autograd.grad(functional.cross_entropy(logits[0], ids[1:], reduction="sum"), seen)
    for layer, gradient in enumerate(expected):
        torch.testing.assert_close(found.free[layer], gradient.reshape(-1, tiny.F), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.a[layer], seen[layer].detach().reshape(-1, tiny.F))
    alone = measured.gradients(model, ids, last_only=True)
    assert list(alone.a) == [tiny.LAYERS - 1]
    torch.testing.assert_close(alone.free[tiny.LAYERS - 1], found.free[tiny.LAYERS - 1])
    torch.testing.assert_close(alone.fixed, found.fixed)


def test_the_fixed_gradient_by_hand() -> None:
    model, ids = initialised("llama"), sequence()
    norm, kept = final_norm(model.decoder), []
    handle = norm.register_forward_pre_hook(lambda module, args: kept.append(args[0][0]))
    logits = model.model(input_ids=ids[None, :-1], use_cache=False).logits[0]
    handle.remove()
    residual = logits.softmax(1) - functional.one_hot(ids[1:], tiny.VOCAB)
    divisor = ((kept[0] ** 2).mean(dim=1, keepdim=True) + model.model.config.rms_norm_eps).sqrt()
    expected = residual @ model.model.get_output_embeddings().weight / divisor @ model.sites[-1].weight()
    torch.testing.assert_close(measured.gradients(model, ids).fixed, expected, rtol=1e-4, atol=1e-7)


def test_the_closed_form_is_left_out_where_the_weights_were_not_drawn() -> None:
    model = initialised("llama")
    table = origin._Table(model, 0.0)
    table.add(measured.gradients(model, sequence()))
    assert all(row["expected"] is None for row in table.rows("trained", None, "a"))


@pytest.mark.parametrize("norm", [nn.RMSNorm(6), nn.LayerNorm(6)])
def test_a_fixed_scale_changes_no_value_and_takes_its_gradient_away(norm: nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(6) + 0.5)
        if isinstance(norm, nn.LayerNorm):
            norm.bias.copy_(torch.randn(6))
    h = torch.randn(1, 3, 6, requires_grad=True)
    torch.testing.assert_close(measured.fixed(norm, h), norm(h))
    outer = torch.randn(1, 3, 6)
    (found,) = torch.autograd.grad(measured.fixed(norm, h), h, outer)
    x = h.detach()
    if isinstance(norm, nn.LayerNorm):
        divisor = (x.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        scaled = outer * norm.weight / divisor
        expected = scaled - scaled.mean(dim=-1, keepdim=True)
    else:
        divisor = ((x**2).mean(dim=-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
        expected = outer * norm.weight / divisor
    torch.testing.assert_close(found, expected.detach())
    assert (torch.autograd.grad(norm(h), h, outer)[0] - found).abs().max() > 0.05


@pytest.mark.parametrize("norm", [nn.RMSNorm(tiny.D), nn.LayerNorm(tiny.D)])
@pytest.mark.parametrize("scale", ["free", "fixed"])
def test_divergences_are_those_of_finite_differences(norm: nn.Module, scale: str) -> None:
    model, norm = initialised("llama"), norm.double()
    readout: Any = model.model.double().get_output_embeddings()
    readout.weight.data *= 20  # logits that are not nearly equal
    h = torch.randn(4, tiny.D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 50, 7, 90])

    def gradient(at: torch.Tensor) -> torch.Tensor:
        leaf = at.clone().requires_grad_(True)
        z = norm(leaf[None]) if scale == "free" else measured.fixed(norm, leaf[None])
        loss = functional.cross_entropy(readout(z)[0], labels, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]

    step, expected = 1e-5, torch.zeros(4, dtype=torch.float64)
    for k in range(tiny.D):
        unit = step * torch.eye(tiny.D, dtype=torch.float64)[k]
        expected += (gradient(h + unit) - gradient(h - unit))[:, k] / (2 * step)
    found = measured.divergences(model, norm, h, readout(norm(h[None]))[0], labels)[scale]
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)


def test_where_the_closed_form_does_not_hold_it_is_silent() -> None:
    ids = sequence()
    assert measured.gradients(initialised("llama"), ids).divergence
    assert not measured.gradients(tiny.load("gemma3_text"), ids).divergence  # a norm behind the FFN
    scaled = initialised("cohere", 1)  # logits are scaled behind the readout
    scaled.model.logit_scale = 0.5
    assert not measured.gradients(scaled, ids).divergence
    trained = initialised("llama")
    final_norm(trained.decoder).weight.data.mul_(1.5)
    assert not measured.gradients(trained, ids).divergence


def test_every_entry_is_drawn_with_the_configurations_spread() -> None:
    model = initialised("llama", 3)
    matrices = torch.cat([p.flatten() for p in model.model.parameters() if p.ndim > 1])
    assert matrices.std().item() == pytest.approx(measured.initialiser(model.model), rel=0.02)
    assert {float(x) for p in model.model.parameters() if p.ndim == 1 for x in p.unique()} <= {0.0, 1.0}
    again, other = initialised("llama", 3), initialised("llama", 4)
    first = [next(iter(m.model.parameters())) for m in (model, again, other)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_turning_is_undone_and_takes_the_odd_part_away() -> None:
    model, ids = initialised("llama"), sequence()
    weight = model.sites[-1].module.weight
    before = weight.detach().clone()
    drawn = measured.gradients(model, ids, last_only=True)
    with measured.turned(model):
        assert torch.equal(weight, -before)
        turned = measured.gradients(model, ids, last_only=True)
    assert torch.equal(weight, before)
    last = tiny.LAYERS - 1
    torch.testing.assert_close(drawn.a[last], turned.a[last])
    even = (drawn.free[last] + turned.free[last]).abs().mean()
    assert even < 0.05 * drawn.free[last].abs().mean()


def test_a_mixture_is_refused() -> None:
    with pytest.raises(ModelError, match="mixture of experts"):
        measured.gradients(tiny.load("mixtral"), sequence())


# --- the study ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    home = Home(tmp_path_factory.mktemp("origin"), ())
    request = OriginRequest("tiny-swiglu", PROMPTS[::10], seeds=6, max_tokens=40)
    return store.find_run(home, perform("origin", request.as_json(), home, device="cpu"))


def test_the_theorem_holds_with_the_scale_fixed_and_not_with_it_free(run: store.Run) -> None:
    claims = queries.claims(run)
    fixed, free = claims["root cause, scale fixed"], claims["root cause, scale free"]
    assert abs(fixed.effect.mean - 1) < 0.1 and fixed.verdict == SUPPORTED
    assert abs(free.effect.mean) < 0.3 and free.verdict == NOT_SUPPORTED
    assert claims["root cause, trained"].verdict == NOT_APPLICABLE
    assert fixed.smallest_effect == free.smallest_effect == origin.SMALLEST_EFFECT


def test_the_table_says_what_was_measured(run: store.Run) -> None:
    table = run.table("signs")
    assert table.schema.equals(arrow_schema(SIGN_COLUMNS), check_metadata=True)
    frame = table.to_pandas()
    layers, prompts = 6, len(PROMPTS[::10])
    assert len(frame) == (layers + 1) * (6 + prompts)
    assert frame.loc[frame["condition"] == "trained", "expected"].isna().all()
    known = frame[frame["expected"].notna()]
    assert set(known["layer"]) == {layers - 1} and set(known["scale"]) == {"free", "fixed"}
    interval, expected = queries.last_layer(run)["fixed"]
    assert interval.n == 6 and interval.mean == pytest.approx(expected, rel=0.1)
    by_layer = queries.sign_by_layer(run, "initial", "free")
    assert by_layer["layer"].tolist() == list(range(layers))
    assert (by_layer["low"] < by_layer["mean"]).all() and (by_layer["mean"] < by_layer["high"]).all()
    with pytest.raises(NotInRunError, match="no rows"):
        queries.signs(run, "finetuned", "free")


def test_one_row_is_recomputed_plainly(run: store.Run, tmp_path: Path) -> None:
    from moyu_core.models import load_model
    from moyu_core.token_sequences import tokenise

    model = load_model("tiny-swiglu", Home(tmp_path), device="cpu")
    (text,) = tokenise(model, PROMPTS[:1], 40)
    ids = torch.from_numpy(text.token_ids)
    model.model.requires_grad_(True)
    pairs = measures.activations_and_gradients(model.model, ids[None, :-1], ids[None, 1:])
    a, gradient = (part[0, 1:].double() for part in pairs[4])
    frame = queries.signs(run, "trained", "free")
    row = frame[(frame["prompt_id"] == PROMPTS[0].id) & (frame["layer"] == 4)].iloc[0]
    assert row["sign_gradient"] == pytest.approx(float((a.sign() * gradient).mean()), rel=1e-3)
    assert row["gradient_size"] == pytest.approx(float(gradient.abs().mean()), rel=1e-4)
    assert row["rows"] == a.numel()


def test_asking_again_loads_nothing_and_stopping_leaves_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path, ())
    request = OriginRequest("tiny-relu", PROMPTS[:1], seeds=2, max_tokens=20)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "measuring at initialisation" and done == 1:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        perform("origin", request.as_json(), home, stop, "cpu")
    assert not [path for path in home.runs.iterdir() if path.suffix != ".lock"]
    stages: list[str] = []
    first = perform("origin", request.as_json(), home, lambda stage, done, total: stages.append(stage), "cpu")
    assert "loading the model" in stages
    stages.clear()
    assert perform("origin", request.as_json(), home, lambda stage, done, total: stages.append(stage), "cpu") == first
    assert not stages


def test_requests() -> None:
    request = OriginRequest("default", PROMPTS[:2])
    assert OriginRequest.from_json(json.loads(json.dumps(request.as_json()))) == request
    for wrong, words in (({"seeds": 1}, "between 2"), ({"max_tokens": 2}, "at least two more"), ({"prompts": ()}, "at least one")):
        with pytest.raises(InputError, match=words):
            replace(request, **wrong)


def test_the_tracked_run_is_the_default_models() -> None:
    runs = [run for run in store.list_runs(TRACKED)[0] if run.spec.study == "origin"]
    names = [run.manifest["model"]["name"] for run in runs]
    assert "smollm2-135m-instruct" in names
    for run in runs:
        run.verify()
        assert run.manifest["scope"]["seeds"] >= 36 and run.size_bytes < 1_000_000
        rows = pq.read_table(run.path("signs.parquet")).to_pylist()
        claims = queries.claims(run)
        effect = origin.effects(rows, "fixed", max(run.manifest["layers"]))
        assert effect.mean == pytest.approx(claims["root cause, scale fixed"].effect.mean)
        assert np.isfinite(effect.error) and effect.n == run.manifest["scope"]["seeds"]
