"""The inertia study from request to run: tables, parts that are impossible, bad input, claims, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plain
import pyarrow.parquet as pq
import pytest
import test_inertia
import tiny

from moyu_core import schema, similarity, store
from moyu_core.claims import NOT_RESOLVED, NOT_SUPPORTED, SUPPORTED
from moyu_core.errors import Cancelled, InputError
from moyu_core.home import Home
from moyu_core.models import LoadedModel
from moyu_core.progress import silent
from moyu_core.prompts import Prompt, write_prompts
from moyu_core.queries import inertia as query
from moyu_core.schema import inertia as tables
from moyu_core.spec import SetRule
from moyu_core.studies import perform
from moyu_core.studies.inertia import hitters, verdicts
from moyu_core.studies.inertia.request import PARTS, InertiaRequest
from moyu_core.studies.inertia.study import inertia_run

RULE = SetRule("top", 0.25)
word_list = test_inertia.word_list


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return plain.model("llama", max_position_embeddings=128)


def request(prompts: tuple[Prompt, ...] = (), **changes: Any) -> InertiaRequest:
    return InertiaRequest(**{"model": "tiny", "prompts": prompts or test_inertia.prompts(), "rule": RULE, "words": 9, **changes})


@pytest.fixture(scope="module")
def run(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    """A whole run on the tiny model, all parts."""
    home = Home(tmp_path_factory.mktemp("inertia"), tracked=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moyu_core.words.word_list", lambda: tuple(plain.WORDS[5:]))
        return store.find_run(home, inertia_run(model, request(), home))


def test_a_whole_run_has_the_tables_that_the_schema_names(run: store.Run) -> None:
    run.verify()
    assert {f"{name}.parquet" for name in tables.TABLES} == set(run.manifest["files"])
    for name, columns in tables.TABLES.items():
        columns = tables.panel_columns(tiny.F) if name == "panels" else columns
        assert pq.read_schema(run.path(f"{name}.parquet")).equals(schema.arrow_schema(columns), check_metadata=True), name
    assert all(part["done"] for part in run.manifest["parts"].values())
    assert run.manifest["checks"]["token_by_token"]["largest_difference"] < 1e-5


def test_stored_panels_give_the_stored_overlaps_of_their_texts(run: store.Run) -> None:
    """W of the whole table is the mean over texts; the panels of all texts together must give it."""
    names = query.texts(run, shown=True)["prompt_id"].tolist()
    assert names == ["t0-0", "t1-0", "t2-0"]
    found = query.panels(run, names[0], 1)
    assert len(found) == 8 and all(len(panel.words) == 9 for panel in found.values())
    matrix = query.overlap_matrix(found["sentence", "sequence"])
    assert np.isnan(np.diag(matrix)).all() and np.nanmax(matrix) <= 1
    alone, shuffled = found["sentence", "parallel"], found["shuffled", "parallel"]
    order = [shuffled.words.index(word) for word in alone.words]
    np.testing.assert_array_equal(alone.active, shuffled.active[order])
    rates = query.frame(run, "rates")
    assert len(rates) == 2 * tiny.F and rates["rate_sequence"].mean() == pytest.approx(0.25, abs=0.01)


def test_neurons_are_listed_by_what_they_do(run: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = pd.DataFrame({
        "layer": np.array([0, 0, 1, 1], np.int16), "neuron": np.arange(4, dtype=np.int32),
        "rate_parallel": np.array([1, 0.995, 0.2, 1], np.float16), "rate_sequence": np.array([0.995, 1, 1, 0.5], np.float16),
        "rate_random": np.ones(4, np.float16), "binding": np.array([0, 0.1, 0.9, 0.3], np.float16)})
    monkeypatch.setattr(query, "frame", lambda *_: rates)
    assert query.always_on(run)["neuron"].tolist() == [0, 1] and query.always_on(run, 1).empty
    assert query.sequence_bound(run, count=2)["neuron"].tolist() == [2, 3]
    assert query.sequence_bound(run, 0)["neuron"].tolist() == [1, 0]


def test_intervals_enclose_their_estimate_and_need_topics(run: store.Run) -> None:
    for name in ("indices", "lags", "carrier", "switch"):
        rows = query.of_layer(query.frame(run, name), None)
        value = "index" if name == "indices" else "overlap"
        assert len(rows) and (rows["low"] <= rows[value]).all() and (rows[value] <= rows["high"]).all(), name
    kl = query.kl_by_source(run)
    assert set(kl["source"]) == set(tables.SOURCES) and (kl["mean"] >= 0).all()
    own, random = (kl[kl["source"] == source]["mean"].mean() for source in ("own", "random"))
    assert own < random, "a token's own set must cost less than a random one"


def test_the_same_seed_gives_the_same_run_and_another_seed_another(model: LoadedModel, run: store.Run, home: Home) -> None:
    again = store.find_run(home, inertia_run(model, request(parts=("lag",)), home))
    other = store.find_run(home, inertia_run(model, request(parts=("lag",), seed=1), home))
    assert again.table("overlaps").equals(run.table("overlaps")) and again.table("lags").equals(run.table("lags"))
    assert not other.table("overlaps").equals(run.table("overlaps"))
    rows = [each.table("overlaps").to_pandas().query("content == 'sentence' and history == 'sequence'") for each in (again, other)]
    assert rows[0]["within"].tolist() == rows[1]["within"].tolist(), "sentences are not drawn"


def test_one_text_has_no_interval_and_says_what_is_missing(model: LoadedModel, home: Home) -> None:
    found = store.find_run(home, inertia_run(model, request(test_inertia.prompts(1, 1)), home))
    row = query.frame(found, "overlaps").iloc[0]
    assert row["within"] == row["within"] and row["across"] != row["across"]
    parts = found.manifest["parts"]
    assert parts["lag"]["done"] and parts["hitters"]["done"]
    assert "two topics" in parts["carrier"]["reason"] and "two topics of 3" in parts["switch"]["reason"]
    assert "single text" in parts["regression"]["reason"]
    claims = query.claims(found)
    assert claims["inertia"].verdict == NOT_RESOLVED and not claims["inertia"].effect.known
    assert query.frame(found, "lags")["low"].isna().all()


def test_two_topics_of_one_text_have_an_index_or_say_why_not(model: LoadedModel, home: Home) -> None:
    found = store.find_run(home, inertia_run(model, request(test_inertia.prompts(2, 1), parts=()), home))
    effect = query.claims(found)["inertia"].effect
    assert effect.mean == effect.mean and not effect.known
    assert {name: part["reason"] for name, part in found.manifest["parts"].items()} == dict.fromkeys(PARTS, "It was not asked for.")


def test_short_texts_end_the_lag_curve_and_say_so(run: store.Run) -> None:
    facts = run.manifest["parts"]["lag"]
    assert facts["asked"] == 64 and facts["longest"] == 13 == query.frame(run, "lags")["lag"].max()


def test_texts_too_short_for_a_prefix_skip_the_carrier(model: LoadedModel, home: Home) -> None:
    found = store.find_run(home, inertia_run(model, request(test_inertia.prompts(words=4), words=4, parts=("carrier",)), home))
    assert "at least 8 words; the shortest has 4" in found.manifest["parts"]["carrier"]["reason"]
    assert not query.has(found, "carrier") and "the prefix carries the set" not in query.claims(found)


def test_a_model_with_little_room_shortens_what_it_can(home: Home) -> None:
    small = plain.model("llama", max_position_embeddings=16)
    found = store.find_run(home, inertia_run(small, request(parts=("lag", "switch")), home))
    assert found.manifest["parts"]["lag"]["longest"] == 7
    assert "the model takes 16" in found.manifest["parts"]["switch"]["reason"]
    with pytest.raises(InputError, match="longer than the 16"):
        inertia_run(small, request(test_inertia.prompts(words=20), words=20, parts=()), home)


def test_a_model_without_attention_weights_keeps_the_rest(model: LoadedModel, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.model, "set_attn_implementation", lambda _: (_ for _ in ()).throw(ValueError("none here")))
    found = store.find_run(home, inertia_run(model, request(parts=("hitters",)), home))
    assert "gives no attention weights (none here)" in found.manifest["parts"]["hitters"]["reason"]
    assert query.has(found, "overlaps") and not query.has(found, "attention")


@pytest.mark.parametrize("rule", [SetRule("cett", target=0.3), SetRule("positive"), SetRule("magnitude", 0.2)])
def test_every_set_rule_works(model: LoadedModel, home: Home, rule: SetRule) -> None:
    found = store.find_run(home, inertia_run(model, request(rule=rule, parts=("carrier", "switch")), home))
    rows = query.frame(found, "overlaps")
    assert (rows["chance"] > 0).all() and rows["within"].between(0, 1).all()


def test_a_cancelled_study_leaves_nothing(model: LoadedModel, home: Home) -> None:
    calls = 0

    def stop(stage: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if stage == "transplants":
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        inertia_run(model, request(), home, stop)
    assert calls > 20 and not [path for path in home.runs.iterdir() if path.suffix != ".lock"]


def test_heavy_hitters_are_stored_with_their_roles(run: store.Run) -> None:
    rows = query.frame(run, "attention")
    one = rows[rows["prompt_id"] == "t0-0"]
    assert one["role"].tolist().count("heavy") >= 1 and one["role"].iloc[0] == "sink" and one["role"].iloc[-1] == "recent"
    found = query.blocked(run)
    assert found["heavy"].mean > 0 and found["difference"].mean == pytest.approx(found["heavy"].mean - found["matched"].mean)
    assert run.manifest["parts"]["hitters"]["positions"] == hitters.HEAVY


def test_verdicts_follow_the_sign_of_the_transplants() -> None:
    def rows(gain: float) -> list[dict[str, Any]]:
        return [{"continuation": "true", "density": 0.25, "topic": f"t{topic}", "source": source, "kl": 2 + 0.01 * topic + extra}
                for topic in range(6) for source, extra in (("static", gain), ("prefix", 0.0))]

    assert verdicts.prefix_gain(rows(0.5), RULE).mean == pytest.approx(0.5)
    assert verdicts.prefix_gain(rows(-0.5), RULE).high < 0
    assert verdicts.endpoint_density(SetRule("positive")) == 0.1


def test_the_judged_claims_are_stored_with_their_reasons(run: store.Run) -> None:
    claims = query.claims(run)
    assert set(claims) == {"inertia", "whatever the meaning", "the prefix carries the set"}
    assert all(claim.verdict in (SUPPORTED, NOT_SUPPORTED, NOT_RESOLVED) and claim.units == "4 topics" for claim in claims.values())
    assert claims["inertia"].effect.mean == pytest.approx(query.index_of(run, "sentence").mean, rel=1e-5)
    assert [claims[name].smallest_effect for name in claims] == [verdicts.INERTIA, verdicts.IRRELEVANCE, verdicts.PREFIX_GAIN]


@pytest.mark.parametrize(
    ("changes", "part"),
    [({"words": 1}, "words of each text"), ({"words": 65}, "words of each text"), ({"parts": ("lags",)}, "'lags' is not known"),
     ({"shown": 9}, "1 to 4 texts"), ({"prompts": test_inertia.prompts(50)[:121]}, "1 to 120 texts")],
)
def test_requests_that_make_no_sense_are_refused(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        request(**changes)


def test_a_request_survives_the_job_table() -> None:
    asked = request(rule=SetRule("cett", target=0.3), parts=("lag", "switch"), seed=4, title="x")
    assert InertiaRequest.from_json(json.loads(json.dumps(asked.as_json()))) == asked


def test_the_command_prints_the_headline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from moyu_core.cli import app

    tiny.save("llama", tmp_path / "model", max_position_embeddings=128)
    plain.tokenizer().save_pretrained(tmp_path / "model")
    write_prompts(tmp_path / "texts.jsonl", test_inertia.prompts())
    monkeypatch.setenv("MOYU_HOME", str(tmp_path / "home"))
    arguments = ["study", "inertia", "--model", str(tmp_path / "model"), "--prompts", str(tmp_path / "texts.jsonl"), "--words", "9",
                 "--density", "0.25", "--parts", "none", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["inertia"].startswith("inertia index I of sentences") and said["run"].startswith("inertia-")
    assert CliRunner().invoke(app, [*arguments[:-3], "rubbish"]).exit_code != 0


def test_the_worker_finds_the_study(model: LoadedModel, home: Home) -> None:
    with pytest.raises(InputError, match="not one that this version understands"):
        perform("inertia", {"model": "x"}, home, silent)


def test_without_minilm_the_input_embeddings_stand_in(home: Home, monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> None:
    from moyu_core.errors import ModelError
    from moyu_core.words import Word

    def offline(*_: Any) -> Path:
        raise ModelError("no network")

    monkeypatch.setattr(similarity, "wheel_file", offline)
    assert similarity.available(home) == similarity.EMBEDDING
    words = [Word("word5", (5,)), Word("word6", (6,)), Word("both", (5, 6))]
    vectors = similarity.vectors(words, similarity.EMBEDDING, model, home)
    table = model.model.get_input_embeddings().weight.detach().numpy().astype(float)
    both = (table[5] + table[6]) / 2
    np.testing.assert_allclose(vectors[2], both / np.linalg.norm(both), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)


def test_texts_of_one_topic_have_an_index_and_no_interval(model: LoadedModel, home: Home) -> None:
    found = store.find_run(home, inertia_run(model, request(test_inertia.prompts(1, 4), parts=("lag", "carrier", "hitters")), home))
    claim = query.claims(found)["inertia"]
    assert np.isfinite(claim.effect.mean) and not claim.effect.known and claim.verdict == NOT_RESOLVED and claim.units == "1 topic"
    assert "two topics" in found.manifest["parts"]["carrier"]["reason"]
    assert query.frame(found, "indices")["low"].isna().all() and query.frame(found, "overlaps")["across_other"].isna().all()


def test_odd_texts_are_named_in_the_run_and_the_rest_is_measured(model: LoadedModel, home: Home) -> None:
    odd = (Prompt("one-word", "word5", "topic0"), Prompt("strange", "nonsense " + test_inertia.prompts()[0].text, "topic1"))
    found = store.find_run(home, inertia_run(model, request((*odd, *test_inertia.prompts()), parts=()), home))
    notes = "\n".join(found.manifest["notes"])
    assert "one-word: fewer than two words" in notes and "strange: 1 word(s) that the tokenizer cannot encode alone" in notes
    assert found.manifest["scope"]["texts"] == 13


def test_a_tokenizer_without_english_words_is_refused_in_one_sentence(
    model: LoadedModel, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moyu_core.words.word_list", lambda: ("zzz",))
    with pytest.raises(InputError, match="knows no word of the English list"):
        inertia_run(model, request(parts=()), home)
