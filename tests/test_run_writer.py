"""Runs appear whole or not at all, and once, whoever is killed or asks at the same time. Processes are real ones."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_runs import TABLE, left, make, spec

from moyu_core import store
from moyu_core.errors import Cancelled, MoyuError
from moyu_core.home import Home
from moyu_core.run_writer import exclusive, writing
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, sys, time
import pyarrow as pa
from pathlib import Path
from moyu_core import store
from moyu_core.home import Home
from moyu_core.run_writer import exclusive, writing
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
home, spec = Home(Path(sys.argv[1]), ()), RunSpec("capture", ModelIdentity("m", "w", "float32"), "0", SetRule(), 1)
def say(word):
    print(word, flush=True)
"""


def start(home: Home, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM + code, str(home.root)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("error", [Cancelled("stop"), ValueError("defect"), KeyboardInterrupt()])
def test_what_goes_wrong_leaves_nothing(home: Home, error: BaseException) -> None:
    with pytest.raises(type(error)), writing(home.runs, spec()) as folder:
        folder.write("prompts", TABLE)
        raise error
    assert left(home) == []


def test_a_killed_writer_leaves_nothing_that_looks_complete(home: Home) -> None:
    process = start(home, """
with exclusive(home.runs, spec.run_id), writing(home.runs, spec) as folder:
    folder.write("prompts", pa.table({"x": [1]}))
    say("in the middle")
    time.sleep(60)
""")
    assert process.stdout and process.stdout.readline() == "in the middle\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left(home) == [f".tmp-{spec().run_id}"]
    assert store.list_runs(home) == ([], [])
    assert not store.has_run(home, spec().run_id)
    make(home).verify()
    assert left(home) == [spec().run_id], "the next request works and clears away what was left"


def test_two_processes_make_a_run_once(home: Home, tmp_path: Path) -> None:
    code = f"""
say("ready"); sys.stdin.readline()
with exclusive(home.runs, spec.run_id):
    if not store.has_run(home, spec.run_id):
        with writing(home.runs, spec) as folder:
            with open({str(tmp_path / 'made')!r}, "a") as file:
                file.write("once\\n")
            folder.write("prompts", pa.table({{"x": [1]}}))
            folder.facts = {{"model": {{"name": "m"}}}}
            time.sleep(0.7)  # longer than the other one waits before it looks again
say(store.find_run(home, spec.run_id).id)
"""
    both = [subprocess.Popen([sys.executable, "-c", PROGRAM + code, str(home.root)], cwd=ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        assert process.stdout and process.stdout.readline() == "ready\n"
    answers = []
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        answers.append(process.communicate(timeout=PATIENCE))
    assert [out for out, _ in answers] == [f"{spec().run_id}\n"] * 2, answers
    assert (tmp_path / "made").read_text() == "once\n"


def test_who_waits_for_another_process_can_be_stopped(home: Home) -> None:
    def report(stage: str, done: int, total: int) -> None:
        raise Cancelled(stage)

    with exclusive(home.runs, "x"), pytest.raises(Cancelled, match="another process"), exclusive(home.runs, "x", report):
        pass
    with exclusive(home.runs, "x"):
        pass


def test_a_full_disk_is_one_sentence_and_leaves_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(MoyuError, match=r"Nothing can be written to .*/home/runs \(No space left on device\)"):
        make(home)
    assert left(home) == []
    monkeypatch.undo()
    make(home).verify()


def test_a_limit_on_file_size_is_a_full_disk(home: Home) -> None:
    process = start(home, """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with exclusive(home.runs, spec.run_id), writing(home.runs, spec) as folder:
        folder.write("prompts", pa.table({"x": [os.urandom(1000) for _ in range(500)]}))
except BaseException as error:
    say(f"{type(error).__name__}: {error}")
""")
    out, err = process.communicate(timeout=PATIENCE)
    assert out.startswith(f"MoyuError: Nothing can be written to {home.runs} (File too large)"), out + err
    assert len(out.splitlines()) == 1
    assert err == ""
    assert left(home) == []


def test_a_folder_that_is_a_file_is_one_sentence(home: Home) -> None:
    home.root.mkdir()
    home.runs.write_text("not a folder")
    with pytest.raises(MoyuError, match="Nothing can be written to"):
        make(home)
