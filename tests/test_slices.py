"""The index of slices against a plain dictionary, however prompts lie in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moyu_core import schema
from moyu_core.slices import SliceIndex


def table(rows: list[tuple[str, str, int, str, int, int]]) -> pa.Table:
    fields = schema.arrow_schema(schema.INDEX_COLUMNS)
    columns = list(zip(*rows, strict=True)) or [[] for _ in fields]
    return pa.table([pa.array(list(column), field.type) for column, field in zip(columns, fields, strict=True)], schema=fields)


@pytest.mark.parametrize("shuffled", [False, True])
def test_it_is_the_dictionary_of_its_rows(shuffled: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        (f"p{p}", condition, layer, f"activations-{p // 16:03d}.parquet", int(random.integers(999)), 7)
        for p in range(40)
        for condition in ("plain", "shuffled", "p1")
        for layer in (0, 3, 4)
    ]
    if shuffled:
        rows = [rows[i] for i in random.permutation(len(rows))]
    pq.write_table(table(rows), tmp_path / "index.parquet", row_group_size=50)
    index = SliceIndex.read(tmp_path / "index.parquet")
    expected = {(prompt, condition, layer): (file, group) for prompt, condition, layer, file, group, _ in rows}
    assert dict(index) == expected and len(index) == len(expected)
    assert ("p1", "plain", 1) not in index and ("p1", "none", 0) not in index and ("p99", "plain", 0) not in index
    if not shuffled:
        assert list(index) == list(expected), "in the order of the file"
    with pytest.raises(KeyError):
        _ = index["p1", "plain", 2]


def test_an_empty_index(tmp_path: Path) -> None:
    pq.write_table(table([]), tmp_path / "index.parquet")
    assert dict(SliceIndex.read(tmp_path / "index.parquet")) == {}
