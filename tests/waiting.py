"""Waiting in tests: for what is to happen, never for a time in which it should have happened."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

Seen = TypeVar("Seen")
PATIENCE = 120.0
"""Seconds after which something is taken to happen never. Far more than anything here takes, for machines that are busy or slow."""


def until(look: Callable[[], Seen], condition: Callable[[Seen], Any] = bool, seconds: float = PATIENCE) -> Seen:
    """What `look` gives as soon as `condition` holds of it."""
    end = time.monotonic() + seconds
    while not condition(seen := look()):
        assert time.monotonic() < end, f"still {seen!r}"
        time.sleep(0.02)
    return seen


def line_with(word: str, stream: IO[str] | None) -> str:
    """The first line of a process's output that holds the word; AssertionError with the output when it ends without one."""
    assert stream is not None
    said = []
    for line in stream:
        if word in line:
            return line
        said.append(line)
    raise AssertionError(f"no {word!r} in {''.join(said)!r}")


def ended(process: subprocess.Popen[Any]) -> int:
    """Ask a process to end; one that does not is killed, so that no test leaves it to the next. Returns its exit status."""
    process.terminate()
    try:
        return process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
