"""Parquet and Excel files -> rows, read by a child process that may use a stated amount of memory and time.

A file of a few kilobytes can claim, or unpack to, gigabytes. What a library allocates on its way cannot be seen from outside,
so the limit is the operating system's: the child is refused more memory, and the answer is one sentence.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

from moyu_core.errors import InputError
from moyu_core.home import REPOSITORY
from moyu_core.prompt_files import MAX_ROWS, Problem, Sheet, column_names, too_many
from moyu_core.prompts import MAX_CHARACTERS

MAX_UNPACKED = 256 * 2**20
"""Bytes that an Excel file, or the columns of a Parquet file, may take when unpacked."""
MAX_MEMORY = 3 * 2**30
"""Address space of the child; an idle one with pyarrow takes about 1 GiB of it."""
MAX_SECONDS = 60
MAX_MEMBERS = 2_000
_LONG = 4 * MAX_CHARACTERS
"""Cells are handed on up to here, so that what is too long can be cut, and said to be."""


def read_table(kind: str, data: bytes, name: str, header: bool = True) -> Sheet:
    """The rows of a Parquet or Excel file.

    Args:
        kind: `parquet` or `xlsx`.
        data: the whole file.
        name: for the sheet.
        header: whether the first row of an xlsx names the columns.

    Raises:
        InputError: damaged, too large when unpacked, or with more rows or columns than are taken.
    """
    command = [sys.executable, "-m", "moyu_core.prompt_tables", kind, str(int(header))]
    try:
        done = subprocess.run(command, input=data, capture_output=True, cwd=REPOSITORY, timeout=MAX_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"The {kind} file could not be read within {MAX_SECONDS} s; save it with fewer rows.") from None
    if done.returncode:
        raise InputError(
            f"The {kind} file cannot be read within {MAX_MEMORY // 2**30} GiB of memory; it is damaged, or unpacks to "
            "far more than its size. Save it as csv or jsonl."
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise InputError(answer["error"])
    rows = tuple((number, dict(zip(answer["columns"], cells, strict=True))) for number, cells in answer["rows"])
    problems = tuple(Problem(*problem) for problem in answer["problems"])
    return Sheet(name, kind, tuple(answer["columns"]), rows, problems, tuple(answer["notes"]))


def _limit_memory() -> None:
    """The operating system refuses this process more than MAX_MEMORY; nothing where it cannot (Windows)."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))


def _parquet(data: bytes, header: bool) -> dict[str, Any]:
    """Columns and rows of a Parquet file; its columns name themselves."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    del header
    try:
        with pq.ParquetFile(io.BytesIO(data), thrift_string_size_limit=len(data), thrift_container_size_limit=100_000) as file:
            columns = column_names(file.schema_arrow.names)
            too_many(file.metadata.num_rows)
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if size > MAX_UNPACKED:
                raise InputError(
                    f"The Parquet file unpacks to {size / 2**20:,.0f} MiB and the limit is {MAX_UNPACKED // 2**20} MiB; "
                    "keep text and labels only."
                )
            rows = [[_cell(value) for value in row.values()] for batch in file.iter_batches(256) for row in batch.to_pylist()]
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise InputError(f"The Parquet file cannot be read: {_reason(error)}.") from None
    return {"columns": columns, "rows": list(enumerate(rows, 1)), "problems": [], "notes": []}


def _xlsx(data: bytes, header: bool) -> dict[str, Any]:
    """Columns and rows of the first sheet of a workbook; rows that hold a formula are problems."""
    _check_zip(data)
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=False, keep_links=False)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what the file claims to span is not believed
        answer = _sheet(sheet.iter_rows(max_col=None), header)
    except InputError:
        raise
    except Exception as error:  # openpyxl raises whatever its parts raise
        raise InputError(f"The Excel file cannot be read: {_reason(error)}.") from None
    if len(book.sheetnames) > 1:
        answer["notes"].append(f"the first of {len(book.sheetnames)} sheets was read, {sheet.title!r}")
    return answer


def _sheet(found: Iterator[Any], header: bool) -> dict[str, Any]:
    columns: tuple[str, ...] = ()
    rows, problems = [], []
    for number, cells in enumerate(found, 1):
        if not any(cell.value is not None for cell in cells):
            if number > 20 * MAX_ROWS:
                too_many(number)
            continue
        if not columns:
            columns = column_names([cell.value if header else None for cell in cells])
            if header:
                continue
        too_many(len(rows) + len(problems) + 1)
        formula = next((i for i, cell in enumerate(cells) if cell.data_type == "f"), None)
        if formula is not None:
            where = columns[formula] if formula < len(columns) else f"column {formula + 1}"
            problems.append((number, f"the cell of {where!r} is a formula; paste its value instead."))
            continue
        values = [_cell(cell.value) for cell in cells][: len(columns)]
        rows.append((number, values + [None] * (len(columns) - len(values))))
    if not columns or not rows:
        first = f"; the first problem is row {problems[0][0]}: {problems[0][1]}" if problems else ""
        raise InputError(
            f"The first sheet of the Excel file holds no rows under its header{first or '; fill it, or save another.'}"
        )
    return {"columns": columns, "rows": rows, "problems": problems, "notes": []}


def _check_zip(data: bytes) -> None:
    """Refuse what is no workbook, or unpacks to more than MAX_UNPACKED."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"The Excel file cannot be read: {_reason(error)}.") from None
    if not any(member.filename == "xl/workbook.xml" for member in members):
        raise InputError("The file is a zip but no Excel workbook (.xlsx); a bundle of a run is opened on the Runs page.")
    size = sum(member.file_size for member in members)  # zipfile never unpacks more than is claimed
    if size > MAX_UNPACKED or len(members) > MAX_MEMBERS:
        raise InputError(
            f"The Excel file unpacks to {size / 2**20:,.0f} MiB in {len(members):,} parts and the limits are "
            f"{MAX_UNPACKED // 2**20} MiB and {MAX_MEMBERS:,}; save it as csv."
        )


def _cell(value: Any) -> Any:
    """A cell as JSON can carry it."""
    if isinstance(value, str):
        return value[:_LONG]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, bytes):
        return value[:_LONG].decode("utf-8", "replace")
    if isinstance(value, dict | list):
        return {} if isinstance(value, dict) else []  # nested: named as such later, never shown
    return str(value)[:_LONG]


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else ""
    return (text or type(error).__name__)[:200].rstrip(".")


def _main() -> None:
    kind, header = sys.argv[1], sys.argv[2] == "1"
    data = sys.stdin.buffer.read()
    _limit_memory()
    try:
        answer = {"parquet": _parquet, "xlsx": _xlsx}[kind](data, header)
    except InputError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
