"""History: energy-weighted overlap and entropy against plain counting, the sink artefact, and what a study refuses early."""

from itertools import product

import numpy as np
import pandas as pd
import plain
import pytest
import test_history
import torch

from moyu_core import sets, store
from moyu_core.errors import InputError
from moyu_core.figures import history as figures
from moyu_core.home import Home
from moyu_core.queries import history
from moyu_core.schema.history import ENTROPY_HISTORIES
from moyu_core.spec import SetRule
from moyu_core.studies.history import study
from moyu_core.studies.history.grid import Cells
from moyu_core.studies.history.second_views import energy_sums, energy_weighted, entropy_view, miller_madow
from moyu_core.studies.history.study import history_run
from moyu_core.studies.history.tables import measured, sink_artefact
from moyu_core.two_way import totals, uncertainty, without_history, without_probe


def table(probes: int, histories: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sets, log(1 + |a|), column norms)."""
    random = np.random.default_rng(seed)
    a = random.standard_normal((probes, histories, n)).astype(np.float32)
    return random.random(a.shape) < 0.3, np.log1p(np.abs(a)), random.random(n).astype(np.float32) + 0.5


def energy_overlap(one: np.ndarray, other: np.ndarray, energy: np.ndarray) -> float:
    """The share of one set's energy that lies in the other, pair by pair."""
    return float(energy[one & other].sum() / energy[one].sum())


def test_energy_weighted_overlaps_are_those_of_the_pairs() -> None:
    active, logs, norms = table(4, 5, 60)
    energy = (np.expm1(logs.astype(float)) * norms) ** 2
    found: dict[tuple[bool, bool], list[float]] = {}
    cells = list(product(range(4), range(5)))
    for a, b in product(cells, cells):
        if a != b:
            found.setdefault((a[0] == b[0], a[1] == b[1]), []).append(energy_overlap(active[a], active[b], energy[a]))
    mean = {key: float(np.mean(values)) for key, values in found.items()}
    given = uncertainty(totals(energy_sums(active, logs, norms)))
    assert given["overlap_same_token"] == pytest.approx(mean[True, False], rel=1e-4)
    assert given["overlap_same_history"] == pytest.approx(mean[False, True], rel=1e-4)
    assert given["uncertainty"] == pytest.approx((1 - mean[True, False]) / (1 - mean[False, False]), rel=1e-4)


def test_leaving_out_holds_for_energy_too() -> None:
    active, logs, norms = table(5, 4, 80)
    sums = energy_sums(active, logs, norms)
    for left, axis, place in ((without_history(sums, 2), 1, 2), (without_probe(sums, 3), 0, 3)):
        expected = totals(energy_sums(np.delete(active, place, axis), np.delete(logs, place, axis), norms))
        for name in ("own", "same_token", "same_history", "whole"):
            assert getattr(left, name) == pytest.approx(getattr(expected, name), rel=1e-5)


def test_swaps_of_small_neurons_are_no_news_by_energy() -> None:
    """Large neurons belong to the token, small ones to the cell: by count half is open, by energy next to nothing."""
    random = np.random.default_rng(1)
    large = np.repeat(random.random((8, 1, 400)) < 0.05, 10, axis=1)
    small = (random.random((8, 10, 400)) < 0.05) & ~large
    logs = np.log1p(np.where(large, 10.0, 0.1)).astype(np.float32)
    found = energy_weighted([large | small], [logs], np.ones((1, 400), np.float32))
    by_count = measured(Cells("k", 4, sets.pack(large | small)[None], logs[None]), 0, list(range(8)), 400, 0)
    assert by_count["uncertainty"][3].low > 0.4 and found["uncertainty_energy"][3].high < 0.02


def test_entropy_is_that_of_the_counts() -> None:
    rows = np.random.default_rng(2).random((3, 7, 40)) < 0.4

    def entropy(draws: np.ndarray) -> float:
        """Plug-in plus Miller-Madow, neuron by neuron."""
        total = 0.0
        for neuron in draws.T:
            share = [p for p in (neuron.mean(), 1 - neuron.mean()) if p > 0]
            total += -sum(p * np.log(p) for p in share) + (len(share) - 1) / (2 * len(neuron))
        return total

    def ratio(part: np.ndarray) -> float:
        return float(np.mean([entropy(row) for row in part]) / entropy(part.reshape(-1, 40)))

    value, _, _, mean = entropy_view([rows])["uncertainty_entropy"]
    assert value[0] == pytest.approx(ratio(rows)) and mean.mean == pytest.approx(ratio(rows))
    pseudo = [[len(rows[0]) * ratio(rows) - (len(rows[0]) - 1) * ratio(np.delete(rows, h, 1)) for h in range(7)],
              [len(rows) * ratio(rows) - (len(rows) - 1) * ratio(np.delete(rows, t, 0)) for t in range(3)]]
    assert mean.error == pytest.approx(np.sqrt(sum(np.var(each, ddof=1) / len(each) for each in pseudo)))


def test_entropy_says_0_and_1_where_u_does() -> None:
    random = np.random.default_rng(3)
    alone = np.repeat(random.random((10, 1, 300)) < 0.2, 60, axis=1)
    assert entropy_view([alone])["uncertainty_entropy"][3].mean == 0
    noise = random.random((10, 60, 300)) < 0.2
    assert entropy_view([noise])["uncertainty_entropy"][3].mean == pytest.approx(1, abs=0.01)
    assert miller_madow(4).tolist()[::4] == [0, 0]


def test_entropy_needs_more_histories_than_u() -> None:
    """The reason for the limit: from few histories entropy comes out lower than from many, U does not."""
    rows = np.random.default_rng(4).random((12, 320, 300)) < np.random.default_rng(5).beta(0.3, 2, (12, 1, 300))
    by_entropy = {n: entropy_view([rows[:, :n]])["uncertainty_entropy"][3].mean for n in (15, ENTROPY_HISTORIES, 320)}
    by_count = {n: measured(cells_of(rows[:, :n]), 0, list(range(12)), 300, 0)["uncertainty"][3].mean for n in (15, 320)}
    assert by_entropy[320] - by_entropy[15] > 2 * (by_entropy[320] - by_entropy[ENTROPY_HISTORIES]) > 0
    assert abs(by_count[320] - by_count[15]) < 0.02 < by_entropy[320] - by_entropy[15]


def cells_of(rows: np.ndarray) -> Cells:
    return Cells("k", 4, sets.pack(rows)[None], np.zeros((1, *rows.shape), np.float32))


def test_entropy_is_measured_from_sixty_histories_only() -> None:
    rows = np.random.default_rng(6).random((4, ENTROPY_HISTORIES, 40)) < 0.3
    assert "uncertainty_entropy" in measured(cells_of(rows), 0, [0, 1, 2, 3], 40, 0)
    assert "uncertainty_entropy" not in measured(cells_of(rows[:, 1:]), 0, [0, 1, 2, 3], 40, 0)


def test_the_artefact_compares_position_0_with_the_place_behind_the_sink(home: Home) -> None:
    made = store.find_run(home, history_run([plain.model("gpt2")], test_history.request(parts=()), home))
    found, model = history.facts(made, "tiny-gpt2")["sink_artefact"], plain.model("gpt2")
    ids = [plain.WORDS.index(word) for word in test_history.WORDS]
    for name, before in (("by_layer_bare", []), ("by_layer_behind_sink", [1])):
        for layer in range(2):
            rows = [plain.activation(model, "gpt2", layer, torch.tensor([[*before, token]])) for token in ids]
            members = np.stack([plain.members(a[-1:], norms, SetRule())[0] for a, norms in rows])
            pairs = [(members[i] & members[j]).sum() / members[i].sum() for i in range(6) for j in range(6) if i != j]
            assert found[name][layer] == pytest.approx(np.mean(pairs), abs=0.02)
    assert found["bare"] == pytest.approx(np.mean(found["by_layer_bare"]))
    bare, behind = history.sink_artefact(made, "tiny-gpt2") or (None, None)
    assert bare is not None and behind is not None and bare["value"].tolist() == pytest.approx(found["by_layer_bare"])


def test_the_artefact_of_a_single_token_is_unknown() -> None:
    one = sets.pack(np.ones((2, 1, 8), bool))
    assert sink_artefact(one, one) == {"bare": None, "behind_sink": None, "by_layer_bare": [None] * 2,
                                       "by_layer_behind_sink": [None] * 2}


def test_the_level_of_stays_is_that_of_other_tokens(home: Home) -> None:
    made = store.find_run(home, history_run([plain.model("llama")], test_history.request(parts=()), home))
    cells, shares = history.cells(made, "tiny-llama"), []
    for layer in history.facts(made, "tiny-llama")["kept_layers"]:
        none = history.stored_sets(made, "tiny-llama", layer, cells[0])[1]
        for cell in cells[1:]:
            behind = history.stored_sets(made, "tiny-llama", layer, cell)[1]
            shares += [sets.shared(none[i], behind[j]) / sets.sizes(none[i]) for i in range(6) for j in range(6) if i != j]
    assert history.stays_of_others(made, "tiny-llama") == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(("changes", "message"), [
    ({"probes": ("word10 word11", "word10 word12", "word10 word13")}, "begin with 1 different tokens"),
    ({"parts": ("predictor",)}, "at least 1024 training tokens"),
    ({"lengths": (64,)}, "ask for shorter ones"),
])
def test_what_cannot_be_measured_is_refused_before_the_grid(changes: dict, message: str, monkeypatch, home: Home) -> None:
    monkeypatch.setattr(study, "_grid", lambda work: pytest.fail("the grid had been started"))
    with pytest.raises(InputError, match=message):
        history_run([plain.model("llama")], test_history.request(**changes), home)
    assert store.list_runs(home)[0] == []


def test_a_history_that_is_there_twice_counts_once(home: Home) -> None:
    texts = test_history.texts(each=5)
    again = tuple(type(text)(f"{text.id}-again", text.text, text.domain) for text in texts[:5])
    asked = test_history.request(texts=(*texts[:5], *again), own=True, draws=9, parts=())
    made = store.find_run(home, history_run([plain.model("llama")], asked, home))
    frame = history.frame(made, "histories", "tiny-llama")
    assert frame["kind"].tolist().count("d0") == 5
    assert any("5 texts were there twice" in note for note in history.facts(made, "tiny-llama")["notes"])
    assert "5 texts were there twice" in made.manifest["headline"]["note, tiny-llama"], "the command line says it too"


def test_a_probe_that_would_merge_is_kept_apart_and_counted(home: Home) -> None:
    """`d10` behind `wor` would be one token as text; the grid is built on ids, and the run says how often it happened."""
    model = plain.model("llama")

    class Merging:
        """A tokenizer whose text runs together: without a space between, two tokens become another one."""

        def __init__(self) -> None:
            self.inner = model.tokenizer

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def __call__(self, *args: object, **options: object) -> object:
            return self.inner(*args, **options)

        def decode(self, ids: list[int], **_: object) -> str:
            return "".join(plain.WORDS[i] for i in ids)

    model.tokenizer = Merging()
    made = store.find_run(home, history_run([model], test_history.request(parts=()), home))
    probes = history.frame(made, "probes", "tiny-llama")
    assert probes["merges"].tolist() == [6 * 2 * 3] * 6, "every cell: 6 kinds, 2 lengths, 3 histories"
    assert made.manifest["headline"]["boundary, tiny-llama"].startswith(f"in {6 * 2 * 3 * 6} cells plain text would merge")
    items, _ = history.stored_sets(made, "tiny-llama", 1, history.cells(made, "tiny-llama")[1])
    assert items == list(range(6)) and [ids[0] for ids in probes["token_ids"]] == list(range(10, 16))


def test_every_stage_is_reported(home: Home) -> None:
    seen: list[str] = []
    history_run([plain.model("llama")], test_history.request(parts=("transplant", "drift")), home,
                lambda stage, done, total: seen.append(stage))
    assert {"probes behind histories", "set transplants", "importance drift", "writing"} <= set(seen)


def test_numbers_on_the_heat_map_stand_out_and_gaps_have_none() -> None:
    rows = pd.DataFrame({"kind": ["a", "a", "b"], "length": [4, 16, 4], "value": [0.1, 0.9, 0.6], "low": 0.0, "high": 1.0})
    heat, numbers = figures.kinds_and_lengths(rows, ["a", "b"], "U").data
    assert heat.z[1].tolist()[0] == 0.6 and np.isnan(heat.z[1][1])
    assert list(numbers.x) == ["4", "16", "4"] and list(numbers.y) == ["a", "a", "b"] and numbers.text == ("0.10", "0.90", "0.60")
    assert list(numbers.textfont.color) == ["white", "black", "black"]
