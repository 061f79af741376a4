"""Files of every kind become prompts; what cannot is named by row and field, and nothing takes more than it may."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moyu_core import prompt_files, prompt_tables
from moyu_core.errors import InputError
from moyu_core.prompt_export import FORMATS, export, neutral, restored
from moyu_core.prompt_files import read_sheet
from moyu_core.prompt_import import Mapping, guess, import_file, pasted_file, prompt_set, understand
from moyu_core.prompts import MAX_CHARACTERS, Prompt, make_prompt

PROMPTS = (
    make_prompt("It rained.", "rain", "prose"),
    make_prompt("=SUM(A1:A9)", "formula", "code", "after rain"),
    make_prompt('She said "so, what?"\nand left;\ttwice', "quotes", "dialogue"),
    make_prompt("'=kept", "apostrophe"),
    make_prompt("-5", "number", "numbers"),
    make_prompt(" 水 \U0001f408 ", "letters"),
)


def parquet(**columns: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def xlsx(*rows: list[object]) -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(file)
    return file.getvalue()


def reasons(data: bytes, file: str, **options: object) -> dict[int, str]:
    return {problem.row: problem.reason for problem in understand(read_sheet(data, file), **options).left_out}


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "txt"])
@pytest.mark.parametrize("name", ["given", "wrong"])
def test_what_is_exported_is_imported_again(kind: str, name: str) -> None:
    found = understand(read_sheet(export(PROMPTS, kind), f"mine.{kind if name == 'given' or kind in ('csv', 'tsv') else 'txt'}"))
    assert found.prompts == PROMPTS
    assert found.left_out == ()


def test_plain_text_is_parted_by_blank_lines_else_by_lines() -> None:
    found = understand(read_sheet(export(PROMPTS[:2], "txt"), "mine.txt"))
    assert [prompt.text for prompt in found.prompts] == [prompt.text for prompt in PROMPTS[:2]]
    assert found.places == (1, 3)
    lines = read_sheet(b"one\ntwo\n", "a.txt")
    assert [cells["text"] for _, cells in lines.rows] == ["one", "two"] and "by lines" in lines.notes[0]
    assert len(read_sheet(b"one\n\ntwo", "a.txt", split="whole").rows) == 1
    assert len(read_sheet(b"one\n\ntwo", "a.txt", split="lines").rows) == 2


def test_columns_are_guessed_and_can_be_chosen() -> None:
    sheet = read_sheet(b"nr,question,topic\n7,Who?,people\n8,Why?,reasons\n", "q.csv")
    assert guess(sheet) == Mapping("question", "", "topic")
    chosen = understand(sheet, Mapping("topic", "nr"))
    assert [(prompt.id, prompt.text) for prompt in chosen.prompts] == [("7", "people"), ("8", "reasons")]
    with pytest.raises(InputError, match="no column 'colour' for the domain"):
        understand(sheet, Mapping("question", domain="colour"))


def test_columns_that_are_named_override_those_that_are_guessed(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text("nr,question,topic,id\n7,Who?,people,x\n8,Why?,reasons,y\n")
    assert [vars(prompt) for prompt in import_file(file, Mapping("", "nr", "id"))[0].prompts] == [
        {"id": "7", "text": "Who?", "domain": "x", "condition": "plain"},
        {"id": "8", "text": "Why?", "domain": "y", "condition": "plain"},
    ]
    assert [prompt.text for prompt in import_file(file, Mapping("", domain="question"))[0].prompts] == ["people", "reasons"]
    with pytest.raises(InputError, match="no column 'colour' for the condition; the file has nr, question"):
        import_file(file, Mapping("", condition="colour"))
    with pytest.raises(InputError, match="A column must hold the text"):
        (tmp_path / "one.csv").write_text("text\nWho?\n")
        import_file(tmp_path / "one.csv", Mapping("", domain="text"))


def test_a_byte_order_mark_and_mixed_line_ends_are_repaired_and_said() -> None:
    sheet = read_sheet("\ufefftext\r\none\rtwo\n".encode(), "a.csv")
    assert [cells["text"] for _, cells in sheet.rows] == ["one", "two"]
    assert "byte order mark" in sheet.notes[0] and "1 CRLF, 1 CR, 1 LF" in sheet.notes[1]
    assert read_sheet("text\nzwölf".encode("utf-16"), "a.csv").rows[0][1] == {"text": "zwölf"}


def test_a_wrong_encoding_names_line_and_byte_and_can_be_given() -> None:
    data = "text\ngut\nzwölf\n".encode("cp1252")
    with pytest.raises(InputError, match=r"a.csv, line 3: .* byte 0xf6"):
        read_sheet(data, "a.csv")
    assert read_sheet(data, "a.csv", encoding="cp1252").rows[1][1]["text"] == "zwölf"
    with pytest.raises(InputError, match=r"line 2: .*NUL byte"):
        read_sheet(b"text\na\0b", "a.csv")


def test_each_bad_row_is_named_and_costs_no_other() -> None:
    lines = [
        '{"text": "good", "id": "a"}',
        '{"text": ',
        '["no object"]',
        '{"text": 5}',
        '{"text": {"deep": 1}}',
        '{"id": "x"}',
        '{"text": "  "}',
        '{"text": "again", "id": "a"}',
        '{"text": "long", "id": "' + "x" * 81 + '"}',
        "[" * 100_000,
        '{"text": "fine", "id": "b"}',
    ]
    sheet = read_sheet("\n".join(lines).encode(), "a.jsonl")
    found = understand(sheet)
    assert [prompt.id for prompt in found.prompts] == ["a", "b"] and found.places == (1, 11)
    said = {problem.row: problem.reason for problem in found.left_out}
    words = {
        2: "not JSON",
        3: "no object",
        4: "must be a string",
        5: "nested values",
        6: "'text' is empty",
        7: "white space",
        8: "stands in row 1 already",
        9: "1 to 80 characters",
        10: "too deep",
    }
    assert said.keys() == words.keys()
    assert all(word in said[row] for row, word in words.items()), said
    assert found.in_words() == "2 prompts understood, 9 rows left out, 0 changed"


SPREADSHEET = 'question\ttopic\nWho keeps the light?\tsea\n"Two\nlines, one cell"\tland\n'


@pytest.mark.parametrize(
    ("text", "file"),
    [
        (SPREADSHEET, "pasted.tsv"),
        ("Who keeps the light?\tsea\nWhere is it?\tland\n", "pasted.tsv"),
        ('text,topic\n"Hello, world",greeting\nBye,parting\n', "pasted.csv"),
        ("id;Prompt\n1;Hello, world\n", "pasted.csv"),
        ("Yes, we can.\nNo, we cannot.\n", "pasted"),
        ("Yes, he said, the text, too.\nNo, nothing.\n", "pasted"),
        ("\tindented\n\tas code is\n", "pasted"),
        ("for x in y:\n\tprint(x)\n", "pasted"),
        ("one\ttable row\n", "pasted"),
        ("two\tcells\nand one\n", "pasted"),
        ('an open "quote\tin\ntwo\t"lines', "pasted"),
        ('{"text": "a\\tb"}\n{"text": "c\\td"}', "pasted"),
        ("", "pasted"),
    ],
)
def test_what_was_pasted_is_told_by_its_rows(text: str, file: str) -> None:
    assert pasted_file(text) == file
    assert pasted_file(text, "lines") == "pasted", "who says what parts the prompts has a plain text"


def test_cells_of_a_spreadsheet_become_texts_and_labels() -> None:
    found = understand(read_sheet(SPREADSHEET.encode(), pasted_file(SPREADSHEET)))
    assert [(prompt.text, prompt.domain) for prompt in found.prompts] == [
        ("Who keeps the light?", "sea"),
        ("Two\nlines, one cell", "land"),
    ]


def test_ragged_rows_and_open_quotes_are_named() -> None:
    said = reasons(b'text,label\ngood,x\nonly one\na,b,c\n"open,x\n', "a.csv")
    assert "1 cells and the first row has 2" in said[3] and "3 cells" in said[4] and "quotes" in said[5]


def test_the_same_text_twice_stands_once_and_long_texts_are_cut_only_when_asked() -> None:
    data = ("text\nsame\nsame\n" + "x" * (MAX_CHARACTERS + 1)).encode()
    said = reasons(data, "a.csv")
    assert "the same text stands in row 2" in said[3] and "20,001" in said[4]
    cut = understand(read_sheet(data, "a.csv"), cut=True)
    assert len(cut.prompts[1].text) == MAX_CHARACTERS and cut.changed[0].row == 4


def test_a_column_of_nulls_and_an_empty_file_are_refused_with_a_reason() -> None:
    sheet = read_sheet(parquet(text=pa.nulls(3, pa.string()), other=["a", "b", "c"]), "a.parquet")
    with pytest.raises(InputError, match=r"No row .* row 1: the cell of 'text' is empty.* Choose another column"):
        prompt_set(understand(sheet), "a")
    assert len(understand(sheet, Mapping("other")).prompts) == 3
    for data in (b"", b"  \n\t\n"):
        with pytest.raises(InputError, match="is empty"):
            read_sheet(data, "a.csv")


def test_limits_of_bytes_rows_and_columns(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    with pytest.raises(InputError, match="200 are read"):
        read_sheet(",".join(f"c{n}" for n in range(201)).encode() + b"\n", "a.csv")
    for rows in (10_001, 10_000_000):
        with pytest.raises(InputError, match="more than 10,000 rows"):
            read_sheet(b"text\n" + b"a\n" * rows, "a.csv")
    with pytest.raises(InputError, match="more than 10,000 rows"):
        read_sheet(parquet(text=pa.array(["a"] * 10_001)), "a.parquet")
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(2**30)  # a sparse gigabyte: it must be refused before it is read
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(InputError, match="1,024 MiB and the limit is 20 MiB"):
        import_file(large)
    with pytest.raises(InputError, match=r"a.csv has 20,971,521 bytes and the limit is 20 MiB"):
        read_sheet(b"x" * (prompt_files.MAX_UPLOAD_BYTES + 1), "a.csv")


def test_the_content_decides_and_the_name_only_between_texts() -> None:
    sheet = read_sheet(parquet(text=["a"]), "table.csv")
    assert sheet.kind == "parquet"
    assert read_sheet(b'{"text": "a"}', "a.csv").kind == "jsonl"
    for data, word in ((b"\x1f\x8b123", "gzip"), (b"%PDF-1.7", "PDF"), (b'[{"text": "a"}]', "one JSON list")):
        with pytest.raises(InputError, match=word):
            read_sheet(data, "a.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_sheet(parquet(text=["a"])[:-20], "a.parquet")


def test_nested_columns_and_numbers_of_a_parquet_file() -> None:
    data = parquet(text=[["a"], None, ["b"]], prompt=["x", "y", "z"], id=[1, 2, 3])
    assert [prompt.id for prompt in understand(read_sheet(data, "a.parquet"), Mapping("prompt", "id")).prompts] == ["1", "2", "3"]
    assert "nested" in reasons(data, "a.parquet", mapping=Mapping("text"))[1]


def test_spreadsheet_formulas_are_left_out_by_row_and_numbers_become_text() -> None:
    data = xlsx(["text", "id"], ["good", "a"], ["=1+1", "b"], [12, "c"], [None, None], ["late", "d"])
    found = understand(read_sheet(data, "a.xlsx"))
    assert [(prompt.id, prompt.text) for prompt in found.prompts] == [("a", "good"), ("c", "12"), ("d", "late")]
    assert found.places == (2, 4, 6)
    assert found.left_out[0].row == 3 and "'text' is a formula" in found.left_out[0].reason


def test_a_zip_bomb_is_refused_before_it_unpacks() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * (prompt_tables.MAX_UNPACKED + 1))
    assert len(file.getvalue()) < 2**20
    with pytest.raises(InputError, match="unpacks to 256 MiB"):
        read_sheet(file.getvalue(), "a.xlsx")
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("bundle.json", "{}")
    with pytest.raises(InputError, match="no Excel workbook"):
        read_sheet(other.getvalue(), "a.xlsx")


def test_a_parquet_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table, file = pa.table({"text": pa.array(["x" * 2**20] * 600)}), io.BytesIO()
    pq.write_table(table, file, compression="zstd", use_dictionary=False)
    assert len(file.getvalue()) < 2**20
    with pytest.raises(InputError, match="unpacks to 600 MiB"):
        read_sheet(file.getvalue(), "a.parquet")


def test_the_child_that_reads_tables_gets_no_more_memory_than_stated() -> None:
    """A dictionary of one text of 8 MiB that every row names: small on disk and in the footer, 8 GiB as rows."""
    file, one = io.BytesIO(), pa.array(["x" * 2**23])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), one)
    pq.write_table(pa.table({"text": column}), file, compression="zstd", data_page_size=2**30, store_schema=False)
    assert len(file.getvalue()) < 1000
    try:
        rows = read_sheet(file.getvalue(), "a.parquet").rows
        assert all(len(cells["text"]) <= 4 * MAX_CHARACTERS for _, cells in rows)
    except InputError as error:
        assert "memory" in str(error) or "unpacks" in str(error) or "cannot be read" in str(error)


TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip())


@settings(max_examples=150)
@given(st.lists(TEXTS, min_size=1, max_size=6, unique=True), st.sampled_from(["jsonl", "csv", "tsv"]))
def test_any_text_survives_export_and_import(texts: list[str], kind: str) -> None:
    prompts = tuple(make_prompt(text, f"p{number}") for number, text in enumerate(texts))
    assert understand(read_sheet(export(prompts, kind), f"a.{kind}")).prompts == prompts


@settings(max_examples=300)
@given(st.text(max_size=20))
def test_a_neutral_cell_is_restored_and_never_begins_like_a_formula(text: str) -> None:
    assert restored(neutral(text)) == text
    begins = neutral(text)[:1]
    assert begins not in ("=", "@", "\t", "\r")
    if begins in ("+", "-"):
        float(neutral(text))


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from(["a.txt", "a.csv", "a.tsv", "a.jsonl", "../../x", ""]))
def test_any_bytes_give_prompts_or_one_sentence(data: bytes, name: str) -> None:
    if data[:4] in (b"PAR1", b"PK\x03\x04"):
        return  # these start a child; the next test has fewer of them
    try:
        sheet = read_sheet(data, name)
        for prompt in understand(sheet).prompts:
            assert isinstance(prompt, Prompt)
        assert "/" not in sheet.name
    except InputError as error:
        assert str(error)


@pytest.mark.parametrize("seed", range(6))
def test_broken_tables_give_one_sentence(seed: int) -> None:
    import random

    draw = random.Random(seed)
    data = bytearray(parquet(text=["a", "b"]) if seed % 2 else xlsx(["text"], ["a"]))
    for _ in range(20):
        data[draw.randrange(4, len(data))] = draw.randrange(256)
    try:
        read_sheet(bytes(data), "a")
    except InputError as error:
        assert str(error)


def test_objects_without_fields_are_named() -> None:
    """Found by benchmarks.fuzz_parsers: a file of nothing else has no column that could be the text."""
    with pytest.raises(InputError, match=r"row 1: this object has no field"):
        read_sheet(b"{}\n{}\n", "a.jsonl")
    found = understand(read_sheet(b'{}\n{"text": "It rained."}\n', "a.jsonl"))
    assert len(found.prompts) == 1 and found.left_out[0].row == 1


def test_json_lines_may_hold_odd_line_marks() -> None:
    record = json.dumps({"text": "a\u2028b\u0085c"}, ensure_ascii=False)
    assert read_sheet(record.encode(), "a.jsonl").rows[0][1]["text"] == "a\u2028b\u0085c"
    assert prompt_files.label("a\nb\0") == "a b"
