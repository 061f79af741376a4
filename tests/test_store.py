"""Runs on disk: what is there is found, damage is named, nothing is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import TABLE, left, make, spec

from moyu_core import store
from moyu_core.errors import DamagedRunError, MoyuError, NotInRunError
from moyu_core.home import Home
from moyu_core.schema import SCHEMA_VERSION


def test_a_run_is_whole_and_says_what_it_is(home: Home) -> None:
    run = make(home, 3, counts={"prompts": 1, "tokens": 2})
    assert run.id == spec(3).run_id == run.folder.name
    assert (run.spec, run.manifest["fingerprint"]) == (spec(3), spec(3).fingerprint)
    assert run.manifest["counts"] == {"prompts": 1, "tokens": 2}
    assert run.manifest["files"].keys() == {"prompts.parquet", "neurons.parquet"}
    assert run.manifest["files"]["prompts.parquet"]["rows"] == 1000
    assert run.size_bytes == sum((run.folder / name).stat().st_size for name in run.manifest["files"])
    assert run.table("prompts") == TABLE
    assert run.table("neurons", ["x"]).num_rows == 3
    run.verify()
    assert left(home) == [run.id]
    with pytest.raises(NotInRunError, match=r"no file 'poem\.parquet'"):
        run.table("poem")


def test_an_empty_home_has_no_runs(home: Home) -> None:
    assert store.list_runs(home) == ([], [])
    assert store.deleted_runs(home) == []
    assert not store.has_run(home, spec().run_id)
    with pytest.raises(NotInRunError, match="There is no run"):
        store.find_run(home, spec().run_id)


def _truncate(folder: Path) -> None:
    os.truncate(folder / "prompts.parquet", 100)


def _flip(folder: Path) -> None:
    data = bytearray((folder / "prompts.parquet").read_bytes())
    data[200] ^= 1
    (folder / "prompts.parquet").write_bytes(data)


def _lose_file(folder: Path) -> None:
    (folder / "neurons.parquet").unlink()


def _lose_manifest(folder: Path) -> None:
    (folder / store.MANIFEST).unlink()


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / store.MANIFEST).read_text())
        (folder / store.MANIFEST).write_text(json.dumps(change(manifest) or manifest))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated file": (_truncate, "prompts.parquet has 100 bytes instead of"),
    "altered byte": (_flip, r"prompts.parquet was altered after it was written"),
    "missing file": (_lose_file, "neurons.parquet is missing"),
    "missing manifest": (_lose_manifest, r"manifest.json cannot be read \(FileNotFoundError"),
    "truncated manifest": (lambda f: os.truncate(f / store.MANIFEST, 50), "manifest.json cannot be read"),
    "binary manifest": (lambda f: (f / store.MANIFEST).write_bytes(b"\xff\xfe"), "manifest.json cannot be read"),
    "manifest that is a list": (_edit(lambda m: [m]), "manifest.json cannot be read"),
    "files that are none": (_edit(lambda m: m.update(files=["a"])), "manifest.json cannot be read"),
    "file without a size": (_edit(lambda m: m["files"]["prompts.parquet"].pop("bytes")), "manifest.json cannot be read"),
    "file elsewhere": (_edit(lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}})), "manifest.json cannot be"),
    "another size": (_edit(lambda m: m["files"]["prompts.parquet"].update(bytes=7)), "bytes instead of 7"),
    "odd version": (_edit(lambda m: m["spec"].update(schema_version="new")), "manifest.json cannot be read"),
    "newer schema": (_edit(lambda m: m["spec"].update(schema_version=SCHEMA_VERSION + 1)), "update the program"),
    "altered spec": (_edit(lambda m: m["spec"].update(seed=9)), "manifest.json was altered"),
    "unknown rule": (_edit(lambda m: m["spec"]["set_rule"].update(name="best")), "manifest.json cannot be read"),
    "odd density": (_edit(lambda m: m["spec"]["set_rule"].update(density="much")), "manifest.json cannot be read"),
    "no model": (_edit(lambda m: m.update(model=None)), "does not say 'model' as runs do"),
    "model that is a word": (_edit(lambda m: m.update(model="x")), "does not say 'model' as runs do"),
    "counts that are a number": (_edit(lambda m: m.update(counts=5)), "does not say 'counts' as runs do"),
    "another run's manifest": (_edit(lambda m: m.update(run_id=spec(1).run_id)), f"is that of run {spec(1).run_id}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_set_aside_and_mended_by_asking_again(home: Home, damage: str) -> None:
    inflict, message = DAMAGES[damage]
    run = make(home)
    inflict(run.folder)
    with pytest.raises(DamagedRunError, match=message) as raised:
        store.find_run(home, run.id).verify()
    assert run.id in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not store.has_run(home, run.id, verify=True)
    if damage not in ("altered byte", "altered spec"):  # these need a closer look than a list takes
        runs, errors = store.list_runs(home)
        assert runs == []
        assert [run.id in str(error) for error in errors] == [True]
    make(home)
    assert store.has_run(home, run.id, verify=True)
    assert len(left(home)) == 2
    assert left(home)[1].startswith(f"{run.id}.damaged-"), "the damaged run is kept under another name"
    assert [r.id for r in store.list_runs(home)[0]] == [run.id]


def test_a_file_that_may_not_be_read_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    run = make(home)
    monkeypatch.setattr(store, "file_sha256", refused)
    with pytest.raises(DamagedRunError, match=r"neurons\.parquet cannot be read .*Permission denied"):
        run.verify()


def test_a_closed_folder_of_runs_is_one_sentence(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    make(home)
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(MoyuError, match=r"runs in .* cannot be listed \(Permission denied\)"):
        store.list_runs(home)


def test_setting_aside_by_hand_twice_in_a_second(home: Home) -> None:
    places = []
    for _ in range(3):
        run = make(home)
        places.append(store.set_aside(home, run.id))
        assert not store.has_run(home, run.id)
    assert len(set(places)) == 3
    assert all((place / store.MANIFEST).is_file() for place in places)


def test_delete_and_restore(home: Home) -> None:
    first, second = make(home, 1), make(home, 2)
    store.delete_run(home, first.id)
    assert [run.id for run in store.list_runs(home)[0]] == [second.id]
    assert store.deleted_runs(home) == [first.id]
    store.restore_run(home, first.id)
    store.find_run(home, first.id).verify()
    assert store.deleted_runs(home) == []
    store.delete_run(home, first.id)
    make(home, 1)
    with pytest.raises(NotInRunError, match="computed again"):
        store.restore_run(home, first.id)
    store.delete_run(home, first.id)
    store.empty_trash(home)
    assert store.deleted_runs(home) == []
    with pytest.raises(NotInRunError, match="not in the trash"):
        store.restore_run(home, first.id)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", ".trash", ".tmp-x", "/etc", "x\0", "run\n", "a b", "ä"])
def test_names_that_are_no_run_are_refused(home: Home, name: str) -> None:
    make(home)
    (home.root / "x").mkdir()
    for act in (store.find_run, store.delete_run, store.set_aside, store.restore_run):
        with pytest.raises(NotInRunError):
            act(home, name)
    assert not store.has_run(home, name)
    assert left(home) == [spec().run_id]
    assert (home.root / "x").is_dir()


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[Home]:
    """A home whose only run is a tracked one."""
    make(Home(tmp_path / "made", ()))
    (tmp_path / "made" / "runs").rename(tmp_path / "tracked")
    yield Home(tmp_path / "home", (tmp_path / "tracked",))


def test_tracked_runs_are_found_and_never_touched(shipped: Home) -> None:
    run = store.find_run(shipped, spec().run_id)
    assert run.tracked
    assert store.list_runs(shipped) == ([run], [])
    for act in (store.delete_run, store.set_aside):
        with pytest.raises(NotInRunError, match="tracked runs are part of the program"):
            act(shipped, run.id)
    run.verify()


@pytest.mark.parametrize("when", ["before it is opened", "after that"])
def test_a_run_that_is_deleted_while_runs_are_listed_is_not_in_the_list(
    home: Home, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = make(home, 1), make(home, 2)
    opened = store.open_run

    def open_run(folder: Path, tracked: bool = False) -> store.Run:
        if folder.name == gone.id and when == "before it is opened":
            store.delete_run(home, gone.id)
        run = opened(folder, tracked)
        if folder.name == gone.id:
            store.delete_run(home, gone.id)
        return run

    monkeypatch.setattr(store, "open_run", open_run)
    assert store.list_runs(home) == ([kept], [])


def test_a_damaged_tracked_run_is_replaced_by_one_made_here(shipped: Home) -> None:
    _truncate(shipped.tracked[0] / spec().run_id)
    assert not store.has_run(shipped, spec().run_id)
    make(shipped)
    assert store.has_run(shipped, spec().run_id, verify=True)
    [run], errors = store.list_runs(shipped)
    assert (run.tracked, errors) == (False, [])


def test_runs_are_listed_newest_first_behind_tracked_ones(shipped: Home) -> None:
    for seed, created in ((1, 100), (2, 300), (3, 200)):
        make(shipped, seed, created=created)
    runs, _ = store.list_runs(shipped)
    assert [run.id for run in runs] == [spec(seed).run_id for seed in (0, 2, 3, 1)]
