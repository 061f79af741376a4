"""The worker, mostly as a real process with a study that is made up here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pytest

from moyu_core.errors import Cancelled, JobError
from moyu_core.home import Home
from moyu_core.job_reporter import REPORT_SECONDS, JobReporter
from moyu_core.jobs import Job, JobTable
from moyu_core.limits import Limits
from moyu_core.prompts import make_prompt
from moyu_core.serve import EXIT_TAKEN
from moyu_core.studies.requests import CaptureRequest
from moyu_core.worker import Worker, workers_alive
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parent.parent
SECRET = "Dear diary, nobody may read this"

STUDY = """
import hashlib, os, signal, sys, time
from moyu_core.errors import InputError

def perform(study, request, home, report, device=None):
    report("capturing", 1, 4)
    if request["do"] == "make":
        return f"{study}-{request['n']}-{device}"
    if request["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if request["do"] == "refuse":
        raise InputError("The prompt file is empty; give at least one prompt.")
    if request["do"] == "break":
        try:
            {}[request["text"]]
        except KeyError:
            raise ValueError(request["text"])
    if request["do"] == "deaf":  # in C, where no Python signal handler runs
        sys.modules["__main__"].GRACE_SECONDS = 0.5
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)
    while True:
        report("capturing", 2, 4)
        time.sleep(0.01)
"""


class Place:
    """A home, its table, and the workers started for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        self.table = JobTable(self.home.jobs)
        self.workers: list[subprocess.Popen[str]] = []
        (folder / "made_up_study.py").write_text(STUDY)

    def submit(self, do: str, **more: Any) -> Job:
        return self.table.submit("try", {"do": do, **more})

    def start(self, *options: str, home: Path | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "moyu_core.worker", "--home", str(home or self.home.root), "--device", "cpu"]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}"}
        worker = subprocess.Popen([*command, "--studies", "made_up_study", *options], env=environment, cwd=self.folder,
                                  stderr=subprocess.PIPE, text=True)
        self.workers.append(worker)
        return worker

    def work_off(self) -> tuple[int, str]:
        """Exit status and log of a worker that does what is queued."""
        worker = self.start("--once")
        _, log = worker.communicate(timeout=PATIENCE)
        return worker.returncode, log

    def wait(self, job: Job, condition: Callable[[Job], bool]) -> Job:
        return until(lambda: self.table.get(job.id), condition)

    def at_work(self, do: str) -> tuple[Job, subprocess.Popen[str]]:
        """A job that does not end by itself, and the worker that is at it."""
        job, worker = self.submit(do), self.start()
        return self.wait(job, lambda job: job.stage == "capturing"), worker


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for worker in place.workers:
        if worker.poll() is None:
            worker.kill()
        worker.communicate()


def test_jobs_are_done_in_order(place: Place) -> None:
    jobs = [place.submit("make", n=n) for n in range(2)]
    status, log = place.work_off()
    done = [place.table.get(job.id) for job in jobs]
    assert status == 0, log
    assert [(job.state, job.run_id, job.device) for job in done] == [
        ("done", "try-0-cpu", "cpu"),
        ("done", "try-1-cpu", "cpu"),
    ]
    assert (done[0].finished or 0) <= (done[1].started or 0)


def test_a_killed_worker_is_noticed_and_the_job_tried_once_more(place: Place) -> None:
    job = place.submit("die")
    for attempt in (1, 2):
        assert place.work_off()[0] == -signal.SIGKILL
        left = place.table.get(job.id)
        assert (left.state, left.attempt) == ("running", attempt)
    next_job = place.submit("make", n=3)
    assert place.work_off()[0] == 0
    failed = place.table.get(job.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.startswith("The worker died twice during this job, the second time while capturing;")
    assert place.table.get(next_job.id).state == "done"


def test_errors_reach_the_table_and_prompts_stay_out_of_the_log(place: Place) -> None:
    refused, broken = place.submit("refuse", text=SECRET), place.submit("break", text=SECRET)
    status, log = place.work_off()
    assert status == 0
    refused, broken = place.table.get(refused.id), place.table.get(broken.id)
    assert (refused.state, refused.error) == ("failed", "The prompt file is empty; give at least one prompt.")
    assert (broken.state, broken.error) == ("failed", "unexpected error ValueError: see the worker's log")
    assert "made_up_study.py" in log
    assert "KeyError\nwhich was raised before" in log
    assert "ValueError" in log
    assert SECRET not in log


def test_cancel_stops_a_running_job_and_never_starts_a_queued_one(place: Place) -> None:
    job, worker = place.at_work("run")
    waiting, last = place.submit("make", n=0), place.submit("make", n=1)
    place.table.cancel(waiting.id)
    place.table.cancel(job.id)
    place.wait(job, lambda job: job.state == "cancelled")
    place.wait(last, lambda job: job.state == "done")
    assert place.table.get(waiting.id).attempt == 0
    assert worker.poll() is None


@pytest.mark.parametrize("do", ["run", "deaf"])
def test_sigterm_hands_the_job_back(place: Place, do: str) -> None:
    job, worker = place.at_work(do)
    worker.terminate()
    _, log = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    assert ("ended without it" in log) == (do == "deaf")
    left = place.table.get(job.id)
    assert (left.state, left.attempt, left.worker, left.stage) == ("queued", 0, None, "")
    assert left.created == job.created


def test_sigterm_ends_an_idle_worker(place: Place) -> None:
    worker = place.start()
    until(lambda: workers_alive(place.home), lambda devices: devices == ["cpu"])
    job = place.submit("make", n=0)
    place.wait(job, lambda job: job.state == "done")
    worker.terminate()
    assert worker.wait(PATIENCE) == 0
    assert workers_alive(place.home) == []
    place.start()  # with the lock file there already
    until(lambda: workers_alive(place.home), lambda devices: devices == ["cpu"])


def test_a_worker_that_lost_its_job_stops_it(place: Place) -> None:
    job, worker = place.at_work("run")
    later = JobTable(place.home.jobs, clock=lambda: time.time() + 1000)
    held = until(lambda: later.claim("7@elsewhere", "cuda:0"), lambda job: job is not None)
    next_job = place.submit("make", n=0)
    place.wait(next_job, lambda job: job.state == "done")  # by the first worker, which is free again
    kept = place.table.get(job.id)
    assert (kept.state, kept.worker, kept.attempt) == ("running", "7@elsewhere", 2)
    assert held.id == job.id
    assert worker.poll() is None


def test_one_worker_for_each_device_and_home(place: Place) -> None:
    first = place.start()
    until(lambda: workers_alive(place.home), bool)
    status, log = place.work_off()
    assert status == EXIT_TAKEN
    assert "Another worker already uses cpu" in log
    elsewhere = place.start("--once", home=place.folder / "other home")
    assert elsewhere.wait(PATIENCE) == 0
    first.kill()
    first.wait()
    assert place.work_off()[0] == 0


def test_a_home_that_takes_nothing_is_one_sentence(place: Place) -> None:
    (place.folder / "file").write_text("in the way of the folder")
    worker = place.start("--once", home=place.folder / "file" / "home")
    _, log = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 1 and "Nothing can be written to" in log and "Traceback" not in log


class Recorder(JobTable):
    """A table that remembers what was written to it, and can be out of order."""

    broken = False

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self.written: list[tuple[str, int]] = []

    def progress(self, job_id: int, worker: str, stage: str, done: int, total: int) -> bool:
        if self.broken:
            raise JobError("The disk is full.")
        self.written.append((stage, done))
        return super().progress(job_id, worker, stage, done, total)


def reporter_for(table: JobTable, shutdown: threading.Event | None = None) -> tuple[Job, JobReporter]:
    table.submit("s", {})
    job = table.claim("1@here", "cpu")
    assert job is not None
    return job, JobReporter(table, job, "1@here", shutdown or threading.Event())


def test_reports_are_throttled_but_not_new_stages(tmp_path: Path) -> None:
    table = Recorder(tmp_path / "jobs.sqlite", lease_seconds=6)
    _, report = reporter_for(table)
    with report:
        began = time.monotonic()
        for done in range(2000):
            report("capturing", done, 2000)
        report("writing", 0, 1)
        report("checking", 0, 1)
        elapsed = time.monotonic() - began
        stages = [stage for stage, _ in table.written]
        assert [stage for stage, _ in groupby(stages)] == ["starting", "capturing", "writing", "checking"]
        assert ("capturing", 0) in table.written
        beats = 1 + elapsed / (table.lease_seconds / 6)
        assert 1 <= stages.count("capturing") <= 2 + elapsed / REPORT_SECONDS + beats
        report("checking", 1, 1)  # too early to be written now; the heartbeat brings it
        until(lambda: table.written[-1], lambda last: last == ("checking", 1))


def test_a_silent_step_keeps_its_lease(tmp_path: Path) -> None:
    table = JobTable(tmp_path / "jobs.sqlite", lease_seconds=3)
    job, report = reporter_for(table)
    with report:
        report("loading", 0, 0)
        before = table.get(job.id).heartbeat or 0
        after = until(lambda: table.get(job.id), lambda job: (job.heartbeat or 0) > before + 0.4)
    assert (after.stage, after.state) == ("loading", "running")


def test_a_full_disk_does_not_end_the_work_but_a_cancel_does(tmp_path: Path) -> None:
    table = Recorder(tmp_path / "jobs.sqlite")
    job, report = reporter_for(table)
    with report:
        table.broken = True
        report("capturing", 1, 2)
        table.broken = False
        report("writing", 1, 2)
        table.cancel(job.id)
        with pytest.raises(Cancelled):
            report("checking", 0, 1)


def test_a_study_that_stops_by_itself_fails_instead_of_running_for_ever(tmp_path: Path) -> None:
    def perform(*_: Any) -> str:
        raise Cancelled("Enough.")

    worker = Worker(Home(tmp_path), "cpu", perform)
    job = worker.table.submit("s", {})
    worker.run(once=True)
    assert (worker.table.get(job.id).state, worker.table.get(job.id).error) == ("failed", "Enough.")


def torch_is_loaded(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_an_idle_worker_gives_back_the_memory_of_its_model_and_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real capture loads torch and a model; after the stated idle time neither is in the process, which is the same one."""
    limits = place.folder / "limits.toml"
    limits.write_text("idle_seconds = 1")
    monkeypatch.setenv("MOYU_PUBLIC", str(limits))
    worker = place.start("--studies", "moyu_core.studies")

    def captured(text: str) -> int:
        """The most memory that the process, with torch in it, was seen to use before the job was done."""
        request, used = CaptureRequest("tiny-relu", (make_prompt(text),), max_tokens=64), [0]

        def watched() -> Job:
            if torch_is_loaded(worker.pid):
                used.append(psutil.Process(worker.pid).memory_info().rss)
            return place.table.get(job.id)

        job = place.table.submit("capture", request.as_json())
        until(watched, lambda job: job.state != "queued")
        limits.write_text("idle_seconds = 600")  # of the one that starts afresh, so that it is there to be told to stop
        job = until(watched, lambda job: not job.active)
        assert job.state == "done", job.error
        return max(used)

    used = captured("The tide went out.")
    assert used > 0
    until(lambda: torch_is_loaded(worker.pid), lambda loaded: not loaded)
    until(lambda: workers_alive(place.home), lambda devices: devices == ["cpu"])
    assert psutil.Process(worker.pid).memory_info().rss < used / 2
    captured("The tide came in again.")
    worker.terminate()
    _, log = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0 and log.count("starting afresh") == 1 and log.count("ready on cpu") == 2
    assert "tide" not in log


def test_a_worker_is_stale_only_when_idle_after_a_job(tmp_path: Path) -> None:
    worker = Worker(Home(tmp_path), "cpu", lambda *_: "run", Limits(models=("m",), studies=("s",), idle_seconds=600))
    assert not worker.is_stale, "nothing was loaded yet"
    worker.table.submit("s", {"model": "m"})
    worker.run(once=True)
    assert not worker.is_stale and worker._idle_since is not None
    worker._idle_since -= 601
    assert worker.is_stale
    worker.table.submit("s", {"model": "m", "n": 2})
    worker.run(once=True)
    assert not worker.is_stale, "a job begins the idle time anew"
