"""Rows of a file -> a prompt set: which column is the text, which rows were understood, and why the others were not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError
from moyu_core.prompt_export import restored
from moyu_core.prompt_files import Problem, Sheet, check_size, read_sheet
from moyu_core.prompts import Prompt, PromptSet, clean, make_prompt, text_id
from moyu_core.schema import PLAIN_CONDITION

FIELDS = ("text", "id", "domain", "condition")
"""What a column can be."""

_USUAL = {
    "text": ("text", "prompt", "content", "sentence", "input", "question", "document", "body"),
    "id": ("id", "prompt_id", "name", "key"),
    "domain": ("domain", "label", "category", "class", "topic", "genre", "subject"),
    "condition": ("condition", "treatment"),
}


@dataclass(frozen=True)
class Mapping:
    """Which column is which field; "" = none. Every prompt needs a text, the rest may be left out."""

    text: str
    id: str = ""
    domain: str = ""
    condition: str = ""


@dataclass(frozen=True)
class Understood:
    """What became of the rows of a file.

    Attributes:
        prompts: those that can be used, in the file's order.
        places: number of each prompt's row in the file.
        left_out: rows that were not taken, and why.
        changed: rows that were taken with a change, and which.
        notes: what was repaired in the file as a whole.
    """

    prompts: tuple[Prompt, ...]
    places: tuple[int, ...] = ()
    left_out: tuple[Problem, ...] = ()
    changed: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def in_words(self) -> str:
        """For instance `37 prompts understood, 2 rows left out, 1 changed`."""
        count, out = len(self.prompts), len(self.left_out)
        parts = [f"{count:,} prompt{'' if count == 1 else 's'} understood", f"{out:,} row{'' if out == 1 else 's'} left out"]
        return ", ".join([*parts, f"{len(self.changed):,} changed"])


def guess(sheet: Sheet, named: Mapping | None = None) -> Mapping:
    """The mapping that the names of the columns suggest; the text falls back to the column with the longest cells.

    Args:
        sheet: the rows.
        named: columns that are chosen already; only the fields that it leaves open are guessed, among the other columns.
    """
    chosen = {name: column for name in FIELDS if named and (column := getattr(named, name))}
    others = [column for column in sheet.columns if column not in chosen.values()]
    by_name = {column.casefold(): column for column in reversed(others)}
    found = {name: chosen.get(name) or next((by_name[usual] for usual in _USUAL[name] if usual in by_name), "") for name in FIELDS}
    if not found["text"]:
        free = [column for column in others if column not in found.values()] or others
        found["text"] = max(free, key=lambda column: _characters(sheet, column), default="")
    return Mapping(**found)


def pasted_file(text: str, split: str = "auto") -> str:
    """A file name for a text that was pasted; its ending says what the text holds, as `read_sheet` wants to know it.

    Cells that a spreadsheet copied come with tabs between them, as many in every row. A csv is known by a column that bears one of
    the usual names of a text: without it, commas may be those of prose. JSON lines are told by their content. Whoever says what
    parts the prompts of a plain text has one.

    Args:
        text: what was pasted.
        split: as for `read_sheet`.
    """
    kinds = (("tsv", "\t"), ("csv", ","), ("csv", ";")) if split == "auto" else ()
    return next((f"pasted.{kind}" for kind, mark in kinds if _is_table(text, mark)), "pasted")


def _is_table(text: str, mark: str) -> bool:
    """Whether a text is rows of equally many cells, more than one each, under a first row that can name them."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True) if any(map(str.strip, row))]
    except csv.Error:
        return False
    if len(rows) < 2 or len(rows[0]) < 2 or {len(row) for row in rows} != {len(rows[0])}:
        return False
    named = {cell.strip().casefold() for cell in rows[0]}
    return bool(named & set(_USUAL["text"])) if mark != "\t" else sum(bool(cell.strip()) for cell in rows[0]) > 1


def understand(sheet: Sheet, mapping: Mapping | None = None, *, cut: bool = False) -> Understood:
    """The prompts of a sheet under a mapping; nothing is raised for a bad row.

    Args:
        sheet: the rows.
        mapping: which column is which field; None = `guess`.
        cut: shorten texts that are too long instead of leaving them out.

    Raises:
        InputError: the mapping names a column that the sheet does not have.
    """
    mapping = mapping or guess(sheet)
    _check(mapping, sheet)
    prompts: list[Prompt] = []
    places: list[int] = []
    left_out, changed = list(sheet.problems), []
    seen: dict[tuple[str, str], int] = {}
    for number, cells in sheet.rows:
        try:
            prompt, notes = _prompt(sheet.kind, cells, mapping, cut)
            _check_new(prompt, number, seen)
        except InputError as error:
            left_out.append(Problem(number, str(error)))
            continue
        prompts.append(prompt)
        places.append(number)
        changed += [Problem(number, note) for note in notes]
    left_out.sort(key=lambda problem: problem.row)
    return Understood(tuple(prompts), tuple(places), tuple(left_out), tuple(changed), sheet.notes)


def prompt_set(understood: Understood, name: str) -> PromptSet:
    """The set of what was understood.

    Raises:
        InputError: nothing was; the message quotes the first row's reason.
    """
    if not understood.prompts:
        first = understood.left_out[0] if understood.left_out else None
        reason = f"; the first is row {first.row}: {first.reason}" if first else ""
        raise InputError(f"No row of {name!r} has a usable text{reason} Choose another column for the text.")
    return PromptSet(name, understood.prompts, tuple(_notes(understood)))


def import_file(path: Path, mapping: Mapping | None = None, **options: Any) -> tuple[PromptSet, Understood]:
    """Read a file of any kind from disk; what the mapping leaves open is guessed; `options`: those of `read_sheet`, and `cut`."""
    cut = bool(options.pop("cut", False))
    try:
        check_size(path.name, path.stat().st_size)
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the path of a file.") from error
    sheet = read_sheet(data, path.name, **options)
    understood = understand(sheet, guess(sheet, mapping), cut=cut)
    return prompt_set(understood, sheet.name), understood


def _notes(understood: Understood) -> Iterator[str]:
    yield from understood.notes
    for problems, what in ((understood.changed, "changed"), (understood.left_out, "left out")):
        if problems:
            yield f"{len(problems):,} rows {what}, the first is row {problems[0].row}: {problems[0].reason}"


def _check(mapping: Mapping, sheet: Sheet) -> None:
    chosen = {name: getattr(mapping, name) for name in FIELDS}
    for name, column in chosen.items():
        if column and column not in sheet.columns:
            raise InputError(f"There is no column {column!r} for the {name}; the file has {', '.join(sheet.columns[:20])}.")
    if not mapping.text:
        raise InputError(f"A column must hold the text; the file has {', '.join(sheet.columns[:20])}.")


def _characters(sheet: Sheet, column: str) -> int:
    cells = [cells.get(column) for _, cells in sheet.rows[:200]]
    return sum(len(cell) for cell in cells if isinstance(cell, str))


def _prompt(kind: str, cells: dict[str, Any], mapping: Mapping, cut: bool) -> tuple[Prompt, tuple[str, ...]]:
    text = _text(kind, cells.get(mapping.text), mapping.text)
    notes: list[str] = []
    if kind in ("csv", "tsv") and restored(text) != text:
        text = restored(text)
        notes.append("the apostrophe that keeps spreadsheets from running a cell was taken off")
    text, repaired = clean(text, cut=cut)
    domain, condition = (_label(cells, getattr(mapping, name), name) for name in ("domain", "condition"))
    prompt = make_prompt(text, _label(cells, mapping.id, "id") or None, domain, condition or PLAIN_CONDITION)
    return prompt, (*notes, *repaired)


def _text(kind: str, value: Any, column: str) -> str:
    if value is None or value == "":
        raise InputError(f"the cell of {column!r} is empty.")
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        raise InputError(f"the cell of {column!r} holds nested values; a text is needed.")
    if kind == "jsonl":
        raise InputError(f"the field {column!r} must be a string; put it in quotation marks.")
    return str(value)  # a spreadsheet makes a number of what looks like one


def _label(cells: dict[str, Any], column: str, name: str) -> str:
    """A cell as a label; "" where there is none."""
    value = cells.get(column) if column else None
    if value is None:
        return ""
    if isinstance(value, dict | list | bool):
        raise InputError(f"the {name} in {column!r} must be a text or a number.")
    text = str(value)
    return restored(text).strip()


def _check_new(prompt: Prompt, number: int, seen: dict[tuple[str, str], int]) -> None:
    first = seen.setdefault((prompt.id, prompt.condition), number)
    if first != number:
        same = prompt.id == text_id(prompt.text)
        raise InputError(
            f"the same text stands in row {first}." if same else f"the id {prompt.id!r} stands in row {first} already."
        )


def merged(first: Sequence[Prompt], second: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Both sequences; of prompts with the same id and condition the first stays."""
    found = {(prompt.id, prompt.condition): prompt for prompt in reversed([*first, *second])}
    keys = dict.fromkeys((prompt.id, prompt.condition) for prompt in [*first, *second])
    return tuple(found[key] for key in keys)
