"""A public installation: limits at the door and in the worker, one visitor's things hidden from another, runs that expire."""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from moyu_core import prompt_library, public, retention, store
from moyu_core.errors import Cancelled, InputError, JobError
from moyu_core.home import REPOSITORY, Home
from moyu_core.job_reporter import JobReporter, OverTimeError
from moyu_core.jobs import Job, JobTable
from moyu_core.limits import Limits, limits, read_limits
from moyu_core.prompts import PromptSet, make_prompt
from moyu_core.public import VisitorJobs
from moyu_core.studies.origin_requests import LiveRequest
from moyu_core.studies.trinity.requests import ChatRequest
from moyu_core.worker import Worker
from tests.small_runs import make

ALLOWED = Limits(
    models=("tiny-relu",),
    max_characters=20,
    max_prompts=2,
    max_tokens=64,
    queued_per_visitor=2,
    queued=3,
    seconds_per_visitor=100,
    seconds=150,
)


class Clock:
    now = 10_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(home: Home, clock: Clock) -> JobTable:
    return JobTable(home.jobs, clock=clock)


def visitor(table: JobTable, name: str) -> VisitorJobs:
    return VisitorJobs(table, name, ALLOWED)


def request(text: str = "short", **more: Any) -> dict[str, Any]:
    return {"model": "tiny-relu", "prompts": [{"id": "a", "text": text}], "max_tokens": 64, **more}


def done(table: JobTable, job: Job, run_id: str) -> None:
    taken = table.claim("1@here", "cpu")
    assert taken is not None and taken.id == job.id and table.finish(job.id, "1@here", run_id)


@pytest.mark.parametrize(
    "wrong,sentence",
    [
        (request(model="gpt2"), "runs tiny-relu, not 'gpt2'"),
        ({"prompts": []}, "runs tiny-relu"),
        (request("x" * 21), "at most 20 characters .* one of yours has 21"),
        (request(deep={"inner": ["y" * 21]}), "at most 20 characters"),
        (request(prompts=[{"text": "a"}, {"text": "b"}, {"text": "c"}]), "at most 2 prompts .* yours has 3"),
        (request(max_tokens=65), "at most 64 tokens .* not 65"),
    ],
)
def test_what_is_too_much_is_refused_at_the_door_with_the_limit(table: JobTable, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        visitor(table, "ann").submit("capture", wrong)
    with pytest.raises(InputError, match="carries out capture, vocabulary, not 'training'"):
        visitor(table, "ann").submit("training", request())
    assert table.list() == ()


def test_the_queue_is_limited_for_each_and_for_all(table: JobTable) -> None:
    ann, bob = visitor(table, "ann"), visitor(table, "bob")
    jobs = [ann.submit("capture", request(str(n))) for n in range(2)]
    with pytest.raises(JobError, match="2 jobs waiting or running and 2 are allowed"):
        ann.submit("capture", request("2"))
    assert ann.submit("capture", request("0")).id == jobs[0].id  # the same request is no new work
    bob.submit("capture", request("3"))
    with pytest.raises(JobError, match=r"queue of this public installation is full \(3 jobs\)"):
        bob.submit("capture", request("4"))
    ann.cancel(jobs[0].id)
    bob.submit("capture", request("4"))


def test_seconds_of_an_hour_are_counted_and_forgotten(table: JobTable, clock: Clock) -> None:
    ann, bob = visitor(table, "ann"), visitor(table, "bob")
    public.spend(table, "ann", 100.0)
    with pytest.raises(JobError, match="used 100 s of computing in the last hour and 100 s"):
        ann.submit("capture", request())
    bob.submit("capture", request())
    public.spend(table, "carl", 60.0)
    with pytest.raises(JobError, match="All visitors together have used the 150 s"):
        bob.submit("capture", request("other"))
    clock.now += 3601
    assert ann.use().seconds == 0.0
    ann.submit("capture", request("other"))


def test_a_running_job_counts_while_it_runs(table: JobTable, clock: Clock) -> None:
    ann = visitor(table, "ann")
    ann.submit("capture", request())
    table.claim("1@here", "cpu")
    clock.now += 101
    assert 101 < ann.use().seconds < 102 and ann.use().jobs == 1
    with pytest.raises(JobError, match="used 101 s"):
        ann.submit("capture", request("more"))


def test_visitors_do_not_see_or_stop_each_others_jobs(table: JobTable) -> None:
    ann, bob = visitor(table, "ann"), visitor(table, "bob")
    job = ann.submit("capture", request())
    assert bob.list() == () and [found.id for found in ann.list()] == [job.id]
    for act in (bob.get, bob.cancel, bob.remove):
        with pytest.raises(JobError):
            act(job.id)
    assert table.get(job.id).state == "queued"


def test_a_shared_job_stops_only_when_nobody_waits(table: JobTable) -> None:
    ann, bob = visitor(table, "ann"), visitor(table, "bob")
    job = ann.submit("capture", request())
    assert bob.submit("capture", request()).id == job.id
    assert ann.cancel(job.id).state == "queued" and ann.list() == ()
    table.claim("1@here", "cpu")
    assert bob.cancel(job.id).cancel  # the last one: its worker is told
    table.release(job.id, "1@here")
    assert table.get(job.id).state == "cancelled" and [found.id for found in bob.list()] == [job.id]


def test_runs_are_listed_to_who_asked_opened_or_was_shared_with(table: JobTable) -> None:
    ann = visitor(table, "ann")
    done(table, ann.submit("capture", request()), "capture-aaaaaaaaaaaa")
    assert public.held(table, "ann") == {"capture-aaaaaaaaaaaa"} and public.held(table, "bob") == set()
    public.hold(table, "capture-bbbbbbbbbbbb", "bob")
    assert public.held(table, "bob") == {"capture-bbbbbbbbbbbb"}
    public.hold(table, "capture-aaaaaaaaaaaa", "")
    assert public.held(table, "bob") == {"capture-aaaaaaaaaaaa", "capture-bbbbbbbbbbbb"}
    assert public.own(table, "bob") == {"capture-bbbbbbbbbbbb"} and public.shared(table) == {"capture-aaaaaaaaaaaa"}
    public.take_off(table, "capture-aaaaaaaaaaaa")
    assert public.held(table, "bob") == {"capture-bbbbbbbbbbbb"} and public.held(table, "ann") == {"capture-aaaaaaaaaaaa"}


def test_the_worker_refuses_what_came_past_the_door(home: Home) -> None:
    table = JobTable(home.jobs)
    job = table.submit("capture", request(model="something/else"))
    Worker(home, "cpu", lambda *_: pytest.fail("was carried out"), ALLOWED).run(once=True)
    assert "runs tiny-relu, not 'something/else'" in (table.get(job.id).error or "")


def carried_out(home: Home, table: JobTable, allowed: Limits = ALLOWED, seconds: float = 0.0) -> list[str]:
    """Titles of the jobs that a worker did; each is booked with so many seconds."""
    titles: list[str] = []

    def perform(study: str, asked: dict[str, Any], *_: Any) -> str:
        titles.append(asked["title"])
        public.spend(table, next(job.visitor for job in table.list() if job.state == "running"), seconds)
        return f"capture-{len(titles):012x}"

    worker = Worker(home, "cpu", perform, allowed)
    worker.table = table
    while (job := worker._claim()) is not None:
        worker._work(job)
    return titles


def test_the_worker_does_not_begin_what_the_hour_no_longer_has_room_for(home: Home, table: JobTable) -> None:
    """The door lets two jobs in while nothing is spent; the first one takes all that there is."""
    ann, bob = visitor(table, "ann"), visitor(table, "bob")
    jobs = [ann.submit("capture", request(str(n), title=f"ann {n}")) for n in range(2)]
    shared = bob.submit("capture", request("1", title="ann 1"))
    assert shared.id == jobs[1].id and ann.cancel(jobs[1].id).state == "queued"
    late = ann.submit("capture", request("2", title="ann 2"))
    assert carried_out(home, table, seconds=100.0) == ["ann 0", "ann 1"]  # the second one for bob
    assert table.get(late.id).state == "failed" and "used 100 s of computing in the last hour" in (table.get(late.id).error or "")
    assert round(ann.use().seconds) == round(bob.use().seconds) == 100


def test_the_worker_does_no_more_jobs_of_a_visitor_than_may_wait(home: Home, table: JobTable) -> None:
    for number in range(4):  # rows that came into the table past the door, which lets two in
        table.submit("capture", request(str(number), title=str(number)), visitor="ann")
    assert carried_out(home, table) == ["2", "3"]
    assert "2 jobs waiting or running and 2 are allowed" in (table.list()[2].error or "")


def test_a_job_that_is_asked_for_again_is_counted_for_who_asks(table: JobTable) -> None:
    ann, bob = visitor(table, "ann"), visitor(table, "bob")
    job = ann.submit("capture", request())
    ann.cancel(job.id)
    assert bob.submit("capture", request()).visitor == "bob"


def test_the_worker_stops_a_job_that_takes_too_long_and_books_its_seconds(home: Home) -> None:
    def perform(study: str, request: dict[str, Any], home: Home, report: JobReporter, device: str) -> str:
        while True:
            report("capturing", 1, 2)
            time.sleep(0.02)

    table = JobTable(home.jobs)
    job = visitor(table, "ann").submit("capture", request())
    allowed = Limits(models=("tiny-relu",), seconds_per_job=1)
    began = time.monotonic()
    Worker(home, "cpu", perform, allowed).run(once=True)
    found, took = table.get(job.id), time.monotonic() - began
    assert found.state == "failed" and "longer than this public installation allows" in (found.error or "")
    assert 1.0 <= visitor(table, "ann").use().seconds <= took
    assert issubclass(OverTimeError, JobError) and not issubclass(OverTimeError, Cancelled)


def test_limits_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    assert limits({}) is None and limits({"MOYU_PUBLIC": "0"}) is None
    assert limits({"MOYU_PUBLIC": "1"}) == Limits()
    shipped = Path(__file__).parent.parent / "deploy" / "public.toml"
    assert limits({"MOYU_PUBLIC": str(shipped)}) == Limits()  # the file documents every default
    file = tmp_path / "own.toml"
    for text, sentence in (
        ("queued = 0", "queued must be a whole number"),
        ("sped = 1", "'sped' is no limit"),
        ("=", "cannot be read"),
        ("models = [1]", "models must be a list of names"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=sentence):
            read_limits(file)


@pytest.mark.parametrize(("seconds", "said"), [(300, "5 minutes of"), (60, "60 s of"), (90, "90 s of"), (3600, "60 minutes of")])
def test_the_hour_is_said_as_it_is(seconds: int, said: str) -> None:
    assert f"{said} computing an hour" in Limits(seconds_per_visitor=seconds).in_words()


def test_without_a_cookie_nobody_is_taken_for_another(table: JobTable) -> None:
    with pytest.raises(JobError, match="no visitor cookie"):
        VisitorJobs(table, "", ALLOWED)


def test_an_older_table_is_brought_up_to_date(home: Home) -> None:
    table = JobTable(home.jobs)
    job = table.submit("capture", request(), visitor="ann")
    db = table._db()
    db.execute("DROP TABLE askers")
    db.execute("PRAGMA user_version = 1")
    assert [found.id for found in JobTable(home.jobs).list(visitor="ann")] == [job.id]


def aged(home: Home, seed: int, days: float) -> store.Run:
    run = make(home, seed)
    retention.mark_used(home, run.id, time.time() - days * retention.DAY)
    return run


def test_the_run_not_opened_for_the_longest_time_goes_first(home: Home) -> None:
    old, new = aged(home, 1, 5), aged(home, 2, 1)
    kept = retention.plan(home, 1_000)
    assert [entry.run.id for entry in kept] == [old.id, new.id] and not any(entry.goes for entry in kept)
    size = old.size_bytes / 2**20
    assert size < 1  # so that a quota of 0 MiB is over, and one of 1 is not
    assert [entry.goes for entry in retention.plan(home, 0, keep=[old.id])] == [False, True]
    retention.mark_used(home, old.id)
    assert [entry.run.id for entry in retention.plan(home, 1_000)] == [new.id, old.id]


def test_runs_expire_by_age_and_leave_nothing(home: Home) -> None:
    old, new = aged(home, 1, 8), aged(home, 2, 6)
    assert retention.expire(home, 1_000, 7) == [old.id]
    assert not store.has_run(home, old.id) and store.has_run(home, new.id) and store.deleted_runs(home) == []
    assert not (home.runs / f".used-{old.id}").exists()


def test_shipped_runs_never_expire(tmp_path: Path) -> None:
    home = Home(tmp_path / "own", tracked=(tmp_path / "shipped" / "runs",))
    shipped = make(Home(tmp_path / "shipped", tracked=()))
    assert retention.plan(home, 0, 0.0) == [] and retention.expire(home, 0, 0.0) == [] and store.has_run(home, shipped.id)


def test_the_worker_deletes_what_is_over_the_limits(home: Home) -> None:
    run = aged(home, 1, 30)
    worker = Worker(home, "cpu", lambda *_: "", Limits())
    worker._tidy()
    assert not store.has_run(home, run.id)
    private = aged(home, 2, 300)
    Worker(home, "cpu", lambda *_: "")._tidy()
    assert store.has_run(home, private.id)


def test_sets_of_visitors_expire_by_age_and_opening_them_keeps_them(home: Home) -> None:
    def aged_set(name: str, owner: str) -> prompt_library.StoredSet:
        stored, _ = prompt_library.save(home, PromptSet(name, (make_prompt(f"Text of {name}."),)), owner=owner)
        then = time.time() - 8 * retention.DAY
        os.utime(stored.folder / "set.json", (then, then))
        return stored

    old, opened, thrown, hosts = (
        aged_set(name, owner) for name, owner in (("old", "ann"), ("opened", "ann"), ("thrown", "bob"), ("hosts", ""))
    )
    prompt_library.load(home, opened.newest.reference)
    prompt_library.delete(home, thrown.key)
    Worker(home, "cpu", lambda *_: "")._tidy()
    assert len(prompt_library.deleted(home)) == 1, "nothing goes on a private installation"
    Worker(home, "cpu", lambda *_: "", Limits())._tidy()
    assert {stored.name for stored in prompt_library.list_sets(home) if not stored.shipped} == {"opened", "hosts"}
    assert not old.folder.exists() and prompt_library.deleted(home) == [] and hosts.folder.is_dir()


def test_sets_of_all_visitors_have_a_size_and_the_one_not_opened_for_the_longest_time_goes_first(home: Home) -> None:
    def large(name: str, owner: str, hours: float) -> prompt_library.StoredSet:
        letters = random.Random(name)
        prompts = tuple(make_prompt("".join(letters.choices("abcdefgh", k=20_000))) for _ in range(30))
        stored, _ = prompt_library.save(home, PromptSet(name, prompts), owner=owner)
        then = time.time() - 3600 * hours
        os.utime(stored.folder / "set.json", (then, then))
        return stored

    for name, owner, hours in (("first", "ann", 3), ("second", "bob", 2), ("third", "carl", 1), ("hosts", "", 9)):
        large(name, owner, hours)
    assert retention.expire_sets(home, 2, 7) == 0, "1.8 MB"
    assert retention.expire_sets(home, 1, 7) == 2
    assert {stored.name for stored in prompt_library.list_sets(home) if not stored.shipped} == {"third", "hosts"}


def test_the_quota_is_kept(home: Home) -> None:
    assert retention.quota(home) == retention.DEFAULT_QUOTA_MIB
    home.root.mkdir(parents=True)
    retention.set_quota(home, 123)
    assert retention.quota(home) == 123
    (home.root / "housekeeping.json").write_text("{")
    assert retention.quota(home) == retention.DEFAULT_QUOTA_MIB


def message(**more: Any) -> dict[str, Any]:
    usual = {"model": "tiny-relu", "text": "Hello", "method": "griffin", "density": 0.5, "tokens": 48}
    return ChatRequest(**{**usual, **more}).as_json()


def test_chat_and_live_training_are_off_until_the_host_allows_them() -> None:
    for study, asked in (("chat", message()), ("live", LiveRequest().as_json()), ("trinity", {"model": "tiny-relu"})):
        with pytest.raises(InputError, match=f"carries out capture, vocabulary, not '{study}'"):
            Limits().check(study, asked)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tokens": 257}, "at most 256 tokens on this public installation, not 257"),
        ({"text": "x" * 4001}, "at most 4,000 characters"),
        ({"model": "gemma3-270m"}, "not 'gemma3-270m'"),
    ],
)
def test_where_chat_is_allowed_the_limits_hold_for_it(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    file = tmp_path / "public.toml"
    file.write_text('studies = ["capture", "chat", "live"]', encoding="utf-8")
    allowed = read_limits(file)
    allowed.check("chat", message())
    allowed.check("live", LiveRequest().as_json())
    with pytest.raises(InputError, match=said):
        allowed.check("chat", message(**more))


def test_the_hosting_page_says_which_studies_are_on() -> None:
    text = (REPOSITORY / "docs" / "hosting.md").read_text(encoding="utf-8")
    assert Limits().studies == ("capture", "vocabulary")
    assert "`chat`" in text and "`live`" in text and "are off" in text
    offered = next(line for line in text.splitlines() if "studies = [" in line)
    assert set(Limits().studies) | {"chat", "live"} == set(re.findall('"([a-z]+)"', offered))
