"""Dynamic-activation methods: their sets against plain restatements, the state machine, and the invariants of all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moyu_core import methods, sets
from moyu_core.errors import InputError
from moyu_core.masking import masked
from moyu_core.methods import calibration, catalog, cett_token, griffin, moefication, tda
from moyu_core.methods.inputs import INPUTS, down_weight, fronts, observe, row_norms
from moyu_core.methods.parts import Part
from moyu_core.methods.protocol import Rows, ScoreChoice, Shape
from moyu_core.methods.running import running
from moyu_core.methods.selection import top_mask
from moyu_core.models import LoadedModel
from moyu_core.studies.predictors.evaluate import captured
from moyu_core.token_sequences import tokenise
from tests import plain, tiny

MIXTURES = ("mixtral", "olmoe", "gpt_oss")
DENSE = sorted(tiny.CONFIGS.keys() - {*MIXTURES, "qwen3_moe"})


@cache
def llama() -> LoadedModel:
    return plain.model("llama")


@cache
def fitted(family: str = "llama") -> dict[str, Part]:
    """Every part of a tiny model, fitted on random words."""
    model = llama() if family == "llama" else plain.model(family)
    documents = tokenise(model, plain.prompts(*[58] * 10))
    found: dict[str, Part] = {}
    for method in methods.every().values():
        if method.part and method.part not in found and not method.applies(model):
            found[method.part] = method.fit(model, documents)
    return found


def ready_methods(model: LoadedModel, family: str) -> list[Any]:
    return [m.prepare(model, fitted(family).get(m.part)) for m in methods.every().values() if not m.applies(model)]


def rows_of(model: LoadedModel, ids: Tensor, inputs: tuple[str, ...] = tuple(INPUTS)) -> list[Rows]:
    found: list[Rows] = []
    with torch.inference_mode(), observe(model, None, inputs, found.append, gate=True):
        model.decoder(input_ids=ids, use_cache=False)
    return found


def logits(model: LoadedModel, ids: Tensor, **more: Any) -> Tensor:
    with torch.inference_mode():
        return model.model(input_ids=ids, **more).logits


def random_rows(n: int = 9, f: int = 32, seed: int = 0) -> Rows:
    random = torch.Generator().manual_seed(seed)
    return Rows(0, torch.randn(n, f, generator=random), torch.rand(f, generator=random) + 0.1, torch.arange(n))


# --- the largest k -------------------------------------------------------------------------------------------------------


def test_top_mask_keeps_exactly_k_and_breaks_ties_by_index() -> None:
    score = torch.tensor([[0.0, 0, 0, 0], [-1, -2, -3, -4], [5, 5, 5, 1]])
    assert top_mask(score, 2).tolist() == [[True, True, False, False], [True, True, False, False], [True, True, False, False]]
    random = torch.randn(50, 33)
    expected = torch.zeros(50, 33, dtype=torch.bool).scatter_(1, random.topk(7).indices, True)
    assert torch.equal(top_mask(random, 7), expected)
    with pytest.raises(InputError, match="between 1 and 4"):
        top_mask(score, 0)


# --- what stands in front of an FFN ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DENSE)
def test_the_front_is_found_and_its_states_are_what_they_are_called(family: str) -> None:
    model, ids = tiny.load(family), tiny.ids(1, 6)
    found = fronts(model)
    rows = rows_of(model, ids)
    hidden = torch.inference_mode()(model.decoder)(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    torch.testing.assert_close(rows[0].inputs["block"], hidden[0][0])
    torch.testing.assert_close(rows[1].inputs["previous"], rows[0].inputs["residual"])
    norm = found[1].norm
    with torch.inference_mode():
        x = rows[1].inputs["residual"] if norm is None else norm(rows[1].inputs["residual"])
    torch.testing.assert_close(x, rows[1].inputs["ffn"])


def test_the_gate_times_up_is_the_activation() -> None:
    model = llama()
    rows = rows_of(model, tiny.ids(1, 6))[1]
    up = model.model.model.layers[1].mlp.up_proj
    assert rows.gate is not None
    torch.testing.assert_close(rows.gate * up(rows.inputs["ffn"]), rows.a)


def test_static_magnitude_folds_the_norms_gain_in() -> None:
    model = llama()
    block = model.model.model.layers[0]
    with torch.no_grad():
        block.post_attention_layernorm.weight[:] = torch.linspace(0.5, 2, tiny.D)
    gain = block.post_attention_layernorm.weight
    gate, up = row_norms(model, 0)
    torch.testing.assert_close(gate, (block.mlp.gate_proj.weight * gain).norm(dim=1))
    torch.testing.assert_close(up, (block.mlp.up_proj.weight * gain).norm(dim=1))
    with_down = methods.find("magnitude-down").prepare(model).begin().choose(random_rows(2, tiny.F), 0.25)
    expected = gate * up * block.mlp.down_proj.weight.norm(dim=0)
    assert torch.equal(with_down, top_mask(expected, 16))


def test_mixture_rows_put_experts_side_by_side_and_add_up_to_the_output() -> None:
    model = tiny.load("mixtral")
    ids, outputs = tiny.ids(1, 6), []
    handle = model.sites[0].module.register_forward_hook(lambda module, args, output: outputs.append(output))
    rows = rows_of(model, ids, ())[0]
    handle.remove()
    torch.testing.assert_close(rows.a @ down_weight(model.sites[0]).T, outputs[-1], rtol=1e-4, atol=1e-5)
    assert rows.routed is not None
    assert (rows.routed.view(6, 4, tiny.F).all(-1).sum(1) == 2).all() and (rows.a[~rows.routed] == 0).all()
    native = methods.find("native").prepare(model).begin().choose(rows, 0.5)
    assert torch.equal(native, rows.routed)


# --- single methods against plain words -----------------------------------------------------------------------------------


def test_griffin_is_the_formula() -> None:
    """s_i = || Zbar[:, i] ||_2 with rows of length 1; the k largest; sum of s^2 = tokens; chunks add up."""
    rows = random_rows(12)
    z = rows.a.double().numpy()
    s = np.sqrt(((z / np.linalg.norm(z, axis=1, keepdims=True)) ** 2).sum(0))
    whole, chunked = griffin.PromptStatistic(), griffin.PromptStatistic()
    whole.see(rows)
    for chunk in (slice(0, 5), slice(5, 6), slice(6, None)):
        chunked.see(rows.part(chunk))
    torch.testing.assert_close(whole.statistic(0).double(), torch.from_numpy(s), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(chunked.statistic(0), whole.statistic(0))
    assert float(whole.squares[0].sum()) == pytest.approx(12, rel=1e-5)
    chosen = whole.choose(rows, 0.25)
    assert set(np.flatnonzero(chosen.numpy())) == set(np.argsort(-s)[:8])


def test_griffin_ignores_the_size_of_a_token_and_survives_a_row_of_zeros() -> None:
    rows = random_rows(6)
    scaled = Rows(0, rows.a * torch.tensor([1.0, 100, 1, 1, 0.01, 1])[:, None], rows.norms, rows.tokens)
    with_zero = Rows(0, torch.cat([rows.a, torch.zeros(1, 32)]), rows.norms, torch.arange(7))
    found = []
    for each in (rows, scaled, with_zero):
        statistic = griffin.PromptStatistic()
        statistic.see(each)
        found.append(statistic.statistic(0))
    torch.testing.assert_close(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.model
def test_griffin_is_the_formula_on_the_default_model() -> None:
    from moyu_core.home import Home
    from moyu_core.models import load_model
    from moyu_core.prompts import make_prompt

    if not (Home.default().models / "smollm2-135m-instruct" / "config.json").is_file():
        pytest.skip("the default model is not fetched")
    model = load_model("default", Home.default())
    sequence = tokenise(model, [make_prompt("The lighthouse keeper logged the weather every night.")])[0]
    ids = torch.from_numpy(sequence.token_ids)[None]
    statistic = griffin.PromptStatistic()
    for rows in rows_of(model, ids, ()):
        statistic.see(rows)
    for layer in (0, 14, 29):
        seen: list[Tensor] = []
        module = model.model.model.layers[layer].mlp.down_proj
        handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0].double()))
        logits(model, ids)
        handle.remove()
        s = torch.nn.functional.normalize(seen[0], dim=1).norm(dim=0)
        torch.testing.assert_close(statistic.statistic(layer).double(), s, rtol=1e-4, atol=1e-6)
        chosen = statistic.choose(Rows(layer, seen[0].float(), torch.ones(1536), torch.zeros(1)), 0.1)
        assert set(torch.where(chosen)[0].tolist()) == set(s.topk(153).indices.tolist())


def test_tda_thresholds_by_the_mean_density_of_calibration_prompts() -> None:
    model, part = llama(), fitted()["calibration"]
    sizes = []
    for sequence in tokenise(model, plain.prompts(*[58] * 10)):
        choice = tda.PromptFrozen().prepare(model, part).begin()
        for rows in rows_of(model, torch.from_numpy(sequence.token_ids)[None], ()):
            choice.see(rows)
            sizes.append(float(choice.choose(rows, 0.25).float().mean()))
    assert np.mean(sizes) == pytest.approx(0.25, abs=0.01) and len(set(sizes)) > 1


def test_cett_thresholds_meet_their_target_and_the_method_keeps_what_reaches_them() -> None:
    model, part = llama(), fitted()["calibration"]
    assert part.tensors["cett_reached"] == pytest.approx([0.2, 0.2], abs=0.005) and (part.tensors["cett_reached"] <= 0.2).all()
    choice = cett_token.CettPerToken().prepare(model, part).begin()
    rows = rows_of(model, torch.cat([plain.token_ids(p) for p in plain.prompts(58)]), ())
    shares = []
    for each, threshold in zip(rows, part.tensors["cett_threshold"].tolist(), strict=True):
        mask = choice.choose(each, 0.1)
        assert torch.equal(mask, each.a.abs() * each.norms >= threshold)
        energy = captured(each, {("cett", 0.1): mask}, down_weight(model.sites[each.layer]).T)["cett", 0.1][0]
        shares.append(float(energy[1:].mean()))
    assert np.mean(shares) == pytest.approx(0.8, abs=0.05)


def test_cats_keeps_the_asked_share_of_its_calibration_text() -> None:
    model, part = llama(), fitted()["calibration"]
    choice = methods.find("cats").prepare(model, part).begin()
    ids = torch.stack([torch.from_numpy(s.token_ids) for s in tokenise(model, plain.prompts(*[58] * 10))])
    for rows in rows_of(model, ids, ()):
        assert rows.gate is not None
        mask = choice.choose(rows, 0.3)
        assert float(mask.float().mean()) == pytest.approx(0.3, abs=0.01)
        assert float(rows.gate.abs()[mask].min()) >= float(rows.gate.abs()[~mask].max())


def test_the_oracle_has_the_largest_sum_of_squares_of_its_size() -> None:
    """And need not have the largest captured energy: with columns that cancel, another set of its size keeps more."""
    rows = random_rows(40)
    mask = methods.find("oracle").prepare(llama()).begin().choose(rows, 0.25)
    square = rows.contribution.square()
    best = (square * mask).sum(1)
    for seed in range(30):
        other = top_mask(torch.rand(40, 32, generator=torch.Generator().manual_seed(seed)), 8)
        assert ((square * other).sum(1) <= best + 1e-6).all()
    weight = torch.tensor([[3.0, -3.0, 2.0]])  # contributions 3, -3 and 2 add up to 2: the third alone is the output
    three = Rows(0, torch.ones(1, 3), weight.abs()[0], torch.zeros(1))
    masks = {("oracle", 1 / 3): torch.tensor([[True, False, False]]), ("third", 1 / 3): torch.tensor([[False, False, True]])}
    found = captured(three, masks, weight.T)
    assert float(found["third", 1 / 3][0]) == pytest.approx(1) and float(found["oracle", 1 / 3][0]) < 0.6
    assert found["oracle", 1 / 3][1] > found["third", 1 / 3][1]


def test_moefication_partitions_the_neurons_equally_and_keeps_k_experts() -> None:
    part = fitted()["moefication"]
    for expert in part.tensors["expert"]:
        assert expert.bincount().tolist() == [32, 32]
    random = np.random.default_rng(0).standard_normal((96, 5)).astype(np.float32)
    labels = moefication.cluster(random, 8)
    assert np.bincount(labels).tolist() == [8] * 12
    choice = moefication.MoEfication().prepare(llama(), part).begin()
    for rows in rows_of(llama(), tiny.ids(1, 9)):
        assert (choice.choose(rows, 0.5).sum(1) == 32).all() and (choice.choose(rows, 0.99).sum(1) == 32).all()


def test_balanced_clusters_find_planted_groups() -> None:
    random = np.random.default_rng(1)
    points = np.repeat(np.eye(6, dtype=np.float32) * 5, 8, axis=0) + 0.1 * random.standard_normal((48, 6)).astype(np.float32)
    labels = moefication.cluster(points, 8)
    assert all(len(set(labels[group * 8 : group * 8 + 8])) == 1 for group in range(6)) and len(set(labels)) == 6


def test_the_token_table_backs_off_and_reads_the_token_only() -> None:
    model, part = llama(), fitted()["token_table"]
    choice = methods.find("token-table").prepare(model, part).begin()
    seen, unseen = int(part.tensors["ids"][0]), 3
    assert unseen not in part.tensors["ids"].tolist()
    rows = [random_rows(3, tiny.F, seed) for seed in (0, 1)]
    both = [Rows(1, each.a, each.norms, torch.tensor([seen, unseen, seen])) for each in rows]
    first, second = (choice.score(each) for each in both)
    assert torch.equal(first, second) and torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    torch.testing.assert_close(first[1], part.tensors["mean"][1].float())


# --- all methods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mixtral"])
@pytest.mark.parametrize("prompt", ["dense", "masked"])
def test_density_one_reproduces_the_dense_logits(family: str, prompt: str) -> None:
    model = llama() if family == "llama" else plain.model(family)
    ids = tiny.ids(2, 7)
    expected = logits(model, ids)
    for ready in ready_methods(model, family):
        with running(model, ready, 1.0, prompt) as run:
            run.begin([4, 4])
            out = torch.inference_mode()(model.model)(input_ids=ids[:, :4], use_cache=True)
            run.generate()
            rest = logits(model, ids[:, 4:], past_key_values=out.past_key_values)
        found = torch.cat([out.logits, rest], dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=ready.method.name)


def test_a_density_below_one_changes_the_logits_of_the_generation_only_when_the_prompt_is_dense() -> None:
    model, ids = llama(), tiny.ids(1, 8)
    expected = logits(model, ids)
    for ready in ready_methods(model, "llama"):
        with running(model, ready, 0.1) as run:
            run.begin([5])
            out = torch.inference_mode()(model.model)(input_ids=ids[:, :5], use_cache=True)
            run.generate()
            rest = logits(model, ids[:, 5:], past_key_values=out.past_key_values)
        torch.testing.assert_close(out.logits, expected[:, :5], rtol=1e-4, atol=1e-5)
        assert (rest - expected[:, 5:]).abs().max() > 1e-3, ready.method.name


def test_the_cache_of_a_masked_run_holds_keys_of_all_heads() -> None:
    model, ids = llama(), tiny.ids(1, 6)
    with running(model, methods.find("random").prepare(model), 0.1, "masked") as run:
        run.begin([6])
        cache = torch.inference_mode()(model.model)(input_ids=ids, use_cache=True).past_key_values
    keys = cache.layers[1].keys
    assert keys.shape[:3] == (1, 2, 6) and (keys.abs().sum(-1) > 0).all()


def test_a_second_prompt_never_sees_the_first_ones_set() -> None:
    model, (first, second) = llama(), (tiny.ids(1, 6, 1), tiny.ids(1, 6, 2))
    ready = methods.find("griffin").prepare(model)

    def generated(run: Any, ids: Tensor) -> Tensor:
        run.begin([ids.shape[1] - 1])
        past = torch.inference_mode()(model.model)(input_ids=ids[:, :-1], use_cache=True).past_key_values
        run.generate()
        return logits(model, ids[:, -1:], past_key_values=past)

    with running(model, ready, 0.2) as run:
        generated(run, first)
        after = generated(run, second)
    with running(model, ready, 0.2) as run:
        alone = generated(run, second)
    assert torch.equal(after, alone)


def test_a_one_token_prompt_and_a_chunked_prompt_are_prompts() -> None:
    model, ids = llama(), tiny.ids(1, 8)
    ready = methods.find("griffin").prepare(model)

    def last(chunks: list[slice], length: int) -> Tensor:
        with running(model, ready, 0.2) as run:
            run.begin([length])
            past = None
            for chunk in chunks:
                forward = torch.inference_mode()(model.model)
                past = forward(input_ids=ids[:, chunk], past_key_values=past, use_cache=True).past_key_values
            run.generate()
            return logits(model, ids[:, length : length + 2], past_key_values=past)

    torch.testing.assert_close(last([slice(0, 6)], 6), last([slice(0, 2), slice(2, 3), slice(3, 6)], 6), rtol=1e-4, atol=1e-5)
    assert last([slice(0, 1)], 1).isfinite().all()


def test_padding_and_batch_size_change_nothing() -> None:
    model = llama()
    ids = tiny.ids(3, 9)
    for ready in ready_methods(model, "llama"):
        with running(model, ready, 0.3, "masked") as run:
            run.begin([9, 5, 7])
            together = logits(model, ids)
        for row, length in enumerate((9, 5, 7)):
            with running(model, ready, 0.3, "masked") as run:
                run.begin([length])
                alone = logits(model, ids[row : row + 1, :length])
            torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-3, atol=1e-3, msg=ready.method.name)


def test_the_phase_is_what_the_caller_says() -> None:
    model, ids = llama(), tiny.ids(1, 4)
    with running(model, methods.find("griffin").prepare(model), 0.3) as run:
        with pytest.raises(InputError, match="before a prompt"):
            run.generate()
        with pytest.raises(InputError, match="begin"):
            logits(model, ids)
        run.begin([0])
        run.generate()
        with pytest.raises(InputError, match="before any prompt token was seen"):
            logits(model, ids)
    random = methods.find("random").prepare(model)
    with pytest.raises(InputError, match="'dense' or 'masked'"), running(model, random, 0.3, "thick"):
        pass


def test_the_sink_stays_dense() -> None:
    model, ids = llama(), tiny.ids(1, 5)
    with running(model, methods.find("random").prepare(model), 0.1, "masked") as run:
        run.begin([5])
        found = logits(model, ids)
    expected = logits(model, ids)
    torch.testing.assert_close(found[:, :1], expected[:, :1], rtol=1e-4, atol=1e-5)
    assert (found[:, 1:] - expected[:, 1:]).abs().max() > 1e-3


def test_a_masked_mixture_is_the_mixture_with_its_neurons_zeroed() -> None:
    model, ids = tiny.load("mixtral"), tiny.ids(1, 6)
    with running(model, methods.find("random").prepare(model), 0.4, "masked", first_dense=0) as run:
        run.begin([6])
        found = logits(model, ids)
    choice = methods.find("random").prepare(model).begin()
    a = torch.zeros(1, 4 * tiny.F)
    keep = {site.layer: choice.choose(Rows(site.layer, a, torch.ones(1), torch.zeros(1)), 0.4) for site in model.sites}

    def choose(activation: Any) -> Tensor:
        return keep[activation.site.layer].view(4, tiny.F)[activation.experts]

    with masked(model, choose):
        expected = logits(model, ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "family", "reason"), [
    ("moefication", "mixtral", "mixture of experts already"),
    ("cats", "gpt2", "no gate"),
    ("native", "llama", "no router of its own"),
    ("magnitude", "olmoe", "mixtures of experts"),
])
def test_a_method_that_cannot_apply_says_why(name: str, family: str, reason: str) -> None:
    model = tiny.load(family)
    assert reason in methods.find(name).applies(model)
    with pytest.raises(InputError, match="does not apply"):
        methods.find(name).prepare(model)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5])
def test_a_density_outside_its_range_is_refused(density: float) -> None:
    choice = methods.find("random").prepare(llama()).begin()
    with pytest.raises(InputError, match="above 0 and at most 1"):
        choice.choose(random_rows(), density)
    assert int(choice.choose(random_rows(), 1e-6).sum()) == 1  # so small that k would be 0: one neuron is kept


def test_costs_follow_the_published_formulas() -> None:
    """In units of d F: GRIFFIN 3 rho, DejaVu 3 rho + r (d + F) / (d F), CATS 1 + 2 rho, CETT 2 + rho, token table F / 8 bytes."""
    shape = Shape(4096, 14336, True, 2)
    whole, rho = 4096 * 14336, 0.3
    cost = {name: method.cost(shape, rho) for name, method in methods.every().items()}
    assert cost["griffin"].ffn_macs == pytest.approx(3 * rho * whole) and cost["griffin"].choosing_macs == 0
    assert cost["dejavu"].choosing_macs == 512 * (4096 + 14336)
    assert cost["cats"].ffn_macs == pytest.approx((1 + 2 * rho) * whole)
    assert cost["cett"].ffn_macs == pytest.approx((2 + rho) * whole)
    assert cost["token-table"].choosing_bytes == 14336 / 8 and cost["token-table"].choosing_macs == 0
    assert cost["moefication"].choosing_macs == 4096 * 448 + 448**2
    assert cost["dejavu"].ffn_bytes == 2 * cost["dejavu"].ffn_macs


def test_the_two_things_called_tda_are_two_methods() -> None:
    every = methods.every()
    assert not every["cett"].frozen and every["tda"].frozen and "our reading" in every["tda"].title
    assert len({method.title for method in every.values()}) == len(every)


def _forget_methods() -> None:
    methods.every.cache_clear()
    catalog.titles.cache_clear()


def test_a_new_method_is_one_new_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "every_second.py").write_text('''
import torch
from moyu_core.methods.protocol import Choice, Cost, Method

class _Choice(Choice):
    def sets(self, rows, densities):
        return [torch.arange(rows.a.shape[1]) % 2 == 0 for _ in densities]

class EverySecond(Method):
    name, title, rank, family = "every-second", "Every second neuron", 99, "static"
    looks_at, source = "nothing", "a test"
    def bind(self, model, part, seed):
        return _Choice
    def cost(self, shape, density):
        return Cost.of(shape, shape.matrices / 2)

METHODS = (EverySecond(),)
''')
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    _forget_methods()
    try:
        ready = methods.find("every-second").prepare(llama())
        with running(llama(), ready, 0.5, "masked") as run:
            run.begin([5])
            assert logits(llama(), tiny.ids(1, 5)).isfinite().all()
        assert "every-second" in methods.every() and catalog.titles()["every-second"] == "Every second neuron"
    finally:
        monkeypatch.undo()  # before the cache is cleared: what asks next must not find the file again
        sys.modules.pop("moyu_core.methods.every_second", None)
        _forget_methods()
    with pytest.raises(InputError, match="is not known; use one of oracle"):
        methods.find("no-such-method")


def test_choices_of_the_base_class_ask_for_one_score_only() -> None:
    asked: list[int] = []

    class Counting(ScoreChoice):
        def score(self, rows: Rows) -> Tensor:
            asked.append(1)
            return rows.contribution

    rows = random_rows()
    found = Counting().sets(rows, (0.1, 0.5, 1.0))
    assert len(asked) == 1 and [int(mask[0].sum()) for mask in found] == [3, 16, 32]


def test_calibration_that_is_too_short_is_refused() -> None:
    model = llama()
    short = tokenise(model, plain.prompts(20))
    refused: list[Callable[[], Any]] = [lambda: calibration.fit(model, short)]
    refused += [lambda name=name: methods.find(name).fit(model, short) for name in ("dejavu", "moefication", "token-table")]
    for fit in refused:
        with pytest.raises(InputError, match="too short"):
            fit()
    with pytest.raises(InputError, match="nothing to be fitted"):
        methods.find("griffin").fit(model, short)


def test_sets_are_the_projects_packed_sets() -> None:
    rows = random_rows(5)
    mask = methods.find("oracle").prepare(llama()).begin().choose(rows, 0.25)
    assert np.array_equal(sets.pack(mask.numpy()), sets.top_sets(rows.contribution.numpy(), 8))
