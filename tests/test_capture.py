"""Capture against hooks and sorts written in `plain`; padding, batching, order and caching change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import plain
import pytest
import tiny
import torch
from torch import Tensor

from moyu_core import capture, companding, sets
from moyu_core.capture import CapturedPrompt, CaptureOptions
from moyu_core.errors import Cancelled, InputError
from moyu_core.home import Home
from moyu_core.models import LoadedModel, from_module
from moyu_core.prompts import Prompt
from moyu_core.sites import Activation, watch
from moyu_core.spec import SetRule
from moyu_core.token_sequences import batches, tokenise

STATISTICS = ("density", "l2_norm", "abs_max", "effective_neurons", "zero_share")
RULES = [SetRule("top"), SetRule("top", 1.0), SetRule("magnitude", 1e-6), SetRule("positive"), SetRule("cett")]
FAMILIES = ["llama", "gpt2", "opt", "bloom", "gpt_neox"]


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {family: plain.model(family) for family in [*FAMILIES, "mixtral"]}


TOP = SetRule("top")


def options(rule: SetRule = TOP, **changes: Any) -> CaptureOptions:
    thresholds = {0: 0.05, 1: 0.08} if rule.name == "cett" else {}
    return CaptureOptions(**{"rule": rule, "layers": (0, 1), "thresholds": thresholds, **changes})


def run(model: LoadedModel, prompts: tuple[Prompt, ...], chosen: CaptureOptions) -> dict[str, CapturedPrompt]:
    sequences = tokenise(model, prompts)
    return {found.sequence.prompt.id: found for found in capture.capture(model, sequences, chosen)}


def rows(found: CapturedPrompt, layer: int) -> dict[str, np.ndarray]:
    """The rows of one layer."""
    start = found.layers.index(layer) * found.rows_per_layer
    return {name: column[start : start + found.rows_per_layer] for name, column in found.columns.items()}


def assert_rows(found: dict[str, np.ndarray], a: np.ndarray, c: np.ndarray, rule: SetRule, threshold: Any) -> None:
    expected = plain.members(a, c, rule, threshold)
    np.testing.assert_array_equal(sets.unpack(found["active"], a.shape[1]), expected)
    np.testing.assert_allclose(found["density"], expected.mean(1), rtol=1e-6)
    for name, values in plain.statistics(a).items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, err_msg=name)
    assert (found["nonfinite"] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
def test_sets_and_statistics_are_those_of_a_plain_hook(models: dict, family: str, rule: SetRule) -> None:
    model = models[family]
    [prompt] = plain.prompts(13)
    found = run(model, (prompt,), options(rule))[prompt.id]
    assert found.rows_per_layer == 14
    for layer in (0, 1):
        a, c = plain.activation(model, family, layer, plain.token_ids(prompt))
        assert_rows(rows(found, layer), a, c, rule, options(rule).thresholds.get(layer))
        if family == "opt":
            assert (a == 0).mean() > 0.2, "ReLU gives exact zeros"
            assert rows(found, layer)["active"].shape == (14, tiny.F // 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_reduced_in_float32(dtype: torch.dtype) -> None:
    model = from_module(tiny.build("llama").to(dtype), plain.tokenizer(), sink_token_id=1)
    [prompt] = plain.prompts(12)
    found = run(model, (prompt,), options(cett=True, values=None))[prompt.id]
    module = model.model.model.layers[1].mlp.down_proj
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].float()))
    with torch.no_grad():
        model.model(input_ids=plain.token_ids(prompt))
    handle.remove()
    norms = module.weight.float().square().sum(0).sqrt().numpy()
    layer = rows(found, 1)
    mask = plain.members(seen[0].numpy(), norms, TOP)
    np.testing.assert_array_equal(sets.unpack(layer["active"], tiny.F), mask)
    for name, values in plain.statistics(seen[0].numpy()).items():
        np.testing.assert_allclose(layer[name], values, rtol=2e-5)
    tail = (seen[0] * torch.from_numpy(~mask)) @ module.weight.float().T
    whole = seen[0] @ module.weight.float().T
    np.testing.assert_allclose(layer["cett"], tail.norm(dim=1) / whole.norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
def test_mixture_rows_are_slots_of_tokens(models: dict, rule: SetRule) -> None:
    model = models["mixtral"]
    [prompt] = plain.prompts(9)
    found = run(model, (prompt,), options(rule))[prompt.id]
    assert found.rows_per_layer == 20
    a, experts, c = plain.expert_rows(model, 1, plain.token_ids(prompt))
    layer = rows(found, 1)
    np.testing.assert_array_equal(layer["expert"], experts)
    assert set(experts) > {0}
    for name, values in plain.statistics(a).items():
        np.testing.assert_allclose(layer[name], values, rtol=1e-4, err_msg=name)
    expected = plain.members(a, c, rule, options(rule).thresholds.get(1))
    assert (sets.unpack(layer["active"], tiny.F) != expected).mean() < 0.002, "only near ties may differ"


@pytest.mark.parametrize("family", [*FAMILIES, "mixtral"])
def test_padding_batches_and_order_change_nothing(models: dict, family: str) -> None:
    model = models[family]
    prompts = plain.prompts(3, 17, 9, 17, 1, 12)
    chosen = options(SetRule("top", 0.2), cett=True, values=None)
    alone = run(model, prompts, CaptureOptions(**{**vars(chosen), "batch_tokens": 1}))
    together = run(model, prompts, CaptureOptions(**{**vars(chosen), "batch_tokens": 1000}))
    pairs = run(model, prompts[::-1], CaptureOptions(**{**vars(chosen), "batch_tokens": 40}))
    for other in (together, pairs):
        assert other.keys() == alone.keys()
        for name, found in alone.items():
            same = other[name]
            assert same.rows_per_layer == found.rows_per_layer
            for statistic in (*STATISTICS, "cett", "scale"):
                np.testing.assert_allclose(same.columns[statistic], found.columns[statistic], rtol=1e-3, atol=1e-6)
            assert_near_ties_only(found.columns, same.columns, 0.2)


def assert_near_ties_only(found: dict[str, np.ndarray], other: dict[str, np.ndarray], density: float) -> None:
    """Sets may differ where scores at the border are equal but for rounding, so in very few neurons."""
    swapped = sets.sizes(found["active"] ^ other["active"])
    assert swapped.sum() <= 0.002 * density * tiny.F * len(swapped)


def test_batches_hold_everything_once_within_the_limit(models: dict) -> None:
    sequences = tokenise(models["llama"], plain.prompts(30, 2, 9, 9, 50, 1, 4, 9))
    made = list(batches(sequences, 40))
    assert sorted(s.prompt.id for batch in made for s in batch) == sorted(s.prompt.id for s in sequences)
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= 40 for batch in made)
    assert max(map(len, made)) > 1


def watched(model: LoadedModel, feed: Any) -> list[Tensor]:
    """The activations of layer 1 that a way of feeding the model brings, in order of time."""
    seen: list[Activation] = []
    with torch.inference_mode(), watch(model, [1], seen.append):
        feed()
    return [part.a.clone() for part in seen]


def one_by_one(model: LoadedModel, ids: Tensor) -> None:
    cache = None
    for position in range(ids.shape[1]):
        out = model.decoder(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values


def assert_cached_feeding_is_prefill(model: LoadedModel, ids: Tensor, tolerance: float) -> None:
    [whole] = watched(model, lambda: model.decoder(input_ids=ids, use_cache=False))
    steps = torch.cat(watched(model, lambda: one_by_one(model, ids)))
    assert len(steps) == ids.shape[1]
    assert torch.allclose(steps, whole, rtol=tolerance, atol=tolerance * float(whole.abs().max()))


@pytest.mark.parametrize("family", [*FAMILIES, "mixtral"])
def test_token_by_token_with_a_cache_is_one_prefill(models: dict, family: str) -> None:
    assert_cached_feeding_is_prefill(models[family], plain.token_ids(plain.prompts(11)[0]), 1e-5)


@pytest.mark.model
def test_default_model_token_by_token_is_one_prefill() -> None:
    from moyu_core import registry
    from moyu_core.models import load_model

    if registry.on_disk("default", Home.default()) is None:
        pytest.skip("the default model is not on this machine; `moyu fetch default` brings it")
    model = load_model("default", Home.default(), device="cpu")
    [sequence] = tokenise(model, (Prompt("a", "The old lighthouse keeper counted the waves until dawn."),))
    assert int(sequence.token_ids[0]) == model.sink_token_id == 0
    assert_cached_feeding_is_prefill(model, torch.from_numpy(sequence.token_ids)[None], 1e-4)


def test_the_sink_token_stands_first_and_the_rest_is_cut_and_counted(models: dict) -> None:
    model = models["llama"]
    short, long = tokenise(model, plain.prompts(5, 40), max_tokens=20)
    assert short.token_ids[0] == long.token_ids[0] == model.sink_token_id
    assert short.texts[0] == "<s>"
    assert (len(short), short.cut_tokens) == (6, 0)
    assert (len(long), long.cut_tokens) == (20, 21)
    assert len(long.texts) == 20
    [limited] = tokenise(model, plain.prompts(200), max_tokens=1024)
    assert (len(limited), limited.cut_tokens) == (model.max_positions, 201 - model.max_positions)
    with pytest.raises(InputError, match="limit of 1"):
        tokenise(model, plain.prompts(5), max_tokens=1)


def test_a_text_without_tokens_is_refused(models: dict) -> None:
    model = plain.model("llama")
    model.tokenizer = lambda text, **_: {"input_ids": []}
    with pytest.raises(InputError, match="'dots' has no token"):
        tokenise(model, (Prompt("dots", "..."),))


def test_values_are_kept_for_the_prompts_that_were_named(models: dict) -> None:
    prompts = plain.prompts(4, 6, 8)
    found = run(models["llama"], prompts, options(values=frozenset({"p1"})))
    assert {name: "values" in f.columns for name, f in found.items()} == {"p0": False, "p1": True, "p2": False}
    a, _ = plain.activation(models["llama"], "llama", 0, plain.token_ids(prompts[1]))
    kept = rows(found["p1"], 0)
    decoded = companding.decode(kept["values"], kept["scale"])
    np.testing.assert_allclose(decoded, a, rtol=0.04, atol=1e-3 * np.abs(a).max())
    assert "cett" not in found["p1"].columns


def plant(model: LoadedModel, layer: int, values: dict[tuple[int, int], float]) -> Any:
    """A hook that puts values at (position, neuron) of the down projection's input."""

    def hook(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        for (position, neuron), value in values.items():
            changed.view(-1, changed.shape[-1])[position, neuron] = value
        return (changed,)

    return model.sites[layer].module.register_forward_pre_hook(hook)


@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
def test_nan_and_infinities_are_counted_and_left_out(models: dict, rule: SetRule) -> None:
    [prompt] = plain.prompts(7)
    handle = plant(models["gpt2"], 0, {(3, 5): np.nan, (3, 6): np.inf, (5, 1): -np.inf})
    try:
        found = run(models["gpt2"], (prompt,), options(rule, cett=True, values=None))[prompt.id]
    finally:
        handle.remove()
    layer = rows(found, 0)
    assert layer["nonfinite"].tolist() == [0, 0, 0, 2, 0, 1, 0, 0]
    mask = sets.unpack(layer["active"], tiny.F)
    assert not mask[3, 5:7].any()
    assert not mask[5, 1]
    assert mask[3].any()
    for name in (*STATISTICS, "cett", "scale"):
        assert np.isfinite(layer[name]).all(), name
    assert (layer["cett"][3] > 0) == (rule.density != 1), "a row that lost something says so"
    decoded = companding.decode(layer["values"], layer["scale"])
    assert np.isnan(decoded).sum(1).tolist() == [0, 0, 0, 2, 0, 1, 0, 0]
    assert rows(found, 1)["nonfinite"][3] == tiny.F, "what follows is spoilt, and says so"


def test_layers_that_are_not_there_or_do_not_fit_are_refused(models: dict) -> None:
    sequences = tokenise(models["llama"], plain.prompts(3))
    for layers, message in (((0, 7), "layer 7 does not exist"), ((), "no layer")):
        with pytest.raises(InputError, match=message):
            list(capture.capture(models["llama"], sequences, options(layers=layers)))
    mixed = plain.model("qwen3_moe")  # a mixture layer and a dense layer, both of width F
    with pytest.raises(InputError, match=r"differ in width or in slots.*layer 0: 64 neurons, 2 slot"):
        list(capture.capture(mixed, sequences, options()))
    assert len(run(mixed, plain.prompts(3), options(layers=(0,)))["p0"].columns["density"]) == 8
    assert len(run(mixed, plain.prompts(3), options(layers=(1,)))["p0"].columns["density"]) == 4


def test_cancelling_stops_within_a_layer_and_takes_the_hooks_away(models: dict) -> None:
    model = models["llama"]
    calls: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        calls.append((stage, done, total))
        if len(calls) == 3:
            raise Cancelled("enough")

    sequences = tokenise(model, plain.prompts(5, 5, 5))
    with pytest.raises(Cancelled):
        list(capture.capture(model, sequences, options(batch_tokens=6), report))
    assert len(calls) == 3
    assert all(total == 18 for *_, total in calls)
    assert not any(module._forward_pre_hooks for module in model.model.modules())


def test_progress_runs_from_nothing_to_everything(models: dict) -> None:
    seen: list[int] = []
    sequences = tokenise(models["llama"], plain.prompts(5, 9, 2))
    list(capture.capture(models["llama"], sequences, options(batch_tokens=6), lambda _, done, total: seen.append(done)))
    assert seen == sorted(seen)
    assert seen[-1] == sum(map(len, sequences))
