"""Prompts out of jsonl, Parquet and folders that `datasets` wrote; what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moyu_core.datasets import Selection, read_dataset
from moyu_core.errors import InputError
from moyu_core.prompts import MAX_CHARACTERS, text_id

ROWS = {
    "text": ["one two", "three", None, " ", "four\r\nfive"],
    "id": ["a", "b", "c", "d", "e"],
    "domain": ["x", "x", "y", "y", ""],
    "other": [1, 2, 3, 4, 5],
}


def arrow(path: Path, table: pa.Table, stream: bool = True) -> None:
    """An Arrow file as `datasets` writes it (a stream), or of the random-access kind."""
    opened = pa.ipc.new_stream(path, table.schema) if stream else pa.ipc.new_file(path, table.schema)
    with opened as writer:
        writer.write_table(table, 2)


def saved(folder: Path, table: pa.Table) -> Path:
    """What `Dataset.save_to_disk` leaves, with a cache file beside it that is none of it."""
    folder.mkdir(parents=True)
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    arrow(folder / names[0], table.slice(0, 2))
    arrow(folder / names[1], table.slice(2))
    arrow(folder / "cache-1234.arrow", table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], "_split": "train"}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.fixture(params=["parquet", "parquet folder", "arrow", "arrow file", "saved", "saved with splits"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    table = pa.table(ROWS)
    kind = request.param
    if kind == "parquet":
        pq.write_table(table, tmp_path / "set.parquet")
        return tmp_path / "set.parquet"
    if kind == "parquet folder":
        (tmp_path / "set" / "data").mkdir(parents=True)
        pq.write_table(table.slice(0, 1), tmp_path / "set" / "data" / "train-00000-of-00002.parquet")
        pq.write_table(table.slice(1), tmp_path / "set" / "data" / "train-00001-of-00002.parquet")
        pq.write_table(table.slice(0, 0), tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
        return tmp_path / "set"
    if kind.startswith("arrow"):
        arrow(tmp_path / "set.arrow", table, stream=kind == "arrow")
        return tmp_path / "set.arrow"
    if kind == "saved":
        return saved(tmp_path / "set", table)
    saved(tmp_path / "set" / "train", table)
    saved(tmp_path / "set" / "test", table.slice(0, 1))
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return tmp_path / "set"


def test_every_kind_gives_the_same_prompts(place: Path) -> None:
    found = read_dataset(place)
    assert [(p.id, p.text, p.domain) for p in found.prompts] == [
        ("a", "one two", "x"),
        ("b", "three", "x"),
        ("e", "four\nfive", ""),
    ]
    assert found.notes == ("2 rows without text were left out", "1 texts were cut or cleaned")
    assert found.name == "set"


def test_a_split_is_chosen(tmp_path: Path) -> None:
    table = pa.table(ROWS)
    saved(tmp_path / "a" / "train", table), saved(tmp_path / "a" / "test", table.slice(0, 1))
    (tmp_path / "a" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(read_dataset(tmp_path / "a", Selection(split="test")).prompts) == 1
    with pytest.raises(InputError, match="has the splits train, test; there is no 'dev'"):
        read_dataset(tmp_path / "a", Selection(split="dev"))


def test_names_limits_and_cuts(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"body": ["x" * (MAX_CHARACTERS + 5), "same", "same", "last"]}), path)
    found = read_dataset(path, Selection(text="body", limit=2))
    assert [len(p.text) for p in found.prompts] == [MAX_CHARACTERS, 4]
    assert found.prompts[1].id == text_id("same")
    assert found.notes == (
        "1 texts were cut or cleaned",
        "1 rows repeat an id or a text and were left out",
        "only the first 2 prompts were taken",
    )
    with pytest.raises(InputError, match="at most 20,000 characters"):
        read_dataset(path, Selection(text="body", cut=False))


def test_a_prompt_file_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    assert [p.id for p in read_dataset(path).prompts] == ["a", "b"]
    limited = read_dataset(path, Selection(limit=1))
    assert [p.id for p in limited.prompts] == ["a"] and limited.notes == ("only the first 1 prompts were taken",)
    with pytest.raises(InputError, match="leave column and split out"):
        read_dataset(path, Selection(text="body"))


def _missing_column(folder: Path) -> Path:
    pq.write_table(pa.table({"body": ["x"], "label": [1]}), folder / "a.parquet")
    return folder / "a.parquet"


def _numbers(folder: Path) -> Path:
    pq.write_table(pa.table({"text": [1, 2]}), folder / "a.parquet")
    return folder / "a.parquet"


def _empty(folder: Path) -> Path:
    pq.write_table(pa.table({"text": [" ", None]}, schema=pa.schema([("text", pa.string())])), folder / "a.parquet")
    return folder / "a.parquet"


def _garbage(folder: Path) -> Path:
    (folder / "a.parquet").write_bytes(b"PAR1 no")
    return folder / "a.parquet"


def _half_saved(folder: Path) -> Path:
    saved(folder / "set", pa.table(ROWS))
    (folder / "set" / "data-00001-of-00002.arrow").unlink()
    return folder / "set"


def _both(folder: Path) -> Path:
    pq.write_table(pa.table(ROWS), folder / "a.parquet")
    arrow(folder / "a.arrow", pa.table(ROWS))
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_missing_column, "has no column 'text'; it has body, label. Choose one with --text-column"),
        (_numbers, "holds int64, not text"),
        (_empty, "holds no row with a text in 'text'"),
        (_garbage, "cannot be read"),
        (_half_saved, "is not whole: data-00001-of-00002.arrow"),
        (_both, "both Parquet and Arrow files"),
        (lambda folder: folder, "holds no Parquet or Arrow files"),
        (lambda folder: folder / "nothing.parquet", "does not exist"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, make: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        read_dataset(make(tmp_path))
    assert words in str(error.value)


def test_a_limit_out_of_range() -> None:
    with pytest.raises(InputError, match="Between 1 and"):
        Selection(limit=0)


def test_a_closed_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(InputError, match=r"one\.jsonl cannot be read \(Permission denied\)"):
        read_dataset(tmp_path / "one.jsonl")
