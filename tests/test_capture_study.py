"""The whole way: a request in, a run on disk out; twice the same request, half a request, none at all."""

from __future__ import annotations

import dataclasses
import errno
import threading
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pyarrow.parquet as pq
import pytest
import tiny

from moyu_core import capture, estimate, query, registry, schema, sets, store
from moyu_core.errors import Cancelled, InputError, MoyuError
from moyu_core.home import Home
from moyu_core.models import LoadedModel
from moyu_core.prompts import Prompt
from moyu_core.spec import SetRule
from moyu_core.studies import perform
from moyu_core.studies.capture import capture_run
from moyu_core.studies.requests import CaptureRequest


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return plain.model("llama")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with tokenizer, as a user would have one."""
    tiny.save("llama", tmp_path / "model")
    plain.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def request(*lengths: int, **changes: Any) -> CaptureRequest:
    return CaptureRequest(**{"model": "tiny", "prompts": plain.prompts(*(lengths or (5, 9))), **changes})


def left(home: Home) -> list[str]:
    return sorted(path.name for path in home.runs.iterdir() if path.suffix != ".lock") if home.runs.is_dir() else []


def test_a_run_has_the_files_and_columns_that_the_schema_names(model: LoadedModel, home: Home) -> None:
    run = store.find_run(home, capture_run(model, request(5, 9, rule=SetRule("cett"), values=("p1",), cett=True), home))
    run.verify()
    expected = {"activations-000.parquet": schema.activation_columns(tiny.F, True), "prompts.parquet": schema.PROMPT_COLUMNS,
                "neurons.parquet": schema.NEURON_COLUMNS, "index.parquet": schema.INDEX_COLUMNS,
                "thresholds.parquet": schema.THRESHOLD_COLUMNS}
    assert run.manifest["files"].keys() == expected.keys()
    for name, columns in expected.items():
        assert pq.read_schema(run.path(name)).equals(schema.arrow_schema(columns), check_metadata=True), name
    table = pq.read_table(run.path("activations-000.parquet"))
    assert table.num_rows == run.manifest["counts"]["rows"] == 2 * (6 + 10)
    assert table["values"].null_count == table["scale"].null_count == 2 * 6, "values for the one that was named"
    assert table["cett"].null_count == 0
    file = pq.ParquetFile(run.path("activations-000.parquet"))
    assert [file.metadata.row_group(i).num_rows for i in range(4)] == [10, 10, 6, 6], "a row group a (prompt, layer)"


def test_the_manifest_says_what_happened(model: LoadedModel, home: Home) -> None:
    asked = request(5, 30, max_tokens=11, values=None, title="Two \ud800 prompts")
    manifest = store.find_run(home, capture_run(model, asked, home)).manifest
    assert manifest["counts"] == {"prompts": 2, "tokens": 6 + 11, "rows": 2 * 17, "cut_tokens": 20, "nonfinite": 0}
    assert manifest["layers"] == [0, 1]
    assert manifest["title"] == "Two ? prompts"
    assert manifest["checks"]["nonfinite"] is True
    assert 0 <= manifest["checks"]["identity_error"] < 1e-5
    assert manifest["model"]["n_neurons"] == tiny.F
    assert manifest["model"]["sink_token"] == "<s>"
    agreement = manifest["values_agreement"]
    assert 0.9 < agreement["worst_layer_mean"] <= agreement["mean"] <= 1
    assert agreement["rows"] == 5 + 10, "sink left out"
    readme = (Path(__file__).parent.parent / "data" / "README.md").read_text(encoding="utf-8")
    part = readme.partition("## manifest.json")[2].partition("\n## ")[0]
    assert {line.split("`")[1] for line in part.splitlines() if line.startswith("| `")} == manifest.keys()


def test_rates_leave_the_sink_out_and_prompts_keep_their_order(model: LoadedModel, home: Home) -> None:
    asked = request(3, 12, 7, rule=SetRule("positive"))
    run = store.find_run(home, capture_run(model, asked, home))
    assert query.prompts(run)["prompt_id"].tolist() == ["p0", "p1", "p2"]
    assert query.prompts(run)["text"].tolist() == [prompt.text for prompt in asked.prompts]
    for layer in (0, 1):
        rows = [plain.activation(model, "llama", layer, plain.token_ids(prompt))[0] for prompt in asked.prompts]
        expected = np.concatenate([a[1:] > 0 for a in rows]).mean(0)
        np.testing.assert_allclose(query.neurons(run, layer)["rate"], expected, atol=1e-6)
        with_sink = np.concatenate([a > 0 for a in rows]).mean(0)
        assert not np.allclose(with_sink, expected)


def test_a_mixture_is_stored_by_slot(home: Home) -> None:
    mixture = plain.model("mixtral")
    asked = request(6, values=None)
    run = store.find_run(home, capture_run(mixture, asked, home))
    piece = query.read_slice(run, "p0", 1)
    assert piece.frame["slot"].tolist() == [0, 1] * 7
    assert piece.frame["position"].tolist() == [p for p in range(7) for _ in range(2)]
    assert piece.frame["is_sink"].tolist() == [True] * 2 + [False] * 12
    _, experts, _ = plain.expert_rows(mixture, 1, plain.token_ids(asked.prompts[0]))
    np.testing.assert_array_equal(piece.frame["expert"], experts)
    sweep = query.sweep(run, "p0", "l2_norm")
    np.testing.assert_allclose(sweep.loc[1], piece.frame.groupby("position")["l2_norm"].mean(), rtol=1e-6)
    rate = sets.unpack(piece.active[2:], tiny.F).mean(0)
    np.testing.assert_allclose(query.neurons(run, 1)["rate"], rate, atol=1e-6)
    assert run.manifest["values_agreement"] is None, "column norms differ by expert, so nothing is claimed"


def test_layers_that_do_not_exist_or_do_not_fit(model: LoadedModel, home: Home) -> None:
    with pytest.raises(InputError, match="no FFN layer 5; its layers are 0 to 1"):
        capture_run(model, request(layers=(0, 5)), home)
    with pytest.raises(InputError, match="no FFN layer -1"):
        capture_run(model, request(layers=(-1,)), home)
    with pytest.raises(InputError, match="capture them in separate runs"):
        capture_run(plain.model("qwen3_moe"), request(), home)
    assert left(home) == []
    run = store.find_run(home, capture_run(model, request(layers=(1, 1)), home))
    assert run.manifest["layers"] == [1]
    assert query.sweep(run, "p0", "density").index.tolist() == [1]


def test_the_same_request_is_computed_once(model: LoadedModel, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = capture_run(model, request(), home)
    made = (store.find_run(home, first).folder / store.MANIFEST).stat().st_mtime_ns
    monkeypatch.setattr(capture, "capture", lambda *_: pytest.fail("computed again"))
    assert capture_run(model, request(title="another title"), home) == first
    alias = dataclasses.replace(model, identity=dataclasses.replace(model.identity, name="alias"))
    assert capture_run(alias, request(), home) == first
    assert (store.find_run(home, first).folder / store.MANIFEST).stat().st_mtime_ns == made


@pytest.mark.parametrize("changes", [
    {"rule": SetRule("top", 0.11)}, {"rule": SetRule("positive")}, {"prompts": plain.prompts(5, 9, seed=1)},
    {"prompts": plain.prompts(5, 9)[::-1]}, {"layers": (0,)}, {"values": None}, {"cett": True}, {"max_tokens": 9},
])
def test_another_request_is_another_run(model: LoadedModel, home: Home, changes: dict[str, Any]) -> None:
    assert capture_run(model, request(**changes), home) != capture_run(model, request(), home)
    assert len(left(home)) == 2


def test_two_threads_that_ask_at_once_compute_once(model: LoadedModel, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    original, started, answers = capture.capture, [], []

    def slow(*arguments: Any) -> Any:
        started.append(1)
        threading.Event().wait(0.2)
        return original(*arguments)

    monkeypatch.setattr(capture, "capture", slow)
    threads = [threading.Thread(target=lambda: answers.append(capture_run(model, request(), home))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    assert answers == [answers[0]] * 2


@pytest.mark.parametrize("when", [1, 2, 3, 5])
def test_cancelling_leaves_nothing(model: LoadedModel, home: Home, when: int) -> None:
    calls: list[str] = []

    def report(stage: str, done: int, total: int) -> None:
        calls.append(stage)
        if len(calls) == when:
            raise Cancelled(stage)

    with pytest.raises(Cancelled):
        capture_run(model, request(rule=SetRule("cett")), home, report)
    assert left(home) == []
    capture_run(model, request(rule=SetRule("cett")), home)
    assert len(left(home)) == 1


def test_a_full_disk_in_the_middle_leaves_nothing(model: LoadedModel, home: Home, monkeypatch: pytest.MonkeyPatch,
                                                  capfd: pytest.CaptureFixture[str]) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(MoyuError, match=f"Nothing can be written to {home.runs}"):
        capture_run(model, request(), home)
    assert left(home) == []
    assert capfd.readouterr().err == ""


def test_nan_is_counted_marked_and_kept_out_of_rates(home: Home) -> None:
    spoilt = plain.model("gpt2")
    handle = spoilt.sites[1].module.register_forward_pre_hook(
        lambda _, args: (args[0].index_fill(2, spoilt.sites[1].module.weight.new_tensor([3], dtype=int), float("nan")),))
    run = store.find_run(home, capture_run(spoilt, request(5, values=None), home))
    handle.remove()
    assert run.manifest["counts"]["nonfinite"] == 6
    assert run.manifest["checks"]["nonfinite"] is False
    assert query.neurons(run, 1)["rate"][3] == 0
    piece = query.read_slice(run, "p0", 1)
    assert (piece.frame["nonfinite"] == 1).all()
    assert np.isnan(piece.values[:, 3]).all()
    assert np.isfinite(np.delete(piece.values, 3, axis=1)).all()
    assert 3 not in np.flatnonzero(piece.mask.any(0))


def test_sets_that_are_empty_everywhere_are_stored(home: Home) -> None:
    dead = plain.model("opt")
    for site in dead.sites:
        site.module.register_forward_pre_hook(lambda _, args: (args[0] * 0,))
    run = store.find_run(home, capture_run(dead, request(5, values=None, cett=True), home))
    frame = query.read_slice(run, "p0", 0).frame
    assert (frame[["density", "l2_norm", "abs_max", "effective_neurons", "cett"]] == 0).all().all()
    assert (frame["zero_share"] == 1).all()
    assert run.manifest["values_agreement"] is None, "no set, nothing to agree with"


def test_a_folder_by_name_and_again_without_loading(folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = CaptureRequest(str(folder), (Prompt("a", "word7 word8 word7"),), max_tokens=50)
    stages: list[str] = []
    first = perform("capture", asked.as_json(), home, lambda stage, done, total: stages.append(stage), "cpu")
    assert {"tokenising", "capturing", "writing"} <= set(stages)
    run = store.find_run(home, first)
    assert run.table("activations-000")["token"].to_pylist()[:4] == ["<s>", "word7", "word8", "word7"]
    monkeypatch.setattr("moyu_core.studies.capture.load_model", lambda *_, **__: pytest.fail("loaded again"))
    assert perform("capture", asked.as_json(), home) == first
    monkeypatch.undo()
    path = run.path("activations-000.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert perform("capture", asked.as_json(), home) == first
    store.find_run(home, first).verify()
    half = dataclasses.replace(asked, dtype="bfloat16")
    assert perform("capture", half.as_json(), home, device="cpu") != first
    assert perform("capture", dataclasses.replace(asked, sink_token_id=2).as_json(), home, device="cpu") != first


def test_studies_that_do_not_exist(home: Home) -> None:
    with pytest.raises(InputError, match="'poetry' is not known; use one of capture, vocabulary"):
        perform("poetry", {}, home)


def test_an_estimate_grows_with_the_work_and_learns_from_runs(
    folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    facts = registry.model_facts(folder)
    assert estimate.tokens(facts, "word7 word8") == 3
    assert estimate.tokens(None, "word7") is None
    assert estimate.tokens(facts, "") is None
    assert estimate.capture(None, 10, False, []) is None
    few, many, values = (estimate.capture(facts, n, v, []) for n, v in ((10, False), (1000, False), (10, True)))
    assert few and many and values
    assert few.seconds < many.seconds
    assert few.size < values.size < many.size
    assert values.size - few.size == 10 * tiny.LAYERS * tiny.F
    assert "guess" in few.in_words()
    asked = CaptureRequest(str(folder), plain.prompts(30, 30))
    run = store.find_run(home, perform("capture", asked.as_json(), home, device="cpu"))
    assert "guess" in estimate.capture(facts, 62, False, [run]).in_words(), "62 tokens tell of what is done once"  # pyright: ignore
    monkeypatch.setattr(estimate, "TELLING_TOKENS", 62)
    known = estimate.capture(facts, 62, False, [run])
    assert known and "earlier run" in known.basis
    assert known.seconds == pytest.approx(estimate.START_SECONDS + run.manifest["seconds"])
