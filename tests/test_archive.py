"""A bundle is the run, byte by byte; one that was tampered with is refused, named, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moyu_core import archive, archive_import, retention, store
from moyu_core.errors import Cancelled, DamagedRunError, InputError, MoyuError
from moyu_core.home import Home
from moyu_core.run_writer import exclusive, writing
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from tests import small_runs
from tests.small_runs import TABLE, left


def make(home: Home, **facts: Any) -> store.Run:
    """A run of a study whose tables are nobody's business."""
    spec = RunSpec("made", ModelIdentity("m", "w", "float32"), "0", SetRule(), 1)
    with exclusive(home.runs, spec.run_id), writing(home.runs, spec) as folder:
        folder.write("prompts", TABLE)
        folder.write("neurons", TABLE.slice(0, 3))
        folder.facts = {"title": "a run", "model": {"name": "m"}, **facts}
    return store.find_run(home, spec.run_id)


@pytest.fixture
def other(tmp_path: Path) -> Home:
    return Home(tmp_path / "other", tracked=())


def bundle(run: store.Run) -> bytes:
    return b"".join(archive.stream(run))


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        return {name: found.read(name) for name in found.namelist()}


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return file


def test_a_run_comes_through_whole(home: Home, other: Home, tmp_path: Path) -> None:
    run = make(home)
    path = archive.save(run, tmp_path)
    assert path.name == f"{run.id}.moyu.zip" and path.read_bytes() == bundle(run)
    taken, new = archive_import.unpack(path, other)
    assert new and taken.manifest == run.manifest
    for name in ["manifest.json", *run.manifest["files"]]:
        assert (taken.folder / name).read_bytes() == (run.folder / name).read_bytes()
    again, new = archive_import.unpack(io.BytesIO(path.read_bytes()), other)
    assert not new and again.id == run.id and left(other) == [f".used-{run.id}", run.id]


def test_a_run_that_came_in_counts_as_used_however_old_it_is(home: Home, other: Home) -> None:
    data = bundle(make(home, created=1_000_000_000))
    taken, _ = archive_import.unpack(io.BytesIO(data), other)
    assert retention.expire(other, 1_000, 7) == []
    (other.runs / f".used-{taken.id}").unlink()
    assert not archive_import.unpack(io.BytesIO(data), other)[1]
    assert retention.expire(other, 1_000, 7) == [] and store.has_run(other, taken.id)


@pytest.mark.parametrize("name", ["one.jsonl/x.zip", "n" * 300])
def test_a_place_that_cannot_be_is_one_sentence(home: Home, tmp_path: Path, name: str) -> None:
    (tmp_path / "one.jsonl").write_text("{}")
    with pytest.raises(MoyuError, match="Nothing can be written to"):
        archive.save(make(home), tmp_path / name)


def test_what_cannot_be_read_is_not_blamed_on_the_place(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, opened = make(home), Path.open

    def refused(path: Path, *given: Any, **more: Any) -> Any:
        if path.name == "prompts.parquet":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *given, **more)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DamagedRunError, match=r"prompts\.parquet cannot be read .*Permission denied"):
        archive.save(run, tmp_path)
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("digest", ["zz", "", "0" * 63])
def test_a_manifest_without_hashes_gives_no_bundle_and_says_so(home: Home, tmp_path: Path, digest: str) -> None:
    path = make(home).folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["prompts.parquet"]["sha256"] = digest
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedRunError, match=r"manifest\.json cannot be read .*prompts\.parquet"):
        archive.save(store.find_run(home, manifest["run_id"]), tmp_path)


def test_a_bundle_goes_in_pieces(home: Home) -> None:
    pieces = list(archive.stream(make(home)))
    assert len(pieces) > 2 and max(map(len, pieces)) <= 2 * archive.CHUNK


def test_a_damaged_run_gives_no_bundle(home: Home, tmp_path: Path) -> None:
    run = make(home)
    file = run.folder / "prompts.parquet"
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedRunError, match=r"prompts.parquet was altered"):
        archive.save(run, tmp_path)
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".*"))


def test_a_damaged_run_is_mended_by_its_bundle(home: Home) -> None:
    run = make(home)
    data = bundle(run)
    (run.folder / "prompts.parquet").write_bytes(b"harmed")
    taken, new = archive_import.unpack(io.BytesIO(data), home)
    taken.verify()
    assert new


def head(change: Callable[[dict], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        said = json.loads(files["bundle.json"])
        change(said)
        files["bundle.json"] = json.dumps(said).encode()

    return apply


def first(files: dict[str, bytes], ending: str) -> str:
    return next(name for name in files if name.endswith(ending))


def altered(files: dict[str, bytes]) -> None:
    name = first(files, "prompts.parquet")
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])


def climbing(files: dict[str, bytes]) -> None:
    files["capture-000000000000/../../evil"] = b"x"


def swapped(files: dict[str, bytes]) -> None:
    """A manifest with another title, announced with its right hash: the run would be sound, but not this one."""
    import hashlib

    name = first(files, "manifest.json")
    manifest = json.loads(files[name])
    manifest["spec"]["seed"] = 99
    files[name] = json.dumps(manifest).encode()
    entry = {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
    head(lambda said: said["files"].update({"manifest.json": entry}))(files)


HARMS = {
    "newer": (head(lambda said: said.update(bundle_version=2)), "version 2 and this program reads up to 1"),
    "no head": (lambda files: files.pop("bundle.json"), "no bundle.json"),
    "odd head": (head(lambda said: said.update(files=[])), "bundle.json of this bundle is not one"),
    "odd id": (head(lambda said: said.update(run_id="../../x")), "bundle.json of this bundle is not one"),
    "climbs": (climbing, "could lead out of the run's folder"),
    "absolute": (lambda files: files.update({"/etc/passwd": b"x"}), "could lead out"),
    "backslash": (lambda files: files.update({"a\\..\\b": b"x"}), "could lead out"),
    "drive": (lambda files: files.update({"C:evil": b"x"}), "could lead out"),
    "surplus": (lambda files: files.update({"extra": b"x"}), "'extra' is not announced"),
    "missing": (lambda files: files.pop(first(files, "neurons.parquet")), "neurons.parquet' is missing"),
    "altered": (altered, "prompts.parquet is not what bundle.json says"),
    "longer": (
        lambda files: files.update({first(files, "prompts.parquet"): files[first(files, "prompts.parquet")] + b"x"}),
        "bytes instead of",
    ),
    "another run": (swapped, "its spec has another fingerprint"),
    "huge claim": (head(lambda said: said["files"]["prompts.parquet"].update(bytes=2**60)), "bytes instead of"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_tampered_bundle_is_refused_and_leaves_nothing(home: Home, other: Home, harm: str) -> None:
    change, sentence = HARMS[harm]
    files = members(bundle(make(home)))
    change(files)
    with pytest.raises(InputError, match=sentence):
        archive_import.unpack(zipped(files), other)
    assert left(other) == []
    assert not list(other.root.parent.rglob("evil"))


def test_packed_locked_and_linked_members_are_refused(home: Home, other: Home) -> None:
    files = members(bundle(make(home)))
    with pytest.raises(InputError, match="is packed"):
        archive_import.unpack(zipped(files, zipfile.ZIP_DEFLATED), other)
    file = zipped(files)
    with zipfile.ZipFile(file, "a") as target:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        target.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="is a link"):
        archive_import.unpack(file, other)


def refused(*given: Any, **more: Any) -> Any:
    raise PermissionError(13, "Permission denied")


def test_no_zip_a_short_file_and_too_large_a_run(
    home: Home, other: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bundle(make(home))
    for broken in (b"no zip", data[: len(data) // 2], b""):
        with pytest.raises(InputError, match="cannot be read"):
            archive_import.unpack(io.BytesIO(broken), other)
    with pytest.raises(InputError, match="the limit here is 0 MiB"):
        archive_import.unpack(io.BytesIO(data), other, max_bytes=100)
    for path in (tmp_path / "none.zip", tmp_path):
        with pytest.raises(InputError, match="There is no bundle"):
            archive_import.unpack(path, other)
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"cannot be read .*Permission denied"):
        patch.setattr(zipfile, "ZipFile", refused)  # as the system does where the folder above is closed
        patch.setattr(Path, "is_file", refused)
        archive_import.unpack(tmp_path / "closed" / "x.zip", other)
    assert left(other) == []


def test_names_that_are_no_text_are_refused(other: Home) -> None:
    """Found by benchmarks.fuzz_parsers; once in the directory of the zip, once before the member itself."""
    marked = zipped({"\u00e9.json": b"{}"}).getvalue()
    for data in (marked.replace("\u00e9".encode(), b"\xa4\xa4"), marked.replace("\u00e9".encode(), b"\xa4\xa4", 1)):
        with pytest.raises(InputError, match=r"cannot be read|could lead out"):
            archive_import.unpack(io.BytesIO(data), other)
    assert left(other) == []


def test_a_newer_schema_is_refused_by_name(home: Home, other: Home) -> None:
    files = members(bundle(make(home)))
    name = first(files, "manifest.json")
    manifest = json.loads(files[name])
    manifest["spec"]["schema_version"] = 99
    files[name] = json.dumps(manifest).encode()
    import hashlib

    entry = {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
    head(lambda said: said["files"].update({"manifest.json": entry}))(files)
    with pytest.raises(InputError, match="schema version 99"):
        archive_import.unpack(zipped(files), other)


def test_a_table_without_a_column_of_its_schema_is_refused(home: Home, other: Home) -> None:
    data = bundle(small_runs.make(home))
    with pytest.raises(InputError, match=r"neurons.parquet in the bundle lacks the column 'layer'"):
        archive_import.unpack(io.BytesIO(data), other)
    assert left(other) == []


def test_cancelling_leaves_nothing(home: Home, other: Home) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise Cancelled("stop")

    data = bundle(make(home))
    with pytest.raises(Cancelled):
        archive_import.unpack(io.BytesIO(data), other, stop)
    assert left(other) == []
