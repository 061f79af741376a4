"""The vocabulary of the files, and the reference in data/README.md that is made from it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from moyu_core import schema
from moyu_core.schema.reference import all_tables, reference

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "data" / "README.md"


def test_the_readme_holds_the_reference() -> None:
    text = README.read_text(encoding="utf-8")
    begin, end = "<!-- columns: python -m moyu_core.schema -->\n", "<!-- end of columns -->"
    assert text.count(begin) == text.count(end) == 1
    part = text[text.index(begin) + len(begin) : text.index(end)]
    assert part.strip() == reference().strip(), "run `python -m moyu_core.schema` and put its output there"


def test_the_command_prints_the_reference() -> None:
    done = subprocess.run([sys.executable, "-m", "moyu_core.schema"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == reference()


def test_every_table_and_column_is_in_the_reference_once() -> None:
    sections = dict(re.findall(r"^### ([\w/]+)\n\n((?:\|.*\n)+)", reference(), re.MULTILINE))
    assert sections.keys() == all_tables().keys()
    for table, columns in all_tables().items():
        lines = sections[table].splitlines()[2:]
        assert [re.findall(r"`(\w+)`", line)[0] for line in lines] == [column.name for column in columns]
        for line, column in zip(lines, columns, strict=True):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            assert len(cells) == 4, f"a bare | breaks the table: {line}"
            assert cells[2].strip().replace("\\|", "|") == (column.unit or "-")
            assert ("may be empty" in cells[1]) == column.nullable
    assert "fixed_size_binary[ceil(F/8)]" in sections["activations"]
    assert "fixed_size_binary[F]" in sections["activations"]


@pytest.mark.parametrize("table", schema.TABLES)
def test_columns_say_what_they_are(table: str) -> None:
    columns = schema.TABLES[table]
    assert len({column.name for column in columns}) == len(columns)
    arrow = schema.arrow_schema(columns)
    assert arrow.metadata == {b"schema_version": str(schema.SCHEMA_VERSION).encode()}
    for column, field in zip(columns, arrow, strict=True):
        assert len(column.doc) > 5
        assert field.metadata == {b"unit": column.unit.encode(), b"doc": column.doc.encode()}
        assert field.nullable == column.nullable


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (8, 1), (9, 2), (1536, 192), (11008, 1376)])
def test_width_of_a_packed_set(n: int, expected: int) -> None:
    assert schema.packed_bytes(n) == expected
    assert schema.arrow_schema(schema.activation_columns(n, False)).field("active").type == pa.binary(expected)


def test_values_are_columns_only_where_asked_for() -> None:
    names = [column.name for column in schema.activation_columns(9, True)]
    assert names[-2:] == ["values", "scale"]
    assert [column.name for column in schema.activation_columns(9, False)] == names[:-2]
    asked = {"prompt_id", "condition", "layer", "position", "token_id", "token", "active", "density", "l2_norm", "abs_max",
             "effective_neurons", "zero_share", "cett", "slot", "expert", "is_sink"}
    assert asked < set(names)
