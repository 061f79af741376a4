"""Runs on disk: a folder of Parquet tables and a manifest, written whole or not at all.

    <root>/<study>-<12 hex>/manifest.json  prompts.parquet  neurons.parquet  index.parquet  activations-000.parquet ...

What has a run's name is complete (`run_writer`). The manifest holds size and SHA-256 of every file; what does not match is
named, and can be set aside and computed again.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core.errors import DamagedRunError, MoyuError, NotInRunError
from moyu_core.folders import writable
from moyu_core.hashing import file_sha256
from moyu_core.home import Home
from moyu_core.schema import SCHEMA_VERSION
from moyu_core.schema.manifest import misfit
from moyu_core.spec import RunSpec

MANIFEST = "manifest.json"
MANIFESTS = 512
"""Parsed manifests that are kept at most; one takes some 20 KB."""
READ_ERRORS = (pa.ArrowException, OSError, LookupError, ValueError)
"""What pyarrow raises for a file that is not what it should be."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MEND = "Set it aside on the Runs page and compute it again."


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
        try:
            return RunSpec.from_json(self.manifest["spec"])
        except (MoyuError, KeyError, TypeError, ValueError) as error:
            raise self.damaged(MANIFEST, error) from error

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
            raise DamagedRunError(f"Run {self.id} is damaged: {name} {state}. {_MEND}")
        return path

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One whole table kept in one file (prompts, neurons, index ...), as Arrow."""
        try:
            return read_parquet(self.path(f"{name}.parquet"), columns)
        except READ_ERRORS as error:
            raise self.damaged(f"{name}.parquet", error) from error

    def select(self, name: str, filters: list[tuple[str, str, Any]], columns: list[str] | None = None) -> pa.Table:
        """The rows of a table that meet all conditions, such as ("layer", "=", 3); row groups without any are not read."""
        path = self.path(f"{name}.parquet")
        try:
            return pq.read_table(path, columns=columns, filters=filters, page_checksum_verification=True)
        except READ_ERRORS as error:
            raise self.damaged(path.name, error) from error

    def damaged(self, name: str, error: Exception) -> DamagedRunError:
        """The error for a file that cannot be read although its size is right."""
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        return DamagedRunError(f"Run {self.id} is damaged: {name} cannot be read ({reason}). {_MEND}")

    def check_sizes(self) -> None:
        """Raise DamagedRunError naming the first file that is missing or has another size."""
        for name in self.manifest["files"]:
            self.path(name)

    def verify(self) -> None:
        """Compare identity, sizes and SHA-256 with the manifest; raises DamagedRunError naming the first difference."""
        if (self.spec.fingerprint, self.spec.run_id) != (self.manifest.get("fingerprint"), self.id):
            raise DamagedRunError(
                f"Run {self.id} is damaged: {MANIFEST} was altered after it was written "
                f"(its spec has another fingerprint). {_MEND}"
            )
        entries = self.manifest["files"]
        with ThreadPoolExecutor() as pool:
            found = dict(zip(entries, pool.map(self._sha256, entries), strict=True))
        for name, entry in entries.items():
            if found[name] != entry["sha256"]:
                raise DamagedRunError(
                    f"Run {self.id} is damaged: {name} was altered after it was written "
                    f"(its SHA-256 differs). {_MEND}"
                )

    def _sha256(self, name: str) -> str:
        path = self.path(name)
        try:
            return file_sha256(path)
        except OSError as error:
            raise self.damaged(name, error) from error


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file whole, its page checksums verified."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns)


def open_run(folder: Path, tracked: bool = False) -> Run:
    """Open a run by its folder.

    Raises:
        NotInRunError: no such folder.
        DamagedRunError: manifest missing, unreadable, or of a newer schema.
    """
    if not folder.is_dir():
        raise NotInRunError(f"There is no run {folder.name!r}; choose one on the Runs page.")
    try:
        state = (folder / MANIFEST).stat()
        manifest = _parsed(folder / MANIFEST, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)
        version = int(manifest["spec"]["schema_version"])
        if version <= SCHEMA_VERSION:
            _check_entries(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRunError(f"Run {folder.name!r} is damaged: {MANIFEST} cannot be read ({type(error).__name__}). "
                              f"{_MEND}") from error
    if version > SCHEMA_VERSION:
        raise DamagedRunError(f"Run {folder.name!r} has schema version {version} and this program reads up to "
                              f"{SCHEMA_VERSION}; update the program.")
    return Run(folder, manifest, tracked)


@lru_cache(maxsize=MANIFESTS)
def _parsed(path: Path, *state: int) -> dict[str, Any]:
    """A manifest, parsed once for as long as the file's state stays: pages open runs many times, and list all of them."""
    del state
    return json.loads(path.read_text(encoding="utf-8"))


def _check_entries(manifest: dict[str, Any]) -> None:
    """Raise one of the errors that `open_run` translates unless identity and every file's entry are there."""
    if not isinstance(manifest["run_id"], str) or not isinstance(manifest.get("created", 0), int):
        raise TypeError
    for name, entry in manifest["files"].items():
        if Path(name).name != name or not isinstance(entry["bytes"], int) or not isinstance(entry["sha256"], str):
            raise ValueError


def _open_named(folder: Path, tracked: bool) -> Run:
    """Open a run whose folder must bear its id, as all in a home do: a renamed one would pass for another run.

    What lists say of every run must be in its manifest: one odd run is damaged, instead of spoiling the list of the others.
    """
    run = open_run(folder, tracked)
    if run.id != folder.name:
        raise DamagedRunError(f"Run {folder.name!r} is damaged: {MANIFEST} is that of run {run.id}. {_MEND}")
    odd = misfit(run.manifest) if isinstance(run.spec.study, str) else "spec.study"
    if odd:
        raise DamagedRunError(f"Run {run.id} is damaged: {MANIFEST} does not say {odd!r} as runs do. {_MEND}")
    return run


def find_run(home: Home, run_id: str) -> Run:
    """Open a run by its id: one made here, else a tracked one. Raises as `open_run`."""
    if not _RUN_ID.fullmatch(run_id):
        raise NotInRunError(f"{run_id!r} is not the name of a run.")
    places = [(home.runs, False), *((root, True) for root in home.tracked)]
    root, tracked = next((place for place in places if (place[0] / run_id).is_dir()), places[0])
    return _open_named(root / run_id, tracked)


def has_run(home: Home, run_id: str, verify: bool = False) -> bool:
    """Whether a run of this id lies there whole: manifest, sizes of all files; with `verify` their hashes too."""
    try:
        run = find_run(home, run_id)
        run.verify() if verify else run.check_sizes()
    except (NotInRunError, DamagedRunError):
        return False
    return True


def list_runs(home: Home) -> tuple[list[Run], list[DamagedRunError]]:
    """All runs, tracked ones first, then the newest first; and an error for each that is damaged.

    A tracked run that was computed again here is listed once, as the one made here.
    """
    runs, errors = [], []
    own = {folder.name for folder in _run_folders(home.runs)}
    for root, tracked in [*((root, True) for root in home.tracked), (home.runs, False)]:
        found = []
        for folder in _run_folders(root):
            if tracked and folder.name in own:
                continue
            try:
                run = _open_named(folder, tracked)
                run.check_sizes()
                found.append(run)
            except NotInRunError:  # another process deleted it meanwhile
                continue
            except DamagedRunError as error:
                if folder.is_dir():  # as above, between two looks into it
                    errors.append(error)
        runs += sorted(found, key=lambda run: run.manifest.get("created", 0), reverse=not tracked)
    return runs, errors


def _run_folders(root: Path) -> list[Path]:
    """The folders of a root that bear a run's name; those that were set aside do not."""
    try:
        return [folder for folder in sorted(root.iterdir() if root.is_dir() else [])
                if folder.is_dir() and _RUN_ID.fullmatch(folder.name) and ".damaged-" not in folder.name]
    except OSError as error:
        raise MoyuError(f"The runs in {root} cannot be listed ({error.strerror}); check the permissions of that folder, or choose "
                        "another with MOYU_HOME.") from error


def set_aside(home: Home, run_id: str) -> Path:
    """Rename a damaged run so that it is no longer found but not lost; returns the new place."""
    folder = _own_folder(home, run_id)
    with writable(home.runs):
        return folder.rename(place_aside(folder))


def place_aside(folder: Path) -> Path:
    """A free name beside a folder for what was found damaged: `<run id>.damaged-<seconds since 1970>[-<number>]`."""
    stem = f"{folder.name}.damaged-{int(time.time())}"
    names = (stem if number == 0 else f"{stem}-{number}" for number in count())
    return next(place for name in names if not (place := folder.with_name(name)).exists())


def delete_run(home: Home, run_id: str) -> Path:
    """Move a run to the trash folder, from which `restore_run` brings it back until `empty_trash`; returns that place."""
    folder = _own_folder(home, run_id)
    trash = home.runs / ".trash"
    with writable(home.runs):
        trash.mkdir(exist_ok=True)
        shutil.rmtree(trash / run_id, ignore_errors=True)
        return folder.rename(trash / run_id)


def restore_run(home: Home, run_id: str) -> None:
    """Undo `delete_run`."""
    if run_id not in deleted_runs(home):
        raise NotInRunError(f"Run {run_id!r} is not in the trash.")
    if (home.runs / run_id).exists():
        raise NotInRunError(f"Run {run_id} was computed again since it was deleted; delete that one first.")
    with writable(home.runs):
        (home.runs / ".trash" / run_id).rename(home.runs / run_id)


def deleted_runs(home: Home) -> list[str]:
    """Ids of the runs in the trash."""
    trash = home.runs / ".trash"
    return sorted(folder.name for folder in trash.iterdir()) if trash.is_dir() else []


def empty_trash(home: Home) -> None:
    """Remove deleted runs for good."""
    shutil.rmtree(home.runs / ".trash", ignore_errors=True)


def _own_folder(home: Home, run_id: str) -> Path:
    if not _RUN_ID.fullmatch(run_id) or not (home.runs / run_id).is_dir():
        raise NotInRunError(f"Run {run_id!r} is not one of the runs made here; tracked runs are part of the program.")
    return home.runs / run_id
