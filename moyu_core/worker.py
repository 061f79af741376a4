"""The worker: takes one job after another from the table, holds the model, reports, and stops when told to.

    python -m moyu_core.worker --home DIR [--device cpu] [--once]

One worker for each device. What it logs goes to standard error and never holds prompt text.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import logging
import math
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from moyu_core import retention
from moyu_core.errors import Cancelled, JobError, MoyuError
from moyu_core.folders import locked
from moyu_core.home import REPOSITORY, Home
from moyu_core.job_reporter import JobReporter
from moyu_core.jobs import Job, JobTable, worker_name
from moyu_core.limits import Limits, limits
from moyu_core.public import refuse_overdrawn, spend
from moyu_core.serve import EXIT_TAKEN, PARENT, stop_with_parent

log = logging.getLogger("moyu.worker")

Perform = Callable[..., str]
"""`perform(study, request, home, report, device) -> run_id`, as in moyu_core.studies."""

POLL_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""How long a job that was told to stop may take to notice, before the process ends without it."""

ALIVE_SECONDS = 10.0
TIDY_SECONDS = 300.0


class Worker:
    """One process, one device, one job at a time.

    Args:
        home: where jobs and runs are kept.
        device: name of the device, for the table and for `perform`.
        perform: does the work of one job.
        limits: of public mode; None on a private installation.
    """

    def __init__(self, home: Home, device: str, perform: Perform, limits: Limits | None = None) -> None:
        self.home, self.device, self.perform, self.limits = home, device, perform, limits
        self.name = worker_name()
        self.table = JobTable(home.jobs)
        self.shutdown = threading.Event()
        self._job: Job | None = None
        self._tidied = -math.inf
        self._idle_since: float | None = None
        """When the last job of this process ended; None before the first, and while one is done."""

    def run(self, once: bool = False) -> None:
        """Works until told to stop, until it has been idle for too long, or, with `once`, until nothing is queued."""
        self.table.recover(self.device, socket.gethostname())
        self.table.prune()
        while not self.shutdown.is_set():
            self._job = self._claim()
            if self._job is not None:
                self._work(self._job)
            elif once or self.is_stale:
                return
            else:
                self._tidy()
                self.shutdown.wait(POLL_SECONDS)

    @property
    def is_stale(self) -> bool:
        """Whether jobs were done, but none for the idle time: what they left in memory is better given back."""
        allowed = (self.limits or Limits()).idle_seconds
        idle = self._idle_since is not None and time.monotonic() - self._idle_since > allowed
        return idle and sys.platform != "win32"

    def force(self) -> None:
        """Ends the process now, handing back the job. For a job that does not notice that it must stop."""
        if self._job is not None:
            with contextlib.suppress(JobError):
                self.table.release(self._job.id, self.name)
        log.warning("the job did not stop within %g s; ended without it", GRACE_SECONDS)
        os._exit(0)

    def _claim(self) -> Job | None:
        try:
            return self.table.claim(self.name, self.device)
        except JobError as error:
            log.error("%s", error)
            self.shutdown.wait(10 * POLL_SECONDS)
            return None

    def _work(self, job: Job) -> None:
        log.info("job %d: %s, attempt %d", job.id, job.study, job.attempt)
        began, self._idle_since = time.monotonic(), None
        try:
            outcome = self._attempt(job)
        except JobError as error:  # the lease runs out, the job is tried again and finds its run finished
            outcome = f"its end was not recorded: {error}"
        self._job, self._idle_since = None, time.monotonic()
        seconds = self._idle_since - began
        if self.limits is not None:
            with contextlib.suppress(JobError):
                spend(self.table, job.visitor, seconds)
            self._tidied = -math.inf
        log.info("job %d: %s after %.1f s", job.id, outcome, seconds)

    def _tidy(self) -> None:
        """In public mode: delete runs and sets over the limits, after a job and every few minutes."""
        if self.limits is None or time.monotonic() - self._tidied < TIDY_SECONDS:
            return
        self._tidied = time.monotonic()
        try:
            gone = retention.expire(self.home, self.limits.runs_mib, self.limits.run_days)
            sets = retention.expire_sets(self.home, self.limits.sets_mib, self.limits.run_days)
        except (MoyuError, OSError) as error:
            log.error("runs and sets could not be looked through: %s", error)
            return
        if gone or sets:
            log.info("deleted over the limits of age and size: %s", ", ".join([*gone, *([f"{sets} prompt sets"] if sets else [])]))

    def _attempt(self, job: Job) -> str:
        limits = self.limits
        reporter = JobReporter(self.table, job, self.name, self.shutdown, limits.seconds_per_job if limits else None)
        try:
            with reporter:
                if limits is not None:  # the page has asked already; a row can come into the table without it
                    limits.check(job.study, job.request)
                    refuse_overdrawn(self.table, job, limits)
                run_id = self.perform(job.study, job.request, self.home, reporter, self.device)
        except Exception as error:
            return self._ended_badly(job, error, reporter.must_stop)
        return f"made {run_id}" if self.table.finish(job.id, self.name, run_id) else "lost to another worker"

    def _ended_badly(self, job: Job, error: Exception, must_stop: bool) -> str:
        if isinstance(error, Cancelled) and must_stop:
            self.table.release(job.id, self.name)
            return "stopped"
        if isinstance(error, MoyuError):
            self.table.fail(job.id, self.name, str(error))
            return f"failed ({type(error).__name__})"
        log.error("job %d: unexpected error\n%s", job.id, without_messages(error))
        self.table.fail(job.id, self.name, f"unexpected error {type(error).__name__}: see the worker's log")
        return "failed unexpectedly"


def without_messages(error: BaseException | None) -> str:
    """The traceback without any exception's message: a message may quote a prompt."""
    parts: list[str] = []
    while error is not None:
        parts.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nwhich was raised before\n".join(reversed(parts))


def workers_alive(home: Home) -> list[str]:
    """Devices whose worker showed a sign of life in the last seconds, in this folder, on whatever machine."""
    locks = home.root.glob("worker-*.lock")
    return sorted(lock.stem.removeprefix("worker-") for lock in locks if time.time() - _touched(lock) < ALIVE_SECONDS)


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _watch(worker: Worker, lock: Path) -> None:
    """Turns SIGTERM and SIGINT into `worker.shutdown`, and marks the lock file as a sign of life.

    In a thread behind a wake-up descriptor: a Python signal handler alone would wait until the main thread returns from
    whatever long computation it is in.
    """
    ends = socket.socketpair()  # both are kept open by the thread: a closed one would look like a signal
    ends[1].setblocking(False)
    signal.set_wakeup_fd(ends[1].fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def watch() -> None:
        signalled = False
        while not signalled:
            with contextlib.suppress(OSError):
                os.utime(lock)
            signalled = bool(select.select(ends[:1], [], [], ALIVE_SECONDS / 5)[0])
        worker.shutdown.set()
        time.sleep(GRACE_SECONDS)
        worker.force()

    threading.Thread(target=watch, daemon=True).start()


class _TakenError(JobError):
    """The device has its worker."""


@contextlib.contextmanager
def _only_one(home: Home, device: str) -> Iterator[Path]:
    """Holds the device's lock file."""

    def taken() -> None:
        raise _TakenError(f"Another worker already uses {device} for {home.root}; stop it first, or choose another"
                          " --device or --home.")

    path = home.root / f"worker-{device.replace(':', '-')}.lock"
    with locked(path, taken, seconds=0):
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                os.utime(path, (0, 0))  # no longer alive, from now on


def _device(requested: str | None) -> str:
    """The device's full name, so that `cuda` and `cuda:0` are one. torch is imported only where it must decide."""
    if requested == "cpu":
        return requested
    from moyu_core.devices import choose_device

    device, reason = choose_device(requested)
    log.info("device: %s", reason)
    return "cuda:0" if str(device) == "cuda" else str(device)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m moyu_core.worker", description="Works off the job table.")
    parser.add_argument("--home", type=Path, help="folder of models, runs and jobs (default: MOYU_HOME or the cache)")
    parser.add_argument("--device", help="cpu, cuda, cuda:<number> or mps (default: the best there is)")
    parser.add_argument("--once", action="store_true", help="end when nothing is queued")
    parser.add_argument("--studies", default="moyu_core.studies", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _start_afresh(home: Home, device: str, studies: str, parent: str) -> None:
    """Become a new worker in the same process: the one way to give back all memory of torch and its models.

    The process keeps its number, so whoever started it sees no end. Not on Windows, where this would be another process.
    """
    log.info("idle for a while; starting afresh, so that no model stays in memory")
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    told = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **({PARENT: parent} if parent else {})}
    options = ["--home", str(home.root), "--device", device, "--studies", studies]
    os.execve(sys.executable, [sys.executable, "-m", "moyu_core.worker", *options], told)


def main(argv: list[str] | None = None) -> int:
    """Runs a worker; returns the exit status."""
    arguments = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(message)s", stream=sys.stderr)
    faulthandler.enable()
    parent = os.environ.get(PARENT, "")
    stop_with_parent()
    home = Home(arguments.home.resolve()) if arguments.home else Home.default()
    try:
        device = _device(arguments.device)
        with _only_one(home, device) as lock:
            worker = Worker(home, device, importlib.import_module(arguments.studies).perform, limits())
            _watch(worker, lock)
            log.info("ready on %s for %s", device, home.root)
            worker.run(arguments.once)
        if worker.is_stale and not (arguments.once or worker.shutdown.is_set()):
            _start_afresh(home, device, arguments.studies, parent)
    except MoyuError as error:
        log.error("%s", error)
        return EXIT_TAKEN if isinstance(error, _TakenError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
