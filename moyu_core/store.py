"""Runs on disk: a folder of Parquet tables and a manifest, written whole or not at all.

    <root>/<study>-<12 hex>/manifest.json  prompts.parquet  neurons.parquet  index.parquet  activations-000.parquet ...

A run is written to a hidden folder beside its place, fsynced and renamed, so what has a run's name is complete. The
manifest holds size and SHA-256 of every file; what does not match is named, and can be set aside and computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from moyu_core.errors import DamagedRunError, NotInRunError
from moyu_core.home import Home
from moyu_core.schema import SCHEMA_VERSION
from moyu_core.spec import RunSpec

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Run:
    """A finished run, opened for reading. Opening reads the manifest only.

    Attributes:
        folder: where it lies.
        manifest: what the writer said of it; keys are listed in data/README.md.
        tracked: shipped with the code, so never changed or deleted.
    """

    folder: Path
    manifest: dict[str, Any]
    tracked: bool = False

    @property
    def id(self) -> str:
        """`<study>-<12 hex>`."""
        return self.manifest["run_id"]

    @cached_property
    def spec(self) -> RunSpec:
        """The identity of the run."""
        return RunSpec.from_json(self.manifest["spec"])

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, from the manifest."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def path(self, name: str) -> Path:
        """The path of one of the run's files, after a look at its presence and size."""
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise NotInRunError(f"Run {self.id} has no file {name!r}; it has {', '.join(self.manifest['files'])}.")
        path = self.folder / name
        found = path.stat().st_size if path.exists() else None
        if found != entry["bytes"]:
            state = "is missing" if found is None else f"has {found:,} bytes instead of {entry['bytes']:,}"
            raise DamagedRunError(f"Run {self.id} is damaged: {name} {state}. Set it aside on the Runs page and compute it again.")
        return path

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One whole table kept in one file (prompts, neurons, index ...), as Arrow."""
        try:
            return pq.read_table(self.path(f"{name}.parquet"), columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise self.damaged(f"{name}.parquet", error) from error

    def damaged(self, name: str, error: Exception) -> DamagedRunError:
        """The error for a file that cannot be read although its size is right."""
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        return DamagedRunError(f"Run {self.id} is damaged: {name} cannot be read ({reason}). "
                               "Set it aside on the Runs page and compute it again.")

    def verify(self) -> None:
        """Compare size and SHA-256 of every file with the manifest; raises DamagedRunError naming the first difference."""
        for name, entry in self.manifest["files"].items():
            if _sha256(self.path(name)) != entry["sha256"]:
                raise DamagedRunError(f"Run {self.id} is damaged: {name} was altered after it was written "
                                      "(its SHA-256 differs). Set it aside on the Runs page and compute it again.")


def open_run(folder: Path, tracked: bool = False) -> Run:
    """Open a run by its folder.

    Raises:
        NotInRunError: no such folder.
        DamagedRunError: manifest missing, unreadable, or of a newer schema.
    """
    if not folder.is_dir():
        raise NotInRunError(f"There is no run {folder.name!r}; choose one on the Runs page.")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["spec"]["schema_version"]
        _ = manifest["run_id"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedRunError(f"Run {folder.name!r} is damaged: {MANIFEST} cannot be read ({type(error).__name__}). "
                              "Set it aside on the Runs page and compute it again.") from error
    if version > SCHEMA_VERSION:
        raise DamagedRunError(f"Run {folder.name!r} has schema version {version} and this program reads up to "
                              f"{SCHEMA_VERSION}; update the program.")
    return Run(folder, manifest, tracked)


def find_run(home: Home, run_id: str) -> Run:
    """Open a run by its id, tracked ones included. Raises as `open_run`."""
    if "/" in run_id or "\\" in run_id or run_id.startswith("."):
        raise NotInRunError(f"{run_id!r} is not the name of a run.")
    for root in home.tracked:
        if (root / run_id).is_dir():
            return open_run(root / run_id, tracked=True)
    return open_run(home.runs / run_id)


def has_run(home: Home, run_id: str) -> bool:
    """Whether a run of this id lies there with a readable manifest and files of the right size."""
    try:
        run = find_run(home, run_id)
        for name in run.manifest["files"]:
            run.path(name)
    except (NotInRunError, DamagedRunError):
        return False
    return True


def list_runs(home: Home) -> tuple[list[Run], list[DamagedRunError]]:
    """All runs, tracked ones first, then the newest first; and an error for each that cannot be opened."""
    runs, errors = [], []
    for root, tracked in [*((root, True) for root in home.tracked), (home.runs, False)]:
        found = []
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            if not folder.is_dir() or folder.name.startswith(".") or ".damaged-" in folder.name:
                continue
            try:
                found.append(open_run(folder, tracked))
            except DamagedRunError as error:
                errors.append(error)
        runs += sorted(found, key=lambda run: run.manifest.get("created", 0), reverse=not tracked)
    return runs, errors


def set_aside(home: Home, run_id: str) -> Path:
    """Rename a damaged run so that it is no longer found but not lost; returns the new place."""
    folder = _own_folder(home, run_id)
    place = folder.with_name(f"{run_id}.damaged-{int(time.time())}")
    folder.rename(place)
    return place


def delete_run(home: Home, run_id: str) -> Path:
    """Move a run to the trash folder, from which `restore_run` brings it back until `empty_trash`; returns that place."""
    folder = _own_folder(home, run_id)
    trash = home.runs / ".trash"
    trash.mkdir(exist_ok=True)
    shutil.rmtree(trash / run_id, ignore_errors=True)
    return folder.rename(trash / run_id)


def restore_run(home: Home, run_id: str) -> None:
    """Undo `delete_run`."""
    (home.runs / ".trash" / run_id).rename(home.runs / run_id)


def deleted_runs(home: Home) -> list[str]:
    """Ids of the runs in the trash."""
    trash = home.runs / ".trash"
    return sorted(folder.name for folder in trash.iterdir()) if trash.is_dir() else []


def empty_trash(home: Home) -> None:
    """Remove deleted runs for good."""
    shutil.rmtree(home.runs / ".trash", ignore_errors=True)


def _own_folder(home: Home, run_id: str) -> Path:
    if "/" in run_id or "\\" in run_id or run_id.startswith(".") or not (home.runs / run_id).is_dir():
        raise NotInRunError(f"Run {run_id!r} is not one of the runs made here; tracked runs are part of the program.")
    return home.runs / run_id


@contextmanager
def exclusive(root: Path, run_id: str) -> Iterator[None]:
    """Hold the right to write this run; a second process waits here and then finds the run finished."""
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{run_id}.lock"):
        yield


@contextmanager
def writing(root: Path, spec: RunSpec) -> Iterator[RunFolder]:
    """A folder to write a run into. It gets the run's name when the block ends well, and is removed when it does not.

    Call it inside `exclusive`: what an earlier, killed writer of the same run left behind is cleared away first.
    """
    place = root / spec.run_id
    temporary = root / f".tmp-{spec.run_id}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        folder = RunFolder(temporary, spec)
        yield folder
        folder.close()
        if place.exists():
            place.rename(place.with_name(f"{spec.run_id}.damaged-{int(time.time())}"))
        temporary.rename(place)
        _fsync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class RunFolder:
    """The tables of a run while they are being written."""

    def __init__(self, path: Path, spec: RunSpec) -> None:
        self.path = path
        self._spec = spec
        self.facts: dict[str, Any] = {}
        """What the study wants in the manifest beside identity and files."""

    def write(self, name: str, table: pa.Table) -> None:
        """Write one small table whole, as `<name>.parquet`."""
        pq.write_table(table, self.path / f"{name}.parquet", compression="zstd")

    def close(self) -> None:
        """Hash and fsync every file, then write the manifest last."""
        files = {}
        for path in sorted(self.path.iterdir()):
            rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path), "rows": rows}
            _fsync(path)
        manifest = {"run_id": self._spec.run_id, "spec": self._spec.as_json(), "fingerprint": self._spec.fingerprint,
                    "created": int(time.time()), **self.facts, "files": files}
        path = self.path / MANIFEST
        path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        _fsync(path)
        _fsync(self.path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
