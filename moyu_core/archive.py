"""Bundles: a run as one file that can be handed on, which `archive_import` turns back into a run.

    <run id>.moyu.zip
        bundle.json                what this is, its version, and size and SHA-256 of every file
        <run id>/manifest.json     as it lies in the run's folder
        <run id>/prompts.parquet   ... every table; stored, not packed, since tables are packed already

Equal runs give equal bundles, byte by byte. Writing goes through a buffer of one MiB, however large the run.
"""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from moyu_core.errors import DamagedRunError
from moyu_core.folders import writable
from moyu_core.hashing import file_sha256
from moyu_core.progress import Reporter, silent
from moyu_core.store import MANIFEST, Run

BUNDLE_VERSION = 1
"""Raised when a bundle's layout changes its meaning."""
ENDING = ".moyu.zip"
BUNDLE = "bundle.json"
CHUNK = 2**20
_DATE = (1980, 1, 1, 0, 0, 0)


class Writable(Protocol):
    """What a bundle is written to."""

    def write(self, data: bytes, /) -> int:
        """Take bytes; returns how many."""
        ...


def write(run: Run, target: Writable, report: Reporter = silent) -> None:
    """Write the bundle of a run to an open file, which need not be seekable.

    Args:
        run: a finished run; its files are hashed again while they are copied.
        target: where to; anything with `write`.
        report: told the bytes that are written.

    Raises:
        DamagedRunError: a file is not what the manifest says; what was written so far must be thrown away.
    """
    for done, total in _written(run, target):
        report("writing the bundle", done, total)


def stream(run: Run) -> Iterator[bytes]:
    """The bundle piece by piece, for a server that sends it while it is made."""
    pipe = _Pipe()
    for _ in _written(run, pipe):
        yield pipe.take()
    yield pipe.take()


def save(run: Run, path: Path, report: Reporter = silent) -> Path:
    """Write the bundle of a run as a file that appears whole or not at all; returns its path.

    Args:
        run: a finished run.
        path: the file, or a folder, in which it is called `<run id>.moyu.zip`.
        report: told the bytes that are written.
    """
    with writable(path.parent):  # a name that is too long is refused here already
        path = path / f"{run.id}{ENDING}" if path.is_dir() else path
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _Guarded(partial) as file:
            write(run, file, report)
        with writable(path.parent):
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


class _Guarded:
    """A new file; what the disk refuses is one sentence, while errors of what is read meanwhile keep their own words."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        with writable(self._folder):
            self._file = path.open("wb")

    def __enter__(self) -> _Guarded:
        return self

    def __exit__(self, *error: object) -> None:
        with writable(self._folder):
            self._file.close()

    def write(self, data: bytes) -> int:
        """Write bytes; returns how many."""
        with writable(self._folder):
            return self._file.write(data)


class _Pipe:
    """A file that is written to only, so that bundles are alike wherever they go; what was written waits to be taken."""

    def __init__(self, target: Writable | None = None) -> None:
        self.target = target
        self.waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Hand the bytes on, or keep them for `take`."""
        if self.target is not None:
            return self.target.write(data)
        self.waiting.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        """What waits."""
        taken, self.waiting = b"".join(self.waiting), []
        return taken


def _written(run: Run, target: Any) -> Iterator[tuple[int, int]]:
    """Write the bundle in steps; yields bytes done and in all."""
    files = {
        MANIFEST: _manifest_entry(run),
        **{name: _announced(run, name) for name in run.manifest["files"]},
    }
    head = {"bundle_version": BUNDLE_VERSION, "run_id": run.id, "schema_version": run.spec.schema_version, "files": files}
    done, total = 0, sum(entry["bytes"] for entry in files.values())
    pipe: Any = target if isinstance(target, _Pipe) else _Pipe(target)
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_info(BUNDLE), json.dumps(head, sort_keys=True, indent=1).encode())
        for name, entry in files.items():
            digest = hashlib.sha256()
            with archive.open(_info(f"{run.id}/{name}"), "w", force_zip64=True) as member:
                for chunk in _chunks(run, name):
                    member.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    yield done, total
            if digest.hexdigest() != entry["sha256"]:
                raise DamagedRunError(f"Run {run.id} is damaged: {name} was altered after it was written (its SHA-256 differs).")


def checked_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Size and SHA-256 of a file as a manifest says them; raises an ordinary error where it does not."""
    size, digest = entry["bytes"], entry["sha256"]
    if type(size) is not int or size < 0 or not isinstance(digest, str) or len(digest) != 64:
        raise ValueError
    return {"bytes": size, "sha256": digest}


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3
    return info


def _chunks(run: Run, name: str) -> Iterator[bytes]:
    path = run.folder / MANIFEST if name == MANIFEST else run.path(name)
    try:
        with path.open("rb") as source:
            while chunk := source.read(CHUNK):
                yield chunk
    except OSError as error:
        raise run.damaged(name, error) from error


def _manifest_entry(run: Run) -> dict[str, Any]:
    path = run.folder / MANIFEST
    try:
        return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    except OSError as error:
        raise run.damaged(MANIFEST, error) from error


def _announced(run: Run, name: str) -> dict[str, Any]:
    try:
        return checked_entry(run.manifest["files"][name])
    except (ValueError, KeyError, TypeError):
        raise run.damaged(MANIFEST, ValueError(f"its entry of {name} holds no size with a SHA-256")) from None
