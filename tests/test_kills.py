"""Workers, the app and its parent are killed at random under load: no job is lost, no run is damaged, nothing half looks whole.

MOYU_KILLS sets how many kills; a release is tried with 20.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import killed, visitor_tab, visitors
from moyu_core import store
from moyu_core.errors import DamagedRunError
from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import MAX_ATTEMPTS, Job, JobTable
from tests.small_runs import make
from tests.waiting import PATIENCE, until

KILLS = int(os.environ.get("MOYU_KILLS", "4"))
STUDY = """
import time
from pathlib import Path
import pyarrow as pa
from moyu_core.run_writer import exclusive, writing
from moyu_core import store
from moyu_core.spec import ModelIdentity, RunSpec, SetRule

def perform(study, request, home, report, device=None):
    spec = RunSpec(study, ModelIdentity("m", "w", "float32"), "0", SetRule(), 1, seed=request["n"])
    with exclusive(home.runs, spec.run_id, report):
        if not store.has_run(home, spec.run_id, verify=True):
            with writing(home.runs, spec) as folder:
                folder.facts = {"model": {"name": "m"}}
                for part in range(5):
                    report("writing", part, 5)
                    folder.write(f"part-{part}", pa.table({"x": list(range(2000))}))
                    time.sleep(0.03)
    return spec.run_id
"""


def worker(home: Home, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "moyu_core.worker", "--home", str(home.root), "--device", "cpu", "--studies", "made_up_study"]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{folder}"}
    return subprocess.Popen([*command, *options], env=environment, cwd=folder, stderr=subprocess.DEVNULL)


def kill_while_busy(home: Home, folder: Path, table: JobTable, draw: random.Random) -> None:
    """Start a worker, let it get to work, and kill it without a warning."""
    process = worker(home, folder)
    own = f"{process.pid}@"  # the row of a killed worker's job says "running" until the next one is there

    def at_work(jobs: tuple[Job, ...]) -> bool:
        running = any(job.state == "running" and str(job.worker).startswith(own) for job in jobs)
        return running or not any(job.active for job in jobs)

    until(lambda: table.list(1000), at_work)
    time.sleep(draw.random() * 0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.timeout(600)
def test_no_job_is_lost_and_no_run_is_damaged(tmp_path: Path) -> None:
    home, draw = Home(tmp_path / "home", tracked=()), random.Random(1)
    (tmp_path / "made_up_study.py").write_text(STUDY)
    table = JobTable(home.jobs)
    asked = [table.submit("made", {"n": n}) for n in range(5 * KILLS)]
    for _ in range(KILLS):
        kill_while_busy(home, tmp_path, table, draw)
        for folder in home.runs.glob("made-*"):
            store.open_run(folder).verify()  # what has a run's name is whole, even now
    assert worker(home, tmp_path, "--once").wait(300) == 0

    jobs = [table.get(job.id) for job in asked]
    assert {job.state for job in jobs} <= {"done", "failed"}
    for job in jobs:
        if job.state == "failed":
            assert "died twice" in (job.error or "") and job.attempt == MAX_ATTEMPTS
        else:
            store.find_run(home, job.run_id or "").verify()
    done = [job.run_id for job in jobs if job.state == "done"]
    assert len(done) >= len(jobs) - KILLS // MAX_ATTEMPTS
    left = {path.name for path in home.runs.iterdir() if not path.name.endswith(".lock")} - set(done)
    failed = len(jobs) - len(done)
    assert len(left) <= failed and all(name.startswith(".tmp-") for name in left)  # of jobs that died twice


@pytest.mark.timeout(900)
def test_visitors_lose_nothing_when_worker_app_and_server_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "PAUSE", (0.3, 1.5))
    monkeypatch.setattr(visitors, "PATIENCE", PATIENCE)
    monkeypatch.setattr(visitor_tab, "PATIENCE", PATIENCE)
    monkeypatch.setattr(killed, "START_PATIENCE", PATIENCE)
    found = killed.measured(max(3, KILLS), 4)
    assert sum(found["kills"].values()) == max(3, KILLS) and found["kills"].keys() == killed.VICTIMS.keys()
    assert found["lost_jobs"] == found["damaged_runs"] == found["other_errors"] == []
    assert found["done"] >= 1 and found["jobs"] - found["done"] == found["died_twice"]


def test_a_damaged_run_is_seen(home: Home) -> None:
    run = make(home)
    assert killed.damaged(home) == []
    file = run.path("prompts.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    assert len(killed.damaged(home)) == 1 and run.id in killed.damaged(home)[0]
    with pytest.raises(DamagedRunError):
        run.verify()
