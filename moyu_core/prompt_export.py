"""Prompts and tables -> files: jsonl, csv, tsv, parquet, xlsx, txt. What `prompt_import` reads back is what was written.

A cell of a csv or tsv that begins with = + - @ would be run by a spreadsheet, so an apostrophe is put before it; reading takes
it off again.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence

import pandas as pd

from moyu_core.prompts import Prompt

FORMATS = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "txt": "text/plain",
}
"""Kind of file -> media type."""

_COLUMNS = ("id", "text", "domain", "condition")
_RUN_BY_SPREADSHEETS = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def neutral(cell: str) -> str:
    """A cell that no spreadsheet runs: an apostrophe before what begins with = + - @, a tab or a carriage return.

    Numbers stay as they are. A cell that begins with apostrophes before such a sign gets one more, so `restored` is exact.
    """
    return f"'{cell}" if _RUN_BY_SPREADSHEETS.match(cell) and not _NUMBER.fullmatch(cell) else cell


def restored(cell: str) -> str:
    """What `neutral` was given."""
    return cell[1:] if cell.startswith("'") and _RUN_BY_SPREADSHEETS.match(cell, 1) else cell


def neutral_table(table: pd.DataFrame) -> pd.DataFrame:
    """A copy whose texts, names of columns included, no spreadsheet runs."""
    copy = table.copy()
    for number, kind in enumerate(copy.dtypes):
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)):
            copy.isetitem(number, [neutral(cell) if isinstance(cell, str) else cell for cell in copy.iloc[:, number]])
    return copy.rename(columns=lambda name: neutral(str(name)))


def export(prompts: Sequence[Prompt], kind: str) -> bytes:
    """The file of a set; kind is a key of FORMATS. `txt` keeps the texts alone, parted by blank lines."""
    if kind == "txt":
        return ("\n\n".join(prompt.text for prompt in prompts) + "\n").encode()
    table = pd.DataFrame([[getattr(prompt, name) for name in _COLUMNS] for prompt in prompts], columns=list(_COLUMNS))
    if kind == "jsonl":
        records = table.to_dict("records")
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    if kind == "parquet":
        return table.to_parquet(index=False, compression="zstd")
    if kind == "xlsx":
        return _xlsx(table)
    return separated(table, "\t" if kind == "tsv" else ",")


def separated(table: pd.DataFrame, mark: str = ",") -> bytes:
    """A csv or tsv in UTF-8 that no spreadsheet runs anything of."""
    text = io.StringIO(newline="")
    neutral_table(table).to_csv(text, sep=mark, index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    return text.getvalue().encode()


def _xlsx(table: pd.DataFrame) -> bytes:
    """A workbook; every cell is stored as text, which no spreadsheet runs."""
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("prompts")
    for row in [list(table.columns), *table.to_numpy().tolist()]:
        cells = []
        for value in row:
            cell = WriteOnlyCell(sheet)
            cell.value = ILLEGAL_CHARACTERS_RE.sub("\ufffd", str(value))
            cell.data_type = "s"
            cells.append(cell)
        sheet.append(cells)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()
