"""Prompts out of local data sets: a jsonl file, Parquet files, or a folder that Hugging Face `datasets` wrote (Arrow files).

For data that the person at the command line has on disk; what visitors upload goes through `prompt_import`, which trusts
nothing. Files are read batch by batch and only the columns that are used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from moyu_core.errors import InputError
from moyu_core.prompts import MAX_PROMPTS, Prompt, PromptSet, clean, make_prompt, read_prompts

BATCH_ROWS = 1024
LABELS = ("id", "domain", "condition")
"""Columns that are taken by these names where they exist."""


@dataclass(frozen=True)
class Selection:
    """What is taken of a data set.

    Attributes:
        text: column of the texts.
        limit: the most prompts; the rest is left out, which is said in a note.
        split: of a folder with several; None = the only one, or `train`.
        cut: shorten texts of tables above `prompts.MAX_CHARACTERS` instead of refusing them.
    """

    text: str = "text"
    limit: int = MAX_PROMPTS
    split: str | None = None
    cut: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_PROMPTS:
            raise InputError(f"Between 1 and {MAX_PROMPTS:,} prompts can be taken, not {self.limit:,}.")


def read_dataset(path: Path, selection: Selection | None = None) -> PromptSet:
    """The prompts of a jsonl file, a Parquet file, a folder of Parquet files, or a folder of `datasets`.

    Rows without text are left out and counted. Rows without `id` are named by their text; of equal names the first stays.

    Raises:
        InputError: nothing there, another format, a column that is missing or holds no text, no usable row.
    """
    try:
        return _read(path, selection or Selection())
    except OSError as error:  # the files themselves are read with an eye on it; a folder above them may be closed
        raise InputError(f"{path} cannot be read ({error.strerror}); check the permissions of its folder.") from error


def _read(path: Path, selection: Selection) -> PromptSet:
    if path.suffix.lower() in (".jsonl", ".json", "") and path.is_file():
        return _of_lines(path, selection)
    files = _files(path, selection.split)
    prompts: dict[tuple[str, str], Prompt] = {}
    left = {"empty": 0, "cut": 0, "repeated": 0, "surplus": 0}
    for row in _rows(files, selection.text):
        _take(row, selection, prompts, left)
        if left["surplus"]:
            break
    if not prompts:
        raise InputError(f"{path} holds no row with a text in {selection.text!r}; choose another column with --text-column.")
    return PromptSet(path.stem, tuple(prompts.values()), tuple(_notes(left, selection)))


def _of_lines(path: Path, selection: Selection) -> PromptSet:
    """A prompt file; the options of tables do not apply to it, but the limit does."""
    if selection.text != "text" or selection.split:
        raise InputError(f'{path.name} is a prompt file, whose texts are in the field "text"; leave column and split out.')
    found = read_prompts(path)
    notes = found.notes
    if len(found.prompts) > selection.limit:
        notes = (*notes, f"only the first {selection.limit:,} prompts were taken")
    return PromptSet(found.name, found.prompts[: selection.limit], notes)


def _files(path: Path, split: str | None) -> list[Path]:
    """The files of a data set, in order."""
    if path.is_file() and path.suffix.lower() in (".parquet", ".arrow"):
        return [path]
    if not path.is_dir():
        what = "is no jsonl, Parquet or Arrow file" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; give a .jsonl or .parquet file, or a folder of Parquet or Arrow files.")
    folder = _of_split(path, split)
    if (folder / "state.json").is_file():
        return _stated(folder)
    files = sorted(file for kind in ("*.parquet", "*.arrow") for file in folder.rglob(kind) if not file.name.startswith("."))
    if len({file.suffix for file in files}) > 1:
        raise InputError(f"{folder} holds both Parquet and Arrow files; give the folder of one kind.")
    if folder == path and (split or len({_split_of(file) for file in files} - {""}) > 1):
        files = [file for file in files if _split_of(file) == (split or "train")]
    if not files:
        raise InputError(
            f"{folder} holds no Parquet or Arrow files{f' of the split {split!r}' if split else ''}; give their folder."
        )
    return files


def _of_split(path: Path, split: str | None) -> Path:
    """The folder of a split where `datasets` wrote several."""
    listing = path / "dataset_dict.json"
    if not listing.is_file():
        return path
    splits = _json(listing).get("splits", [])
    chosen = split or (splits[0] if len(splits) == 1 else "train")
    if chosen not in splits or not (path / chosen).is_dir():
        raise InputError(f"{path} has the splits {', '.join(map(str, splits))}; there is no {chosen!r}, choose one with --split.")
    return path / chosen


def _stated(folder: Path) -> list[Path]:
    """The files that `state.json` of a saved data set lists; what else lies there (caches) is none of it."""
    names = [str(entry.get("filename", "")) for entry in _json(folder / "state.json").get("_data_files", [])]
    files = [folder / Path(name).name for name in names]
    missing = next((file.name for file in files if not file.is_file()), None)
    if missing or not files:
        raise InputError(f"The data set in {folder} is not whole: {missing or 'state.json lists no files'}; save it again.")
    return files


def _split_of(file: Path) -> str:
    """`train` of train-00000-of-00001.parquet; "" where the name tells nothing."""
    head, _, tail = file.stem.partition("-")
    return head if tail[:1].isdigit() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); save the data set again.") from error
    return found if isinstance(found, dict) else {}


def _rows(files: list[Path], text: str) -> Iterator[dict[str, Any]]:
    for file in files:
        try:
            for batch in _batches(file, text):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read ({str(error).splitlines()[0][:200]}); fetch or save it again.") from error


def _batches(file: Path, text: str) -> Iterator[pa.RecordBatch]:
    """Batches of the columns that are used."""
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(BATCH_ROWS, columns=_columns(parquet.schema_arrow, file, text))
        return
    with pa.memory_map(str(file)) as source:
        try:
            reader = pa.ipc.open_stream(source)  # what `datasets` writes
            batches: Iterator[pa.RecordBatch] = iter(reader)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        wanted = _columns(reader.schema, file, text)
        yield from (batch.select(wanted) for batch in batches)


def _columns(schema: pa.Schema, file: Path, text: str) -> list[str]:
    """The columns to read; InputError where the text is missing or is not text."""
    if text not in schema.names:
        raise InputError(f"{file} has no column {text!r}; it has {', '.join(schema.names[:20])}. Choose one with --text-column.")
    kind = schema.field(text).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError(f"The column {text!r} of {file} holds {kind}, not text; choose another with --text-column.")
    return [text, *(name for name in LABELS if name in schema.names and name != text)]


def _take(row: dict[str, Any], selection: Selection, prompts: dict[tuple[str, str], Prompt], left: dict[str, int]) -> None:
    """Add one row's prompt, or count why not."""
    text = row[selection.text]
    if text is None or not text.strip():
        left["empty"] += 1
        return
    text, notes = clean(text, cut=selection.cut)
    labels = {name: str(row[name]) for name in LABELS if row.get(name) is not None and str(row[name])}
    prompt = make_prompt(text, **labels)
    key = prompt.id, prompt.condition
    if key in prompts:
        left["repeated"] += 1
    elif len(prompts) == selection.limit:
        left["surplus"] += 1
    else:
        left["cut"] += bool(notes)
        prompts[key] = prompt


def _notes(left: dict[str, int], selection: Selection) -> Iterator[str]:
    said = {"empty": "rows without text were left out", "cut": "texts were cut or cleaned",
            "repeated": "rows repeat an id or a text and were left out"}  # fmt: skip
    yield from (f"{left[name]:,} {what}" for name, what in said.items() if left[name])
    if left["surplus"]:
        yield f"only the first {selection.limit:,} prompts were taken"
