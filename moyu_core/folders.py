"""Writing where others write too: one sentence for what the file system refuses, and one process at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from moyu_core.errors import MoyuError

POLL_SECONDS = 0.5


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into one sentence that names the folder."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise MoyuError(f"Nothing can be written to {folder} ({reason}); free some space there or choose another folder "
                        "with MOYU_HOME.") from error


@contextmanager
def locked(path: Path, taken: Callable[[], None], seconds: float = POLL_SECONDS) -> Iterator[None]:
    """Hold a lock between processes, which the system frees when this one dies, however it dies.

    Args:
        path: of the lock file; its folder is made.
        taken: called whenever another process has held it for `seconds`; raises to give up, else it is tried again.
        seconds: how long each try waits.

    Raises:
        MoyuError: the file cannot be written.
        what `taken` raises.
    """
    lock = FileLock(path)
    with writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _acquired(lock, seconds):
            taken()
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:  # an OSError too, which is none of the disk's
        return False
    return True
