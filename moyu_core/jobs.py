"""The job table: what pages ask for and workers compute, one row of one SQLite file for each request.

Identical requests meet the same row, so asking twice computes once. A worker holds a job by a lease, its heartbeat:
who dies without a word loses the job, which is tried once more and then fails with a sentence. Any number of processes
and threads may use the table at once; every transaction is a few statements long. No torch here.

Longer than other files because every change of a job's state is in it, and they must be read together to be trusted.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError, JobError
from moyu_core.spec import canonical_json, fingerprint

TABLE_VERSION = 2
LEASE_SECONDS = 30.0
MAX_ATTEMPTS = 2
ETA_FROM_SHARE = 0.05
BUSY_SECONDS = 10.0
KEEP_SECONDS = 30 * 86400.0
STATES = ("queued", "running", "done", "failed", "cancelled")
FINISHED = ("done", "failed", "cancelled")

_CREATE = f"""
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL UNIQUE, study TEXT NOT NULL, request TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN {STATES}), stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0, stage_started REAL, stage_from INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL,
    started REAL, finished REAL, heartbeat REAL, attempt INTEGER NOT NULL DEFAULT 0, cancel INTEGER NOT NULL DEFAULT 0,
    run_id TEXT, error TEXT, device TEXT, worker TEXT, visitor TEXT NOT NULL DEFAULT ''
)"""

_CREATE_ASKERS = """
CREATE TABLE askers (
    job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, visitor TEXT NOT NULL, PRIMARY KEY (job, visitor)
)"""
"""Who waits for a job: two visitors who ask for the same share its row."""

_NOBODY = "stage = '', done = 0, total = 0, stage_started = NULL, stage_from = 0, heartbeat = NULL, worker = NULL"
"""Columns that say something only while a worker holds the job."""

_HELD = "id = ? AND worker = ? AND state = 'running'"
"""A worker writes only to a job that it still holds."""

_DIED_TWICE = """'The worker died twice during this job, the second time ' || iif(stage = '', 'before its first report',
'while ' || stage) || '; it may need more memory than there is, so try a smaller request.'"""


@dataclass(frozen=True)
class Job:
    """One row of the table, as it was when it was read. Times are unix seconds."""

    id: int  # stays the same when the job is queued anew
    fingerprint: str  # SHA-256 of study and request, unique
    study: str
    request: dict[str, Any]
    state: str  # one of STATES
    stage: str  # short phrase of what is being done
    done: int  # finished units of the stage
    total: int  # units of the stage; 0 = unknown
    stage_started: float | None  # when the stage was first reported
    stage_from: int  # units that were already done then
    created: float  # when it was queued: its place in the queue
    started: float | None  # when a worker last took it
    finished: float | None
    heartbeat: float | None  # last sign of life of its worker
    attempt: int  # how many workers took it and did not hand it back
    cancel: bool  # the user asked to stop, the worker has not yet
    run_id: str | None  # the run it made
    error: str | None  # why it failed, one sentence
    device: str | None
    worker: str | None  # pid@host
    visitor: str  # who asked first, of those who wait; the work is counted for this one

    @property
    def active(self) -> bool:
        """Whether it is still to be waited for."""
        return self.state not in FINISHED


def worker_name() -> str:
    """`pid@host` of this process."""
    return f"{os.getpid()}@{socket.gethostname()}"


class JobTable:
    """The table in one file; cheap to create, safe to share between threads.

    Args:
        path: the SQLite file; it and its folder are made where they are missing. A local disk: WAL needs shared memory.
        lease_seconds: how long a silent worker keeps its job.
        clock: the time in unix seconds; tests turn it.
    """

    def __init__(
        self, path: Path, lease_seconds: float = LEASE_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._local = threading.local()

    # What pages use.

    def submit(
        self,
        study: str,
        request: dict[str, Any],
        visitor: str = "",
        run_exists: Callable[[str], bool] | None = None,
        admit: Callable[[sqlite3.Connection], None] | None = None,
    ) -> Job:
        """Queues a request, or returns the row that already stands for it.

        A failed or cancelled job is queued anew, and so is a done one whose run is gone. A running one that was to be
        cancelled goes on if its worker has not stopped yet, else it is queued again.

        Args:
            study: name of the study.
            request: JSON-ready; the order of its keys does not matter.
            visitor: who asks; the first one of a piece of work stays in the row, all are remembered as waiting for it.
            run_exists: whether the run of that id can still be read; without it a done job counts as done.
            admit: called inside the transaction when work is to be queued, so that nobody comes in between; raises to refuse.
        """
        text, key = _identity(study, request)
        known = self._find("fingerprint", key)
        # Asked outside the transaction: it looks at files and must not hold up other processes.
        gone = bool(known and known.state == "done" and run_exists and not run_exists(known.run_id or ""))
        with self._write() as db:
            if admit is not None and (known is None or gone or known.state in ("failed", "cancelled")):
                admit(db)
            db.execute(
                "INSERT INTO jobs (fingerprint, study, request, state, created, visitor)"
                " VALUES (?, ?, ?, 'queued', ?, ?) ON CONFLICT (fingerprint) DO NOTHING",
                (key, study, text, self._clock(), visitor),
            )
            taken_back = db.execute(
                "UPDATE jobs SET cancel = 0, visitor = ? WHERE fingerprint = ? AND state = 'running' AND cancel", (visitor, key)
            ).rowcount
            anew = db.execute(
                "UPDATE jobs SET state = 'queued', created = ?, visitor = ?, attempt = 0, cancel = 0, run_id = NULL, error = NULL,"
                f" started = NULL, finished = NULL, device = NULL, {_NOBODY} WHERE fingerprint = ? AND"
                " (state IN ('failed', 'cancelled') OR (? AND state = 'done' AND finished = ?))",
                (self._clock(), visitor, key, gone, known and known.finished),
            ).rowcount
            job = _job(db.execute("SELECT * FROM jobs WHERE fingerprint = ?", (key,)).fetchone())
            if taken_back or anew:  # whoever asked before waits no longer
                db.execute("DELETE FROM askers WHERE job = ?", (job.id,))
            db.execute("INSERT OR IGNORE INTO askers VALUES (?, ?)", (job.id, visitor))
            return job

    def get(self, job_id: int) -> Job:
        """The job, as it is now."""
        job = self._find("id", job_id)
        if job is None:
            raise JobError(f"There is no job {job_id}; it may have been removed.")
        return job

    def list(self, limit: int = 50, visitor: str | None = None) -> tuple[Job, ...]:
        """The newest jobs, newest first; with a visitor only those that the visitor waits for or asked for."""
        theirs = "" if visitor is None else "WHERE id IN (SELECT job FROM askers WHERE visitor = ?)"
        values = (limit,) if visitor is None else (visitor, limit)
        return self._rows(f"SELECT * FROM jobs {theirs} ORDER BY created DESC, id DESC LIMIT ?", values)

    def position(self, job_id: int) -> int | None:
        """Place in the queue, 1 = next; None when it does not wait."""
        job = self.get(job_id)
        if job.state != "queued":
            return None
        ahead = "SELECT count(*) FROM jobs WHERE state = 'queued' AND (created, id) <= (?, ?)"
        with self._translated():
            return self._db().execute(ahead, (job.created, job.id)).fetchone()[0]

    def eta_seconds(self, job: Job) -> float | None:
        """Seconds until the current stage ends, at its mean speed so far.

        None when the job does not run, the total is unknown, or less than 5 % of the stage's own work is done.
        """
        own, whole = job.done - job.stage_from, job.total - job.stage_from
        if job.state != "running" or job.stage_started is None or own <= 0 or own < ETA_FROM_SHARE * whole:
            return None
        return max(0.0, self._clock() - job.stage_started) * max(0, whole - own) / own

    def cancel(self, job_id: int, visitor: str | None = None) -> Job:
        """Stops a job: a queued one at once, a running one as soon as its worker looks. Finished ones stay as is.

        With a visitor, that visitor no longer waits for it, and it stops only when nobody else does.
        """
        with self._write() as db:
            if visitor is not None and not self._withdrawn(db, job_id, visitor):
                return self.get(job_id)
            db.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'", (job_id,))
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued'",
                (self._clock(), job_id),
            )
        return self.get(job_id)

    def _withdrawn(self, db: sqlite3.Connection, job_id: int, visitor: str) -> bool:
        """Whether nobody waits for an unfinished job any more, now that this visitor does not; who never asked changes nothing."""
        unfinished = f"job IN (SELECT id FROM jobs WHERE id = ? AND state NOT IN {FINISHED})"
        if not db.execute(f"SELECT 1 FROM askers WHERE visitor = ? AND {unfinished}", (visitor, job_id)).fetchone():
            return False
        if not db.execute("SELECT 1 FROM askers WHERE job = ? AND visitor != ?", (job_id, visitor)).fetchone():
            return True  # the last one stays as its asker, so that the page can say what became of it
        db.execute("DELETE FROM askers WHERE job = ? AND visitor = ?", (job_id, visitor))
        # What it takes is counted for whoever asked next.
        next_one = "(SELECT visitor FROM askers WHERE job = id ORDER BY askers.rowid LIMIT 1)"
        db.execute(f"UPDATE jobs SET visitor = {next_one} WHERE id = ? AND visitor = ?", (job_id, visitor))
        return False

    def remove(self, job_id: int) -> None:
        """Forgets a job that does not run. The run it made stays."""
        if not self._change("DELETE FROM jobs WHERE id = ? AND state != 'running'", (job_id,)):
            self.get(job_id)  # says so when there is no such job
            raise JobError(f"Job {job_id} is running; cancel it before removing it.")

    def prune(self, keep_seconds: float = KEEP_SECONDS) -> int:
        """Forgets jobs that finished longer ago than this; returns how many. Their runs stay."""
        return self._change(
            f"DELETE FROM jobs WHERE state IN {FINISHED} AND finished < ?", (self._clock() - keep_seconds,)
        )

    # What workers use.

    def claim(self, worker: str, device: str) -> Job | None:
        """Takes the oldest queued job, after returning the jobs of workers that fell silent."""
        now = self._clock()
        with self._write() as db:
            self._expire(db, "heartbeat < ?", (now - self.lease_seconds,))
            rows = db.execute(
                "UPDATE jobs SET state = 'running', started = ?, heartbeat = ?, worker = ?, device = ?,"
                " attempt = attempt + 1"
                " WHERE id = (SELECT id FROM jobs WHERE state = 'queued' ORDER BY created, id LIMIT 1) RETURNING *",
                (now, now, worker, device),
            ).fetchall()
        return _job(rows[0]) if rows else None

    def recover(self, device: str, host: str) -> None:
        """Returns the jobs that a dead worker of this device left, without waiting for their leases.

        Only for a worker that holds the device's lock and has taken no job yet: the lock proves that the other is gone.
        """
        with self._write() as db:
            self._expire(db, "device = ? AND substr(worker, instr(worker, '@') + 1) = ?", (device, host))

    def progress(self, job_id: int, worker: str, stage: str, done: int, total: int) -> bool:
        """Notes where a job stands and renews the lease.

        Returns:
            True when the worker must stop: the user asked to, or the job is no longer its own.
        """
        now = self._clock()
        same = "stage_started IS NOT NULL AND stage = ?"
        with self._write() as db:
            rows = db.execute(
                f"UPDATE jobs SET stage_started = iif({same}, stage_started, ?),"
                f" stage_from = iif({same}, stage_from, ?),"
                f" stage = ?, done = ?, total = ?, heartbeat = ? WHERE {_HELD} RETURNING cancel",
                (stage, now, stage, done, stage, done, total, now, job_id, worker),
            ).fetchall()
        return not rows or bool(rows[0]["cancel"])

    def finish(self, job_id: int, worker: str, run_id: str) -> bool:
        """Records the run. False when the lease was lost: then nothing is recorded."""
        return self._end(job_id, worker, "done", run_id, None)

    def fail(self, job_id: int, worker: str, message: str) -> bool:
        """Records why it failed. False when the lease was lost: then nothing is recorded."""
        return self._end(job_id, worker, "failed", None, message)

    def release(self, job_id: int, worker: str) -> None:
        """Lets go of a job without a result: cancelled where that was asked for, else back to its place in the queue.

        The attempt does not count: the worker was told to stop, the job did nothing wrong. Harmless without the lease.
        """
        self._change(
            "UPDATE jobs SET state = iif(cancel, 'cancelled', 'queued'), finished = iif(cancel, ?, NULL),"
            f" attempt = attempt - 1, cancel = 0, {_NOBODY} WHERE {_HELD}",
            (self._clock(), job_id, worker),
        )

    def _end(self, job_id: int, worker: str, state: str, run_id: str | None, error: str | None) -> bool:
        return bool(self._change(
            f"UPDATE jobs SET state = ?, run_id = ?, error = ?, finished = ?, cancel = 0 WHERE {_HELD}",
            (state, run_id, error, self._clock(), job_id, worker),
        ))

    def _expire(self, db: sqlite3.Connection, condition: str, values: tuple[Any, ...]) -> None:
        """Running jobs that meet the condition have lost their worker: cancelled if asked for, else tried once more."""
        lost, now = f"state = 'running' AND {condition}", self._clock()
        ended = f"finished = ?, cancel = 0, {_NOBODY} WHERE"
        db.execute(f"UPDATE jobs SET state = 'cancelled', {ended} cancel AND {lost}", (now, *values))
        db.execute(f"UPDATE jobs SET state = 'queued', {_NOBODY} WHERE attempt < {MAX_ATTEMPTS} AND {lost}", values)
        db.execute(f"UPDATE jobs SET state = 'failed', error = {_DIED_TWICE}, {ended} {lost}", (now, *values))

    # The file.

    def _find(self, column: str, value: Any) -> Job | None:
        rows = self._rows(f"SELECT * FROM jobs WHERE {column} = ?", (value,))
        return rows[0] if rows else None

    def _rows(self, query: str, values: tuple[Any, ...]) -> tuple[Job, ...]:
        with self._translated():
            return tuple(_job(row) for row in self._db().execute(query, values).fetchall())

    def _change(self, statement: str, values: tuple[Any, ...]) -> int:
        with self._write() as db:
            return db.execute(statement, values).rowcount

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One write transaction.

        IMMEDIATE waits for the lock at the start, where waiting is possible; a transaction that starts as a reader and
        writes later is refused half-way when another process wrote in between.
        """
        with self._translated():
            db = self._db()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JobError(
                f"The job table {self.path} cannot be used: {error}. Check that its folder is writable and the disk has"
                " room; if the file is damaged, delete it (finished runs are kept elsewhere)."
            ) from error

    def _db(self) -> sqlite3.Connection:
        """The connection of this thread; sqlite3 lets no other thread use it."""
        if not hasattr(self._local, "db"):
            self._local.db = _connect(self.path)
        return self._local.db


def _identity(study: str, request: dict[str, Any]) -> tuple[str, str]:
    """The request as canonical JSON, and the fingerprint of study and request together."""
    try:
        return canonical_json(request), fingerprint({"study": study, "request": request})
    except (TypeError, ValueError) as error:
        raise InputError(f"The request for study {study!r} must be plain JSON without NaN, but: {error}.") from error


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    return Job(**{**values, "request": json.loads(values["request"]), "cancel": bool(values["cancel"])})


def _connect(path: Path) -> sqlite3.Connection:
    """Opens the file; the first one to come makes the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    db.row_factory = sqlite3.Row
    _use_wal(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("BEGIN IMMEDIATE")  # one looks and creates, the others wait
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.execute(_CREATE)
    if version in (0, 1):
        db.execute(_CREATE_ASKERS)
        db.execute("INSERT INTO askers SELECT id, visitor FROM jobs")
        db.execute(f"PRAGMA user_version = {TABLE_VERSION}")
    db.execute("COMMIT")
    if version not in (0, 1, TABLE_VERSION):
        raise JobError(f"The job table {path} has version {version}, but this program needs {TABLE_VERSION}; delete the"
                       " file (finished runs are kept elsewhere).")
    return db


def _use_wal(db: sqlite3.Connection) -> None:
    """Lets readers and the writer work at once.

    The switch itself is refused without the usual wait while another process makes it too, hence the loop.
    """
    give_up = time.monotonic() + BUSY_SECONDS
    while db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
