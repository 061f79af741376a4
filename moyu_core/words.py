"""Words: a tracked list of them, a text cut into words and what stands between them, and each word's own tokens.

    python -m moyu_core.words /usr/share/dict/american-english-small   # how data/words/english.txt was made

A word that is presented alone must have the tokens that it has in its text, or token and history would change together. So texts
are spelt piece by piece (words with a space in front, punctuation without), and a sequence is those pieces one after the other.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from moyu_core.home import REPOSITORY
from moyu_core.tokens import encode

LIST = REPOSITORY / "data" / "words" / "english.txt"
KEPT = 8000
"""Words of the tracked list: some 40 per text of a large prompt set, and small enough to read."""
_WORD = re.compile(r"[a-z]{2,12}")
_CHUNK = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)


@dataclass(frozen=True)
class Word:
    """A word and its tokens.

    Attributes:
        text: as written.
        ids: vocabulary ids, at least one; the last one is the unit that is measured.
    """

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """A word's place in a text: the word and the tokens of the punctuation around it, which stay when the word changes."""

    word: Word
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


@lru_cache(maxsize=1)
def word_list() -> tuple[str, ...]:
    """The tracked list, lower-case English words in alphabetical order."""
    return tuple(LIST.read_text(encoding="ascii").split())


def spell(tokenizer: Any, word: str) -> Word | None:
    """The word's tokens as in the middle of a text (with a space in front); None where the tokenizer has none for it.

    Tokenizers that put a space in front by themselves would put two; theirs are the tokens of the bare word.
    """
    ids = encode(tokenizer, f" {word}")
    if len(ids) > 1 and not tokenizer.decode(ids[:1]).strip():
        ids = encode(tokenizer, word)
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not ids or (unknown is not None and unknown in ids):
        return None
    return Word(word, tuple(ids))


def slots(tokenizer: Any, text: str) -> tuple[list[Slot], list[str]]:
    """The text's words in their places, and the words that the tokenizer cannot encode, which are left out."""
    found: list[Slot] = []
    lost: list[str] = []
    for chunk in text.split():
        match = _CHUNK.fullmatch(chunk)
        assert match is not None
        before, text_of_word, after = match.groups()
        if not text_of_word:  # a dash between spaces: it belongs to the word before it
            if found:
                found[-1] = Slot(found[-1].word, found[-1].before, (*found[-1].after, *punctuation(tokenizer, f" {chunk}")))
            continue
        word = spell(tokenizer, text_of_word)
        if word is None:
            lost.append(text_of_word)
            continue
        found.append(Slot(word, punctuation(tokenizer, f" {before}" if before else ""), punctuation(tokenizer, after)))
    return found, lost


def punctuation(tokenizer: Any, marks: str) -> tuple[int, ...]:
    """The tokens of punctuation; none where the vocabulary does not know it."""
    ids = encode(tokenizer, marks) if marks else []
    return tuple(ids) if getattr(tokenizer, "unk_token_id", None) not in ids else ()


def by_length(tokenizer: Any, words: Sequence[str] | None = None) -> dict[int, list[Word]]:
    """Words of a list (the tracked one if left out) by their number of tokens."""
    groups: dict[int, list[Word]] = {}
    for text in word_list() if words is None else words:
        word = spell(tokenizer, text)
        if word is not None:
            groups.setdefault(len(word.ids), []).append(word)
    return groups


def thinned(lines: Sequence[str], kept: int = KEPT) -> list[str]:
    """Evenly spaced words of a sorted dictionary: lower case, plain letters, 2 to 12 of them."""
    words = sorted({line for line in lines if _WORD.fullmatch(line)})
    step = max(1.0, len(words) / kept)
    return [words[int(number * step)] for number in range(min(kept, len(words)))]


if __name__ == "__main__":
    LIST.write_text("\n".join(thinned(Path(sys.argv[1]).read_text(encoding="utf-8").split())) + "\n", encoding="ascii")
