"""The grid, branching, transplants, drift and predictor against the plain way."""

import numpy as np
import plain
import pytest
import tiny
import torch

from moyu_core import branching, sets
from moyu_core.errors import Cancelled, InputError
from moyu_core.masking import fixed, kl_divergence, masked
from moyu_core.spec import SetRule
from moyu_core.studies.history import ladder as ladders
from moyu_core.studies.history.drift import cancellation, drift, flipped, increments, stability
from moyu_core.studies.history.grid import Grid, items_of, sees
from moyu_core.studies.history.ladder import DENSITIES, ladder
from moyu_core.studies.history.predictor import scores
from moyu_core.studies.history.texts import Draw, Plan

RULE = SetRule("top", density=0.2)
PROBES = [(" a", [10]), (" b", [11]), (" c", [12]), (" d e f", [11, 30, 31]), (" g h", [60, 61])]


def draws(count: int, length: int, kind: str = "a") -> list[Draw]:
    random = np.random.default_rng(3)
    return [Draw(kind, number, f"t{number}", random.integers(5, 90, length)) for number in range(count)]


def design(count: int = 3) -> Plan:
    return Plan((3, 9), {"none": [Draw("none", 0, "", np.empty(0, np.int64))], "a": draws(count, 9)}, ())


@pytest.mark.parametrize("family", plain.DOWN)  # bloom takes no 4-D masks, so it goes the other way
def test_every_cell_is_that_of_a_plain_pass(family: str) -> None:
    model = plain.model(family)
    items, plan = items_of(PROBES), design()
    for cells in Grid(model, items, RULE, {}, [0, 1]).run(plan):
        for number, item in enumerate(items):
            for place, draw in enumerate(plan.kinds[cells.kind]):
                ids = torch.tensor([[1, *draw.token_ids[: cells.length], *item.token_ids]])
                for layer in range(2):
                    a, norms = plain.activation(model, family, layer, ids)
                    expected = plain.members(a[-1:], norms, RULE)[0]
                    found = sets.unpack(cells.active[layer, number, place], a.shape[1])
                    assert (expected != found).sum() <= 2, "rounding may swap one pair at the border"
                    if number < 2 and cells.logs.shape[1]:
                        np.testing.assert_allclose(cells.logs[layer, number, place], np.log1p(np.abs(a[-1])), rtol=1e-3, atol=1e-5)


def test_a_token_is_an_item_once() -> None:
    items = items_of(PROBES)
    assert [item.token_ids for item in items] == [(10,), (11,), (12,), (60,), (60, 61), (11, 30), (11, 30, 31)]
    assert sees(items)[6].tolist() == [False, True, False, False, False, True, True]
    with pytest.raises(InputError, match="has no token"):
        items_of([("x", [])])


def test_a_grid_stops_where_it_is_asked_to() -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        list(Grid(plain.model("llama"), items_of(PROBES), RULE, {}, []).run(design(), stop))


def test_mixtures_are_refused() -> None:
    with pytest.raises(InputError, match="mixture of experts"):
        Grid(tiny.load("mixtral"), items_of(PROBES), RULE, {}, [])


def test_masks_are_used_only_where_they_work() -> None:
    assert [branching._takes_masks(tiny.load(family)) for family in ("llama", "gpt2", "bloom", "mpt")] == [True, True, False, False]


def test_a_window_that_slides_is_not_masked_over() -> None:
    model = tiny.load("mistral", sliding_window=8)
    assert branching.fits(model, branching.history(model, tiny.ids(1, 3)), 2)
    assert not branching.fits(model, branching.history(model, tiny.ids(1, 7)), 2)


def test_the_history_is_not_changed() -> None:
    model = tiny.load("llama")
    past = branching.history(model, tiny.ids(2, 5))
    before = past.layers[0].keys.clone()
    ids = torch.tensor([7, 8])
    branching.together(model, past, ids, torch.zeros(2, dtype=torch.long), torch.eye(2, dtype=torch.bool))
    branching.extended(model, branching.kept(past), tiny.ids(2, 2))
    assert torch.equal(past.layers[0].keys, before) and past.get_seq_length() == 5


@pytest.fixture(scope="module")
def rungs() -> list[dict]:
    return list(ladder(plain.model("llama"), draws(3, 9), [(0, 10), (1, 11), (4, 12)], 9, seed=0))


def test_a_ladder_has_every_rung(rungs: list[dict]) -> None:
    keys = {(row["draw"], row["item"], row["source"], row["density"]) for row in rungs}
    assert len(keys) == len(rungs) == 3 * 3 * 7 * len(DENSITIES)
    assert all(row["kl"] >= 0 for row in rungs)


def test_the_own_set_does_what_plain_masking_does(rungs: list[dict]) -> None:
    """Own set = the dense run's top set at the last token; the model masked there in one whole pass."""
    model = plain.model("llama")
    draw = draws(3, 9)[2]
    ids = torch.tensor([[1, *draw.token_ids, 11]])
    with torch.no_grad():
        dense = model.model(input_ids=ids).logits[0, -1]
    for density in DENSITIES:
        masks = {}
        for layer in range(2):
            a, norms = plain.activation(model, "llama", layer, ids)
            keep = torch.ones(a.shape, dtype=torch.bool)
            keep[-1] = torch.from_numpy(plain.members(a[-1:], norms, SetRule("top", density=density))[0])
            masks[layer] = keep
        with torch.no_grad(), masked(model, fixed(masks)):
            sparse = model.model(input_ids=ids).logits[0, -1]
        found = next(r["kl"] for r in rungs if (r["draw"], r["item"], r["source"], r["density"]) == (2, 1, "own", density))
        assert found == pytest.approx(float(kl_divergence(dense, sparse)), rel=0.02, abs=1e-6)


def test_sources_are_what_they_are_called() -> None:
    """Prefix and static scores against their definitions."""
    model = plain.model("llama")
    chosen = draws(3, 9)
    seen = ladders._dense(model, chosen, [10, 11], 9)
    for layer in range(2):
        means = []
        for place, draw in enumerate(chosen):
            a, norms = plain.activation(model, "llama", layer, torch.tensor([[1, *draw.token_ids]]))
            relative = a[1:] / np.linalg.norm(a[1:], axis=1, keepdims=True)
            np.testing.assert_allclose(seen.prefix[layer, place], np.sqrt((relative**2).sum(0)), rtol=1e-3, atol=1e-6)
            weight = np.abs(a[1:]) * norms
            means.append((weight / np.linalg.norm(weight, axis=1, keepdims=True)).mean(0))
        found = ladders._sources(seen, 0, 1, 1, 2, np.random.default_rng(0))
        np.testing.assert_allclose(found[5, layer], (means[0] + means[2]) / 2, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found[1, layer], seen.scores[layer, 0, 2], rtol=1e-6)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_increments_add_up_to_the_weight_gradient(family: str) -> None:
    """Sum over s of a_i dL/da_i = sum_j w_ji dL/dw_ji over the down projection's column."""
    model = plain.model(family)
    ids = tiny.ids(1, 12)[0]
    found = increments(model, ids)
    for parameter in model.model.parameters():
        parameter.requires_grad_(True)
    logits = model.model(input_ids=ids[None, :-1]).logits[0]
    torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").backward()
    for site, (a, gradient) in zip(model.sites, found, strict=True):
        weight = site.module.weight
        expected = (weight * weight.grad).sum(dim=0).detach().numpy()
        np.testing.assert_allclose((a * gradient).sum(axis=0), expected, rtol=1e-3, atol=1e-5)


def test_silent_relu_neurons_have_no_importance() -> None:
    model = plain.model("opt")  # ReLU
    for a, gradient in increments(model, tiny.ids(1, 12)[0]):
        silent = a == 0
        assert silent.mean() > 0.2 and ((a * gradient)[silent] == 0).all()
        assert (gradient[silent] != 0).any(), "the literal |V| dL/da does not vanish there"


def test_the_drift_of_a_relu_model_is_that_of_its_increments() -> None:
    """What the table says of a * dL/da, from its definition: silent neurons count as exact zeros, the sink not at all."""
    model, texts = plain.model("opt"), [draw.token_ids for draw in draws(4, 9)]
    rows = {(row["layer"], row["quantity"], row["measure"], row["position"]): row for row in drift(model, texts, [8])}
    found = [increments(model, torch.tensor([1, *text])) for text in texts]
    for layer in range(2):
        silent = [float((layers[layer][0][1:] == 0).mean()) for layers in found]
        assert min(silent) > 0.2 and rows[layer, "increment", "zero_share", None]["value"] == pytest.approx(np.mean(silent))
        assert rows[layer, "literal", "zero_share", None]["value"] < 0.01, "the literal |V| dL/da does not vanish there"
        delta = [(a * gradient)[1:] for a, gradient in (layers[layer] for layers in found)]
        expected = [float((each[each != 0] > 0).mean()) for each in delta]
        assert rows[layer, "increment", "positive_share", None]["value"] == pytest.approx(np.mean(expected))
        assert rows[layer, "increment", "cancellation", 8]["value"] == pytest.approx(np.mean([cancellation(d[:8]) for d in delta]))


def test_drift_leaves_nothing_on_the_weights() -> None:
    model = plain.model("llama")
    rows = drift(model, [draw.token_ids for draw in draws(4, 9)], [4, 8, 64])
    assert not any(parameter.grad is not None or parameter.requires_grad for parameter in model.model.parameters())
    assert {row["position"] for row in rows} == {None, 4, 8}
    assert {row["measure"] for row in rows} == {"positive_share", "zero_share", "cancellation", "stability", "stability_flipped"}


def test_one_sign_does_not_cancel_and_stays_stable() -> None:
    random = np.random.default_rng(0)
    signed = random.standard_normal((400, 50))
    assert cancellation(np.abs(signed)) == 1 and cancellation(signed) < 0.1
    lasting = np.abs(random.standard_normal(500)) ** 2 + 0.01 * random.standard_normal((16, 500))
    signs = random.choice([-1.0, 1.0], (20, 16))
    assert stability(lasting) > 0.9
    noise = random.standard_normal((16, 500))
    assert stability(noise) < 0.3 and flipped(noise, signs) < 0.3


def test_recall_at_random_labels_is_the_predicted_share() -> None:
    site = tiny.load("llama").sites[0]
    random = np.random.default_rng(0)
    wanted, predicted = random.random((4000, site.n_neurons)) < 0.1, random.random((4000, site.n_neurons)) < 0.3
    a = random.standard_normal(wanted.shape).astype(np.float32)
    found = scores([(predicted, wanted, a)], site)
    assert found["recall"] == pytest.approx(found["density"], abs=0.01) and found["density"] == pytest.approx(0.3, abs=0.01)
    assert found["precision"] == pytest.approx(0.1, abs=0.01) and found["chance"] == pytest.approx(0.3, abs=0.01)


def test_a_perfect_prediction_captures_everything() -> None:
    site = tiny.load("llama").sites[0]
    a = np.random.default_rng(0).standard_normal((50, site.n_neurons)).astype(np.float32)
    a[:, ::2] = 0
    found = scores([(a != 0, a != 0, a)], site)
    assert (found["recall"], found["precision"], found["jaccard"]) == (1, 1, 1) and found["captured"] == pytest.approx(1)
    assert scores([(a == 0, a != 0, a)], site)["captured"] == pytest.approx(0, abs=1e-6)
