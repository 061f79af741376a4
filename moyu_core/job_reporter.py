"""What a study reports to while the worker does a job: progress into the table, and the word that it must stop."""

from __future__ import annotations

import logging
import threading
import time

from moyu_core.errors import Cancelled, JobError
from moyu_core.jobs import Job, JobTable

log = logging.getLogger("moyu.worker")

REPORT_SECONDS = 0.25


class OverTimeError(JobError):
    """A job has used up what public mode gives to one."""


class JobReporter:
    """The `Reporter` of one job: writes its progress, keeps its lease, and raises `Cancelled` when it must stop.

    With `seconds` it raises `OverTimeError` once the job has taken that long. Writes at most every `REPORT_SECONDS`, but each new
    stage at once. Its own thread renews the lease, so a step that reports nothing for minutes does not lose the job; the same
    thread brings the last throttled report to the table.
    """

    def __init__(
        self, table: JobTable, job: Job, worker: str, shutdown: threading.Event, seconds: float | None = None
    ) -> None:
        self._table, self._job, self._worker, self._shutdown = table, job, worker, shutdown
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._latest, self._written = ("starting", 0, 0), 0.0
        self._writing = threading.Lock()  # else an old report could be written after a newer one
        self._refused, self._over = threading.Event(), threading.Event()
        self._beat = threading.Thread(target=self._keep_lease, daemon=True)

    @property
    def must_stop(self) -> bool:
        """Whether the user cancelled, the lease was lost, or the worker is to end."""
        return self._refused.is_set() or self._shutdown.is_set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Notes progress; raises `Cancelled` when the work must stop."""
        entered, self._latest = stage != self._latest[0], (stage, int(done), int(total))
        if entered or time.monotonic() - self._written >= REPORT_SECONDS:
            self._write()
        if self.must_stop:
            raise Cancelled("The job was told to stop.")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OverTimeError("The job took longer than this public installation allows; ask for less text or fewer layers.")

    def __enter__(self) -> JobReporter:
        self._write()
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._beat.join()

    def _write(self) -> None:
        with self._writing:
            self._written = time.monotonic()
            try:
                if self._table.progress(self._job.id, self._worker, *self._latest):
                    self._refused.set()
            except JobError as error:  # a busy disk is no reason to lose an hour of work; the next beat tries again
                log.warning("job %d: progress was not written: %s", self._job.id, error)

    def _keep_lease(self) -> None:
        while not self._over.wait(self._table.lease_seconds / 6):
            self._write()
