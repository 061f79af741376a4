"""The job table: one row for one request, one worker for one job, and what happens to jobs of dead workers."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moyu_core.errors import InputError, JobError
from moyu_core.jobs import Job, JobTable
from moyu_core.spec import fingerprint
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parent.parent


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001  # no two events at the same time
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(tmp_path: Path, clock: Clock) -> JobTable:
    return JobTable(tmp_path / "home" / "jobs.sqlite", lease_seconds=30, clock=clock)


def claimed(table: JobTable, worker: str = "1@here", device: str = "cpu") -> Job:
    job = table.claim(worker, device)
    assert job is not None
    return job


def at_once(script: str, file: Path, count: int) -> list[list[int]]:
    """What `count` processes print when they start the script at the same moment."""
    wait = "import json, os, sys\nfrom pathlib import Path\nfrom moyu_core.jobs import JobTable\n"
    wait += "file = Path(sys.argv[1])\nprint(flush=True)\nsys.stdin.readline()\n"
    command = [sys.executable, "-c", wait + script, str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "\n"
    answers = []
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        answers.append(json.loads(out))
    return answers


def test_submitters_in_several_processes_get_one_row_each(tmp_path: Path) -> None:
    script = "print(json.dumps([JobTable(file).submit('s', {'n': n}).id for n in range(20)]))"
    answers = at_once(script, tmp_path / "new" / "jobs.sqlite", 4)
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert len(set(answers[0])) == 20
    assert len(JobTable(tmp_path / "new" / "jobs.sqlite").list()) == 20


def test_workers_in_several_processes_never_take_the_same_job(tmp_path: Path) -> None:
    table = JobTable(tmp_path / "jobs.sqlite")
    ids = [table.submit("s", {"n": n}).id for n in range(40)]
    script = "table, took = JobTable(file), []\nwhile job := table.claim(f'{os.getpid()}@here', 'cpu'):\n"
    answers = at_once(script + "    took.append(job.id)\nprint(json.dumps(took))", tmp_path / "jobs.sqlite", 3)
    assert sorted(job_id for took in answers for job_id in took) == ids
    assert all(took == sorted(took) for took in answers)  # oldest first


def test_a_file_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    """SQLite refuses the switch to WAL at once here, whatever its time-out; six processes met it 9 times in 2,400."""
    maker = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None, check_same_thread=False)
    maker.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.3, lambda: maker.execute("COMMIT"))
    done.start()
    assert JobTable(tmp_path / "jobs.sqlite").submit("s", {}).id == 1
    done.join()
    maker.close()


def test_threads_share_a_table(table: JobTable) -> None:
    ids: list[int] = []
    threads = [threading.Thread(target=lambda: ids.append(table.submit("s", {}).id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids == [ids[0]] * 8


def test_key_order_does_not_matter(table: JobTable) -> None:
    first = table.submit("capture", {"model": "tiny", "layers": [0, 1]}, visitor="ann")
    second = table.submit("capture", {"layers": [0, 1], "model": "tiny"}, visitor="bob")
    assert (second.id, second.visitor) == (first.id, "ann")
    assert first.fingerprint == fingerprint({"study": "capture", "request": {"model": "tiny", "layers": [0, 1]}})
    assert table.submit("capture", {"layers": [1, 0], "model": "tiny"}).id != first.id
    assert table.submit("other", {"layers": [0, 1], "model": "tiny"}).id != first.id


def test_a_request_that_is_not_json_is_refused(table: JobTable) -> None:
    for request in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(InputError, match="plain JSON"):
            table.submit("capture", request)
    assert table.list() == ()


def test_same_row_while_queued_running_and_done(table: JobTable) -> None:
    job = table.submit("s", {})
    assert table.submit("s", {}) == job
    running = claimed(table)
    assert table.submit("s", {}) == running
    assert table.finish(job.id, "1@here", "s-1")
    done = table.get(job.id)
    assert (done.state, done.run_id, done.active) == ("done", "s-1", False)
    assert table.submit("s", {}, run_exists=lambda run_id: run_id == "s-1") == done


def test_a_done_job_whose_run_is_gone_is_queued_anew(table: JobTable) -> None:
    table.submit("s", {})
    table.finish(claimed(table).id, "1@here", "s-1")
    again = table.submit("s", {}, run_exists=lambda run_id: False)
    assert (again.state, again.attempt, again.run_id, again.finished) == ("queued", 0, None, None)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_failed_and_cancelled_jobs_are_queued_anew_at_the_end(table: JobTable, end: str) -> None:
    job = table.submit("s", {})
    claimed(table)
    table.progress(job.id, "1@here", "capturing", 3, 4)
    if end == "failed":
        table.fail(job.id, "1@here", "No room.")
    else:
        table.cancel(job.id)
        table.release(job.id, "1@here")
    assert table.get(job.id).state == end
    other = table.submit("s", {"other": 1})
    again = table.submit("s", {})
    assert (again.id, again.state, again.attempt, again.error, again.cancel) == (job.id, "queued", 0, None, False)
    assert (again.stage, again.done, again.worker) == ("", 0, None)
    assert [table.position(other.id), table.position(again.id)] == [1, 2]


def test_asking_again_takes_back_a_cancel(table: JobTable) -> None:
    job = table.submit("s", {})
    claimed(table)
    assert table.cancel(job.id).cancel
    assert not table.submit("s", {}).cancel
    table.release(job.id, "1@here")  # a worker that had seen the flag already
    assert table.get(job.id).state == "queued"


@pytest.mark.parametrize("end", ["queued", "failed", "running"])
def test_whoever_asked_for_an_ended_job_does_not_wait_for_it_when_another_asks_anew(table: JobTable, end: str) -> None:
    job = table.submit("s", {}, "ann")
    if end != "queued":
        claimed(table)
    if end == "failed":
        table.fail(job.id, "1@here", "No room.")
    else:
        table.cancel(job.id, "ann")
    assert table.submit("s", {}, "bob").visitor == "bob"
    assert table.list(visitor="ann") == ()
    ended = table.cancel(job.id, "bob")
    assert ended.visitor == "bob" and (ended.cancel if end == "running" else ended.state == "cancelled")


def test_a_job_that_goes_on_keeps_everybody_who_waits(table: JobTable) -> None:
    job = table.submit("s", {}, "ann")
    claimed(table)
    assert table.submit("s", {}, "bob").visitor == "ann"
    table.cancel(job.id, "bob")
    assert not table.get(job.id).cancel


def test_position_counts_the_queue(table: JobTable) -> None:
    jobs = [table.submit("s", {"n": n}) for n in range(3)]
    assert [table.position(job.id) for job in jobs] == [1, 2, 3]
    assert claimed(table).id == jobs[0].id
    assert [table.position(job.id) for job in jobs] == [None, 1, 2]


def test_cancel(table: JobTable) -> None:
    waiting, running = table.submit("s", {"n": 0}), table.submit("s", {"n": 1})
    assert table.cancel(waiting.id).state == "cancelled"
    assert claimed(table).id == running.id
    assert table.cancel(running.id).state == "running"
    assert table.progress(running.id, "1@here", "capturing", 1, 2)
    table.release(running.id, "1@here")
    cancelled = table.get(running.id)
    assert (cancelled.state, cancelled.cancel) == ("cancelled", False)
    assert cancelled.finished is not None
    assert table.cancel(running.id) == cancelled
    with pytest.raises(JobError, match="no job 99"):
        table.cancel(99)


def test_a_silent_worker_loses_the_job_twice_then_it_fails(table: JobTable, clock: Clock) -> None:
    job = table.submit("s", {})
    claimed(table)
    clock.now += 25
    assert not table.progress(job.id, "1@here", "capturing", 1, 2)
    clock.now += 25
    assert table.claim("2@there", "cpu") is None  # the report renewed the lease
    clock.now += 10
    second = claimed(table, "2@there")
    assert (second.id, second.attempt, second.stage) == (job.id, 2, "")
    table.progress(job.id, "2@there", "measuring overlap", 1, 2)
    clock.now += 31
    assert table.claim("3@there", "cpu") is None
    failed = table.get(job.id)
    assert (failed.state, failed.finished is not None) == ("failed", True)
    assert failed.error is not None
    assert failed.error.startswith("The worker died twice during this job, the second time while measuring overlap;")


def test_a_cancelled_job_of_a_dead_worker_is_cancelled(table: JobTable, clock: Clock) -> None:
    job = table.submit("s", {})
    claimed(table)
    table.cancel(job.id)
    clock.now += 31
    assert table.claim("2@there", "cpu") is None
    assert table.get(job.id).state == "cancelled"


def test_a_worker_without_its_lease_changes_nothing(table: JobTable, clock: Clock) -> None:
    job = table.submit("s", {})
    claimed(table)
    clock.now += 31
    held = claimed(table, "2@there")
    assert table.progress(job.id, "1@here", "capturing", 1, 2)
    assert not table.finish(job.id, "1@here", "s-1")
    assert not table.fail(job.id, "1@here", "No.")
    table.release(job.id, "1@here")
    assert table.get(job.id) == held


def test_release_keeps_place_and_attempt(table: JobTable) -> None:
    first, second = table.submit("s", {"n": 0}), table.submit("s", {"n": 1})
    claimed(table)
    table.release(first.id, "1@here")
    assert table.get(first.id).attempt == 0
    assert [table.position(first.id), table.position(second.id)] == [1, 2]


def test_recover_takes_only_this_device_and_host(table: JobTable) -> None:
    jobs = [table.submit("s", {"n": n}) for n in range(3)]
    for worker, device in (("1@here", "cpu"), ("2@here", "cuda:0"), ("3@there", "cpu")):
        claimed(table, worker, device)
    table.recover("cpu", "here")
    assert [table.get(job.id).state for job in jobs] == ["queued", "running", "running"]


def test_eta_is_the_rest_of_the_stage(table: JobTable, clock: Clock) -> None:
    job = table.submit("s", {})
    claimed(table)

    def eta(stage: str, done: int, total: int) -> float | None:
        table.progress(job.id, "1@here", stage, done, total)
        return table.eta_seconds(table.get(job.id))

    assert eta("loading", 0, 0) is None
    assert eta("capturing", 0, 100) is None
    clock.now += 8
    assert eta("capturing", 4, 100) is None
    assert eta("capturing", 5, 100) == pytest.approx(152, rel=0.01)
    clock.now += 8
    assert eta("capturing", 50, 100) == pytest.approx(16, rel=0.01)
    assert eta("writing", 500, 1000) is None  # resumed in the middle: only its own work counts
    clock.now += 10
    assert eta("writing", 600, 1000) == pytest.approx(40, rel=0.01)
    table.finish(job.id, "1@here", "s-1")
    assert table.eta_seconds(table.get(job.id)) is None


def test_list_remove_and_prune(table: JobTable, clock: Clock) -> None:
    old, running, waiting = (table.submit("s", {"n": n}) for n in range(3))
    table.finish(claimed(table).id, "1@here", "s-1")
    claimed(table)
    assert [job.id for job in table.list(2)] == [waiting.id, running.id]
    with pytest.raises(JobError, match="cancel it before"):
        table.remove(running.id)
    assert table.prune(keep_seconds=60) == 0
    clock.now += 100
    assert table.prune(keep_seconds=60) == 1
    table.remove(waiting.id)
    assert [job.id for job in table.list()] == [running.id]
    with pytest.raises(JobError, match=f"no job {old.id}"):
        table.get(old.id)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    damaged, newer, folder = tmp_path / "damaged.sqlite", tmp_path / "newer.sqlite", tmp_path / "damaged.sqlite" / "x"
    damaged.write_bytes(b"not a database " * 100)
    with pytest.raises(JobError, match=r"damaged\.sqlite.*delete it"):
        JobTable(damaged).list()
    with pytest.raises(JobError, match=r"damaged\.sqlite"):
        JobTable(folder).submit("s", {})
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(JobError, match="version 7"):
        JobTable(newer).list()


def test_nothing_here_imports_torch_or_streamlit() -> None:
    script = "import sys, moyu_core.jobs, moyu_core.worker, moyu_core.serve\n"
    script += "assert not {'torch', 'transformers', 'streamlit'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=PATIENCE)
