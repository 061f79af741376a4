"""Shards on disk: what is finished is told by a folder's name, because a shard gets it only when it is whole.

.shards-<run id>/shard-00012/activations-000.parquet ... index.parquet prompts.parquet sums.npz sums.json shard.json
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moyu_core.cluster.plan import Plan, write_json
from moyu_core.folders import writable
from moyu_core.run_writer import RunFolder, fsync, sealed
from moyu_core.store import read_parquet
from moyu_core.studies.capture_sums import About, Sums

SHARD = "shard.json"
MAX_ATTEMPTS = 3
"""How often a shard may lose its worker before the capture gives up."""


def place(plan: Plan, shard: int) -> Path:
    """Where a finished shard lies."""
    return plan.folder / f"shard-{shard:05d}"


def finished(plan: Plan, shard: int) -> dict[str, Any] | None:
    """What shard.json says, where the shard is there with all its files in their size; else None."""
    folder = place(plan, shard)
    try:
        said = json.loads((folder / SHARD).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == entry["bytes"] for name, entry in said["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return said if whole else None


@contextmanager
def writing(plan: Plan, shard: int, facts: dict[str, Any], known: dict[str, dict[str, Any]]) -> Iterator[Path]:
    """A folder for the files of a shard, which gets the shard's name when the block ends well.

    Args:
        plan: of the run.
        shard: its number.
        facts: what is said of it beside its files; may be filled inside the block.
        known: manifest entries of files that are hashed and on the disk already; may be filled inside the block.

    Raises:
        MoyuError: it cannot be written.
    """
    temporary = plan.folder / f".shard-{shard:05d}-{uuid.uuid4().hex}"
    try:
        with writable(plan.folder):
            temporary.mkdir()
            yield temporary
            files = {path.name: known.get(path.name) or sealed(path) for path in sorted(temporary.iterdir())}
            write_json(temporary / SHARD, {**facts, "files": files})
            fsync(temporary / SHARD)
            if finished(plan, shard) is None:  # else a worker that was thought lost has done it meanwhile
                shutil.rmtree(place(plan, shard), ignore_errors=True)
                temporary.rename(place(plan, shard))
                fsync(plan.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_unfinished(plan: Plan) -> None:
    """Remove what killed workers left half-written, and forget how often they were lost."""
    for path in plan.folder.glob(".shard-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in plan.folder.glob("attempts-*"):
        path.unlink(missing_ok=True)


def attempt(plan: Plan, shard: int) -> int:
    """Note that a worker starts on a shard; returns which attempt of this driver it is, from 1."""
    path = plan.folder / f"attempts-{shard:05d}"
    with writable(plan.folder):
        path.touch()
        with path.open("a", encoding="utf-8") as file:
            file.write("x")
        return path.stat().st_size


def save_about(plan: Plan, about: About) -> None:
    """Store what the run says of the model; the first worker's word counts."""
    if (plan.folder / "about.json").is_file():
        return
    with writable(plan.folder):
        partial = plan.folder / f".norms-{uuid.uuid4().hex}.npy"
        np.save(partial, about.norms)
        partial.replace(plan.folder / "norms.npy")
        said = {name: getattr(about, name) for name in ("layers", "facts", "check_error", "provenance")}
        write_json(plan.folder / "about.json", said)


def load_about(plan: Plan) -> About:
    """What `save_about` stored."""
    said = json.loads((plan.folder / "about.json").read_text(encoding="utf-8"))
    norms = np.load(plan.folder / "norms.npy", allow_pickle=False)
    return About(tuple(said["layers"]), norms, said["facts"], said["check_error"], said["provenance"])


def assemble(plan: Plan, run: RunFolder) -> tuple[pa.Table, Sums, float]:
    """Put the files of all shards into the run's folder, with one index; (prompts in the order of the request, sums, seconds).

    Files are linked where the disk can, and were hashed by their workers, so this takes no time that grows with their bytes.
    Seconds are those of all workers added up.
    """
    indices, prompts, total = [], [], None
    seconds = 0.0
    for shard in range(len(plan.tokens)):
        folder = place(plan, shard)
        said = json.loads((folder / SHARD).read_text(encoding="utf-8"))
        seconds += said["seconds"]
        names = _link(folder, said["files"], run)
        index = read_parquet(folder / "index.parquet")
        renamed = pa.array([names[name] for name in index["file"].to_pylist()], pa.string())
        indices.append(index.set_column(index.schema.get_field_index("file"), index.schema.field("file"), renamed))
        prompts.append(read_parquet(folder / "prompts.parquet"))
        sums = Sums.load(folder)
        if total is None:
            total = sums
        else:
            total.merge(sums)
    assert total is not None
    run.write("index", pa.concat_tables(indices).combine_chunks())
    order = np.argsort(plan.numbers(), kind="stable")
    return pa.concat_tables(prompts).take(pa.array(order)).combine_chunks(), total, seconds


def _link(folder: Path, files: dict[str, dict[str, Any]], run: RunFolder) -> dict[str, str]:
    """Give a shard's files of `activations` the next names of the run; old name -> new name."""
    names = {}
    for name in sorted(name for name in files if name.startswith("activations-")):
        names[name] = f"activations-{len(run.known):03d}.parquet"
        target = run.path / names[name]
        try:
            target.hardlink_to(folder / name)
        except OSError:  # a disk without links, or another disk
            shutil.copyfile(folder / name, target)
        run.known[names[name]] = files[name]
    return names
