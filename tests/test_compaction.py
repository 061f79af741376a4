"""Joining small files changes how a run lies on disk and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import plain
import pytest

from moyu_core import activation_files, compaction, query, store
from moyu_core.compaction import compact
from moyu_core.errors import Cancelled, DamagedRunError, NotInRunError
from moyu_core.home import Home
from moyu_core.models import LoadedModel
from moyu_core.studies.capture import capture_run
from moyu_core.studies.requests import CaptureRequest, VocabularyRequest
from moyu_core.studies.vocabulary import vocabulary_run


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return plain.model("llama")


@pytest.fixture
def run(model: LoadedModel, home: Home, monkeypatch: pytest.MonkeyPatch) -> store.Run:
    """Twenty prompts in seven files of three, or in eight by two threads."""
    monkeypatch.setattr(activation_files, "PROMPTS_PER_FILE", 3)
    asked = CaptureRequest("tiny", plain.prompts(*range(3, 23)), values=("p3", "p17"), title="Small files")
    return store.find_run(home, capture_run(model, asked, home))


def content(run: store.Run) -> dict[tuple[str, str, int], bytes]:
    """Every slice as bytes."""
    found = {}
    for prompt, condition, layer in query.index(run):
        piece = query.read_slice(run, prompt, layer, condition)
        codes = b"" if piece.codes is None else piece.codes.tobytes()
        found[prompt, condition, layer] = piece.frame.to_json().encode() + piece.active.tobytes() + codes
    return found


def test_nothing_but_files_index_and_their_entries_changes(run: store.Run, home: Home) -> None:
    before, slices = json.loads(json.dumps(run.manifest)), content(run)
    done = compact(home, run.id)
    after = store.find_run(home, run.id)
    after.verify()
    assert done.files_before in (7, 8)
    assert done.files_after == 2
    assert done.bytes_after == after.size_bytes < done.bytes_before
    assert content(after) == slices
    assert list(query.index(after)) == list(slices), "in the same order"
    for name in ("prompts", "neurons"):
        assert after.manifest["files"][f"{name}.parquet"] == before["files"][f"{name}.parquet"]
    assert {k: v for k, v in after.manifest.items() if k != "files"} == {k: v for k, v in before.items() if k != "files"}
    assert sorted(path.name for path in home.runs.iterdir() if path.suffix != ".lock") == [run.id]
    again = compact(home, run.id)
    assert (again.files_before, again.files_after, again.bytes_before) == (2, 2, done.bytes_after), "as few as can be"


def test_what_is_damaged_stays_as_it_is(run: store.Run, home: Home) -> None:
    path, files = run.path("activations-003.parquet"), len(list(run.folder.glob("activations-*")))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedRunError, match=r"activations-003\.parquet was altered"):
        compact(home, run.id)
    assert len(list(run.folder.glob("activations-*"))) == files > 6


@pytest.mark.parametrize("when", [1, 4, 30])
def test_cancelled_or_killed_it_is_undone(run: store.Run, home: Home, when: int) -> None:
    slices, calls = content(run), []

    def report(stage: str, done: int, total: int) -> None:
        calls.append(stage)
        if len(calls) == when:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        compact(home, run.id, report)
    assert content(store.find_run(home, run.id)) == slices
    assert sorted(path.name for path in home.runs.iterdir() if path.suffix != ".lock") == [run.id]
    run.folder.rename(home.runs / f".old-{run.id}")  # killed between the two renames
    (home.runs / f".tmp-{run.id}").mkdir()
    compact(home, run.id)
    assert content(store.find_run(home, run.id)) == slices
    assert sorted(path.name for path in home.runs.iterdir() if path.suffix != ".lock") == [run.id]


def test_a_disk_without_links(run: store.Run, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    compact(home, run.id)
    store.find_run(home, run.id).verify()


def test_runs_that_cannot_be_compacted(run: store.Run, model: LoadedModel, home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotInRunError, match="no run 'capture-000000000000'"):
        compact(home, "capture-000000000000")
    other = vocabulary_run(model, VocabularyRequest("tiny", 3), home)
    with pytest.raises(NotInRunError, match="holds no activations"):
        compact(home, other)
    shutil.copytree(run.folder, tmp_path / "tracked" / run.id)
    with pytest.raises(NotInRunError, match="shipped with the program"):
        compact(Home(tmp_path / "empty", tracked=(tmp_path / "tracked",)), run.id)


def test_a_slice_of_a_compacted_run_is_one_row_group(run: store.Run, home: Home) -> None:
    compact(home, run.id)
    after = store.find_run(home, run.id)
    assert query.read_slice(after, "p5", 1).mask.shape == (9, query.n_neurons(after))
    np.testing.assert_array_equal(query.read_active(after, "p5", 1), query.read_slice(after, "p5", 1).active[1:])
    assert compaction.PROMPTS_PER_FILE == 16
