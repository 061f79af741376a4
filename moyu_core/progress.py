"""How long work reports itself and is stopped: one callable."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Called at least once a second by everything long. Raises `Cancelled` when the user asked to stop."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`stage` is a short phrase ("capturing"), `done` of `total` units are finished (total 0 = unknown)."""
        ...


def silent(stage: str, done: int, total: int) -> None:
    """A reporter that says nothing and never cancels."""
