"""Files of any kind that people keep texts in -> rows of named cells: txt, csv, tsv, jsonl, parquet, xlsx.

What a file is, is told by its content; its name decides only between kinds of plain text. Reading stops at stated limits of
bytes, rows and columns. A row that cannot be read is left out and named, it does not cost the others. What the cells mean
is decided later, by `prompt_import`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from moyu_core.errors import InputError
from moyu_core.prompts import MAX_PROMPTS

MAX_UPLOAD_BYTES = 20 * 2**20
"""The largest file that is imported; the server enforces the same limit on uploads (.streamlit/config.toml)."""
MAX_ROWS = MAX_PROMPTS
"""The most rows of one file, unreadable ones included."""
MAX_COLUMNS = 200
"""The most columns of one file."""
MAX_NAME = 80
"""Column names are cut after this many code points."""

KINDS = ("txt", "csv", "tsv", "jsonl", "parquet", "xlsx")
ENCODINGS = ("utf-8", "cp1252", "gb18030", "shift_jis", "koi8-r")
"""Encodings on offer for text without a byte order mark."""
SPLITS = {"auto": "blank lines, else lines", "lines": "every line", "paragraphs": "blank lines", "whole": "the whole file"}
"""What parts the prompts of a plain text."""

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True)
class Problem:
    """Why a row was left out or changed.

    Attributes:
        row: number of the row as the file's reader counts them: lines of text from 1, rows of a table with its header.
        reason: one sentence that names the field.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class Sheet:
    """The rows of a file, not yet understood.

    Attributes:
        name: the file's name without folders and ending.
        kind: one of KINDS.
        columns: names of the columns, in order.
        rows: number of the row in the file, and its cells by column; a cell is whatever the format holds.
        problems: rows that could not be read.
        notes: what was repaired in the file as a whole, one sentence each.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, Any]], ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = field(default=())


def check_size(file: str, size: int) -> None:
    """Refuse a file of more bytes than are read; raises InputError."""
    if size > MAX_UPLOAD_BYTES:
        shown = f"{size / 2**20:,.0f} MiB" if size >= MAX_UPLOAD_BYTES + 2**20 else f"{size:,} bytes"
        raise InputError(f"{file} has {shown} and the limit is {MAX_UPLOAD_BYTES // 2**20} MiB; split it.")


def read_sheet(data: bytes, file: str, *, encoding: str = "utf-8", split: str = "auto", header: bool = True) -> Sheet:
    """The rows in the bytes of a file.

    Args:
        data: the whole file.
        file: its name; no path is made of it.
        encoding: of text that has no byte order mark; one of ENCODINGS.
        split: what parts the prompts of a plain text; a key of SPLITS.
        header: whether the first row of a csv, tsv or xlsx names the columns.

    Raises:
        InputError: too large, not text, empty, or with more rows or columns than are taken.
    """
    if encoding not in ENCODINGS or split not in SPLITS:
        raise InputError(
            f"Encoding {encoding!r} with split {split!r} is not known; use one of {', '.join(ENCODINGS)} and one of "
            f"{', '.join(SPLITS)}."
        )
    check_size(file, len(data))
    kind = kind_of(data, file)
    name = label(PurePath(file.replace("\\", "/")).stem or "prompts")
    if kind in ("parquet", "xlsx"):
        from moyu_core.prompt_tables import read_table

        return read_table(kind, data, name, header)
    text, notes = _text(data, file, encoding)
    readers: dict[str, Callable[[str], Sheet]] = {
        "txt": lambda text: _plain(text, name, split),
        "jsonl": lambda text: _jsonl(text, name),
        "csv": lambda text: _separated(text, name, "csv", header),
        "tsv": lambda text: _separated(text, name, "tsv", header),
    }
    sheet = readers[kind](text)
    if not sheet.rows:
        raise InputError(_first_problem(file, sheet))
    ending = PurePath(file).suffix.lower().removeprefix(".")
    if ending in KINDS and ending != kind:
        notes = (*notes, f"the file is called .{ending} and was read as what it holds, {kind}")
    return Sheet(sheet.name, kind, sheet.columns, sheet.rows, sheet.problems, (*notes, *sheet.notes))


def kind_of(data: bytes, file: str) -> str:
    """What a file holds: one of KINDS. The content decides; the name only where the content is plain text.

    Raises:
        InputError: nothing in it, or a format that is not one of KINDS.
    """
    if not data.strip():
        raise InputError(f"{file} is empty; give a file with at least one text.")
    if data[:4] == b"PAR1":
        return "parquet"
    if data[:4] == b"PK\x03\x04":
        return "xlsx"
    other = {b"\x1f\x8b": "gzip", b"%PDF": "PDF", b"\xd0\xcf\x11\xe0": "an old Excel file (.xls)", b"\x28\xb5\x2f\xfd": "zstd"}
    found = next((what for start, what in other.items() if data.startswith(start)), None)
    if found:
        raise InputError(f"{file} is {found}, which is not read here; save it as one of {', '.join(KINDS)}.")
    ending = PurePath(file).suffix.lower().removeprefix(".")
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"{" or ending in ("jsonl", "ndjson"):
        return "jsonl"
    if ending == "json" or (start[:1] == b"[" and ending != "txt"):
        raise InputError(f"{file} holds one JSON list; write one object a line instead (.jsonl).")
    return ending if ending in ("csv", "tsv") else "txt"


def label(name: Any) -> str:
    """A name fit to be shown: printable, without spaces at its ends, at most MAX_NAME code points."""
    return "".join(c if c.isprintable() else " " for c in str(name)).strip()[:MAX_NAME].strip()


def column_names(found: list[Any]) -> tuple[str, ...]:
    """Names for the columns of a header row: what is empty or stands twice is numbered.

    Raises:
        InputError: more than MAX_COLUMNS.
    """
    if len(found) > MAX_COLUMNS:
        raise InputError(f"The file has {len(found):,} columns and at most {MAX_COLUMNS} are read; keep text and labels.")
    names: list[str] = []
    for number, value in enumerate(found, 1):
        name = label("" if value is None else value) or f"column {number}"
        names.append(name if name not in names else f"{name} ({number})")
    return tuple(names)


def too_many(count: int) -> None:
    """Refuse the row after the last one that is taken."""
    if count > MAX_ROWS:
        raise InputError(f"The file has more than {MAX_ROWS:,} rows, the most that one set holds; split it.")


def _first_problem(file: str, sheet: Sheet) -> str:
    if not sheet.problems:
        return f"{file} holds no row that could be read; give at least one text."
    first = sheet.problems[0]
    return f"{file}: no row could be read; the first is row {first.row}: {first.reason}"


def _text(data: bytes, file: str, encoding: str) -> tuple[str, tuple[str, ...]]:
    """The text of a file with newlines as its only line ends, and what was repaired."""
    notes = []
    mark, marked = next(((mark, name) for mark, name in _BOMS if data.startswith(mark)), (b"", ""))
    if marked:
        data, encoding = data[len(mark) :], marked
        notes.append(f"byte order mark of {marked} removed")
    if b"\0" in data and not marked.startswith("utf-16"):
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise InputError(
            f"{file}, line {line}: expected text, got a NUL byte; this is no text file, or one in UTF-16 without a "
            "byte order mark: save it as UTF-8."
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: expected text in {encoding}, got the byte 0x{data[error.start]:02x}; save the file "
            "as UTF-8 or name its encoding."
        ) from None
    ends = {name: len(re.findall(pattern, text)) for name, pattern in _LINE_ENDS.items()}
    if len([name for name, count in ends.items() if count]) > 1:
        notes.append("mixed line ends (" + ", ".join(f"{count:,} {name}" for name, count in ends.items() if count) + ") made one")
    return re.sub(r"\r\n?", "\n", text), tuple(notes)


_LINE_ENDS = {"CRLF": r"\r\n", "CR": r"\r(?!\n)", "LF": r"(?<!\r)\n"}


def _plain(text: str, name: str, split: str) -> Sheet:
    """Prompts of a plain text, parted by lines or blank lines."""
    paragraphs = split == "paragraphs" or (split == "auto" and re.search(r"\S[^\n]*\n[ \t]*\n\s*\S", text) is not None)
    pattern = r"(?s).+" if split == "whole" else r"(?:[^\n]*\S[^\n]*(?:\n|$))+" if paragraphs else r"[^\n]+"
    rows, last, line = [], 0, 1
    for match in re.finditer(pattern, text):
        line += text.count("\n", last, match.start())
        last = match.start()
        part = match[0].strip("\n")
        if part.strip():
            rows.append((line, {"text": part}))
            too_many(len(rows))
    how = "the whole file" if split == "whole" else "blank lines" if paragraphs else "lines"
    notes = (f"parted into prompts by {how}",) if split == "auto" else ()
    return Sheet(name, "txt", ("text",), tuple(rows), notes=notes)


def _jsonl(text: str, name: str) -> Sheet:
    """One JSON object a line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    problems: list[Problem] = []
    columns: dict[str, None] = {}
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    for count, (number, line) in enumerate(lines, 1):
        too_many(count)
        try:
            record = {label(key): value for key, value in _record(line).items()}
        except InputError as error:
            problems.append(Problem(number, str(error)))
            continue
        columns.update(dict.fromkeys(record))
        column_names(list(columns))
        rows.append((number, record))
    return Sheet(name, "jsonl", tuple(columns), tuple(rows), tuple(problems))


def _record(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"this is not JSON ({error.msg} at column {error.colno}).") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; brackets nested thousands deep
        raise InputError("this JSON is too deep or holds a number too long to be read.") from None
    if not isinstance(value, dict):
        raise InputError("this is JSON but no object with named fields.")
    if not value:
        raise InputError("this object has no field.")
    return value


def _separated(text: str, name: str, kind: str, header: bool) -> Sheet:
    """Cells parted by commas, semicolons or tabs, quoted as spreadsheets do."""
    mark = "\t" if kind == "tsv" else _separator(text)
    records = _records(text, mark)
    first = next(records, None)
    if first is None or isinstance(first[1], str):
        reason = first[1] if first else "it holds nothing"
        raise InputError(f"The first row cannot be read: {reason}")
    columns = column_names(first[1] if header else [None] * len(first[1]))
    rows: list[tuple[int, dict[str, Any]]] = []
    problems: list[Problem] = []
    waiting = records if header else _chain(first, records)
    for count, (number, cells) in enumerate(waiting, 1):
        too_many(count)
        if isinstance(cells, str):
            problems.append(Problem(number, cells))
        elif len(cells) != len(columns):
            problems.append(
                Problem(number, f"it has {len(cells)} cells and the first row has {len(columns)}; quote texts that hold {mark!r}.")
            )
        else:
            rows.append((number, dict(zip(columns, cells, strict=True))))
    notes = (f"cells parted by {'a tab' if mark == chr(9) else mark!r}",) if kind == "csv" and mark != "," else ()
    return Sheet(name, kind, columns, tuple(rows), tuple(problems), notes)


def _chain(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def _separator(text: str) -> str:
    """The mark that parts most cells of the first line, quotes left out."""
    line = re.sub(r'"[^"]*"', "", text.lstrip("\n").split("\n", 1)[0])
    return max(",;\t", key=lambda mark: (line.count(mark), mark == ","))


def _records(text: str, mark: str) -> Iterator[tuple[int, list[str] | str]]:
    """Line on which a record begins, and its cells or why it cannot be read. Blank lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield number, f"the quotes or the length of a cell cannot be read ({error})."
            continue
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield number, cells
