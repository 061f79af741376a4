"""Ray: connecting to it, and the pipeline of shards through actors, with progress and cancel."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

from moyu_core.cluster.worker import Row, ShardWorker
from moyu_core.errors import InputError, MoyuError
from moyu_core.progress import Reporter

CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.5
CPU_WORKERS = 2
"""Workers of a machine without a GPU, unless told otherwise: each holds the model."""

_MISSING = "--engine ray needs Ray, which is not installed; run `pip install -r requirements-ray.txt`, or leave --engine out."


@dataclass(frozen=True)
class Cluster:
    """Where to work, and how widely.

    Attributes:
        address: of a running Ray cluster (`host:port`, `ray://host:port`, `auto`); None starts Ray on this machine.
        workers: actors that hold the model; None = one for each GPU, or CPU_WORKERS where there is none.
        gpus_per_worker: GPUs of one worker; above 1 for models that one GPU cannot hold.
        device: as `load_model` takes it; None chooses.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: int = 1
    device: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"A capture needs at least one worker, not {self.workers}.")
        if self.gpus_per_worker < 1:
            raise InputError(f"A worker takes at least one GPU where there are any, not {self.gpus_per_worker}.")


@dataclass(frozen=True)
class Share:
    """What each worker gets: how many workers, and processors, GPUs and threads of one."""

    workers: int
    cpus: float
    gpus: int
    threads: int

    @property
    def resources(self) -> dict[str, float]:
        """As Ray takes them."""
        return {"num_cpus": self.cpus, **({"num_gpus": self.gpus} if self.gpus else {})}


def share_of(cluster: Cluster, cpus: float, gpus: float) -> Share:
    """How a cluster of so many processors and GPUs is shared out.

    Raises:
        InputError: more GPUs are asked for than there are.
    """
    if gpus >= 1 and cluster.device != "cpu":
        workers = cluster.workers or max(1, int(gpus // cluster.gpus_per_worker))
        if workers * cluster.gpus_per_worker > gpus:
            asked = f"{workers} worker(s) of {cluster.gpus_per_worker} GPU(s)"
            raise InputError(f"{asked} were asked for and the cluster has {gpus:.0f}; take fewer.")
        return Share(workers, 1 if cpus >= workers else cpus / workers, cluster.gpus_per_worker, max(1, int(cpus // workers)))
    workers = cluster.workers or max(1, min(CPU_WORKERS, int(cpus)))
    each = cpus / workers
    return Share(workers, int(each) if each >= 1 else each, 0, max(1, int(each)))


def require_ray() -> Any:
    """The module `ray`; InputError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as later versions do, without a warning
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError(_MISSING) from None
    return ray


@contextmanager
def connected(cluster: Cluster, report: Reporter) -> Iterator[tuple[Any, Share]]:
    """Ray, and what each worker gets. What was started here is stopped at the end, with every worker; also when cancelled.

    Raises:
        InputError: Ray is missing, or no cluster answers at the address.
    """
    ray = require_ray()
    report("starting Ray" if cluster.address is None else f"connecting to {cluster.address}", 0, 0)
    mine = not ray.is_initialized()
    if mine:
        _init(ray, cluster)
    try:
        _quiet(ray)
        found = ray.cluster_resources()
        yield ray, share_of(cluster, found.get("CPU", 1), found.get("GPU", 0))
    finally:
        if mine:
            ray.shutdown()


def _init(ray: Any, cluster: Cluster) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address is None:
        cpus = max(os.cpu_count() or 1, cluster.workers or 1)
        ray.init(num_cpus=cpus, include_dashboard=False, **options)
        return
    _require_answer(cluster.address)
    try:
        ray.init(address=cluster.address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(_no_answer(cluster.address, str(error).splitlines()[0][:200] if str(error) else "")) from error


def _require_answer(address: str) -> None:
    """Refuse an address behind which nothing listens; Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise InputError(f"A cluster's address is host:port, ray://host:port or auto, not {address!r}.")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(_no_answer(address, getattr(error, "strerror", None) or str(error))) from None


def _no_answer(address: str, reason: str) -> str:
    return (
        f"No Ray cluster answers at {address} ({reason or 'no reason given'}); start one with `ray start --head`, "
        "check the address, or leave --address out to use this machine alone."
    )


def _quiet(ray: Any) -> None:
    """Progress goes to the reporter; Ray's own bars and notes stay off the terminal."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def stream(ray: Any, share: Share, shards: Sequence[int], arguments: dict[str, Any]) -> Iterator[Row]:
    """The rows with which workers answer, as they come. A worker that is lost is replaced, and its shard done again."""
    source = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    pool = ray.data.ActorPoolStrategy(size=min(share.workers, len(shards)), max_tasks_in_flight_per_actor=1)
    answers = source.map_batches(ShardWorker, batch_size=1, compute=pool, fn_constructor_kwargs=arguments, **share.resources)
    for batch in answers.iter_batches(batch_size=1, prefetch_batches=0):
        yield {name: column.tolist()[0] for name, column in batch.items()}


def ask_one(ray: Any, share: Share, arguments: dict[str, Any], method: str, *what: Any) -> Row:
    """One question to a worker of its own, which is gone afterwards."""
    actor = ray.remote(**share.resources)(ShardWorker).remote(**arguments)
    try:
        return ray.get(getattr(actor, method).remote(*what))
    finally:
        ray.kill(actor)


def watched(work: Callable[[], Iterator[Row]], tick: Callable[[], None]) -> Iterator[Row]:
    """What an iterator gives, taken in a thread of its own so that `tick` is called at least twice a second meanwhile.

    Raises:
        what the iterator or `tick` raises; Ray's own errors as one sentence.
    """
    answers: Queue[Row | BaseException | None] = Queue()

    def run() -> None:
        try:
            for row in work():
                answers.put(row)
            answers.put(None)
        except BaseException as error:  # handed over, not handled
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()
    while True:
        answer: Row | BaseException | None = {}
        with suppress(Empty):
            answer = answers.get(timeout=POLL_SECONDS)
        if answer is None:
            return
        if isinstance(answer, BaseException):
            raise _in_words(answer)
        if answer:
            yield answer
        tick()


def _in_words(error: BaseException) -> BaseException:
    """Ray's account of a lost cluster as one sentence; a defect keeps its traceback."""
    with suppress(ImportError):
        from ray.exceptions import RaySystemError, RayTaskError

        if isinstance(error, RaySystemError | ConnectionError) and not isinstance(error, RayTaskError):
            lost = MoyuError(f"The Ray cluster was lost ({str(error).splitlines()[0][:160]}); ask again, what is finished is kept.")
            lost.__cause__ = error
            return lost
    return error
