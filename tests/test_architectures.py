"""Every family of the table on a tiny model: the site is the down projection's input, and watching shows just that."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import tiny
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from moyu_core.architectures import TABLE, find, shape
from moyu_core.errors import InputError, ModelError
from moyu_core.identity_check import check_identity
from moyu_core.models import LoadedModel, from_module
from moyu_core.sites import Activation, watch

FAMILIES = sorted(TABLE)
MIXTURES = [name for name in FAMILIES if TABLE[name].layout == "experts"]
DENSE = [name for name in FAMILIES if name not in MIXTURES]


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {name: tiny.load(name) for name in FAMILIES}


def seen(model: LoadedModel, layers: list[int] | None = None, batch: int = 2, length: int = 7) -> list[Activation]:
    got: list[Activation] = []
    ids = tiny.ids(batch, length)
    with torch.inference_mode(), watch(model, layers, got.append):
        model.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return got


def hooks(model: LoadedModel) -> int:
    modules = list(model.model.modules())
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules)


def test_tiny_models_cover_the_table() -> None:
    assert set(tiny.CONFIGS) == set(TABLE)
    assert len(TABLE) >= 26


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_a_site(models: dict[str, LoadedModel], family: str) -> None:
    model = models[family]
    assert [site.layer for site in model.sites] == [0, 1]
    assert model.check_error < 1e-5
    assert (model.vocab_size, model.d_model) == (tiny.VOCAB, tiny.D)


@pytest.mark.parametrize("family", DENSE)
def test_activation_times_weight_is_the_output(models: dict[str, LoadedModel], family: str) -> None:
    """With the test's own hooks, its own reading of the weight and its own path to the module."""
    model = models[family]
    name = TABLE[family].down.format(1)
    module = dict(model.model.named_modules())[name]
    inputs, outputs = [], []
    handles = [module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone())),
               module.register_forward_hook(lambda _, args, out: outputs.append(out.clone()))]
    got = seen(model, [1])
    for handle in handles:
        handle.remove()
    weight = module.weight if isinstance(module, Conv1D) else module.weight.T  # (F, d)
    expected = inputs[0].reshape(14, -1) @ weight + (module.bias if module.bias is not None else 0)
    assert torch.allclose(expected, outputs[0].reshape(14, tiny.D), atol=1e-5)
    assert len(got) == 1
    assert got[0].a.shape == (14, model.sites[1].n_neurons)
    assert torch.equal(got[0].a, inputs[0].reshape(14, -1))
    assert torch.allclose(got[0].site.down(got[0].a), inputs[0].reshape(14, -1) @ weight, atol=1e-6)


@pytest.mark.parametrize("family", DENSE)
def test_column_norms(models: dict[str, LoadedModel], family: str) -> None:
    """Norm of what one unit of a neuron adds: push unit vectors through the projection."""
    site = models[family].sites[0]
    bias = site.module.bias if site.module.bias is not None else 0
    columns = site.module(torch.eye(site.n_neurons)) - bias
    assert site.column_norms().shape == (site.n_neurons,)
    assert torch.allclose(site.column_norms(), columns.square().sum(1).sqrt(), atol=1e-5)


@pytest.mark.parametrize("family", MIXTURES)
def test_mixture_activations_make_the_experts_output(models: dict[str, LoadedModel], family: str) -> None:
    """sum_k w_k (a_k W[e_k]^T + b) = what transformers' own plain loop over experts puts out."""
    model = models[family]
    experts: Any = model.sites[0].module
    outputs = []
    handle = experts.register_forward_hook(lambda _, args, out: outputs.append(out.clone()))
    model.model.set_experts_implementation("eager")
    with torch.inference_mode():
        model.decoder(input_ids=tiny.ids(), use_cache=False)
    handle.remove()
    [act] = seen(model, [0])
    assert act.experts is not None
    assert act.weights is not None
    assert act.a.shape == (14, 2, tiny.F)
    expected = torch.zeros(14, tiny.D)
    for token in range(14):
        for slot in range(2):
            expert = int(act.experts[token, slot])
            weight = experts.down_proj[expert].T if family == "gpt_oss" else experts.down_proj[expert]  # (d, F)
            bias = experts.down_proj_bias[expert] if family == "gpt_oss" else 0
            expected[token] += act.weights[token, slot] * (weight @ act.a[token, slot] + bias)
            row = act.site.down(act.a[token, slot], act.experts[token, slot])
            assert torch.allclose(row, weight @ act.a[token, slot], atol=1e-5)
    assert torch.allclose(expected, outputs[0].reshape(14, tiny.D), atol=1e-5)
    norms = experts.down_proj.square().sum(2 if family == "gpt_oss" else 1).sqrt()
    assert torch.allclose(act.site.column_norms(), norms, atol=1e-6)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_mixture_restores_the_experts_function(models: dict[str, LoadedModel], implementation: str) -> None:
    model = models["qwen3_moe"]
    model.model.set_experts_implementation(implementation)
    ids = tiny.ids()
    with torch.inference_mode():
        plain = model.model(input_ids=ids).logits
        with watch(model, None, lambda activation: None):
            assert model.model.config._experts_implementation == "moyu"
            watched = model.model(input_ids=ids).logits
    assert model.model.config._experts_implementation == implementation
    assert torch.allclose(plain, watched, atol=1e-5)
    with pytest.raises(RuntimeError, match="inside"), watch(model, None, lambda activation: None):
        raise RuntimeError("inside")
    assert model.model.config._experts_implementation == implementation


def test_nested_mixture_watches_see_the_same(models: dict[str, LoadedModel]) -> None:
    model = models["olmoe"]
    former = model.model.get_experts_implementation()
    outer: list[Activation] = []
    with watch(model, [0], outer.append):
        inner = seen(model)
        assert len(outer) == 1
        assert torch.equal(outer[0].a, inner[0].a)
        seen(model, [1])
    assert len(outer) == 2, "the outer watch outlives the inner one"
    assert model.model.get_experts_implementation() == former
    seen(model)
    assert len(outer) == 2, "nobody watches after the end of the block"


def test_mixture_may_have_dense_layers(models: dict[str, LoadedModel]) -> None:
    got = seen(models["qwen3_moe"])
    assert [(act.site.experts, act.site.slots, act.a.dim()) for act in got] == [(4, 2, 3), (0, 1, 2)]
    assert got[1].experts is None


@pytest.mark.parametrize("family", FAMILIES)
def test_configuration_tells_the_same_as_the_model(models: dict[str, LoadedModel], family: str) -> None:
    model = models[family]
    said = shape(model.model.config.to_dict())
    assert said.layers == 2
    assert said.n_neurons == model.sites[0].n_neurons
    assert said.d_model == tiny.D
    assert (said.experts, said.slots) == (model.sites[0].experts, model.sites[0].slots)
    if family != "bloom":  # has no limit
        assert said.max_positions == 64


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt_oss"])
def test_activation_function_and_gate_are_as_the_row_says(models: dict[str, LoadedModel], family: str) -> None:
    model = models[family]
    site = model.sites[0]
    block = site.module if site.experts else dict(model.model.named_modules())[site.name.rpartition(".")[0]]
    names = [name for name, _ in [*block.named_children(), *block.named_parameters()]]
    assert any("gate" in name for name in names) == TABLE[family].gated == site.gated
    attributes = ("act", "act_fn", "activation_fn", "gelu_impl")
    [function] = [getattr(block, name) for name in attributes if hasattr(block, name)]
    x = torch.linspace(-4, 4, 101)
    assert torch.allclose(function(x), ACT2FN[shape(model.model.config.to_dict()).activation](x), atol=1e-6)


def test_rows_with_a_norm_behind_the_ffn(models: dict[str, LoadedModel]) -> None:
    for family in FAMILIES:
        names = [name for name, _ in models[family].model.named_modules()]
        assert any("post_feedforward" in name for name in names) == TABLE[family].norm_after, family
    assert "before that norm" in TABLE["gemma2"].remark


def test_rows_are_batch_major(models: dict[str, LoadedModel]) -> None:
    """Row b*T+t is token t of sequence b, also in OPT, which drops the batch axis."""
    for family in ("llama", "opt", "mixtral"):
        both = seen(models[family], [1])[0].a
        ids = tiny.ids()
        alone: list[Activation] = []
        with torch.inference_mode(), watch(models[family], [1], alone.append):
            models[family].decoder(input_ids=ids[1:], attention_mask=torch.ones_like(ids[1:]), use_cache=False)
        assert torch.allclose(both[7:], alone[0].a, atol=1e-5), family


def test_only_the_chosen_layers_are_hooked(models: dict[str, LoadedModel]) -> None:
    model = models["llama"]
    before = hooks(model)
    with watch(model, [1], lambda activation: None):
        assert hooks(model) == before + 1
        assert len(model.sites[1].module._forward_pre_hooks) == 1
    assert [act.site.layer for act in seen(model, [1, 0, 1])] == [0, 1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [[0], [1, 0]])
def test_a_pass_may_end_where_the_last_activation_is_seen(models: dict[str, LoadedModel], family: str, layers: list[int]) -> None:
    """Same activations; what comes behind them is not computed; who looked on before sees all; the model is as before."""
    model, ids = models[family], tiny.ids()
    whole, before = seen(model, layers), hooks(model)
    got: list[Activation] = []
    outer: list[Activation] = []
    computed: list[int] = []
    ends: list[object] = []
    with torch.inference_mode(), ExitStack() as stack:
        plain = model.model(input_ids=ids, use_cache=False).logits
        for site in model.sites:
            handle = site.module.register_forward_hook(lambda *_, layer=site.layer: computed.append(layer))
            stack.callback(handle.remove)
        stack.callback(model.decoder.register_forward_hook(lambda *said: ends.append(said[2])).remove)
        with watch(model, None, outer.append), watch(model, layers, got.append, ends_pass=True):
            assert model.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False) is None
        assert ends == [None], "the decoder's hooks are called as after a whole pass"
    last = max(layers)
    assert [activation.site.layer for activation in got] == [activation.site.layer for activation in outer] == sorted(layers)
    assert all(torch.equal(one.a, other.a) for one, other in zip(got, whole, strict=True))
    assert computed == list(range(last)), "neither the last down projection nor what follows"
    assert hooks(model) == before and "forward" not in vars(model.decoder)
    assert torch.equal(model.model(input_ids=ids, use_cache=False).logits, plain)


def test_a_pass_that_ends_early_passes_errors_on(models: dict[str, LoadedModel]) -> None:
    model = models["llama"]

    def fail(activation: Activation) -> None:
        raise ValueError("no more")

    model.decoder.forward = whole = model.decoder.forward  # as a model has it that is spread over devices
    try:
        with pytest.raises(ValueError, match="no more"), watch(model, None, fail, ends_pass=True):
            model.decoder(input_ids=tiny.ids(), use_cache=False)
        assert model.decoder.forward is whole
    finally:
        del model.decoder.forward


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe"])
def test_hooks_are_gone_after_an_exception(models: dict[str, LoadedModel], family: str) -> None:
    model = models[family]
    before = hooks(model)
    got: list[Activation] = []
    with pytest.raises(KeyboardInterrupt), watch(model, None, got.append):
        assert hooks(model) > before
        raise KeyboardInterrupt
    model.decoder(input_ids=tiny.ids(), use_cache=False)
    assert hooks(model) == before
    assert got == []


def test_an_exception_in_the_receiver_passes_through(models: dict[str, LoadedModel]) -> None:
    model = models["mixtral"]

    def fail(activation: Activation) -> None:
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"), watch(model, None, fail):
        model.decoder(input_ids=tiny.ids(), use_cache=False)
    assert model.model.config._experts_implementation != "moyu"


@pytest.mark.parametrize(("layers", "words"), [([0, 7], "layer 7 does not exist"), ([-1], "layer -1 does not exist"),
                                               ([], "no layer was asked for")])
def test_a_layer_that_does_not_exist(models: dict[str, LoadedModel], layers: list[int], words: str) -> None:
    with pytest.raises(InputError, match=f"tiny-llama has layers 0 to 1; {words}"), \
            watch(models["llama"], layers, lambda activation: None):
        pytest.fail("the block must not run")


def test_watching_does_not_change_the_output(models: dict[str, LoadedModel]) -> None:
    model = models["gpt2"]
    with torch.inference_mode():
        plain = model.model(input_ids=tiny.ids()).logits
        with watch(model, None, lambda activation: None):
            assert torch.equal(model.model(input_ids=tiny.ids()).logits, plain)


def test_activation_is_a_view_of_the_models_tensor(models: dict[str, LoadedModel]) -> None:
    model = models["llama"]
    pointers = []
    handle = model.sites[0].module.register_forward_pre_hook(lambda _, args: pointers.append(args[0].data_ptr()))
    [act] = seen(model, [0])
    handle.remove()
    assert act.a.data_ptr() == pointers[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_check_names_the_site_that_is_off(family: str) -> None:
    """A layer whose output is not a W + b: the check must say where, and by how much."""
    model = tiny.load(family)
    module = model.sites[1].module
    plain = module.forward
    module.forward = lambda *args, **kwargs: 1.5 * plain(*args, **kwargs)
    with pytest.raises(ModelError, match=rf"{model.sites[1].name} .* 0\.33 of its maximum"):
        check_identity(model)


def test_check_names_the_site_that_is_not_reached() -> None:
    model = tiny.load("llama")
    parent = model.model.model.layers[1].mlp
    parent.forward = lambda x: x
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj .*was not reached"):
        check_identity(model)


def test_check_refuses_nan() -> None:
    model = tiny.build("llama")
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj"):
        from_module(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_passes_the_check(dtype: torch.dtype) -> None:
    for family in ("llama", "gpt2", "mixtral"):
        model = from_module(tiny.build(family).to(dtype))
        assert 0 <= model.check_error < 3e-2
        assert seen(model, [0])[0].a.dtype == dtype


def test_a_down_projection_of_another_kind_is_refused() -> None:
    model = tiny.build("llama")
    model.model.layers[1].mlp.down_proj = nn.Sequential(model.model.layers[1].mlp.down_proj)
    with pytest.raises(ModelError, match=r"Llama should .* 'model\.layers\.1\.mlp\.down_proj'.*found Sequential"):
        from_module(model)


def test_unknown_architecture_names_what_was_found() -> None:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(num_layers=2, hidden_size=32, num_heads=4, vocab_size=96, max_position_embeddings=64,
                          attention_types=[[["global"], 2]], intermediate_size=64)
    with pytest.raises(ModelError, match=r"'gpt_neo' is not in the table.*transformer\.h\.0\.mlp\.c_proj"):
        from_module(GPTNeoForCausalLM(config))
    with pytest.raises(ModelError, match="'martian' is not in the table"):
        find("martian")


def test_a_configuration_without_a_size_is_refused() -> None:
    with pytest.raises(ModelError, match="'llama' has none of hidden_size"):
        shape({"model_type": "llama", "num_hidden_layers": 2})


def test_bloom_bypassing_its_projection_is_refused() -> None:
    """With slow_but_exact and tensor slices BLOOM multiplies by hand; the module is then never called."""
    with pytest.raises(ModelError, match="pretraining_tp=2 with slow_but_exact"):
        tiny.load("bloom", pretraining_tp=2, slow_but_exact=True)
