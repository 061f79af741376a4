"""The two-way design against its definitions: pairs counted one by one, noise, shuffled labels, attention cut off."""

from itertools import product

import numpy as np
import plain
import pytest
import torch

from moyu_core import sets
from moyu_core.spec import SetRule
from moyu_core.studies.history.grid import Cells
from moyu_core.studies.history.tables import flips, measured
from moyu_core.two_way import PairSums, components, disagreements, estimates, mean_interval, totals, uncertainty
from moyu_core.two_way import without_history as drop_history
from moyu_core.two_way import without_probe as drop_probe

RNG = np.random.default_rng(0)


def random_sets(probes: int, histories: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((probes, histories, n)) < 0.2


def pairs(rows: np.ndarray) -> dict[tuple[bool, bool], float]:
    """Mean |A xor B| by (same probe, same history), pair by pair."""
    found: dict[tuple[bool, bool], list[int]] = {}
    cells = list(product(range(rows.shape[0]), range(rows.shape[1])))
    for (t, h), (u, k) in product(cells, cells):
        if (t, h) != (u, k):
            found.setdefault((t == u, h == k), []).append(int((rows[t, h] ^ rows[u, k]).sum()))
    return {key: float(np.mean(values)) for key, values in found.items()}


def test_disagreements_are_those_of_the_pairs() -> None:
    rows = random_sets(4, 5, 60)
    same_token, same_history, different = disagreements(totals(PairSums.of(rows)))
    expected = pairs(rows)
    found = [float(value) for value in (same_token, same_history, different)]
    assert found == pytest.approx([expected[True, False], expected[False, True], expected[False, False]])


def test_u_is_that_of_overlaps_where_sets_are_equally_large() -> None:
    rows = np.zeros((4, 5, 60), bool)
    for t, h in product(range(4), range(5)):
        rows[t, h, RNG.choice(60, 9, replace=False)] = True
        rows[t, h, :] = np.roll(rows[t, 0] if h % 2 else rows[t, h], h)
    packed = sets.pack(rows)
    cells = list(product(range(4), range(5)))

    def mean(chosen: list[tuple[tuple[int, int], tuple[int, int]]]) -> float:
        return float(np.mean([sets.overlap(packed[a], packed[b]) for a, b in chosen]))

    others = [(a, b) for a, b in product(cells, cells) if a != b]
    sd = mean([(a, b) for a, b in others if a[0] == b[0]])
    ds = mean([(a, b) for a, b in others if a[1] == b[1]])
    dd = mean([(a, b) for a, b in others if a[0] != b[0] and a[1] != b[1]])
    found = uncertainty(totals(PairSums.of(rows)))
    assert found["uncertainty"] == pytest.approx((1 - sd) / (1 - dd))
    assert found["history_share"] == pytest.approx((ds - dd) / (1 - dd))
    assert found["interaction"] == pytest.approx((1 - sd - ds + dd) / (1 - dd))
    assert (found["overlap_same_token"], found["overlap_same_history"]) == pytest.approx((sd, ds))


def test_leaving_out_is_a_table_without() -> None:
    rows = random_sets(5, 4, 80)
    for left, whole in ((drop_history(PairSums.of(rows), 2), np.delete(rows, 2, axis=1)),
                        (drop_probe(PairSums.of(rows), 3), np.delete(rows, 3, axis=0))):
        assert left == totals(PairSums.of(whole))


def test_components_are_those_of_the_analysis_of_variance() -> None:
    y = RNG.standard_normal((4, 6, 30)) + 2 * RNG.standard_normal((4, 1, 30)) + RNG.standard_normal((1, 6, 30))
    mean = y.mean((0, 1))
    token, history = y.mean(1) - mean, y.mean(0) - mean
    rest = y - y.mean(1)[:, None] - y.mean(0)[None] + mean
    ms_t, ms_h, ms_th = 6 * (token**2).sum(0) / 3, 4 * (history**2).sum(0) / 5, (rest**2).sum((0, 1)) / 15
    parts = [((ms_t - ms_th) / 6).sum(), ((ms_h - ms_th) / 4).sum(), ms_th.sum()]
    found = components(totals(PairSums.of(y)))
    names = ("variance_token", "variance_history", "variance_interaction")
    assert [float(found[name]) for name in names] == pytest.approx([part / sum(parts) for part in parts], rel=1e-3)


def test_noise_has_no_components() -> None:
    """14 histories x 7 tokens, where raw eta squared would give history 0.13."""
    inside = []
    for seed in range(20):
        noise = np.random.default_rng(seed).standard_normal((7, 14, 200))
        found = estimates(PairSums.stack([PairSums.of(noise)]), components)
        inside += [not found[name][3].excludes(0) for name in ("variance_token", "variance_history")]
        assert abs(found["variance_history"][3].mean) < 0.02
    assert np.mean(inside) > 0.9


def structured(probes: int, histories: int, n: int) -> np.ndarray:
    """Sets of which half belong to the token and half to the cell."""
    rows = np.repeat(RNG.random((probes, 1, n)) < 0.15, histories, axis=1)
    return rows ^ (RNG.random((probes, histories, n)) < 0.05)


def cells_of(rows: np.ndarray) -> Cells:
    return Cells("other_topics", 4, sets.pack(rows)[None], rows[None].astype(np.float32))


def test_shuffled_labels_say_nothing() -> None:
    found = [measured(cells_of(structured(10, 8, 400)), 0, list(range(10)), 400, seed) for seed in range(10)]
    assert all(each["uncertainty"][3].high < 0.8 for each in found)
    assert np.mean([not each["uncertainty_shuffled"][3].excludes(1) for each in found]) >= 0.9
    assert np.mean([each["uncertainty_shuffled"][3].mean for each in found]) == pytest.approx(1, abs=0.01)


def test_intervals_over_probes_and_histories_cover() -> None:
    """A mean of token effects, history effects and noise: the interval holds the truth, 0, at least as often as it says."""
    held = 0
    for seed in range(300):
        r = np.random.default_rng(seed)
        values = r.standard_normal((12, 1)) + r.standard_normal((1, 9)) + r.standard_normal((12, 9))
        held += not mean_interval(values).excludes(0)
    assert held / 300 > 0.93


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_attention_cut_to_self_and_sink_leaves_the_token_alone(family: str) -> None:
    """Every token sees itself and position 0 only, so at a fixed length the sets cannot depend on the history."""
    model = plain.model(family)
    histories = RNG.integers(5, 90, (5, 6))
    tables = {}
    for cut in (True, False):
        rows = np.empty((4, 5, model.sites[0].n_neurons), bool)
        logs = np.empty(rows.shape, np.float32)
        for t, h in product(range(4), range(5)):
            a, norms = cut_activation(model, family, [1, *histories[h], 20 + t], cut)
            rows[t, h], logs[t, h] = plain.members(a, norms, SetRule("top", density=0.2))[-1], np.log1p(np.abs(a[-1]))
        tables[cut] = measured(Cells("k", 6, sets.pack(rows)[None], logs[None]), 0, [0, 1, 2, 3], rows.shape[2], 0)
    assert tables[True]["uncertainty"][3].mean == 0 and abs(tables[True]["variance_history"][3].mean) < 1e-3
    assert abs(tables[True]["history_share"][3].mean) < 1e-9
    assert tables[False]["uncertainty"][3].mean > 0.05


def cut_activation(model, family: str, ids: list[int], cut: bool) -> tuple[np.ndarray, np.ndarray]:
    """Activation of the last layer, by a hook written here, with a 4-D mask where attention is cut."""
    site = model.sites[-1]
    size, seen = len(ids), []
    mask = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)
    if cut:
        mask = torch.full((size, size), torch.finfo(torch.float32).min)
        mask[:, 0] = 0
        mask.fill_diagonal_(0)
    handle = site.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    with torch.no_grad():
        model.model(input_ids=torch.tensor([ids]), attention_mask=mask[None, None])
    handle.remove()
    return seen[0].reshape(size, -1).numpy(), site.column_norms().detach().numpy().astype(float)


def test_flips_count_what_stays_and_comes() -> None:
    none, rows = random_sets(3, 1, 64, 1), random_sets(3, 4, 64, 2)
    cells = Cells("k", 4, sets.pack(rows)[None], np.empty((1, 0, 4, 64), np.float32))
    found = {row["item"]: row for row in flips(cells, sets.pack(none)[None, :, 0], [7], 64)}
    for t in range(3):
        stay = np.mean([(rows[t, h] & none[t, 0]).sum() for h in range(4)]) / none[t, 0].sum()
        come = np.mean([(rows[t, h] & ~none[t, 0]).sum() for h in range(4)]) / none[t, 0].sum()
        again = np.mean([(rows[t, h] & rows[t, k]).sum() / rows[t, h].sum() for h in range(4) for k in range(4) if h != k])
        assert (found[t]["stay"], found[t]["come_in"], found[t]["stay_resampled"]) == pytest.approx((stay, come, again))
