"""Prompt sets that stay: named, versioned by their content, shipped with the code or kept in the home.

    <home>/prompts/<key>/set.json  <hash>.jsonl ...

A version's name is the first 12 digits of `prompts_hash`, the same hash that is part of a run's identity: equal prompts have the
same name on every machine, so a link can carry it. Versions are never altered; saving other prompts under a known name adds one.
Folders bear keys made here, no path is made of a name that a user gave.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError, MoyuError
from moyu_core.folders import locked, writable
from moyu_core.home import Home
from moyu_core.prompts import MAX_LABEL, Prompt, PromptSet, prompts_hash, read_prompts, write_prompts

REFERENCE_DIGITS = 12
USED_SECONDS = 600
"""How exactly it is known when a set was last opened."""
MAX_VERSIONS = 200
"""Versions kept of one set; the oldest go first."""
LOCK_SECONDS = 10.0
"""How long another process that changes the library is waited for."""
_REFERENCE = re.compile(r"[0-9a-f]{12}")
_SET, _TRASH = "set.json", ".trash"


@dataclass(frozen=True)
class Version:
    """One state of a set.

    Attributes:
        reference: 12 hex digits of the hash of its prompts.
        prompts: how many there are.
        created: seconds since 1970; 0 for shipped sets.
        source: where it came from, in words.
        notes: what was changed or left out when it was read.
    """

    reference: str
    prompts: int
    created: int
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredSet:
    """A set of the library.

    Attributes:
        key: of its folder, 12 hex digits; the file's name for shipped sets.
        name: as the user called it.
        versions: the newest first; at least one.
        owner: visitor who made it; "" = everybody's.
        shipped: part of the program, never changed or deleted.
        folder: where its versions lie.
    """

    key: str
    name: str
    versions: tuple[Version, ...]
    owner: str
    shipped: bool
    folder: Path

    @property
    def newest(self) -> Version:
        """The version that is used unless another is asked for."""
        return self.versions[0]


def place(home: Home) -> Path:
    """The folder of the sets made here."""
    return home.root / "prompts"


def list_sets(home: Home, visitor: str | None = None) -> list[StoredSet]:
    """The shipped sets, then those made here by name; with a visitor, only everybody's and that visitor's own."""
    own = [found for folder in _folders(place(home)) if (found := _opened(folder)) is not None]
    seen = [found for found in own if visitor is None or found.owner in ("", visitor)]
    return [*shipped(home), *sorted(seen, key=lambda found: found.name.casefold())]


def shipped(home: Home) -> list[StoredSet]:
    """The sets of data/prompts."""
    files = sorted(home.prompts.glob("[!.]*.jsonl")) if home.prompts.is_dir() else []
    return [_shipped(str(file), file.stat().st_mtime_ns) for file in files]


@lru_cache(maxsize=32)
def _shipped(path: str, changed: int) -> StoredSet:
    del changed
    file = Path(path)
    found = read_prompts(file)
    version = Version(prompts_hash(found.prompts)[:REFERENCE_DIGITS], len(found.prompts), 0, "part of the program", found.notes)
    return StoredSet(file.stem, found.name, (version,), "", True, file.parent)


def save(home: Home, found: PromptSet, source: str = "", owner: str = "") -> tuple[StoredSet, Version]:
    """Keep a set under its name; returns the set and the version that holds these prompts.

    The same prompts under the same name are kept once. Of an owner's sets and everybody's, names are told apart.

    Raises:
        InputError: the name cannot be one.
        MoyuError: the disk is full, or the folder cannot be written to.
    """
    name = _name(found.name)
    key = _key(name, owner)
    folder = place(home) / key
    reference = prompts_hash(found.prompts)[:REFERENCE_DIGITS]
    version = Version(reference, len(found.prompts), int(time.time()), source, found.notes)
    with _changing(home):
        before = _opened(folder)
        known = next((old for old in before.versions if old.reference == reference), None) if before else None
        if known is None or not (folder / f"{reference}.jsonl").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_prompts(folder / f"{reference}.jsonl", found.prompts)
        others = [old for old in (before.versions if before else ()) if old.reference != reference]
        stored = StoredSet(key, name, (known or version, *others)[:MAX_VERSIONS], owner, False, folder)
        _write(stored)
        for old in others[MAX_VERSIONS - 1 :]:
            (folder / f"{old.reference}.jsonl").unlink(missing_ok=True)
    return stored, stored.newest


def load(home: Home, reference: str) -> PromptSet:
    """The prompts of a version, by its 12 digits; whoever has them may use them.

    Raises:
        InputError: no such version here, or its file no longer holds what its name says.
    """
    stored, version = find(home, reference)
    for same, _ in _holders(home, reference):  # nobody can tell whose of them was meant, so none of them expires
        _mark_used(same)
    file = stored.folder / (f"{stored.key}.jsonl" if stored.shipped else f"{version.reference}.jsonl")
    return _loaded(str(file), file.stat().st_mtime_ns if file.is_file() else 0, stored.name, reference)


def used(stored: StoredSet) -> float:
    """Seconds since 1970 when a set was last saved or opened: the time of its list of versions."""
    try:
        return (stored.folder / _SET).stat().st_mtime
    except OSError:
        return time.time()


def _mark_used(stored: StoredSet) -> None:
    with suppress(OSError):
        if not stored.shipped and time.time() - used(stored) > USED_SECONDS:
            os.utime(stored.folder / _SET)


@lru_cache(maxsize=16)
def _loaded(path: str, changed: int, name: str, reference: str) -> PromptSet:
    del changed
    found = read_prompts(Path(path))
    if prompts_hash(found.prompts)[:REFERENCE_DIGITS] != reference:
        raise InputError(f"The file of version {reference} of {name!r} was altered after it was written; import the set again.")
    return PromptSet(name, found.prompts, found.notes)


def find(home: Home, reference: str) -> tuple[StoredSet, Version]:
    """The set and the version that bear a reference; of several sets with the same prompts the first."""
    if _REFERENCE.fullmatch(reference):
        for holder in _holders(home, reference):
            return holder
    raise InputError(
        f"There is no prompt set {reference[:40]!r} here; import it on the Prompts page, where the same prompts get the "
        "same name again."
    )


def _holders(home: Home, reference: str) -> Iterator[tuple[StoredSet, Version]]:
    """Every set that has a version of this reference, and that version."""
    for stored in list_sets(home):
        yield from ((stored, version) for version in stored.versions if version.reference == reference)


def delete(home: Home, key: str) -> None:
    """Move a set with all its versions to the trash; `restore` brings it back.

    A set of the same name that was deleted before stays there, under a key made anew.
    """
    folder = _own(home, key)
    with _changing(home):
        trash = place(home) / _TRASH
        trash.mkdir(exist_ok=True)
        if (trash / key).exists():
            (trash / key).rename(trash / uuid.uuid4().hex[:REFERENCE_DIGITS])
        folder.rename(trash / key)


def restore(home: Home, key: str) -> None:
    """Undo `delete`, by the key in the trash, or by that of the set: then the one that was deleted last."""
    thrown = [stored for stored in deleted(home) if key in (stored.key, _key(stored.name, stored.owner))]
    if not thrown:
        raise InputError(f"The prompt set {key!r} is not in the trash.")
    chosen = max(thrown, key=lambda stored: (stored.key == key, stored.folder.stat().st_ctime_ns))  # when it was moved
    target = place(home) / _key(chosen.name, chosen.owner)
    if target.exists():
        raise InputError("A set of this name was made since; delete or rename that one first.")
    with _changing(home):
        chosen.folder.rename(target)


def deleted(home: Home, visitor: str | None = None) -> list[StoredSet]:
    """The sets in the trash."""
    found = [_opened(folder) for folder in _folders(place(home) / _TRASH)]
    return [stored for stored in found if stored and (visitor is None or stored.owner in ("", visitor))]


def empty_trash(home: Home) -> None:
    """Remove deleted sets for good."""
    shutil.rmtree(place(home) / _TRASH, ignore_errors=True)


def remove(home: Home, sets: Iterable[StoredSet]) -> None:
    """Remove sets for good, from the library or from the trash."""
    with _changing(home):
        for stored in sets:
            if not stored.shipped:
                shutil.rmtree(stored.folder, ignore_errors=True)


def token_counts(model_folder: Path, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of each prompt with the sink token, by a model's tokenizer alone: no torch, no weights.

    Raises:
        ModelError: the folder has no tokenizer.json.
    """
    from moyu_core.tokens import count_tokens

    return [count_tokens(model_folder, prompt.text) + 1 for prompt in prompts]


def _name(name: str) -> str:
    name = unicodedata.normalize("NFC", name).strip()
    if not name or len(name) > MAX_LABEL or not name.isprintable():
        raise InputError(f"A set's name has 1 to {MAX_LABEL} printable characters, not {name[:MAX_LABEL]!a}.")
    return name


def _key(name: str, owner: str) -> str:
    return hashlib.sha256(f"{owner}\0{name.casefold()}".encode()).hexdigest()[:REFERENCE_DIGITS]


def _folders(root: Path) -> Iterable[Path]:
    if not root.is_dir():
        return ()
    return [folder for folder in sorted(root.iterdir()) if _REFERENCE.fullmatch(folder.name) and folder.is_dir()]


def _opened(folder: Path) -> StoredSet | None:
    """The set of a folder; None where set.json is missing or is not one of ours."""
    try:
        said = json.loads((folder / _SET).read_text(encoding="utf-8"))
        versions = tuple(_version(entry) for entry in said["versions"])
        name, owner = str(said["name"]), str(said["owner"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return StoredSet(folder.name, name, versions, owner, False, folder) if versions else None


def _version(entry: dict[str, Any]) -> Version:
    if not _REFERENCE.fullmatch(entry["reference"]):
        raise ValueError(entry["reference"])
    return Version(entry["reference"], int(entry["prompts"]), int(entry["created"]), str(entry["source"]), tuple(entry["notes"]))


def _write(stored: StoredSet) -> None:
    said = {"name": stored.name, "owner": stored.owner, "versions": [asdict(version) for version in stored.versions]}
    partial = stored.folder / f".{_SET}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(said, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(stored.folder / _SET)


def _own(home: Home, key: str) -> Path:
    folder = place(home) / key
    if not _REFERENCE.fullmatch(key) or not folder.is_dir():
        raise InputError(f"{key[:40]!r} is not one of the sets made here; shipped sets are part of the program.")
    return folder


@contextmanager
def _changing(home: Home) -> Iterator[None]:
    """One process changes the library at a time."""

    def busy() -> None:
        raise MoyuError("Another process is changing the prompt library; try again in a moment.")

    root = place(home)
    with writable(root), locked(root / ".lock", busy, LOCK_SECONDS):
        yield
