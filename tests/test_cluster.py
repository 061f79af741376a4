"""The pipeline of many workers: plan and shards without Ray, then local Ray with two workers, one of them killed."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import shutil
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
import tiny

from moyu_core import capture, cli, query, registry, store
from moyu_core.cluster import engine, shards
from moyu_core.cluster.capture import capture_on_cluster
from moyu_core.cluster.engine import Cluster, Share, share_of, watched
from moyu_core.cluster.plan import lengths_of, make_plan, open_plan, write_json
from moyu_core.cluster.worker import ShardWorker, raise_error
from moyu_core.errors import Cancelled, InputError, ModelError, MoyuError
from moyu_core.home import Home
from moyu_core.models import load_model
from moyu_core.spec import SetRule
from moyu_core.studies import perform
from moyu_core.studies.capture import spec_of
from moyu_core.studies.requests import CaptureRequest
from moyu_core.token_sequences import batches, tokenise

LENGTHS = (5, 9, 30, 12, 7, 20, 4, 9, 25, 3, 14, 8)
with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is optional and not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tiny.save("llama", tmp_path_factory.mktemp("models") / "tiny-llama")
    plain.tokenizer().save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches, so several shards, of so few tokens; the plan hands the number on to the workers."""
    monkeypatch.setattr(capture, "default_batch_tokens", lambda device: 32)


def request(folder: Path, **changes: Any) -> CaptureRequest:
    return CaptureRequest(
        **{"model": str(folder), "prompts": plain.prompts(*LENGTHS), "values": ("p2", "p5"), "corpus": True, **changes}
    )


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two workers in this process instead of Ray's; the shards that were made, in order.

    As with Ray, no worker is left when the capture returns: whoever has a shard in hand is waited for, and none is begun.
    """
    made: list[int] = []
    at_work = threading.Lock()

    def stream(ended: threading.Event, share: Share, missing: list[int], arguments: dict[str, Any]) -> Any:
        workers = [ShardWorker(**arguments) for _ in range(2)]
        for worker, shard in zip(itertools.cycle(workers), missing, strict=False):
            with at_work:
                if ended.is_set():
                    return
                made.append(shard)
                answer = worker({"shard": np.array([shard])})
            yield {name: values[0] for name, values in answer.items()}

    @contextmanager
    def connected(cluster: Cluster, report: Any) -> Any:
        ended = threading.Event()
        try:
            yield ended, Share(2, 1, 0, 1)
        finally:
            ended.set()
            with at_work:
                pass

    monkeypatch.setattr(engine, "require_ray", lambda: None)
    monkeypatch.setattr(engine, "connected", connected)
    monkeypatch.setattr(engine, "stream", stream)
    monkeypatch.setattr(
        engine, "ask_one", lambda ray, share, arguments, method, *what: getattr(ShardWorker(**arguments), method)(*what)
    )
    return made


def assert_same_run(home: Home, other: Home, run_id: str) -> None:
    """Both hold the run, and every table and figure is equal; only the division into files may differ."""
    one, two = store.find_run(home, run_id), store.find_run(other, run_id)
    one.verify(), two.verify()
    for name in ("prompts", "neurons", "corpus_rates", "corpus_pairs", "corpus_tokens", "thresholds"):
        assert (f"{name}.parquet" in one.manifest["files"]) == (f"{name}.parquet" in two.manifest["files"])
        if f"{name}.parquet" in one.manifest["files"]:
            assert one.table(name).equals(two.table(name), check_metadata=True), name
    kept = ["prompt_id", "condition", "layer", "rows"]
    assert one.table("index", kept).equals(two.table("index", kept))
    for prompt, condition, layer in query.index(one):
        first, second = query.read_slice(one, prompt, layer, condition), query.read_slice(two, prompt, layer, condition)
        assert first.frame.equals(second.frame)
        np.testing.assert_array_equal(first.active, second.active)
        np.testing.assert_array_equal(first.codes, second.codes)
    for key in ("spec", "fingerprint", "title", "layers", "counts", "checks", "values_agreement", "corpus"):
        assert one.manifest.get(key) == two.manifest.get(key), key
    assert one.manifest["model"] == two.manifest["model"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rule": SetRule("cett"), "corpus": False},
        {"values": None, "layers": (1,)},
        {"values": (), "max_tokens": 10, "rule": SetRule("positive")},
    ],
)
def test_shards_make_the_run_of_one_process(
    folder: Path, home: Home, tmp_path: Path, without_ray: list[int], changes: dict[str, Any]
) -> None:
    single = Home(tmp_path / "single", tracked=())
    expected = perform("capture", request(folder, **changes).as_json(), single, device="cpu")
    assert capture_on_cluster(request(folder, **changes), home, shard_tokens=40) == expected
    assert len(without_ray) >= 2 and without_ray == sorted(set(without_ray)), "several shards, each once"
    assert_same_run(single, home, expected)
    assert store.find_run(home, expected).manifest["device"]["workers"] == 2
    assert [path.name for path in home.runs.iterdir() if path.suffix != ".lock"] == [expected], "nothing else is left"
    capture_on_cluster(request(folder, **changes), home, shard_tokens=40)
    assert len(without_ray) == len(set(without_ray)), "found, not made again"


def test_a_plan_is_whole_batches_and_opens_again(folder: Path, home: Home, tmp_path: Path) -> None:
    asked = request(folder)
    facts = registry.model_facts(folder)
    lengths = lengths_of(asked, folder, facts.shape.max_positions)
    assert lengths == [n + 1 for n in LENGTHS]
    spec = spec_of(asked, registry.identity(str(folder), home, "float32"), 1)  # pyright: ignore[reportArgumentType]
    plan = make_plan(tmp_path / "plan", asked, spec, lengths, 32, 40)
    assert open_plan(tmp_path / "plan") == plan
    assert sum(plan.tokens) == sum(lengths) and sorted(plan.numbers().tolist()) == list(range(len(LENGTHS)))
    sequences = tokenise(load_model(str(folder), home, device="cpu"), asked.prompts)
    whole = [[s.prompt.id for s in batch] for batch in batches(sequences, 32)]
    found = []
    for shard in range(len(plan.tokens)):
        _, prompts = plan.prompts(shard)
        own = [s for prompt in prompts for s in sequences if s.prompt == prompt]
        found += [[s.prompt.id for s in batch] for batch in batches(own, 32)]
    assert found == whole, "the forward passes of one process, in order"
    (tmp_path / "plan" / "plan.json").write_text("{", encoding="utf-8")
    assert open_plan(tmp_path / "plan") is None


def test_a_driver_that_was_stopped_goes_on(folder: Path, home: Home, tmp_path: Path, without_ray: list[int]) -> None:
    asked, reports = request(folder), []

    def stop(stage: str, done: int, total: int) -> None:
        reports.append((stage, done, total))
        if done > 60:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        capture_on_cluster(asked, home, report=stop, shard_tokens=20)
    (building,) = home.runs.glob(".shards-*")
    before = {path.name: path.stat().st_ino for path in building.glob("shard-*/*.parquet")}
    finished = {path.name for path in building.glob("shard-*")}
    assert len(finished) > 1
    assert not [path for path in home.runs.iterdir() if not path.name.startswith(".")], "nothing that looks like a run"
    (building / ".shard-00099-left").mkdir()
    damaged = sorted(finished)[0]
    (building / damaged / "index.parquet").write_bytes(b"half")
    del without_ray[:]
    run_id = capture_on_cluster(asked, home, report=lambda *said: reports.append(said), shard_tokens=777)
    again = {f"shard-{shard:05d}" for shard in without_ray}
    assert again & finished == {damaged}, "what was finished is not made again, what was damaged is"
    assert reports[-1][0] == "putting the run together"
    assert any("going on" in stage and 0 < done < total for stage, done, total in reports)
    assert not building.exists() and before
    single = Home(tmp_path / "single", tracked=())
    perform("capture", asked.as_json(), single, device="cpu")
    assert_same_run(single, home, run_id)


def test_errors_come_back_as_what_they_were(folder: Path, home: Home, without_ray: list[int]) -> None:
    with pytest.raises(InputError, match="no FFN layer 7; its layers are 0 to 1"):
        capture_on_cluster(request(folder, layers=(0, 7)), home)
    with pytest.raises(InputError, match="'p2' is 20 tokens longer than the limit"):
        capture_on_cluster(request(folder, max_tokens=11, refuse_cut=True), home)


def test_a_shard_that_cannot_be_written_loses_nothing_else(
    folder: Path, home: Home, without_ray: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Any:
        if without_ray[-1] >= 2:
            raise OSError(28, "No space left on device")
        return original(path)

    original = shards.sealed
    monkeypatch.setattr(shards, "sealed", full)
    with pytest.raises(MoyuError, match=r"Nothing can be written to .*No space left"):
        capture_on_cluster(request(folder), home, shard_tokens=20)
    (building,) = home.runs.glob(".shards-*")
    assert sorted(path.name for path in building.glob("*shard-*")) == ["shard-00000", "shard-00001"]
    monkeypatch.undo()


def test_a_shard_that_ends_every_worker_is_given_up(folder: Path, home: Home, tmp_path: Path) -> None:
    asked = request(folder)
    spec = spec_of(asked, registry.identity(str(folder), home, "float32"), 1)  # pyright: ignore[reportArgumentType]
    plan = make_plan(tmp_path / "plan", asked, spec, lengths_of(asked, folder, 64), 32, 40)
    worker = ShardWorker(str(plan.folder), home, "cpu", 1)
    for attempt in range(1, shards.MAX_ATTEMPTS + 1):
        assert shards.attempt(plan, 0) == attempt
    row = worker.answer(0)
    assert row["error"] == "ModelError" and "lost its worker 3 times" in row["message"] and "'p2'" in row["message"]
    with pytest.raises(ModelError, match="want of memory"):
        raise_error(row)
    shards.clear_unfinished(plan)
    assert worker.answer(0)["error"] == ""


def test_other_weights_and_unseen_folders_are_refused(folder: Path, home: Home, tmp_path: Path) -> None:
    asked = request(folder)
    spec = spec_of(asked, registry.identity(str(folder), home, "float32"), 1)  # pyright: ignore[reportArgumentType]
    other = dataclasses.replace(spec, model=dataclasses.replace(spec.model, weights="0" * 64))
    make_plan(tmp_path / "plan", asked, other, lengths_of(asked, folder, 64), 32)
    row = ShardWorker(str(tmp_path / "plan"), home, "cpu", 1).answer(0)
    assert row["error"] == "ModelError" and "has other weights" in row["message"]
    row = ShardWorker(str(tmp_path / "nowhere"), home, "cpu", 1).answer(0)
    assert row["error"] == "InputError" and "cannot be seen from" in row["message"]


@pytest.mark.parametrize(
    ("cluster", "cpus", "gpus", "expected"),
    [
        (Cluster(), 2, 0, Share(2, 1, 0, 1)),
        (Cluster(), 1, 0, Share(1, 1, 0, 1)),
        (Cluster(workers=3), 16, 0, Share(3, 5, 0, 5)),
        (Cluster(workers=4), 2, 0, Share(4, 0.5, 0, 1)),
        (Cluster(), 128, 8, Share(8, 1, 1, 16)),
        (Cluster(gpus_per_worker=4), 128, 8, Share(2, 1, 4, 64)),
        (Cluster(device="cpu"), 16, 2, Share(2, 8, 0, 8)),
    ],
)
def test_how_a_cluster_is_shared_out(cluster: Cluster, cpus: float, gpus: float, expected: Share) -> None:
    assert share_of(cluster, cpus, gpus) == expected


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(InputError, match=r"3 worker\(s\) of 4 GPU\(s\) were asked for and the cluster has 8"):
        share_of(Cluster(workers=3, gpus_per_worker=4), 64, 8)
    with pytest.raises(InputError, match="at least one worker"):
        Cluster(workers=0)


def test_waiting_reports_and_passes_on_what_is_raised() -> None:
    ticks = []
    release = threading.Event()

    def slow() -> Any:
        release.wait(60)
        yield {"shard": 1}
        raise KeyError("a defect")

    def tick() -> None:
        ticks.append(1)
        release.set()

    rows = watched(slow, tick)
    assert next(rows) == {"shard": 1}
    with pytest.raises(KeyError, match="a defect"):
        next(rows)
    assert ticks

    def stop() -> None:
        raise Cancelled("now")

    over = threading.Event()

    def endless() -> Any:
        over.wait(60)
        return iter(())

    with pytest.raises(Cancelled):
        next(watched(endless, stop))
    over.set()


def test_workers_that_write_one_file_at_once_do_not_take_each_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second writes between the first one's writing and renaming, as another worker may."""
    write = Path.write_text

    def interrupted(path: Path, *given: Any, **more: Any) -> int:
        monkeypatch.setattr(Path, "write_text", write)
        size = path.write_text(*given, **more)
        write_json(tmp_path / "about.json", {"worker": 2})
        return size

    monkeypatch.setattr(Path, "write_text", interrupted)
    write_json(tmp_path / "about.json", {"worker": 1})
    assert json.loads((tmp_path / "about.json").read_text()) == {"worker": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["about.json"]


def test_without_ray_the_message_says_what_to_install(folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray, which is not installed; run `pip install -r requirements-ray.txt`"):
        capture_on_cluster(request(folder), home)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--engine", "spark"), "Engine 'spark' is not known; use local or ray"),
        (("--workers", "2"), "belong to --engine ray"),
        (("--engine", "ray", "--workers", "0"), "at least one worker"),
        (("--text-column", "body"), "leave column and split out"),
        (("--limit", "0"), "Between 1 and"),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[str, ...],
    words: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "word7"}\n', encoding="utf-8")
    arguments = ["moyu", "capture", "--model", str(folder), "--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*arguments, *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1 and words in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@with_ray
def test_an_address_that_does_not_answer(folder: Path, home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"No Ray cluster answers at {address}"):
            capture_on_cluster(request(folder), home, Cluster(address=address))
    with pytest.raises(InputError, match="host:port"):
        capture_on_cluster(request(folder), home, Cluster(address="nonsense"))


@with_ray
@pytest.mark.timeout(900)  # half a minute where nothing else runs; two workers import torch, one of them twice
def test_two_workers_one_killed(folder: Path, home: Home, tmp_path: Path) -> None:
    """Through Ray itself: a worker is killed by its first finished shard; every shard is made once, the run is the same."""
    asked = request(folder, prompts=plain.prompts(*LENGTHS * 8))
    killed: list[int] = []
    seen: dict[str, set[int]] = {}
    shares: list[float] = []

    def report(stage: str, done: int, total: int) -> None:
        for path in home.runs.glob(".shards-*/shard-*/shard.json"):
            seen.setdefault(path.parent.name, set()).add(path.stat().st_ino)
            if not killed:
                killed.append(int(json.loads(path.read_text())["worker"].split(":")[1]))
                os.kill(killed[0], signal.SIGKILL)
                shares.append(done / total)

    run_id = capture_on_cluster(asked, home, Cluster(workers=2), report, shard_tokens=20)
    assert killed and shares[0] < 1, "a worker was killed while there was work left"
    assert len(seen) > 4 and all(len(made) == 1 for made in seen.values()), "no shard was made twice"
    single = Home(tmp_path / "single", tracked=())
    assert perform("capture", asked.as_json(), single, device="cpu") == run_id
    assert_same_run(single, home, run_id)
    assert not list(home.runs.glob(".shards-*"))
    shutil.rmtree(tmp_path / "single")
