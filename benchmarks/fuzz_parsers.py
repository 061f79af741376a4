"""Coverage-guided fuzzing of everything that reads a stranger's file; ends with status 77 on anything but one sentence.

    pip install atheris; python -m benchmarks.fuzz_parsers text 300 [FOLDER]      # seconds; folder of inputs to keep and go on from

`text` reads txt, csv, tsv and jsonl; `tables` Parquet and Excel (in this process, without the child that bounds their memory);
`sheet` puts a part into a sound workbook; `bundle` reads a run's bundle; `member` puts a file into a sound bundle, with its right
size and hash, so that what lies behind those checks is reached.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["moyu_core", "zipfile", "openpyxl"]):
    import openpyxl  # noqa: F401, so that its branches count too

    from moyu_core import archive, archive_import, prompt_tables, store
    from moyu_core.errors import InputError
    from moyu_core.home import Home
    from moyu_core.prompt_export import export
    from moyu_core.prompt_files import read_sheet
    from moyu_core.prompt_import import understand
    from moyu_core.prompts import make_prompt

PROMPTS = (make_prompt("It rained.", "a", "x"), make_prompt('=1, "two"\nthree', "b"))
HOME = Home(Path(tempfile.mkdtemp()), tracked=())
PARTS = ("xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/sharedStrings.xml", "[Content_Types].xml", "xl/styles.xml")
"""Parts of a workbook that are replaced."""


def text(data: bytes) -> None:
    """A text file under each name."""
    if data[:4] in (b"PAR1", b"PK\x03\x04"):
        return
    for name in ("a.txt", "a.csv", "a.tsv", "a.jsonl"):
        with suppress(InputError):
            understand(read_sheet(data, name))


def tables(data: bytes) -> None:
    """A Parquet file or a workbook."""
    reader = prompt_tables._parquet if data[:4] == b"PAR1" else prompt_tables._xlsx
    with suppress(InputError, MemoryError), contextlib.redirect_stderr(io.StringIO()):
        json.dumps(reader(data, True))


def sheet(data: bytes) -> None:
    """A workbook one of whose parts is the data; the first byte says which."""
    if data:
        members = {**_members(WORKBOOK), PARTS[data[0] % len(PARTS)]: data[1:]}
        tables(_zipped(members))


def bundle(data: bytes) -> None:
    """A bundle; nothing may lie in the home afterwards unless it is sound."""
    try:
        run, _ = archive_import.unpack(io.BytesIO(data), HOME)
        run.verify()
        store.list_runs(HOME)
    except InputError:
        assert not [path for path in HOME.runs.glob("*") if path.suffix != ".lock"], "something was left behind"
    finally:
        shutil.rmtree(HOME.runs, ignore_errors=True)


def member(data: bytes) -> None:
    """A bundle one of whose files is the data; the first byte says which."""
    if not data:
        return
    members = _members(BUNDLE)
    names = sorted(members)
    name, content = names[data[0] % len(names)], data[1:]
    members[name] = content
    if name != archive.BUNDLE:
        head, entry = json.loads(members[archive.BUNDLE]), {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        head["files"][name.rsplit("/", 1)[1]] = entry
        members[archive.BUNDLE] = json.dumps(head).encode()
    bundle(_zipped(members))


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        return {name: found.read(name) for name in found.namelist()}


def _zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    return file.getvalue()


def _bundle() -> bytes:
    """The smallest tracked run as a bundle."""
    tracked = [run for run in store.list_runs(Home.default())[0] if run.tracked]
    return b"".join(archive.stream(min(tracked, key=lambda run: run.size_bytes)))


def _numbered(members: dict[str, bytes], names: list[str]) -> list[bytes]:
    return [bytes([number]) + members[name] for number, name in enumerate(names) if name in members]


WORKBOOK, BUNDLE = export(PROMPTS, "xlsx"), _bundle()
KINDS = {
    "text": (text, [export(PROMPTS, name) for name in ("txt", "csv", "tsv", "jsonl")]),
    "tables": (tables, [export(PROMPTS, "parquet"), WORKBOOK]),
    "sheet": (sheet, _numbered(_members(WORKBOOK), list(PARTS))),
    "bundle": (bundle, [BUNDLE]),
    "member": (member, _numbered(_members(BUNDLE), sorted(_members(BUNDLE)))),
}
"""Kind -> (what is fuzzed, sound inputs to start from)."""


def main() -> None:
    """Fuzz one parser for so many seconds."""
    (target, seeds), seconds = KINDS[sys.argv[1]], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[3] if len(sys.argv) > 3 else temporary)
        for number, data in enumerate(seeds):
            (folder / f"seed-{number}").write_bytes(data)
        options = [sys.argv[0], str(folder), f"-max_total_time={seconds}", "-max_len=200000", "-rss_limit_mb=4096"]
        atheris.Setup([*options, f"-artifact_prefix={folder}/"], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
