"""Tables of a corpus against a plain recomputation: own hooks, everything in memory, float64."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from typing import Any

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch

from moyu_core import capture, query, schema, store
from moyu_core.corpus_counts import CorpusCounts, pair_sample
from moyu_core.errors import InputError, NotInRunError
from moyu_core.home import Home
from moyu_core.models import LoadedModel
from moyu_core.prompts import Prompt
from moyu_core.queries import corpus
from moyu_core.schema.corpus import TABLES, TOP_TOKENS
from moyu_core.spec import SetRule
from moyu_core.strongest import StrongestTokens
from moyu_core.studies.capture import capture_run
from moyu_core.studies.requests import CaptureRequest
from moyu_core.token_sequences import tokenise
from moyu_core.tops import Tops

RULE = SetRule("top", 0.25)
LENGTHS = (5, 9, 3, 12, 7, 20, 4, 9)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return plain.model("llama")


def request(**changes: Any) -> CaptureRequest:
    return CaptureRequest(**{"model": "tiny", "prompts": plain.prompts(*LENGTHS), "rule": RULE, "corpus": True, **changes})


@pytest.fixture(scope="module")
def run(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    home = Home(tmp_path_factory.mktemp("corpus"), tracked=())
    return store.find_run(home, capture_run(model, request(), home))


def rows(model: LoadedModel, layer: int) -> pd.DataFrame:
    """One row a (prompt, position behind the sink): its activation and its set, by the plain way."""
    found = []
    for prompt in request().prompts:
        ids = plain.token_ids(prompt)
        a, c = plain.activation(model, "llama", layer, ids)
        members = plain.members(a, c, RULE)
        found += [(prompt.id, t, int(ids[0, t]), a[t], members[t]) for t in range(1, ids.shape[1])]
    return pd.DataFrame(found, columns=["prompt_id", "position", "token_id", "a", "members"])


def test_files_and_columns_are_those_of_the_schema(run: store.Run) -> None:
    run.verify()
    for name, columns in TABLES.items():
        assert run.table(name).schema.equals(schema.arrow_schema(columns), check_metadata=True), name


def test_rates_of_the_halves(run: store.Run, model: LoadedModel) -> None:
    halves = {p.id: zlib.crc32(f"plain\n{p.id}".encode()) & 1 for p in request().prompts}
    assert set(halves.values()) == {0, 1}, "these prompts make two halves"
    table = run.table("corpus_rates").to_pandas()
    for layer in (0, 1):
        frame = rows(model, layer)
        second = frame["prompt_id"].map(halves).to_numpy() == 1
        members = np.stack(frame["members"])
        got = table[table["layer"] == layer].sort_values("neuron")
        np.testing.assert_allclose(got["rate_a"], members[~second].mean(0), atol=1e-6)
        np.testing.assert_allclose(got["rate_b"], members[second].mean(0), atol=1e-6)
        assert run.manifest["corpus"]["rows"] == {"a": int((~second).sum()), "b": int(second.sum())}


def test_pairs_of_the_sample(run: store.Run, model: LoadedModel) -> None:
    table = run.table("corpus_pairs").to_pandas()
    sample = run.manifest["corpus"]["pair_neurons"]
    assert sample == list(range(tiny.F)), "F is below the size of the sample, so all pairs are counted"
    for layer in (0, 1):
        members = np.stack(rows(model, layer)["members"]).astype(float)
        got = table[table["layer"] == layer].set_index(["neuron", "other"])
        assert list(got.index) == list(itertools.combinations(range(tiny.F), 2))
        for i, j in itertools.combinations(range(0, tiny.F, 7), 2):
            assert got.loc[(i, j), "together"] == (members[:, i] * members[:, j]).sum()
            assert got.loc[(i, j), "expected"] == pytest.approx(members[:, i].sum() * members[:, j].sum() / len(members), rel=1e-6)


def test_strongest_tokens(run: store.Run, model: LoadedModel) -> None:
    table = run.table("corpus_tokens").to_pandas()
    for layer in (0, 1):
        frame = rows(model, layer)
        a = np.stack(frame["a"])
        for neuron in range(tiny.F):
            got = table[(table["layer"] == layer) & (table["neuron"] == neuron)]
            best = np.argsort(-np.abs(a[:, neuron]), kind="stable")[:TOP_TOKENS]
            assert got["rank"].tolist() == list(range(TOP_TOKENS))
            np.testing.assert_allclose(got["value"], a[best, neuron], rtol=2e-5, atol=1e-7)
            for name in ("prompt_id", "position", "token_id"):
                assert got[name].tolist() == frame.iloc[best][name].tolist(), (layer, neuron, name)
            assert got["token"].tolist() == [plain.WORDS[i] for i in got["token_id"]]


def test_equal_activations_keep_the_first_and_dead_neurons_have_none(model: LoadedModel) -> None:
    twins = tuple(Prompt(f"twin{i}", "word7 word9 word11") for i in range(5))
    sequences = tokenise(model, twins)
    strongest = StrongestTokens(model, (0,), keep=4)
    handle = model.sites[0].module.register_forward_pre_hook(
        lambda _, args: (args[0].index_fill(-1, torch.tensor([2]), 0.0).index_fill(-1, torch.tensor([3]), float("nan")),)
    )
    options = capture.CaptureOptions(RULE, (0,), batch_tokens=8)
    with strongest.watching():
        order = [captured.sequence for captured in capture.capture(model, sequences, options)]
    handle.remove()
    tops = strongest.tops(order, range(5))
    assert (tops.prompt[0, :, 2:4] == -1).all() and (tops.value[0, :, 2:4] == 0).all()
    alive = [n for n in range(tiny.F) if n not in (2, 3)]
    assert (tops.prompt[0][:, alive] == np.arange(4)[:, None]).all(), "the four first of five equal ones, in order"


def test_a_pass_that_failed_leaves_no_trace(model: LoadedModel) -> None:
    sequences = tokenise(model, plain.prompts(6, 6, 6, 6))
    options = capture.CaptureOptions(RULE, (0, 1), batch_tokens=14)
    failures = iter([True])

    def fail(module: Any, args: Any) -> None:
        if next(failures, False):
            raise torch.OutOfMemoryError("no room")

    def tops(failing: bool) -> Any:
        strongest = StrongestTokens(model, (0, 1))
        handle = model.sites[1].module.register_forward_pre_hook(fail) if failing else None
        with strongest.watching():
            order = [captured.sequence for captured in capture.capture(model, sequences, options)]
        if handle:
            handle.remove()
        return strongest.tops(order, [sequences.index(s) for s in order])

    expected, got = tops(False), tops(True)
    np.testing.assert_array_equal(expected.prompt, got.prompt)
    np.testing.assert_array_equal(expected.position, got.position)


def test_parts_merge_to_the_whole() -> None:
    random = np.random.default_rng(0)
    keep = 24  # more than numpy sorts by insertion, which would keep equal values in order by itself

    def part(number: int) -> Tops:
        value = np.sort(random.integers(1, 6, (2, keep, 5)).astype(np.float32), axis=1)[:, ::-1].copy()
        return Tops(value, *(np.full(value.shape, number, np.int32) for _ in range(3)))

    parts = [part(number) for number in range(4)]
    merged = parts[0].merged(parts[1]).merged(parts[2]).merged(parts[3])
    every = np.concatenate([p.value for p in parts], axis=1)
    order = np.argsort(-every, axis=1, kind="stable")[:, :keep]
    np.testing.assert_array_equal(merged.value, np.take_along_axis(every, order, 1))
    np.testing.assert_array_equal(merged.prompt, order // keep), "of equal values the earlier part's"


def test_the_sample_of_a_wide_layer() -> None:
    sample = pair_sample(11_008)
    assert len(sample) == 128 == len(set(sample.tolist())) and (np.diff(sample) > 0).all()
    assert sample.tolist() == pair_sample(11_008).tolist() != pair_sample(11_009).tolist()
    whole = CorpusCounts((0,), 11_008)
    assert whole.together.nbytes + whole.half_b.nbytes < 250_000, "independent of the corpus"


def test_a_corpus_is_another_run_and_not_for_mixtures(model: LoadedModel, home: Home) -> None:
    without, with_it = capture_run(model, request(corpus=False), home), capture_run(model, request(), home)
    assert without != with_it
    assert "corpus" not in store.find_run(home, without).manifest
    with pytest.raises(InputError, match="mixture of experts"):
        capture_run(plain.model("mixtral"), request(), home)


def test_a_prompt_above_the_limit_can_be_refused(model: LoadedModel, home: Home) -> None:
    asked = request(max_tokens=10, corpus=False, refuse_cut=True)
    with pytest.raises(InputError, match=r"Prompt 'p3' is 3 tokens longer than the limit \(at most 10"):
        capture_run(model, asked, home)
    cut = store.find_run(home, capture_run(model, request(max_tokens=10, corpus=False), home))
    assert cut.manifest["counts"]["cut_tokens"] == 3 + 11


def test_baselines_from_the_rates(run: store.Run, model: LoadedModel, home: Home) -> None:
    table = run.table("corpus_rates").to_pandas()
    own = table[table["layer"] == 1]
    p, q = own["rate_a"].to_numpy(float), own["rate_b"].to_numpy(float)
    found = corpus.rates(run, 1)
    assert found.overlap == pytest.approx((p * q).sum() / np.sqrt(p.sum() * q.sum()))
    assert found.recall == pytest.approx((p * q).sum() / p.sum())
    assert 0.25 < found.overlap < 1, "above the level of random sets of this density"
    assert found.rows == sum(LENGTHS)
    assert corpus.corrected(found.overlap, found.overlap) == 0 and corpus.corrected(1, 0.3) == 1
    assert np.isnan(corpus.corrected(1, 1))


def test_one_half_alone_has_no_baseline(model: LoadedModel, home: Home) -> None:
    one = store.find_run(home, capture_run(model, request(prompts=plain.prompts(9)), home))
    assert np.isnan(corpus.rates(one, 0).overlap)
    assert one.table("corpus_rates")["rate_a"].null_count + one.table("corpus_rates")["rate_b"].null_count == 2 * tiny.F


def test_pairs_by_surprise(run: store.Run, model: LoadedModel) -> None:
    members = np.stack(rows(model, 0)["members"]).astype(float)
    varies = members.std(0) > 0
    phi = np.full((tiny.F, tiny.F), np.nan)
    phi[np.ix_(varies, varies)] = np.corrcoef(members[:, varies].T)
    table = corpus.pairs(run, 0)
    np.testing.assert_allclose(table["phi"], phi[table["neuron"], table["other"]], atol=1e-5)
    assert (np.diff(np.abs(np.nan_to_num(table["phi"]))) <= 1e-12).all(), "the most surprising first"
    together = (members.T @ members)[table["neuron"], table["other"]]
    expected = members.sum(0)[table["neuron"]] * members.sum(0)[table["other"]] / len(members)
    with np.errstate(invalid="ignore", divide="ignore"):
        np.testing.assert_allclose(table["lift"], together / expected, rtol=1e-5)
    assert corpus.sampled_neurons(run) == list(range(tiny.F))


def test_partners_of_any_neuron(run: store.Run, model: LoadedModel) -> None:
    frame = rows(model, 1)
    members = np.stack(frame["members"])
    neuron = int(np.argsort(-members.sum(0))[3])
    found = corpus.partners(run, 1, neuron)
    assert found.attrs["rows"] == len(members)
    for row in found.to_dict("records"):
        other = int(row["neuron"])
        assert row["together"] == (members[:, neuron] & members[:, other]).sum()
        assert row["lift"] == pytest.approx(row["together"] * len(members) / (members[:, neuron].sum() * members[:, other].sum()))
    assert neuron not in found["neuron"].tolist() and found["lift"].is_monotonic_decreasing
    few = corpus.partners(run, 1, neuron, prompts=2)
    assert few.attrs["rows"] == sum(LENGTHS[:2]), "bounded"


def test_the_tokens_of_a_neuron_come_from_the_corpus(run: store.Run) -> None:
    table = run.table("corpus_tokens").to_pandas()
    own = table[(table["layer"] == 1) & (table["neuron"] == 5)]
    hits = query.top_tokens(run, 1, 5, count=3)
    assert [(h.prompt_id, h.position, h.token, h.value) for h in hits] == [
        tuple(row) for row in own[["prompt_id", "position", "token", "value"]].head(3).itertuples(index=False)
    ]
    assert len(query.top_tokens(run, 1, 5)) == TOP_TOKENS


def test_which_corpus_is_the_baseline_of_a_run(run: store.Run, model: LoadedModel, home: Home) -> None:
    small = store.find_run(home, capture_run(model, request(prompts=plain.prompts(5, 6)), home))
    other = store.find_run(home, capture_run(model, request(rule=SetRule("top", 0.5)), home))
    bare = store.find_run(home, capture_run(model, request(corpus=False), home))
    runs = [bare, small, other, run]
    assert corpus.find(runs, model.identity, RULE) is run, "the largest of the same rule"
    assert corpus.find([bare, other], model.identity, RULE) is None
    assert corpus.find(runs, dataclasses.replace(model.identity, weights="other"), RULE) is None
    assert corpus.find(runs, dataclasses.replace(model.identity, dtype="bfloat16"), RULE) is None
    for ask in (lambda: corpus.rates(bare, 0), lambda: corpus.pairs(bare, 0), lambda: corpus.sampled_neurons(bare)):
        with pytest.raises(NotInRunError, match="capture it with --corpus"):
            ask()
    with pytest.raises(NotInRunError, match="holds no layer 9"):
        corpus.rates(run, 9)


def test_token_texts_are_held_once(model: LoadedModel) -> None:
    first, second = tokenise(model, (Prompt("a", "word7 word9"), Prompt("b", "word9 word7 word9")))
    assert first.texts[1] is second.texts[2] and first.texts[2] is second.texts[1] is second.texts[3]
