"""The runs of the trinity on small models: numbers against a plain recomputation, tables, streaming, and bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from moyu_core import methods, store
from moyu_core.decode import Lane, twin
from moyu_core.errors import Cancelled, InputError, ModelError
from moyu_core.home import Home
from moyu_core.limits import VARIABLE, Limits
from moyu_core.masking import fixed, kl_divergence, masked
from moyu_core.methods import parts
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import silent
from moyu_core.prompts import Prompt
from moyu_core.queries import trinity as queries
from moyu_core.sites import Activation, watch
from moyu_core.streams import read_lines, stream_file
from moyu_core.studies import perform
from moyu_core.studies.predictors.study import part_hash
from moyu_core.studies.trinity import chat, families, operating, plan, speed, study
from moyu_core.studies.trinity.contenders import contenders
from moyu_core.studies.trinity.quality import Judge, split_of
from moyu_core.studies.trinity.requests import ChatRequest, SpeedRequest, TrinityRequest, evaluation_prompts
from moyu_core.token_sequences import TokenSequence, tokenise

MODEL = "tiny-relu"
PROMPT = 9


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"), tracked=())


@pytest.fixture(scope="module")
def model(home: Home) -> LoadedModel:
    return load_model(MODEL, home)


@pytest.fixture(autouse=True)
def _no_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration text would come from the internet."""

    def refuse(*args: Any, **more: Any) -> list[TokenSequence]:
        raise ModelError("The corpus cannot be fetched: no network.")

    monkeypatch.setattr("moyu_core.studies.predictors.study.calibration_documents", refuse)


@pytest.fixture
def run(home: Home) -> store.Run:
    request = TrinityRequest(
        MODEL,
        evaluation_prompts(home, 6),
        ("oracle", "griffin", "cats", "dejavu-block", "random"),
        (0.2, 0.9),
        reading=(),
        max_tokens=41,
        prompt_tokens=17,
    )
    return store.find_run(home, perform("trinity", request.as_json(), home))


def sequences(count: int = 3, length: int = 20) -> list[TokenSequence]:
    """Random token ids of several lengths, one document each, in two genres."""
    rng = np.random.default_rng(1)
    return [
        TokenSequence(Prompt(f"g{n % 2}-{n}/0", "x", f"g{n % 2}"), np.r_[1, rng.integers(3, tiny.VOCAB, length - n)])
        for n in range(count)
    ]


def test_quality_is_what_a_plain_recomputation_gives() -> None:
    """GRIFFIN by hand: dense prompt, statistic of its rows, one fixed mask for all that follows; each text alone, in float64."""
    model, texts = tiny.load("llama"), sequences()
    judge = Judge(model, texts, PROMPT, "dense", {"griffin": methods.find("griffin").prepare(model)})
    judge.measure([("griffin", 0.25)], texts)
    assert len(judge.rows) == len(texts)
    rows = {row["prompt_id"]: row for row in judge.rows}
    for text in texts:
        row = rows[text.prompt.id]
        ids = torch.from_numpy(text.token_ids)[None]
        seen: dict[int, torch.Tensor] = {}

        def take(activation: Activation, seen: dict[int, torch.Tensor] = seen) -> None:
            seen[activation.site.layer] = activation.a.clone()

        with torch.inference_mode(), watch(model, None, take):
            dense = model.model(input_ids=ids).logits[0]
        keep = {}
        for layer, a in seen.items():
            unit = a[:PROMPT] / a[:PROMPT].norm(dim=1, keepdim=True)
            mask = torch.zeros(tiny.F, dtype=torch.bool)
            mask[unit.norm(dim=0).topk(tiny.F // 4).indices] = True
            keep[layer] = torch.ones(len(a), tiny.F, dtype=torch.bool)
            keep[layer][PROMPT:] = mask
        with torch.inference_mode(), masked(model, fixed(keep)):
            sparse = model.model(input_ids=ids).logits[0]
        where, targets = slice(PROMPT, len(text) - 1), ids[0, PROMPT + 1 :]
        for logits, value in ((dense, judge.dense[text.prompt.id]), (sparse, row["loss"])):
            assert value == pytest.approx(float(torch.nn.functional.cross_entropy(logits[where].double(), targets)), abs=1e-5)
        assert row["kl"] == pytest.approx(float(kl_divergence(dense[where], sparse[where]).mean()), abs=1e-5)
        assert row["agreement"] == float((dense[where].argmax(-1) == sparse[where].argmax(-1)).double().mean())
        assert row["kept"] == 0.25


def test_a_masked_prompt_changes_methods_that_decide_by_token_and_no_others() -> None:
    model, texts = tiny.load("llama"), sequences()
    ready = {name: methods.find(name).prepare(model) for name in ("oracle", "griffin")}
    loss = {}
    for mode in ("dense", "masked"):
        judge = Judge(model, texts, PROMPT, mode, ready)
        judge.measure([(name, 0.25) for name in ready], texts)
        loss[mode] = {(row["method"], row["prompt_id"]): row["loss"] for row in judge.rows}
    for key, value in loss["dense"].items():
        assert (loss["masked"][key] == pytest.approx(value, abs=1e-6)) == (key[0] == "griffin")


def test_the_halves_share_no_document_and_all_genres() -> None:
    texts = [
        TokenSequence(Prompt(f"{genre}-{n}/{piece}", "x", genre), np.ones(4, np.int64))
        for genre in ("a", "b", "c")
        for n in range(6)
        for piece in range(2)
    ]
    split = split_of(texts)
    assert len(split) == 18 and sum(split.values()) == 9
    assert all({split[f"{genre}-{n}"] for n in range(6)} == {0, 1} for genre in ("a", "b", "c"))


def test_a_run_holds_quality_reasons_and_operating_points(run: store.Run) -> None:
    state: Any = queries.methods(run).set_index("method")
    assert state["state"].to_dict() == {
        "oracle": "measured",
        "griffin": "measured",
        "cats": "unfit",
        "dejavu-block": "not fitted",
        "random": "measured",
    }
    assert "no gate" in state.loc["cats", "reason"]
    assert "'dejavu-block', which could not be made here: The corpus cannot be fetched" in state.loc["dejavu-block", "reason"]
    frame: Any = queries.curves(run)
    assert len(frame) == 3 * 2 and (frame["documents"] == 6).all()
    assert (frame["ratio_low"] <= frame["ratio"]).all() and (frame["ratio"] <= frame["ratio_high"]).all()
    by = frame.set_index(["method", "density"])["kl"]
    assert by["oracle", 0.2] < by["griffin", 0.2] < by["random", 0.2] and by["griffin", 0.9] < by["griffin", 0.2]
    size = frame.set_index(["method", "density"])["kept"]
    assert all(abs(size[name, density] - density) < 0.01 for name in ("griffin", "random") for density in (0.2, 0.9))
    assert max(size["oracle", 0.9], size["oracle", 0.2]) < 0.2, "a ReLU model's exact zeros need not be kept"
    assert set(queries.points(run)["method"]) == {"oracle", "griffin", "random"}
    assert set(run.manifest["headline"]) == {"oracle", "griffin", "random"}


def test_the_same_request_finds_the_run_and_other_numbers_another(
    home: Home, run: store.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = evaluation_prompts(home, 6)
    request = TrinityRequest(
        MODEL,
        prompts,
        ("oracle", "griffin", "cats", "dejavu-block", "random"),
        (0.2, 0.9),
        reading=(),
        max_tokens=41,
        prompt_tokens=17,
        title="another name",
    )
    monkeypatch.setattr("moyu_core.studies.trinity.study.load_model", lambda *args, **more: pytest.fail("it was loaded"))
    assert perform("trinity", request.as_json(), home) == run.id
    with pytest.raises(pytest.fail.Exception):
        perform("trinity", dataclasses.replace(request, budget=0.05).as_json(), home)


def test_a_part_that_is_missing_is_fitted_first_and_belongs_to_the_identity(
    tmp_path: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is fitted and the finished run is found; without the part it is another run."""
    here, texts = Home(tmp_path, tracked=()), evaluation_prompts(Home.default(), 12)
    monkeypatch.setattr(
        "moyu_core.studies.predictors.study.calibration_documents", lambda *args, **more: tokenise(model, texts, 64)
    )
    request = TrinityRequest(MODEL, texts[:4], ("token-table", "token-table-prompt"), (0.5,), 0.5, (), 41, 17)
    without = study.spec_of(request, here, model.identity, model.sink_token_id).run_id
    stages: list[str] = []
    made = store.find_run(here, study.run(request, here, lambda stage, done, total: stages.append(stage)))
    assert queries.methods(made)["state"].tolist() == ["measured", "measured"] and "fitting lambda" in stages
    assert stages.count("fitting lambda") == made_documents(here), "both methods use one fit"
    part = parts.find("token_table", model.identity, here)
    assert part is not None and made.spec.parameters["parts"] == {"token_table": part_hash(part.facts())} and made.id != without
    monkeypatch.setattr("moyu_core.studies.trinity.study.load_model", lambda *args, **more: pytest.fail("it was loaded"))
    assert study.run(request, here) == made.id


def test_visitors_of_a_public_installation_have_nothing_fitted(
    tmp_path: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr("moyu_core.studies.predictors.study.calibration_documents", lambda *args, **more: pytest.fail("it was"))
    one = contenders(model, ["token-table"], Home(tmp_path, tracked=()))[0]
    assert one.state == "not fitted" and "moyu fit token_table --model tiny-relu" in one.reason
    with pytest.raises(InputError, match="at most 256 tokens on this public installation, not 300"):
        Limits(studies=("chat",)).check("chat", ChatRequest(MODEL, "Hello", "griffin", 0.5, 300).as_json())
    Limits(studies=("chat",)).check("chat", ChatRequest(MODEL, "Hello", "griffin", 0.5, 256).as_json())


def made_documents(home: Home) -> int:
    """Documents that lambda was fitted on."""
    return next(iter(parts.listed(home)))["recipe"]["held_out_documents"]


def test_no_method_too_few_texts_and_unknown_methods_are_said(home: Home) -> None:
    prompts = evaluation_prompts(home, 6)
    with pytest.raises(InputError, match="No method can be applied to tiny-relu: CATS"):
        perform("trinity", TrinityRequest(MODEL, prompts, ("cats",), reading=()).as_json(), home)
    with pytest.raises(InputError, match=r"at least 4 documents longer than the prompt .* there are 3"):
        perform("trinity", TrinityRequest(MODEL, prompts[:3], ("griffin",), reading=()).as_json(), home)
    with pytest.raises(InputError, match="Method 'grifin' is not known"):
        perform("trinity", TrinityRequest(MODEL, prompts, ("grifin",), reading=()).as_json(), home)


def test_speed_is_measured_in_turn_after_a_warm_up(home: Home, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which lane steps when: three warm-up steps each, then pairs whose first one changes."""
    order: list[bool] = []
    step = Lane.step
    monkeypatch.setattr(Lane, "step", lambda lane, token: order.append(lane.router is None and not lane.sets) or step(lane, token))
    request = SpeedRequest(
        MODEL, evaluation_prompts(home, 4)[0].text, (("griffin", 0.5), ("oracle", 0.5)), prompt_tokens=12, repeats=20, tokens=2
    )
    bench = speed.Bench(model, request)
    one = contenders(model, ["griffin"], home)[0]
    bench.measure(one, 0.5)
    dense, sparse = [True] * 2, [False] * 2
    assert order == [True] * 3 + [False] * 3 + [*sparse, *dense, *dense, *sparse] * 10
    assert len(bench.samples) == 20 and {row["sample"] for row in bench.samples} == set(range(20))
    row = bench.speeds[0]
    assert row["path"] == "frozen" and row["kept"] == 0.5 and row["router_share"] == 0 and row["decoded"] == 44
    assert row["extra_bytes"] == pytest.approx(0.5 * speed.weights(model)["ffn"], rel=0.01)


def test_a_speed_run_says_where_it_was_made_and_what_it_claims(home: Home) -> None:
    text = evaluation_prompts(home, 4)[0].text
    request = SpeedRequest(MODEL, text, (("griffin", 0.5), ("oracle", 0.5)), (("griffin", 0.5),), 12, 20, 1)
    made = store.find_run(home, perform("speed", request.as_json(), home))
    frame: Any = queries.speeds(made).set_index("method")
    assert frame.loc["oracle", "path"] == "activation" and 0 < frame.loc["oracle", "router_share"] < 1
    assert (
        made.manifest["machine"]["cores"] and made.spec.parameters["machine"]["processor"] == made.manifest["machine"]["processor"]
    )
    claim = made.manifest["claims"][0]
    assert claim["effect"]["n"] == 20 and "the fastest of 1" in claim["endpoint"]
    assert (frame["noisy"] == (frame["spread"] > made.manifest["spread_limit"])).all()


def test_chat_streams_and_density_1_writes_the_same(home: Home, model: LoadedModel) -> None:
    request = ChatRequest(MODEL, "The king said", "griffin", 1.0, 6)
    seen: list[int] = []

    def report(stage: str, done: int, total: int) -> None:
        seen.append(len(read_lines(stream_file(home, request.as_json()))))

    made = store.find_run(home, chat.chat_run(model, request, home, report))
    assert seen[0] == 1 and seen == sorted(seen) and seen[-1] >= 12, "each token is there before the next one is made"
    assert not stream_file(home, request.as_json()).exists()
    found = queries.written(home, request, made)
    assert [t["token_id"] for t in found["dense"]] == [t["token_id"] for t in found["sparse"]] and len(found["dense"]) == 6
    assert all(token["same"] is True for token in found["dense"])
    expected = decoded(model, chat.prompt_ids(model, request.text), 6)
    assert [t["token_id"] for t in found["dense"]] == expected


def decoded(model: LoadedModel, ids: torch.Tensor, count: int) -> list[int]:
    """Greedy decoding without a cache."""
    whole = ids
    for _ in range(count):
        with torch.inference_mode():
            whole = torch.cat([whole, model.model(input_ids=whole[None]).logits[0, -1:].argmax(-1)])
    return whole[len(ids) :].tolist()


def test_agreement_is_judged_on_the_dense_answer(home: Home, model: LoadedModel) -> None:
    request = ChatRequest(MODEL, "The king said", "random", 0.05, 8)
    made = store.find_run(home, chat.chat_run(model, request, home, silent))
    found = queries.written(home, request, made)
    same = [token["same"] for token in found["dense"]]
    ready = contenders(model, ["random"], home)[0].ready
    lane = Lane(twin(model), ready, 0.05)
    ids = chat.prompt_ids(model, request.text)
    with lane.prompted(ids, 8):
        guesses = [lane.first] + [lane.step(token["token_id"]) for token in found["dense"][:-1]]
    assert same == [guess == token["token_id"] for guess, token in zip(guesses, found["dense"], strict=True)]
    assert not all(same)


def test_a_stopped_answer_leaves_what_was_written(home: Home, model: LoadedModel) -> None:
    request = ChatRequest(MODEL, "The king said", "griffin", 0.5, 20)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        chat.chat_run(model, request, home, stop)
    found = queries.written(home, request, None)
    assert len(found["dense"]) == 4 and len(found["sparse"]) == 3
    with stream_file(home, request.as_json()).open("a") as file:
        file.write('{"side": "dense", "st')  # a line that is being written
    assert len(queries.written(home, request, None)["dense"]) == 4


def test_bad_messages_are_said(home: Home, model: LoadedModel) -> None:
    long = " ".join(["word"] * 2000)
    with pytest.raises(InputError, match=r"The prompt has [\d,]+ tokens and 8 are to be written, but tiny-relu takes"):
        chat.chat_run(model, ChatRequest(MODEL, long, "griffin", 0.5, 8), home)
    with pytest.raises(InputError, match="CATS cannot be used with tiny-relu: its FFN has no gate"):
        chat.chat_run(model, ChatRequest(MODEL, "Hello", "cats", 0.5, 8), home)


def test_a_message_is_tokenised_once(home: Home, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def counted(loaded: LoadedModel, text: str) -> torch.Tensor:
        seen.append(text)
        return torch.tensor([loaded.sink_token_id, 5, 6])

    monkeypatch.setattr(chat, "prompt_ids", counted)
    made = store.find_run(home, chat.chat_run(model, ChatRequest(MODEL, "Once only", "griffin", 0.5, 4), home))
    assert seen == ["Once only"] and made.manifest["scope"]["tokens"] == 8


def test_operating_points_are_read_once_from_the_first_home_that_has_some(
    run: store.Run, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, looked = Home(tmp_path, tracked=()), []
    real = store.list_runs
    monkeypatch.setattr(store, "list_runs", lambda where: looked.append(where) or real(where))
    points = plan.operating_points(MODEL, [empty, home])
    frame: Any = queries.points(run).dropna(subset=["density"])
    assert len(points) and set(points) == set(zip(frame["method"], frame["density"], strict=True)) and looked == [empty, home]
    looked.clear()
    request = plan.speed_request(MODEL, home, ["oracle"], [0.5], points)
    assert looked == [] and {method for method, _ in request.settings} == {"oracle"}
    assert set(request.points) == {key for key, status in points.items() if key[0] == "oracle" and status == operating.CONFIRMED}
    assert plan.operating_points(MODEL, [empty]) == {}
    assert plan.operating_points(MODEL, [home], "bfloat16") == {}, "what was found in other arithmetic does not count"


def test_families_say_what_fails_and_why() -> None:
    chosen = [methods.find(name) for name in ("griffin", "cats", "dejavu")]
    found = {
        (row["model_type"], row["method"]): row for kind in ("gpt2", "llama", "mixtral") for row in families.tried(kind, chosen)
    }
    assert all(found["llama", method.name]["gathered"] and found["llama", method.name]["masked"] for method in chosen)
    assert not found["gpt2", "cats"]["masked"] and "no gate" in found["gpt2", "cats"]["reason"]
    mixture = found["mixtral", "griffin"]
    assert mixture["masked"] and not mixture["gathered"] and "mixture" in mixture["reason"]
    assert found["llama", "griffin"]["error"] < families.TOLERANCE


def test_matrix_and_applicability_count_models(run: store.Run) -> None:
    frame: Any = queries.matrix([run, run])
    assert len(frame) == 5, "the same weights count once"
    assert frame.set_index("method").loc["cats", "status"] == "unfit"
    counted = queries.applicability(queries.matrix([run]), 1.0)
    confirmed: Any = queries.points(run).set_index("method")["status"] == "confirmed"
    assert counted["cats"] == (0, 1) and all(counted[name] == (int(good), 1) for name, good in confirmed.items())


def test_a_request_in_the_job_table_is_json(home: Home) -> None:
    request: dict[str, Any] = ChatRequest(MODEL, "Hello", "griffin", 0.5).as_json()
    assert ChatRequest.from_json(json.loads(json.dumps(request))).as_json() == request
