"""CETT: thresholds against a search through every candidate, the column against its definition."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import plain
import pytest
import torch
from torch import Tensor

from moyu_core import capture, cett, sets
from moyu_core.cett import find_threshold
from moyu_core.errors import InputError
from moyu_core.models import LoadedModel
from moyu_core.spec import SetRule
from moyu_core.token_sequences import TokenSequence, tokenise

TARGETS = [0.02, 0.1, 0.2, 0.5, 0.9]


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {family: plain.model(family) for family in ("llama", "gpt2", "opt", "mixtral")}


def case(seed: int, n: int = 12, f: int = 20, d: int = 16) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """(contribution norms, rows, down projection) of random rows, some of them zero."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, f, generator=random)
    rows[0] = 0
    rows[1, ::2] = 0
    weight = torch.randn(f, d, generator=random) * torch.rand(f, 1, generator=random)
    return rows.abs() * weight.norm(dim=1), rows, lambda x: x @ weight


def plain_cett(a: np.ndarray, weight: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """(T,) ||sum of the contributions left out|| / ||sum of all||, float64; weight is (F, d)."""
    a, weight = a.astype(float), weight.astype(float)
    tail, whole = np.where(left_out, a, 0) @ weight, a @ weight
    with np.errstate(invalid="ignore"):
        return np.linalg.norm(tail, axis=1) / np.linalg.norm(whole, axis=1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("target", TARGETS)
def test_threshold_is_the_last_step_before_the_target(seed: int, target: float) -> None:
    """Brute force: the error is a step function that changes only where a neuron's contribution is passed."""
    contribution, rows, down = case(seed)
    eps, reached = find_threshold(contribution, rows, target, down)
    weight = down(torch.eye(rows.shape[1])).numpy()
    scores = contribution.numpy()

    def error(threshold: float) -> float:
        return float(np.nanmean(plain_cett(rows.numpy(), weight, scores < np.float32(threshold))))

    assert reached == pytest.approx(error(eps), abs=1e-6)
    assert reached <= target
    top = np.sort(scores.ravel())[int(0.99 * scores.size) - 1]
    step = (top - scores.min()) / (cett.CANDIDATES - 1)
    steps = [s for s in np.unique(scores) if s <= top]
    crossings = [s for s, later in pairwise(steps) if error(s + step / 2) <= target < error(later + step / 2)]
    assert crossings or eps == pytest.approx(top, rel=1e-6)
    if crossings:  # bisection finds a crossing: beyond the last neuron that may go, not beyond the next one
        nexts = [steps[steps.index(s) + 1] for s in crossings]
        assert any(abs(eps - border) <= 2 * step for border in nexts)
    assert eps <= top * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_grow_with_the_target(seed: int) -> None:
    contribution, rows, down = case(seed, n=200)
    found = [find_threshold(contribution, rows, target, down) for target in TARGETS]
    assert [eps for eps, _ in found] == sorted(eps for eps, _ in found)
    assert [reached for _, reached in found] == sorted(reached for _, reached in found)
    kept = [float((contribution >= eps).float().mean()) for eps, _ in found]
    assert kept[0] > 0.5 > kept[-1]
    for target, (_, reached) in zip(TARGETS[:4], found, strict=False):
        assert target - 0.02 < reached <= target, "200 rows of 20 neurons: steps are small"


@pytest.mark.parametrize("seed", range(4))
def test_the_error_grows_with_the_threshold(seed: int) -> None:
    """But for a wiggle: norms of sums are not strictly monotone, since contributions cancel."""
    contribution, rows, down = case(seed, n=200)
    borders = torch.linspace(0, float(contribution.quantile(0.99)), 60)
    length = down(rows).norm(dim=1)
    errors = np.array([cett.mean_cett(contribution, rows, float(border), down, length) for border in borders])
    assert errors[0] == 0 and errors[-1] > 0.8
    assert (np.diff(errors) > -0.01).all()


def test_rows_of_zeros_give_a_threshold_that_keeps_nothing_out() -> None:
    rows = torch.zeros(3, 4)
    assert find_threshold(rows, rows, 0.2, lambda x: x) == (0.0, 0.0)


def calibrated(model: LoadedModel, prompts: Any, target: float = 0.2, **more: Any) -> list[cett.Threshold]:
    return cett.calibrate(model, tokenise(model, prompts), target, (0, 1), **more)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mixtral"])
def test_calibration_sees_the_real_tokens_behind_the_sink(models: dict, family: str) -> None:
    """Its thresholds are those of the same rows, taken prompt by prompt without any padding."""
    model = models[family]
    prompts = plain.prompts(9, 4, 12)
    found = calibrated(model, prompts)
    assert [t.layer for t in found] == [0, 1]
    for layer, threshold in enumerate(found):
        parts = [rows_of(model, family, layer, plain.token_ids(prompt)) for prompt in prompts]
        rows, norms, experts = (torch.cat(part) for part in zip(*parts, strict=True))
        site = model.sites[layer]
        eps, reached = find_threshold(rows.abs() * norms, rows, 0.2, lambda x, s=site, e=experts: s.down(x, e))
        assert threshold.value == pytest.approx(eps, rel=1e-3)
        assert threshold.cett == pytest.approx(reached, abs=1e-3)
        assert 0.1 < threshold.cett <= 0.2


def rows_of(model: LoadedModel, family: str, layer: int, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, their column norms, their experts) of one prompt, sink left out, by plain hooks."""
    if family == "mixtral":
        a, experts, c = plain.expert_rows(model, layer, ids)
        return torch.from_numpy(a)[2:], torch.from_numpy(c)[2:], torch.from_numpy(experts)[2:]
    a, c = plain.activation(model, family, layer, ids)
    rows = torch.from_numpy(a)[1:]
    return rows, torch.from_numpy(c).float().expand_as(rows), torch.zeros(len(rows))


@pytest.mark.parametrize(("lengths", "tokens", "expected"), [
    ([5, 600, 600, 600], 1024, [5, 256, 256, 256]),  # a short first prompt must not be all
    ([20] * 100, 1024, [20] * 51),
    ([2000, 3], 1024, [1024]),
    ([10, 10], 1024, [10, 10]),
])
def test_calibration_fills_its_batch(models: dict, lengths: list[int], tokens: int, expected: list[int]) -> None:
    [one] = tokenise(models["llama"], plain.prompts(1))
    sequences = [TokenSequence(one.prompt, np.zeros(n, np.int64)) for n in lengths]
    assert [len(s) for s in cett._calibration_batch(sequences, tokens)] == expected


def test_calibration_needs_a_token_and_stops_when_told(models: dict) -> None:
    [one] = tokenise(models["llama"], plain.prompts(3))
    alone = TokenSequence(one.prompt, one.token_ids[:1])
    with pytest.raises(InputError, match="at least one token behind the sink"):
        cett.calibrate(models["llama"], [alone], 0.2, (0,))
    seen: list[int] = []
    calibrated(models["llama"], plain.prompts(3), report=lambda stage, done, total: seen.append(done))
    assert seen == [1, 2]


def test_nan_does_not_spoil_a_threshold(models: dict) -> None:
    model, prompts = models["gpt2"], plain.prompts(9, 9)
    good = calibrated(model, prompts)
    handle = model.sites[1].module.register_forward_pre_hook(
        lambda _, args: (args[0].index_fill(2, torch.tensor([3]), float("nan")),))
    try:
        found = calibrated(model, prompts)
    finally:
        handle.remove()
    assert np.isfinite(found[1].value)
    assert found[1].value == pytest.approx(good[1].value, rel=0.5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("rule", [SetRule("top", 0.2), SetRule("positive"), SetRule("cett"), SetRule("top", 1.0)],
                         ids=SetRule.label)
def test_the_column_is_the_share_of_what_is_left_out(models: dict, family: str, rule: SetRule) -> None:
    model = models[family]
    [prompt] = plain.prompts(15)
    sequences = tokenise(model, (prompt,))
    thresholds = {0: 0.06, 1: 0.06} if rule.name == "cett" else {}
    [found] = capture.capture(model, sequences, capture.CaptureOptions(rule, (1,), thresholds, cett=True))
    a, c = plain.activation(model, family, 1, plain.token_ids(prompt))
    module = dict(model.model.named_modules())[plain.DOWN[family].format(1)]
    weight = (module.weight if family == "gpt2" else module.weight.T).detach().numpy()
    left_out = ~plain.members(a, c, rule, thresholds.get(1))
    np.testing.assert_allclose(found.columns["cett"], plain_cett(a, weight, left_out), rtol=1e-4, atol=1e-6)
    if rule.density == 1:
        assert (found.columns["cett"] == 0).all()


def test_the_column_of_a_mixture_uses_each_slots_expert(models: dict) -> None:
    model = models["mixtral"]
    [prompt] = plain.prompts(8)
    options = capture.CaptureOptions(SetRule("top", 0.2), (0,), cett=True)
    [found] = capture.capture(model, tokenise(model, (prompt,)), options)
    a, experts, c = plain.expert_rows(model, 0, plain.token_ids(prompt))
    left_out = ~sets.unpack(found.columns["active"], a.shape[1])
    assert (left_out == ~plain.members(a, c, SetRule("top", 0.2))).mean() > 0.99
    weights = model.model.model.layers[0].mlp.experts.down_proj.detach().numpy()
    expected = [plain_cett(a[[i]], weights[e].T, left_out[[i]])[0] for i, e in enumerate(experts)]
    np.testing.assert_allclose(found.columns["cett"], expected, rtol=1e-4)


def test_thresholds_give_the_sets_that_meet_the_target(models: dict) -> None:
    """End to end: the mean of the column over the calibration tokens is what the threshold promised."""
    model, prompts = models["llama"], plain.prompts(20, 20)
    found = calibrated(model, prompts)
    options = capture.CaptureOptions(SetRule("cett"), (0, 1), {t.layer: t.value for t in found}, cett=True)
    columns = [c.columns["cett"].reshape(2, -1)[:, 1:] for c in capture.capture(model, tokenise(model, prompts), options)]
    means = np.concatenate(columns, axis=1).mean(1)
    np.testing.assert_allclose(means, [t.cett for t in found], rtol=1e-3)
    assert (means <= 0.2 + 1e-4).all()
