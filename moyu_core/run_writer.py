"""Writing a run: to a hidden folder beside its place, fsynced, then renamed, so what has a run's name is complete.

One process writes a run; others that ask for it wait and then find it finished. A killed writer leaves a hidden folder
that the next request for the run clears away; a failed or cancelled one leaves nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core.folders import locked, writable
from moyu_core.progress import Reporter, silent
from moyu_core.spec import RunSpec
from moyu_core.store import MANIFEST, place_aside

HASH_BLOCK = 4 << 20


@contextmanager
def exclusive(root: Path, run_id: str, report: Reporter = silent) -> Iterator[None]:
    """Hold the right to write this run; a second process waits here, can be cancelled, and then finds the run finished."""
    with locked(root / f".{run_id}.lock", lambda: report("waiting for another process that makes this run", 0, 0)):
        yield


@contextmanager
def writing(root: Path, spec: RunSpec) -> Iterator[RunFolder]:
    """A folder to write a run into. It gets the run's name when the block ends well, and is removed when it does not.

    Call it inside `exclusive`: what an earlier, killed writer of the same run left behind is cleared away first.

    Raises:
        MoyuError: the disk is full, or the folder cannot be written to.
    """
    place = root / spec.run_id
    temporary = root / f".tmp-{spec.run_id}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writable(root):
            temporary.mkdir(parents=True)
            folder = RunFolder(temporary, spec)
            yield folder
            folder.close()
            if place.exists():
                place.rename(place_aside(place))
            temporary.rename(place)
            fsync(root)
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
        self.known: dict[str, dict[str, Any]] = {}
        """Entries of files that were hashed and fsynced where they were written (`sealed`); they are not read again."""

    def write(self, name: str, table: pa.Table, row_group_size: int | None = None) -> None:
        """Write one table whole, as `<name>.parquet`."""
        pq.write_table(table, self.path / f"{name}.parquet", row_group_size, compression="zstd", write_page_checksum=True)

    def close(self) -> None:
        """Hash and fsync every file, several at a time, then write the manifest last."""
        paths = sorted(self.path.iterdir())
        with ThreadPoolExecutor() as pool:
            files = {path.name: entry for path, entry in zip(paths, pool.map(self._entry, paths), strict=True)}
        manifest = {"run_id": self._spec.run_id, "spec": self._spec.as_json(), "fingerprint": self._spec.fingerprint,
                    "created": int(time.time()), **self.facts, "files": files}
        path = self.path / MANIFEST
        path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        fsync(path)
        fsync(self.path)

    def _entry(self, path: Path) -> dict[str, Any]:
        return self.known.get(path.name) or sealed(path)


def sealed(path: Path) -> dict[str, Any]:
    """Size, hash and rows of a finished file, which is on the disk afterwards."""
    return Seal(path).entry()


class Seal:
    """Hash of a file that only grows, and its way to the disk: what was pushed is neither read nor waited for at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._lock = Lock()

    def push(self) -> None:
        """Hash what is new in the file, and return when it is on the disk."""
        with self._lock, self.path.open("rb", buffering=0) as file:
            file.seek(self._hashed)
            while block := file.read(HASH_BLOCK):
                self._digest.update(block)
                self._hashed += len(block)
            os.fsync(file.fileno())

    def entry(self) -> dict[str, Any]:
        """Size, hash and rows of the finished file, for the manifest."""
        self.push()
        rows = pq.read_metadata(self.path).num_rows if self.path.suffix == ".parquet" else None
        return {"bytes": self._hashed, "sha256": self._digest.hexdigest(), "rows": rows}


def fsync(path: Path) -> None:
    """Return when a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
