"""Joining a run's small files and packing its sets: `moyu compact RUN`.

Shards of a cluster leave files of few prompts each, and every file is a footer to parse and a handle to hold; beside a GPU
half of the sets are stored as they are. Rows are copied, so a run keeps its id and every number; index and manifest are new.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core.activation_files import PROMPTS_PER_FILE, file_name, open_writer
from moyu_core.errors import NotInRunError
from moyu_core.folders import writable
from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.run_writer import RunFolder, exclusive, fsync
from moyu_core.store import READ_ERRORS, Run, find_run, open_run, read_parquet


@dataclass(frozen=True)
class Compacted:
    """Files of `activations` before and after, and bytes of the whole run."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


def compact(home: Home, run_id: str, report: Reporter = silent) -> Compacted:
    """Join the files of a run to PROMPTS_PER_FILE prompts each, compressed; a run that is like that already stays as it is.

    The new folder takes the old one's place when it is whole. A compaction that was killed is undone by the next one.

    Raises:
        NotInRunError: no such run of the study `capture` that was made here.
        DamagedRunError: a file differs from its hash; nothing is changed then.
        Cancelled: from `report`; nothing is changed.
    """
    with exclusive(home.runs, run_id, report):
        _undo_killed(home.runs, run_id)
        run = find_run(home, run_id)
        if run.tracked or run.folder.parent != home.runs:
            raise NotInRunError(f"Run {run_id} is shipped with the program and stays as it is.")
        if "index.parquet" not in run.manifest["files"]:
            raise NotInRunError(f"Run {run_id} holds no activations; only runs of the study `capture` have files to join.")
        before = _activation_files(run)
        index = read_parquet(run.path("index.parquet"))
        prompts = len(set(zip(index["prompt_id"].to_pylist(), index["condition"].to_pylist(), strict=True)))
        if len(before) <= -(-prompts // PROMPTS_PER_FILE) and all(_packed(run, name) for name in before):
            return Compacted(len(before), len(before), run.size_bytes, run.size_bytes)
        report("checking hashes", 0, 0)
        run.verify()
        after = _rewrite(run, index, report)
        return Compacted(len(before), len(_activation_files(after)), run.size_bytes, after.size_bytes)


def _activation_files(run: Run) -> list[str]:
    return [name for name in run.manifest["files"] if name.startswith("activations-")]


def _packed(run: Run, name: str) -> bool:
    """Whether a file's sets are compressed."""
    try:
        groups = pq.read_metadata(run.path(name)).row_group(0)
    except READ_ERRORS as error:
        raise run.damaged(name, error) from error
    columns = (groups.column(i) for i in range(groups.num_columns))
    return all(column.compression != "UNCOMPRESSED" for column in columns if column.path_in_schema == "active")


def _places(root: Path, run_id: str) -> tuple[Path, Path, Path]:
    """(the run, the new one while it is written, the old one while they change places)."""
    return root / run_id, root / f".tmp-{run_id}", root / f".old-{run_id}"


def _undo_killed(root: Path, run_id: str) -> None:
    """Bring back a run whose compaction was killed while it changed places."""
    place, _, old = _places(root, run_id)
    if old.is_dir() and not place.exists():
        old.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _rewrite(run: Run, index: pa.Table, report: Reporter) -> Run:
    place, temporary, old = _places(run.folder.parent, run.id)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writable(place.parent):
            temporary.mkdir()
            folder = RunFolder(temporary, run.spec)
            kept = {name: entry for name, entry in run.manifest["files"].items() if not name.startswith(("activations-", "index."))}
            for name, entry in kept.items():
                _link(run.path(name), temporary / name)
                folder.known[name] = entry
            folder.write("index", _join(run, index, temporary, report))
            written = ("run_id", "spec", "fingerprint", "files")
            folder.facts = {key: value for key, value in run.manifest.items() if key not in written}
            folder.close()
            place.rename(old)
            temporary.rename(place)
            fsync(place.parent)
    except BaseException:
        _undo_killed(place.parent, run.id)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
    return open_run(place)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a disk without links
        shutil.copyfile(source, target)


def _join(run: Run, index: pa.Table, folder: Path, report: Reporter) -> pa.Table:
    """Copy the row groups of all prompts, in the order of the index, into full files; returns the new index."""
    files, groups = [], []
    for number, found in groupby(_row_groups(run, index), key=lambda place: place[0] // PROMPTS_PER_FILE):
        with ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            for group, (_, table) in enumerate(found):
                writer = writer or stack.enter_context(open_writer(folder / file_name(number), table.schema))
                writer.write_table(table, row_group_size=len(table))
                files.append(file_name(number))
                groups.append(group)
                report("joining files", len(files), len(index))
    place = index.schema.get_field_index
    index = index.set_column(place("file"), index.schema.field("file"), pa.array(files, pa.string()))
    return index.set_column(place("row_group"), index.schema.field("row_group"), pa.array(groups, pa.int32()))


def _row_groups(run: Run, index: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """(number of the prompt, table) of each row group in the order of the index; one file is open at a time."""
    name, file, prompt, last = "", None, -1, None
    columns = [index[column].to_pylist() for column in ("prompt_id", "condition", "file", "row_group")]
    for prompt_id, condition, wanted, group in zip(*columns, strict=True):
        try:
            if file is None or wanted != name:
                name, file = wanted, pq.ParquetFile(run.path(wanted), pre_buffer=False, page_checksum_verification=True)
            if (prompt_id, condition) != last:
                prompt, last = prompt + 1, (prompt_id, condition)
            yield prompt, file.read_row_group(group, use_threads=False)
        except READ_ERRORS as error:
            raise run.damaged(name, error) from error
