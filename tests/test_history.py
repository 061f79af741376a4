"""The study `history`: its run, what can be read back of it, its claims, its page, and what it refuses."""

import dataclasses
import json
import weakref
from types import SimpleNamespace

import numpy as np
import plain
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from moyu_core import claims, demo, sets, store
from moyu_core.cli import app as cli
from moyu_core.errors import InputError
from moyu_core.home import REPOSITORY, Home
from moyu_core.intervals import Interval
from moyu_core.models import load_model
from moyu_core.prompts import Prompt, read_prompts
from moyu_core.queries import history
from moyu_core.queries.history import Cell
from moyu_core.schema.history import KINDS, SOURCES, TABLES
from moyu_core.spec import ModelIdentity, SetRule
from moyu_core.studies.history import judging, predictor
from moyu_core.studies.history.requests import LENGTHS, LOOK_AHEADS, PROBES, HistoryRequest, parse_probes, read_probes
from moyu_core.studies.history.study import history_run, spec_of
from moyu_core.studies.history.texts import merges, plan
from moyu_core.tokens import encode

SHIPPED = REPOSITORY / "data" / "prompts" / "histories.jsonl"
WORDS = tuple(f"word{number}" for number in range(10, 16))


def texts(domains: int = 4, each: int = 4, words: int = 40) -> tuple[Prompt, ...]:
    random = np.random.default_rng(0)
    names = [*(f"d{number}" for number in range(domains - 2)), "another language", "source code"]
    return tuple(Prompt(f"{name}-{i}".replace(" ", "-"), " ".join(random.choice(plain.WORDS[5:], words)), name)
                 for name in names for i in range(each))


def request(**changes: object) -> HistoryRequest:
    asked = HistoryRequest(("tiny",), texts(), WORDS, lengths=(4, 16), draws=3, parts=("transplant", "drift", "predictor"), seeds=2,
                           kept_draws=2, kept_layers=2, title="a small run")
    return dataclasses.replace(asked, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    """Two models, every part; predictors of few tokens."""
    home = Home(tmp_path_factory.mktemp("home"), tracked=())
    models = [plain.model("llama"), plain.model("opt")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "MIN_TOKENS", 64)
        patch.setattr(predictor, "SETTINGS", dataclasses.replace(predictor.SETTINGS, batch=32, epochs=2))
        return store.find_run(home, history_run(models, request(), home))


def test_the_run_is_whole(run: store.Run) -> None:
    run.verify()
    assert {f"{name}.parquet" for name in TABLES} <= set(run.manifest["files"])
    assert history.models(run) == ["tiny-llama", "tiny-opt"]
    for name, columns in TABLES.items():
        assert run.table(name).column_names == [column.name for column in columns]
        assert set(run.table(name)["model"].to_pylist()) == {"tiny-llama", "tiny-opt"}


def test_every_cell_can_be_read_back_as_text(run: store.Run) -> None:
    """Tokens of history and probe, put together, are those that a plain pass gives the stored set for."""
    model = plain.model("llama")
    probes = history.frame(run, "probes", "tiny-llama")
    cells = history.cells(run, "tiny-llama")
    assert len(cells) == 1 + 2 * 2 + 6 * 2 * 2
    for cell in (Cell("none", 0), Cell("random_words", 16, 1), Cell("source_code", 4, 0)):
        _, tokens = history.history_tokens(run, "tiny-llama", cell)
        assert len(tokens) == cell.length
        items, packed = history.stored_sets(run, "tiny-llama", 1, cell)
        for item in items[:3]:
            ids = [1, *(plain.WORDS.index(token.strip()) for token in tokens), *probes.set_index("item")["token_ids"][item]]
            a, norms = plain.activation(model, "llama", 1, torch.tensor([ids]))
            expected = plain.members(a[-1:], norms, SetRule())[0]
            assert (sets.unpack(packed[items.index(item)], a.shape[1]) != expected).sum() <= 2


def test_measures_hold_all_kinds_lengths_and_layers(run: store.Run) -> None:
    frame = history.over_layers(run, "tiny-llama", "uncertainty")
    assert set(frame["kind"]) == set(KINDS) and set(frame["length"]) == {4, 16}
    by_layer = history.by_layer(run, "tiny-llama", "uncertainty", "other_topics", 16)
    mean = frame[(frame["kind"] == "other_topics") & (frame["length"] == 16)]["value"].iloc[0]
    assert by_layer["layer"].tolist() == [0, 1] and by_layer["value"].mean() == pytest.approx(mean, rel=1e-5)
    assert ((by_layer["low"] <= by_layer["value"]) & (by_layer["value"] <= by_layer["high"])).all()


def test_controls_for_position_stand_beside_the_kinds(run: store.Run) -> None:
    found = history.stays(run, "tiny-llama")
    assert list(dict.fromkeys(found["kind"]))[:2] == ["sink_tokens", "one_token"] and len(found) == 2 * (2 + len(KINDS))
    frame = history.frame(run, "flips", "tiny-llama")
    row = found[(found["kind"] == "source_code") & (found["length"] == 4)].iloc[0]
    assert row["value"] == pytest.approx(frame[(frame["kind"] == "source_code") & (frame["length"] == 4)]["stay"].mean(), rel=1e-5)


def test_a_flip_map_is_what_the_sets_say(run: store.Run) -> None:
    first, second = Cell("other_topics", 16, 0), Cell("source_code", 16, 1)
    items, codes = history.flip_map(run, "tiny-opt", 0, first, second)
    n = codes.shape[1]
    a, b = (sets.unpack(history.stored_sets(run, "tiny-opt", 0, cell)[1], n) for cell in (first, second))
    for code, expected in ((history.STAY, a & b), (history.OUT, a & ~b), (history.IN, b & ~a), (history.NEITHER, ~(a | b))):
        assert ((codes == code) == expected).all()
    assert len(items) == len(codes) == 6


def test_ladder_predictor_and_drift_are_read_with_intervals(run: store.Run) -> None:
    ladder = history.ladder(run, "tiny-llama")
    assert ladder["source"].tolist() == list(SOURCES) * 3 and (ladder["low"] <= ladder["mean"]).all()
    found = history.predictor(run, "tiny-llama", "recall")
    assert set(found["trained_on"]) == {1, 2} and set(found["seen"]) == {True, False} and found["low"].notna().all()
    assert history.predictor(run, "tiny-opt", "density")["value"].max() <= 0.11
    assert set(history.drift(run, "tiny-llama", "cancellation")["quantity"]) == {"increment", "literal"}


def test_predictors_get_equal_tokens_and_tests_of_their_own(run: store.Run) -> None:
    frame = history.frame(run, "predictor", "tiny-llama")
    assert frame["tokens"].max() - frame["tokens"].min() <= frame["trained_on"].max(), "only what does not divide may differ"
    seen = frame[frame["seen"]].groupby(["seed", "trained_on"])["domain"].nunique()
    assert (seen == seen.index.get_level_values("trained_on")).all() and frame["domain"].nunique() == 4


def test_training_rows_stay_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are read from a Parquet file when they are asked for, one row group each, and nothing is kept of them."""
    asked: list[int] = []
    read_row_group = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, group: int, **more: object) -> pa.Table:
        asked.append(group)
        return read_row_group(file, group, **more)

    def look(documents, *args, **kwargs):
        asked.clear()
        documents[1], documents[0], documents[1]
        assert asked == [asked[0], asked[1], asked[0]] and asked[0] != asked[1]
        assert sum(len(documents[place][0]) for place in range(len(documents))) == documents.tokens
        first = weakref.ref(documents[0][0].base)
        assert first() is None, "what was read is let go"
        raise InterruptedError

    monkeypatch.setattr(predictor, "MIN_TOKENS", 64)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    monkeypatch.setattr(predictor.dejavu, "train", look)
    with pytest.raises(InterruptedError):
        list(predictor.predictors(plain.model("llama"), texts(), SetRule(), {}, 1))


def test_predictors_of_random_labels_hit_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets that follow from nothing: recall is |A^|/F, on domains that were trained on as on others, or the tests leak."""
    random = np.random.default_rng(0)

    def drawn(reducer: object, a: torch.Tensor, norms: object) -> SimpleNamespace:
        return SimpleNamespace(active=sets.top_sets(random.random(a.shape, np.float32) + np.float32(0.1), a.shape[1] // 5))

    monkeypatch.setattr(predictor, "MIN_TOKENS", 64)
    monkeypatch.setattr(predictor, "SETTINGS", dataclasses.replace(predictor.SETTINGS, batch=16, epochs=40, patience=40))
    monkeypatch.setattr(predictor, "reduce_anywhere", drawn)
    rows = list(predictor.predictors(plain.model("llama"), texts(), SetRule(), {}, 2))
    for seen in (True, False):
        recall, density = (np.mean([row[name] for row in rows if row["seen"] == seen]) for name in ("recall", "density"))
        assert recall == pytest.approx(density, abs=0.012), seen


def test_predictors_read_what_they_are_told_to(monkeypatch) -> None:
    """Another look-ahead gives other inputs and the same sets, and only then another run."""
    from moyu_core.methods.inputs import INPUTS

    assert set(LOOK_AHEADS) == set(INPUTS)
    given: dict[str, list[np.ndarray]] = {}
    monkeypatch.setattr(predictor, "MIN_TOKENS", 64)
    for name in LOOK_AHEADS:

        def look(documents, *args, name=name, **kwargs):
            given[name] = [np.array(array) for array in documents[0]]
            raise InterruptedError

        monkeypatch.setattr(predictor.dejavu, "train", look)
        with pytest.raises(InterruptedError):
            list(predictor.predictors(plain.model("llama"), texts(), SetRule(), {}, 1, look_ahead=name))
    usual = given.pop("residual")
    for states, active in given.values():
        np.testing.assert_array_equal(active, usual[1])
        assert states.shape == usual[0].shape
    assert not any(np.array_equal(given[name][0], usual[0]) for name in ("ffn", "block"))


def test_the_look_ahead_names_the_run_only_where_it_matters() -> None:
    def run_id(**changes: object) -> str:
        return spec_of(request(**changes), [ModelIdentity("tiny", "0" * 64, "float32")], [0]).run_id

    assert run_id(look_ahead="residual") == run_id() != run_id(look_ahead="previous")
    assert run_id(parts=("drift",), look_ahead="previous") == run_id(parts=("drift",))
    with pytest.raises(InputError, match="'sideways' is not one"):
        request(look_ahead="sideways")


def test_claims_are_judged_and_the_pair_only_with_a_pair(run: store.Run) -> None:
    found = history.claims(run)
    assert set(found) == {f"{what}, tiny-{family}" for what in ("uncertainty", "transplant") for family in ("llama", "opt")}
    assert all(claim.effect.known and claim.verdict in claims.VERDICTS for claim in found.values())


def found_of(name: str, activation: str, gated: bool, losses: dict[int, float]) -> judging.Found:
    known = Interval(0.5, 0.4, 0.6, 0.05, 9)
    return judging.Found(name, None, "other_topics", request(), 16, known, known, losses, (activation, gated, 6, 224, 4096, 1000))


@pytest.mark.parametrize(("relu", "swiglu", "verdict"), [
    ((0.10, 0.11, 0.10), (0.20, 0.21, 0.20), claims.SUPPORTED),
    ((0.10, 0.11, 0.10), (0.10, 0.11, 0.10), claims.NOT_SUPPORTED),
    ((0.10, 0.30, 0.05), (0.20, 0.15, 0.25), claims.NOT_RESOLVED),
])
def test_the_pair_is_judged_by_seeds(relu: tuple[float, ...], swiglu: tuple[float, ...], verdict: str) -> None:
    pair = [found_of("a", "relu", False, dict(enumerate(relu))), found_of("b", "silu", True, dict(enumerate(swiglu)))]
    found = claims.judge(judging.claims_of(pair))[-1]
    assert found.name == "predictor, SwiGLU against ReLU" and found.effect.n == 3 and found.verdict == verdict


def test_models_that_do_not_match_are_no_pair() -> None:
    other = dataclasses.replace(found_of("b", "silu", True, {0: 0.1}), shape=("silu", True, 30, 576, 49152, 1000))
    assert judging.matched([found_of("a", "relu", False, {0: 0.1}), other]) is None


def test_the_loss_compares_equal_cells() -> None:
    rows = [{"seed": 0, "trained_on": k, "layer": layer, "seen": seen, "recall": 0.1 * k + layer + (0.3 if seen else 0.0)}
            for k in (1, 2) for layer in (0, 1) for seen in (True, False)]
    assert judging.loss(rows, 0) == pytest.approx(0.3)


def test_asking_twice_computes_once(run: store.Run) -> None:
    home = Home(run.folder.parent.parent, tracked=())

    def never(stage: str, done: int, total: int) -> None:
        raise AssertionError(stage)

    assert history_run([plain.model("llama"), plain.model("opt")], request(), home, never) == run.id


@pytest.mark.parametrize("rule", [SetRule("positive"), SetRule("cett", target=0.3)])
def test_sets_of_unequal_size(home: Home, rule: SetRule) -> None:
    made = store.find_run(home, history_run([plain.model("opt")], request(rule=rule, parts=()), home))
    value = history.over_layers(made, "tiny-opt", "uncertainty")["value"]
    assert value.between(0, 1.6).all() and "transplant.parquet" not in made.manifest["files"]
    assert history.ladder(made, "tiny-opt").empty and history.predictor(made, "tiny-opt", "recall").empty


def test_own_histories_are_kinds_of_their_own(home: Home) -> None:
    own = tuple(dataclasses.replace(text, domain="rivers" if number % 2 else "") for number, text in enumerate(texts()[:8]))
    made = store.find_run(home, history_run([plain.model("llama")], request(texts=own, own=True, parts=()), home))
    assert set(history.over_layers(made, "tiny-llama", "uncertainty")["kind"]) == {"own", "rivers"}
    assert history.facts(made, "tiny-llama")["primary"] == {"kind": "own", "length": 16}


def test_requests_survive_the_job_table() -> None:
    asked = request(rule=SetRule("magnitude", density=0.3))
    assert HistoryRequest.from_json(json.loads(json.dumps(asked.as_json()))) == asked


@pytest.mark.parametrize(("changes", "message"), [
    ({"models": ()}, "at least one model"),
    ({"models": ("a", "a")}, "none twice"),
    ({"texts": ()}, "needs texts"),
    ({"probes": WORDS[:2]}, "Between 3 and 200 probes"),
    ({"probes": (*WORDS, WORDS[0])}, "stands 2 times"),
    ({"probes": (*WORDS, "  ")}, "one of them visible"),
    ({"lengths": ()}, "go from 1"),
    ({"lengths": (0, 4)}, "go from 1"),
    ({"draws": 2}, "Between 3 and"),
    ({"parts": ("grid",)}, "grid is not one"),
    ({"seeds": 0}, "at least 1"),
    ({"texts": texts()[:2], "own": True, "parts": ()}, "At least 3 histories"),
    ({"texts": texts()[:4]}, "at least 3 domains of at least 3 texts each; there is 1 domain"),
    ({"texts": texts()[:10]}, "'another language' has 2"),
])
def test_requests_that_cannot_be_met_say_why(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        request(**changes)


def test_a_predictor_with_too_few_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1024 training tokens"):
        predictor.split(plain.model("llama"), texts())


def test_histories_longer_than_the_context_are_left_out_with_a_note() -> None:
    model = plain.model("llama")  # 64 positions
    found = plan(request(lengths=(16, 62, 63)), lambda text: encode(model, text), 1, model.max_positions, 1)
    assert found.lengths == (16, 62) and "Histories above 62 tokens" in found.notes[0]
    with pytest.raises(InputError, match="ask for shorter ones"):
        plan(request(lengths=(64,)), lambda text: encode(model, text), 1, model.max_positions, 1)


def test_kinds_stay_balanced_when_texts_are_short() -> None:
    model = plain.model("llama")
    short = tuple(dataclasses.replace(t, text=" ".join(t.text.split()[:8])) if t.domain == "source code" else t for t in texts())
    found = plan(request(texts=short), lambda text: encode(model, text), 1, 64, 1)
    assert found.lengths_of("source_code") == [4] and found.lengths_of("other_topics") == [4, 16]
    assert any(note.startswith("source_code: fewer than 3 texts") for note in found.notes)
    with pytest.raises(InputError, match="No kind of history"):
        plan(request(texts=short[-4:], own=True, lengths=(16,), parts=()), lambda text: encode(model, text), 1, 64, 1)


def test_kinds_are_made_of_what_they_say() -> None:
    model = plain.model("llama")
    found = plan(request(), lambda text: encode(model, text), 1, 64, 1).kinds
    assert len({draw.source.split("-")[0] for draw in found["same_topic"]}) == 1
    for other, shuffled in zip(found["other_topics"], found["shuffled_words"], strict=True):
        assert other.source == shuffled.source and other.token_ids.tolist() != shuffled.token_ids.tolist()
    assert set(found["sink_tokens"][0].token_ids) == {1} and len(set(found["one_token"][0].token_ids)) == 1
    assert all(len(draw.token_ids) == 16 for kind in KINDS for draw in found[kind])


def test_a_merge_at_the_boundary_is_seen() -> None:
    def tokens(text: str) -> list[int]:
        return [ord(c) if c != "#" else 0 for c in text.replace("ab", "#")]

    def text(ids: list[int]) -> str:
        return "".join("ab" if i == 0 else chr(i) for i in ids)

    assert merges(tokens, text, tokens("xxa"), tokens("bc")) and not merges(tokens, text, tokens("xxa"), tokens("cb"))
    assert not merges(tokens, text, [], tokens("b"))


def test_probes_are_read_with_their_leading_space(tmp_path) -> None:
    (tmp_path / "p.txt").write_text(" bank\n\n of the  \r\n.\n", encoding="utf-8")
    assert read_probes(tmp_path / "p.txt") == parse_probes(" bank\n of the\n.") == (" bank", " of the", ".")
    (tmp_path / "marked.txt").write_text("bank\n of\n", encoding="utf-8-sig")
    assert read_probes(tmp_path / "marked.txt") == ("bank", " of"), "a byte order mark is no part of a probe"
    with pytest.raises(InputError, match="cannot be read"):
        read_probes(tmp_path / "none.txt")


def test_the_shipped_texts_are_enough_for_the_matched_models() -> None:
    """15 histories of every kind and length in the tokenizer of the tiny models."""
    shipped = read_prompts(SHIPPED)
    assert not shipped.notes and len({text.text for text in shipped.prompts}) == len(shipped.prompts)
    model = load_model("tiny-relu", Home.default(), device="cpu")
    found = plan(HistoryRequest(("tiny-relu",), shipped.prompts), lambda text: encode(model, text), 0, 512, 3)
    assert not found.notes and set(KINDS) <= set(found.kinds)
    assert all(len(found.kinds[kind]) == 15 and found.lengths_of(kind) == list(LENGTHS) for kind in KINDS)
    single = [probe for probe in PROBES if len(encode(model, probe)) == 1]
    assert len(single) >= 24


def test_the_tracked_run_answers_todays_request() -> None:
    """Texts, probes and parameters are those that `make demo-data` asks for now, and it is small."""
    folders = list((REPOSITORY / "data" / "runs" / "demo").glob("history-*"))
    assert len(folders) == 1
    tracked = store.open_run(folders[0], tracked=True)
    asked = demo.history_request()
    known = [ModelIdentity(name, "", "float32") for name in history.models(tracked)]
    spec = spec_of(asked, known, tracked.spec.parameters["sinks"])
    assert tracked.size_bytes < 8e6
    assert (tracked.spec.prompts_hash, tracked.spec.parameters) == (spec.prompts_hash, spec.parameters)
    assert history.models(tracked)[1:] == list(asked.models[1:]) and not any(history.facts(tracked, m.name)["notes"] for m in known)


def test_the_command_line_says_what_is_wrong(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MOYU_HOME", str(tmp_path))
    monkeypatch.setattr("moyu_core.commands.history.perform", lambda *_: pytest.fail("the study was started"))
    (tmp_path / "empty.txt").write_text("\n \n")
    for arguments, message in ((["--lengths", "a"], "Lengths are written like"), (["--draws", "1"], "Between 3 and"),
                               (["--part", "x"], "x is not one"),
                               (["--probes", str(tmp_path / "empty.txt")], "probes are needed to tell token from history, not 0")):
        done = CliRunner().invoke(cli, ["study", "history", *arguments])
        assert done.exit_code and message in str(done.exception or done.output)
