"""A bundle from elsewhere -> a run here. It is data of a stranger: nothing gets its place before everything was compared.

Names, sizes, hashes, identity, schema, and that every table can be read. Reading goes through a buffer of one MiB.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core import retention, store
from moyu_core.archive import BUNDLE, BUNDLE_VERSION, CHUNK, checked_entry
from moyu_core.claims import VERDICTS, Claim
from moyu_core.errors import DamagedRunError, InputError, MoyuError
from moyu_core.folders import writable
from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.run_writer import exclusive
from moyu_core.schema import SCHEMA_VERSION, TABLES
from moyu_core.schema.manifest import misfit
from moyu_core.store import MANIFEST, Run

MAX_FILES = 20_000
MAX_BYTES = 200 * 2**30
"""The largest run that is taken out of a bundle, unpacked."""
MAX_MANIFEST = 16 * 2**20
"""Manifest and bundle.json are read whole."""

_RUN_ID = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{12}")
_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, UnicodeDecodeError, struct.error)
"""What zipfile raises on a file that is no sound zip: names that are no UTF-8 and numbers that do not fit included."""


def unpack(source: Path | BinaryIO, home: Home, report: Reporter = silent, max_bytes: int = MAX_BYTES) -> tuple[Run, bool]:
    """Take the run out of a bundle into the home; returns it, and whether it was new here.

    Nothing is written outside a hidden folder of the home until everything was compared: the bundle's version, the names in it,
    sizes and SHA-256, the run's fingerprint, its schema, and that each table can be read.

    Args:
        source: the bundle.
        home: where the run goes.
        report: told the bytes that are read; may raise `Cancelled`.
        max_bytes: of the run, unpacked.

    Raises:
        InputError: it is no bundle, or one that cannot be trusted; the message names the file in it.
        MoyuError: the disk is full, or the folder cannot be written to.
    """
    try:
        with _opened(source) as archive:
            head = _head(archive, max_bytes)
            run_id = head["run_id"]
            with exclusive(home.runs, run_id, report):
                new = not store.has_run(home, run_id, verify=True)
                run = _placed(archive, head, home, report) if new else store.find_run(home, run_id)
                retention.mark_used(home, run_id)  # else a run that was made long ago would be the first to be deleted
                return run, new
    except (*_BROKEN, RuntimeError) as error:
        raise _unreadable(error) from None


def _opened(source: Path | BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except (*_BROKEN, ValueError) as error:  # ValueError: a place before the beginning of what lies in memory
        raise _unreadable(error) from None
    except OSError as error:
        if isinstance(source, Path) and isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise InputError(f"There is no bundle {source}; give the path of a file made by `moyu export`.") from error
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> InputError:
    return InputError(f"The bundle cannot be read ({str(error)[:200] or type(error).__name__}); copy it again.")


def _placed(archive: zipfile.ZipFile, head: dict[str, Any], home: Home, report: Reporter) -> Run:
    run_id = head["run_id"]
    temporary, place = home.runs / f".tmp-{run_id}", home.runs / run_id
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writable(home.runs):
            free = shutil.disk_usage(home.runs).free
            need = sum(entry["bytes"] for entry in head["files"].values())
            if need > free:
                raise MoyuError(
                    f"The run takes {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free at {home.runs}; make some room."
                )
            temporary.mkdir(parents=True)
            _extract(archive, head, temporary, report)
            _check_run(temporary, head)
            if place.exists():
                place.rename(store.place_aside(place))
            temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return store.find_run(home, run_id)


def _head(archive: zipfile.ZipFile, max_bytes: int) -> dict[str, Any]:
    """What the bundle says of itself, after its names and sizes were compared with what is in it."""
    members = archive.infolist()
    if len(members) > MAX_FILES:
        raise InputError(f"The bundle holds {len(members):,} files and at most {MAX_FILES:,} are taken.")
    _check_names(members)
    head = _read_head(archive, {member.filename: member for member in members})
    expected = {BUNDLE, *(f"{head['run_id']}/{name}" for name in head["files"])}
    found = {member.filename for member in members}
    if found != expected:
        odd = sorted(found ^ expected)[0]
        raise InputError(f"The bundle is not whole: {odd!r} is {'missing' if odd in expected else 'not announced in bundle.json'}.")
    for member in members:
        name = PurePosixPath(member.filename).name
        if member.filename != BUNDLE and member.file_size != head["files"][name]["bytes"]:
            raise InputError(
                f"The bundle is not sound: {name} has {member.file_size:,} bytes instead of {head['files'][name]['bytes']:,}."
            )
    total = sum(entry["bytes"] for entry in head["files"].values())
    if total > max_bytes:
        raise InputError(
            f"The run in the bundle has {total / 2**20:,.0f} MiB and the limit here is {max_bytes / 2**20:,.0f} MiB; "
            "import it with `moyu import` on your own machine."
        )
    return head


def _check_names(members: list[zipfile.ZipInfo]) -> None:
    """Refuse names that could lead out of the run's folder, links, folders, duplicates and packed or locked members."""
    seen: set[str] = set()
    for member in members:
        name = member.filename
        parts = name.split("/")
        plain = all(part and part.isascii() and part.isprintable() and part.strip(" .") == part for part in parts)
        if not plain or len(parts) > 2 or "\\" in name or ":" in name or name != member.orig_filename:
            raise InputError(f"The bundle holds {name[:100]!r}, a path that could lead out of the run's folder; it was not opened.")
        if name in seen:
            raise InputError(f"The bundle holds {name[:100]!r} twice; it was not opened.")
        if stat.S_ISLNK(member.external_attr >> 16) or member.flag_bits & 1:
            raise InputError(f"{name[:100]!r} in the bundle is a link or locked; it was not opened.")
        if member.compress_type != zipfile.ZIP_STORED:
            raise InputError(
                f"{name[:100]!r} in the bundle is packed, but a bundle stores its files as they are; make it with `moyu export`."
            )
        seen.add(name)


def _read_head(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, Any]:
    member = members.get(BUNDLE)
    if member is None:
        raise InputError("This zip is no bundle of a run (it has no bundle.json); make one with `moyu export` or on the Runs page.")
    if member.file_size > MAX_MANIFEST:
        raise InputError("The bundle.json of this bundle is too large to be one.")
    try:
        head = json.loads(archive.read(member))
        version = head["bundle_version"]
        if isinstance(version, int) and version > BUNDLE_VERSION:
            raise InputError(f"The bundle has version {version} and this program reads up to {BUNDLE_VERSION}; update the program.")
        if version != BUNDLE_VERSION or MANIFEST not in head["files"] or not _RUN_ID.fullmatch(head["run_id"]):
            raise ValueError
        head["files"] = {str(name): checked_entry(entry) for name, entry in head["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("The bundle.json of this bundle is not one; make the bundle anew with `moyu export`.") from None
    return head


def _extract(archive: zipfile.ZipFile, head: dict[str, Any], folder: Path, report: Reporter) -> None:
    done, total = 0, sum(entry["bytes"] for entry in head["files"].values())
    for name, entry in head["files"].items():
        digest, left = hashlib.sha256(), entry["bytes"]
        with archive.open(f"{head['run_id']}/{name}") as source, (folder / name).open("xb") as target:
            while chunk := source.read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise InputError(f"The bundle is not sound: {name} is longer than bundle.json says.")
                digest.update(chunk)
                target.write(chunk)
                done += len(chunk)
                report("reading the bundle", done, total)
        if left or digest.hexdigest() != entry["sha256"]:
            raise InputError(f"The bundle is not sound: the content of {name} is not what bundle.json says (its SHA-256 differs).")


def _check_run(folder: Path, head: dict[str, Any]) -> None:
    """The folder is a run of this identity, and every table of it can be read."""
    if (folder / MANIFEST).stat().st_size > MAX_MANIFEST:
        raise InputError(f"The {MANIFEST} in the bundle is too large to be one.")
    try:
        run = store.open_run(folder)
        if run.id != head["run_id"] or set(run.manifest["files"]) != set(head["files"]) - {MANIFEST}:
            raise InputError(f"The {MANIFEST} in the bundle belongs to another run, or names other files.")
        run.verify()
        for name in run.manifest["files"]:
            if name.endswith(".parquet"):
                _check_table(run, name)
        _check_facts(run)
    except DamagedRunError as error:
        raise InputError(f"The run in the bundle cannot be used. {str(error).split('. ')[0]}.") from None


def _check_facts(run: Run) -> None:
    """What lists and pages read of a manifest is there, lest one odd run spoil the pages that list it with others."""
    odd = misfit(run.manifest, run.spec.study)
    if not odd:
        try:
            claims = [Claim.from_json(entry) for entry in run.manifest.get("claims") or []]
            odd = "" if all(claim.verdict in VERDICTS for claim in claims) else "claims"
        except (KeyError, TypeError, AttributeError):
            odd = "claims"
    if odd:
        raise InputError(f"The {MANIFEST} in the bundle does not say {odd!r} as runs of its study do; export it anew.")


def _check_table(run: Run, name: str) -> None:
    """Rows as announced, and at least the columns that readers of this version need."""
    try:
        file = pq.ParquetFile(run.folder / name)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise run.damaged(name, error) from None
    with file:
        rows = run.manifest["files"][name].get("rows")
        if rows is not None and rows != file.metadata.num_rows:
            raise InputError(f"{name} in the bundle has {file.metadata.num_rows:,} rows and its manifest says {rows:,}.")
        table = name.removesuffix(".parquet").rstrip("0123456789").rstrip("-")
        if run.spec.study not in ("capture", "vocabulary") or run.spec.schema_version != SCHEMA_VERSION:
            return
        needed = [column.name for column in TABLES.get(table, []) if not column.nullable]
        missing = [column for column in needed if column not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{name} in the bundle lacks the column {missing[0]!r} that its schema version has.")
