"""Public mode: what visitors of an installation on the internet may ask for, and whose runs are whose.

`moyu serve --public` turns it on. Every limit is said on the page before it bites, refused at the door (`VisitorJobs.submit`),
and checked again by the worker, so that a row that came into the table some other way is not carried out either.

A visitor is a random cookie: it keeps people's things apart, it proves nothing about a person. Runs are listed to those who
asked for them and to whoever opens a link to them; see SECURITY.md.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moyu_core.errors import InputError, JobError
from moyu_core.jobs import Job, JobTable
from moyu_core.limits import Limits

HOUR = 3600.0

_CREATE = """
CREATE TABLE IF NOT EXISTS spent (visitor TEXT NOT NULL, ended REAL NOT NULL, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS holders (run TEXT NOT NULL, visitor TEXT NOT NULL, PRIMARY KEY (run, visitor));
"""


@dataclass(frozen=True)
class Use:
    """What a visitor has used of the limits: jobs that wait or run, and seconds of computing in the last hour."""

    jobs: int
    seconds: float
    all_jobs: int
    all_seconds: float


class VisitorJobs(JobTable):
    """The job table as one visitor of a public installation sees it: own jobs only, within the limits.

    Args:
        table: the whole table.
        visitor: who looks; never empty.
        allowed: the limits.
    """

    def __init__(self, table: JobTable, visitor: str, allowed: Limits) -> None:
        if not visitor:
            raise JobError(
                "This browser has no visitor cookie, so its jobs could not be told from others'; allow cookies and reload."
            )
        super().__init__(table.path, table.lease_seconds, table._clock)
        self._table, self._local = table, table._local  # connections are the table's own
        self.visitor, self.allowed = visitor, allowed

    def submit(
        self,
        study: str,
        request: dict[str, Any],
        visitor: str = "",
        run_exists: Callable[[str], bool] | None = None,
        admit: Callable[[sqlite3.Connection], None] | None = None,
    ) -> Job:
        """As `JobTable.submit`; raises InputError or JobError with the limit that is reached."""
        del visitor, admit
        request = json.loads(json.dumps(request))
        self.allowed.check(study, request)
        return super().submit(study, request, self.visitor, run_exists, self._admit)

    def get(self, job_id: int) -> Job:
        """The job, if it is one of the visitor's."""
        with self._translated():
            theirs = self._db().execute("SELECT 1 FROM askers WHERE job = ? AND visitor = ?", (job_id, self.visitor)).fetchone()
        if theirs is None:
            raise JobError(f"There is no job {job_id}; it may have been removed.")
        return super().get(job_id)

    def list(self, limit: int = 50, visitor: str | None = None) -> tuple[Job, ...]:
        """The visitor's newest jobs, newest first."""
        del visitor
        return super().list(limit, self.visitor)

    def cancel(self, job_id: int, visitor: str | None = None) -> Job:
        """The visitor no longer waits for a job; it stops when nobody else does either."""
        del visitor
        self.get(job_id)
        return self._table.cancel(job_id, self.visitor)

    def remove(self, job_id: int) -> None:
        """Not for visitors."""
        raise JobError("Jobs of a public installation are removed by the installation itself.")

    def use(self) -> Use:
        """What is used of the limits now."""
        with self._translated():
            return _use(self._db(), self.visitor, self._clock())

    def refusal(self, study: str, request: Mapping[str, Any] | None = None) -> str:
        """The limit that a request would meet now, for a page to say before it is made; empty where there is none.

        Args:
            study: what would be asked for.
            request: as much of it as is known; None = only whether the study is carried out here at all.
        """
        try:
            self.allowed.check_study(study)
            if request is not None:
                self.allowed.check(study, request)
        except InputError as error:
            return str(error)
        return self.full()

    def full(self) -> str:
        """Why no further work of this visitor would be queued now; empty where it would."""
        return _reached(self.use(), self.allowed)

    def _admit(self, db: sqlite3.Connection) -> None:
        reached = _reached(_use(db, self.visitor, self._clock()), self.allowed)
        if reached:
            raise JobError(reached)


def _reached(used: Use, allowed: Limits) -> str:
    """The limit of queue or hour that is reached; empty where none is."""
    if used.jobs >= allowed.queued_per_visitor:
        return (
            f"You have {used.jobs} jobs waiting or running and {allowed.queued_per_visitor} are allowed at once; wait for one to "
            "end, or cancel one."
        )
    if used.all_jobs >= allowed.queued:
        return f"The queue of this public installation is full ({allowed.queued} jobs); try again in a few minutes."
    if used.seconds >= allowed.seconds_per_visitor:
        return (
            f"You have used {used.seconds:.0f} s of computing in the last hour and {allowed.seconds_per_visitor} s are allowed; "
            "try again later, or install the project."
        )
    if used.all_seconds >= allowed.seconds:
        return f"All visitors together have used the {allowed.seconds:,} s of computing of this hour; try again later."
    return ""


def refuse_overdrawn(table: JobTable, job: Job, allowed: Limits) -> None:
    """For a worker that has taken a job: refuse it where nobody who waits for it may have it done.

    A visitor may have used up the hour since the job was queued, and a row can come into the table past the door.

    Raises:
        JobError: the limit of queue or hour that is passed.
    """
    with table._translated():
        db = table._db()
        waiting = [row[0] for row in db.execute("SELECT visitor FROM askers WHERE job = ?", (job.id,))] or [job.visitor]
        used = [_use(db, visitor, table._clock()) for visitor in waiting]
    # The job itself is among those that run.
    passed = [_reached(replace(use, jobs=use.jobs - 1, all_jobs=use.all_jobs - 1), allowed) for use in used]
    if all(passed):
        raise JobError(passed[0])


def spend(table: JobTable, visitor: str, seconds: float) -> None:
    """Book the seconds that a job of a visitor took; what is older than an hour is forgotten."""
    with table._write() as db:
        _make(db)
        now = table._clock()
        db.execute("INSERT INTO spent VALUES (?, ?, ?)", (visitor, now, seconds))
        db.execute("DELETE FROM spent WHERE ended < ?", (now - HOUR,))


def hold(table: JobTable, run_id: str, visitor: str) -> None:
    """List a run to a visitor who opened its bundle or shared it; visitor "" = to everybody."""
    with table._write() as db:
        _make(db)
        db.execute("INSERT OR IGNORE INTO holders VALUES (?, ?)", (run_id, visitor))


def take_off(table: JobTable, run_id: str) -> None:
    """List a run no longer to everybody; whose it is, still sees it listed."""
    with table._write() as db:
        _make(db)
        db.execute("DELETE FROM holders WHERE run = ? AND visitor = ''", (run_id,))


def held(table: JobTable, visitor: str) -> set[str]:
    """Ids of the runs that are listed to a visitor: that visitor's own, and those that are shared with everybody."""
    return own(table, visitor) | shared(table)


def own(table: JobTable, visitor: str) -> set[str]:
    """Ids of the runs that a visitor asked for or opened from a bundle."""
    asked = "SELECT run_id FROM jobs JOIN askers ON job = id WHERE askers.visitor = ? AND run_id IS NOT NULL"
    with table._translated():
        return {row[0] for row in table._db().execute(asked, (visitor,)).fetchall()} | _holding(table, visitor)


def shared(table: JobTable) -> set[str]:
    """Ids of the runs that are listed to everybody."""
    with table._translated():
        return _holding(table, "")


def _holding(table: JobTable, visitor: str) -> set[str]:
    db = table._db()
    found = db.execute("SELECT run FROM holders WHERE visitor = ?", (visitor,)).fetchall() if _has(db, "holders") else []
    return {row[0] for row in found}


def _has(db: sqlite3.Connection, table: str) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None


def _make(db: sqlite3.Connection) -> None:
    for statement in _CREATE.strip().split(";"):
        if statement.strip():
            db.execute(statement)


def _use(db: sqlite3.Connection, visitor: str, now: float) -> Use:
    """Waiting and running jobs, and seconds of the last hour; those of running jobs so far are counted too."""
    active = "state IN ('queued', 'running')"
    own = db.execute(
        f"SELECT count(*) FROM jobs JOIN askers ON job = id WHERE askers.visitor = ? AND {active}", (visitor,)
    ).fetchone()
    whole = db.execute(f"SELECT count(*) FROM jobs WHERE {active}").fetchone()
    spent = {"own": 0.0, "whole": 0.0}
    if _has(db, "spent"):
        since = (now - HOUR,)
        spent["whole"] = db.execute("SELECT total(seconds) FROM spent WHERE ended >= ?", since).fetchone()[0]
        spent["own"] = db.execute(
            "SELECT total(seconds) FROM spent WHERE ended >= ? AND visitor = ?", (*since, visitor)
        ).fetchone()[0]
    for owner, started in db.execute("SELECT visitor, started FROM jobs WHERE state = 'running'").fetchall():
        spent["whole"] += max(0.0, now - started)
        spent["own"] += max(0.0, now - started) if owner == visitor else 0.0
    return Use(own[0], spent["own"], whole[0], spent["whole"])
