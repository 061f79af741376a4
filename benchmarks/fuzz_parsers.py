"""Coverage-guided fuzzing of everything that reads a stranger's file; ends with status 1 on anything but one sentence.

    pip install atheris; python -m benchmarks.fuzz_parsers text 60      # seconds
    python -m benchmarks.fuzz_parsers bundle 60
    python -m benchmarks.fuzz_parsers tables 60

`text` reads txt, csv, tsv and jsonl, `tables` Parquet and Excel (in this process, without the child that bounds their memory),
`bundle` a run's bundle.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["moyu_core"]):
    from moyu_core import archive, archive_import, prompt_tables, store
    from moyu_core.errors import InputError
    from moyu_core.home import Home
    from moyu_core.prompt_export import export
    from moyu_core.prompt_files import read_sheet
    from moyu_core.prompt_import import understand
    from moyu_core.prompts import make_prompt

PROMPTS = (make_prompt("It rained.", "a", "x"), make_prompt('=1, "two"\nthree', "b"))


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
    with suppress(InputError, MemoryError):
        reader(data, True)


def bundle(data: bytes) -> None:
    """A bundle; nothing may lie in the home afterwards unless it is sound."""
    try:
        run, _ = archive_import.unpack(io.BytesIO(data), HOME)
        run.verify()
    except InputError:
        assert not [path for path in HOME.runs.glob("*") if path.suffix != ".lock"], "something was left behind"
    finally:
        shutil.rmtree(HOME.runs, ignore_errors=True)


HOME = Home(Path(tempfile.mkdtemp()), tracked=())


def seeds(kind: str, folder: Path) -> None:
    """Sound files to start from."""
    found = {"text": [export(PROMPTS, name) for name in ("txt", "csv", "tsv", "jsonl")],
             "tables": [export(PROMPTS, name) for name in ("parquet", "xlsx")], "bundle": []}[kind]
    if kind == "bundle":
        run = min((run for run in store.list_runs(Home.default())[0] if run.tracked), key=lambda run: run.size_bytes)
        found = [b"".join(archive.stream(run))]
    for number, data in enumerate(found):
        (folder / f"seed-{number}").write_bytes(data)


def main() -> None:
    """Fuzz one parser for so many seconds."""
    kind, seconds = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as corpus:
        seeds(kind, Path(corpus))
        options = [sys.argv[0], corpus, f"-max_total_time={seconds}", "-max_len=200000", "-rss_limit_mb=4096"]
        atheris.Setup(options, {"text": text, "tables": tables, "bundle": bundle}[kind])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
