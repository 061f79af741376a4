"""Text and JSONL files -> validated, hashed prompts.

A `Prompt` that exists is usable: its text is clean and within the limit, its labels can be shown. What had to be
changed on the way is said in notes. Tokens are counted later, by the model.

A prompt file is JSON Lines in UTF-8: `{"id": "prose-rain", "text": "It rained.", "domain": "prose"}` on each line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError
from moyu_core.schema import PLAIN_CONDITION
from moyu_core.spec import fingerprint

MAX_CHARACTERS = 20_000
"""The longest text of one prompt, in code points."""
MAX_PROMPTS = 10_000
"""The most prompts of one set."""
MAX_FILE_BYTES = 256 * 2**20
"""The largest prompt file that is read."""
MAX_LABEL = 80
"""The longest id, domain or condition, in code points."""
MAX_NOTES = 20
"""Notes kept in full for one file; the rest is counted."""

_REPLACED = (  # pattern, replacement, note after the count
    (re.compile(r"[\ud800-\udfff]"), "\ufffd", "lone surrogate(s) replaced by U+FFFD"),
    (re.compile(r"\0"), "\ufffd", "NUL character(s) replaced by U+FFFD"),
    (re.compile(r"\r\n?"), "\n", "carriage return(s), CRLF or CR, replaced by a newline"),
)
_FIELDS = ("id", "text", "domain", "condition")
_KNOWN = {*_FIELDS, "source"}  # `source` names the author of a text for people; no number depends on it


@dataclass(frozen=True)
class Prompt:
    """One text to be run through a model. `make_prompt` builds it from text that has not been cleaned.

    Attributes:
        id: name of the prompt, 1 to 80 printable characters, unique in a set together with `condition`.
        text: clean in the sense of `clean`.
        domain: kind of text, or "".
        condition: how the prompt is presented; `plain` = as it is.
    """

    id: str
    text: str
    domain: str = ""
    condition: str = PLAIN_CONDITION

    def __post_init__(self) -> None:
        _check_label("id", self.id)
        _check_label("condition", self.condition)
        if self.domain:
            _check_label("domain", self.domain)
        if clean(self.text)[0] != self.text:
            raise InputError(f"The text of prompt {self.id!r} holds characters that must be replaced first; "
                             "build it with make_prompt.")


@dataclass(frozen=True)
class PromptSet:
    """Prompts that belong together, in order.

    Attributes:
        name: name of the file without its ending, or what the user called it.
        prompts: at least one, at most `MAX_PROMPTS`; no id twice under the same condition.
        notes: what was changed or ignored while reading, one sentence each.
    """

    name: str
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError(f"Prompt set {self.name!r} is empty; give at least one prompt.")
        if len(self.prompts) > MAX_PROMPTS:
            raise InputError(f"A prompt set holds at most {MAX_PROMPTS:,} prompts and {self.name!r} has "
                             f"{len(self.prompts):,}; split it.")
        counts = Counter((prompt.id, prompt.condition) for prompt in self.prompts)
        (name, _), count = counts.most_common(1)[0]
        if count > 1:
            raise InputError(f"Prompt id {name!r} occurs {count} times in {self.name!r}; ids must differ, rename one.")


def clean(text: str, *, cut: bool = False) -> tuple[str, tuple[str, ...]]:
    """The text as it will be tokenised, and a note for each kind of change.

    Lone surrogates and NUL become U+FFFD, since neither can be stored everywhere; CRLF and single CR become a newline.
    All else stays, also other control characters and the spaces at both ends: they are tokens like any other.

    Args:
        text: any string.
        cut: shorten a text above `MAX_CHARACTERS` (said in a note) instead of refusing it.

    Raises:
        InputError: nothing but white space, or too long and `cut` is false.
    """
    notes = []
    for pattern, replacement, what in _REPLACED:
        text, count = pattern.subn(replacement, text)
        if count:
            notes.append(f"{count:,} {what}")
    if len(text) > MAX_CHARACTERS:
        notes.append(_cut_note(len(text), cut))
        text = text[:MAX_CHARACTERS]
    if not text.strip():
        raise InputError("The text is empty or only white space; write at least one visible character.")
    return text, tuple(notes)


def make_prompt(text: str, id: str | None = None, domain: str = "", condition: str = PLAIN_CONDITION) -> Prompt:
    """A prompt from any text. Call `clean` first to see the notes or to cut: cleaning twice changes nothing.

    Args:
        text: any text that `clean` accepts.
        id: the prompt's name; without one, `text_id` of the cleaned text.
        domain: kind of text.
        condition: how the prompt is presented.
    """
    text, _ = clean(text)
    return Prompt(text_id(text) if id is None else id, text, domain, condition)


def text_id(text: str) -> str:
    """First 10 hex digits of the SHA-256 of a clean text: the id of a prompt that has no other name."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:10]


def prompts_hash(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over id, text, domain and condition of each prompt, in order: the prompts' part of a run's identity."""
    return fingerprint([[getattr(prompt, name) for name in _FIELDS] for prompt in prompts])


def read_prompts(path: str | Path, *, cut: bool = False) -> PromptSet:
    """The prompt set stored in a JSONL file.

    Args:
        path: the file; its name without ending becomes the set's name.
        cut: shorten texts above `MAX_CHARACTERS` (said in the notes) instead of refusing the file.

    Raises:
        InputError: file, line and field that cannot be used, and what was expected there.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"There is no prompt file {path}; give the path of a .jsonl file.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path.name} is larger than the limit of {MAX_FILE_BYTES // 2**20} MiB; split it.")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    return parse_prompts(data, path.name, cut=cut)


def parse_prompts(data: bytes, file: str, *, cut: bool = False) -> PromptSet:
    """The prompt set in the bytes of a JSONL file, for instance an upload; arguments and errors as `read_prompts`."""
    prompts: list[Prompt] = []
    notes: list[str] = []
    unknown: Counter[str] = Counter()
    lines: dict[tuple[str, str], int] = {}
    for number, line in _lines(data, file):
        try:
            record = _record(line)
            prompt, changes = _prompt(record, cut)
            _check_new(prompt, number, lines)
        except InputError as error:
            raise InputError(f"{file}, line {number}: {error}") from None
        prompts.append(prompt)
        notes += [f"line {number}: {change}" for change in changes]
        unknown.update(record.keys() - _KNOWN)
    if not prompts:
        raise InputError(f'{file} holds no prompts; write one JSON object a line, such as {{"text": "It rained."}}.')
    return PromptSet(Path(file).stem, tuple(prompts), _file_notes(notes, unknown))


def write_prompts(path: str | Path, prompts: Sequence[Prompt]) -> None:
    """Writes the prompts as JSONL; `read_prompts` gives them back. The file appears whole or not at all."""
    path = Path(path)
    stored = PromptSet(path.stem, tuple(prompts))
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(_line(prompt) for prompt in stored.prompts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
    finally:
        partial.unlink(missing_ok=True)


def library(folder: str | Path) -> list[PromptSet]:
    """The sets of every `*.jsonl` file in a folder, by name.

    Raises:
        InputError: no such folder, or the first file that cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder of prompts at {folder}; give one that holds .jsonl files.")
    return [read_prompts(path) for path in sorted(folder.glob("[!.]*.jsonl"))]


def _cut_note(length: int, cut: bool) -> str:
    if not cut:
        raise InputError(f"A prompt has at most {MAX_CHARACTERS:,} characters and this one has {length:,}; "
                         "shorten it, or let it be cut.")
    return f"cut after {MAX_CHARACTERS:,} of {length:,} characters"


def _check_label(name: str, value: str) -> None:
    """Refuses labels that would look like another one or break a line."""
    if not 1 <= len(value) <= MAX_LABEL:
        raise InputError(f"The {name} must have 1 to {MAX_LABEL} characters, not {len(value):,}.")
    if not value.isprintable():
        raise InputError(f"The {name} {value!a} holds a control or invisible character; use printable ones.")
    if value != value.strip():
        raise InputError(f"The {name} {value!r} begins or ends with a space; remove it.")


def _lines(data: bytes, file: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every line that is not blank. Only a newline ends a line: JSON may hold U+2028."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {number}: expected text in UTF-8, got the byte 0x{data[error.start]:02x}; "
                         "save the file as UTF-8.") from None
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _record(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"this is not JSON ({error.msg} at column {error.colno}); write one object a line.") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; brackets nested thousands deep
        raise InputError("this JSON is too deep or holds a number too long to be read; keep text and labels.") from None
    if not isinstance(value, dict):
        raise InputError(f'expected an object such as {{"text": "It rained."}}, got {_kind(value)}.')
    return value


def _prompt(record: dict[str, Any], cut: bool) -> tuple[Prompt, tuple[str, ...]]:
    if "text" not in record:
        raise InputError('the field "text" is missing; every record needs one.')
    fields = {name: record[name] for name in _FIELDS if name == "text" or record.get(name) is not None}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise InputError(f'the field "{name}" must be a string, got {_kind(value)}; put it in quotation marks.')
    text, notes = clean(fields.pop("text"), cut=cut)
    return make_prompt(text, **fields), notes


def _check_new(prompt: Prompt, number: int, lines: dict[tuple[str, str], int]) -> None:
    """Remembers the line of a prompt and refuses the second of a name."""
    first = lines.setdefault((prompt.id, prompt.condition), number)
    if first != number:
        reason = "the same text without an id stands" if prompt.id == text_id(prompt.text) else "it stands already"
        raise InputError(f"the id {prompt.id!r} is not new, {reason} on line {first}; ids must differ, rename one.")


def _file_notes(notes: list[str], unknown: Counter[str]) -> tuple[str, ...]:
    """Notes fit to be shown, however many records they come from."""
    kept = notes[:MAX_NOTES]
    if len(notes) > MAX_NOTES:
        kept.append(f"and {len(notes) - MAX_NOTES:,} more changes of this kind")
    if unknown:
        names = ", ".join(ascii(name[:MAX_LABEL]) for name in sorted(unknown)[:MAX_NOTES])
        kept.append(f"{len(unknown):,} unknown field(s) ignored: {names}; known are {', '.join(sorted(_KNOWN))}")
    return tuple(kept)


def _line(prompt: Prompt) -> bytes:
    record = {name: getattr(prompt, name) for name in _FIELDS}
    if prompt.condition == PLAIN_CONDITION:
        del record["condition"]
    if not prompt.domain:
        del record["domain"]
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
