"""What visitors of a public installation may ask for: one record of numbers, read from a TOML file, checked against requests."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError
from moyu_core.model_sources import canonical_name

VARIABLE = "MOYU_PUBLIC"
"""Environment variable: empty or 0 = private, 1 = public with the usual limits, else the path of a TOML file of limits."""

WITHOUT_MODEL = ("live",)
"""Studies whose requests name no model, because they train a small network of their own."""


@dataclass(frozen=True)
class Limits:
    """What a public installation lets its visitors do.

    Attributes:
        models: names that may be run; no other is ever loaded.
        studies: that may be asked for.
        max_characters: of one text.
        max_prompts: of one request.
        max_tokens: longest sequence, sink token included; longest answer of a chat.
        queued_per_visitor, queued: jobs that may wait or run at once.
        seconds_per_visitor, seconds: of computing in an hour.
        seconds_per_job: after which the worker stops a job.
        sets_per_visitor: prompt sets kept in the library.
        run_days: after which a run or a visitor's prompt set that nobody opened is deleted.
        runs_mib: of all runs made here; the one that was not opened for the longest time goes first.
        sets_mib: of all visitors' prompt sets; likewise.
        idle_seconds: without a job, after which the worker gives back the memory that models took; on private installations too.
    """

    models: tuple[str, ...] = ("smollm2-135m-instruct", "tiny-relu", "tiny-gelu", "tiny-swiglu")
    studies: tuple[str, ...] = ("capture", "vocabulary")
    max_characters: int = 4_000
    max_prompts: int = 40
    max_tokens: int = 256
    queued_per_visitor: int = 3
    queued: int = 30
    seconds_per_visitor: int = 300
    seconds: int = 3_000
    seconds_per_job: int = 180
    sets_per_visitor: int = 20
    run_days: int = 7
    runs_mib: int = 5_000
    sets_mib: int = 500
    idle_seconds: int = 300

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(entry.default, int) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"The limit {entry.name} must be a whole number of at least 1, not {value!r}.")
            if isinstance(entry.default, tuple) and not (isinstance(value, tuple) and all(isinstance(part, str) for part in value)):
                raise InputError(f"The limit {entry.name} must be a list of names.")

    def check(self, study: str, request: Mapping[str, Any]) -> None:
        """Refuse a request that asks for more than is allowed.

        Raises:
            InputError: one sentence with the limit and what was asked for.
        """
        self.check_study(study)
        self._check_models(study, request)
        self.check_size(request)

    def check_size(self, request: Mapping[str, Any]) -> None:
        """Refuse more or longer texts than one request may hold; raises InputError as `check`."""
        for key, value in _entries(request):
            if isinstance(value, str) and len(value) > self.max_characters:
                raise InputError(
                    f"A text has at most {self.max_characters:,} characters on this public installation and one of "
                    f"yours has {len(value):,}; shorten it."
                )
            if isinstance(value, list | tuple) and len(value) > self.max_prompts and any(isinstance(one, dict) for one in value):
                raise InputError(
                    f"A request has at most {self.max_prompts} prompts on this public installation and yours has "
                    f"{len(value):,}; split it, or install the project."
                )
            if key in ("max_tokens", "tokens") and isinstance(value, int) and value > self.max_tokens:
                raise InputError(f"A sequence has at most {self.max_tokens} tokens on this public installation, not {value:,}.")

    def check_study(self, study: str) -> None:
        """Refuse a study that is not carried out here; raises InputError."""
        if study not in self.studies:
            raise InputError(
                f"This public installation carries out {_listed(self.studies)}, not {study!r}; install the project to "
                "run the other studies."
            )

    def _check_models(self, study: str, request: Mapping[str, Any]) -> None:
        found = [value for key, value in _entries(request) if key in ("model", "models")]
        models = [str(value) for value in found if not isinstance(value, list | tuple)]
        allowed = {canonical_name(name) for name in self.models}
        other = next((name for name in models if canonical_name(name) not in allowed), None)
        if other is not None:
            raise InputError(f"This public installation runs {_listed(self.models)}, not {other[:80]!r}.")
        if not models and study not in WITHOUT_MODEL:
            raise InputError(f"This public installation runs {_listed(self.models)}, and the request names no model.")

    def in_words(self) -> str:
        """The limits as one sentence for a page."""
        return (
            f"Public installation: up to {self.max_prompts} prompts of {self.max_characters:,} characters and {self.max_tokens} "
            f"tokens, {self.queued_per_visitor} jobs at once, {_time(self.seconds_per_visitor)} of computing an hour. Runs and "
            f"sets that nobody opens for {self.run_days} days are deleted. Others do not see yours unless you send them the link."
        )


def limits(environment: Mapping[str, str] = os.environ) -> Limits | None:
    """The limits that are in force; None = a private installation.

    Raises:
        InputError: the file of limits cannot be read, or holds a name that is no limit.
    """
    said = environment.get(VARIABLE, "")
    if said in ("", "0"):
        return None
    return Limits() if said == "1" else read_limits(Path(said))


def read_limits(path: Path) -> Limits:
    """The limits of a TOML file; what it does not name stays as usual."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The limits {path} cannot be read ({error}); give a TOML file such as deploy/public.toml.") from None
    unknown = set(found) - {entry.name for entry in fields(Limits)}
    if unknown:
        raise InputError(f"{path.name}: {sorted(unknown)[0]!r} is no limit; use {', '.join(asdict(Limits()))}.")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return Limits(**given)


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a request with the key it stands under, however deep."""
    yield key, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _entries(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _entries(inner, key)


def _time(seconds: int) -> str:
    """`5 minutes`, or `90 s` where it is no whole number of minutes above one."""
    return f"{seconds // 60} minutes" if seconds % 60 == 0 and seconds > 60 else f"{seconds:,} s"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
