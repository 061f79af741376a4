"""The conditions: what the words are (content) and what they have before them (history).

Content: sentence = the text as it is; shuffled = its words in another order; random words and random tokens = other words with as
many tokens each. Punctuation keeps its place, so all contents have the same shape. History: sequence = all words in one context,
parallel = each word alone behind the sink token, bare = each word alone at position 0, the artefact that sink control removes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt
from moyu_core.words import Slot, Word, by_length, slots

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel


@dataclass(frozen=True)
class Text:
    """A text as words in their places.

    Attributes:
        prompt: where it comes from.
        topic: the unit it belongs to.
        slots: its words with the punctuation around them.
    """

    prompt: Prompt
    topic: str
    slots: tuple[Slot, ...]

    @property
    def words(self) -> list[Word]:
        """The words alone."""
        return [slot.word for slot in self.slots]

    def with_words(self, words: Sequence[Word]) -> Text:
        """The same places with other words in them."""
        return replace(self, slots=tuple(replace(slot, word=word) for slot, word in zip(self.slots, words, strict=True)))


def topic_of(prompt: Prompt) -> str:
    """The unit: the text's domain, or the text itself where it has none."""
    return prompt.domain or prompt.id


def read_texts(model: LoadedModel, prompts: Sequence[Prompt], words: int | None = None) -> tuple[list[Text], list[str]]:
    """The prompts as words, and notes on what was left out.

    Args:
        model: whose tokens are meant.
        prompts: the texts.
        words: cut every text to this number, or to the shortest text's where that is lower; None = keep all.

    Raises:
        InputError: no text has two words.
    """
    found, notes = [], []
    for prompt in prompts:
        places, lost = slots(model.tokenizer, prompt.text)
        if lost:
            notes.append(f"{prompt.id}: {len(lost)} word(s) that the tokenizer cannot encode alone are left out ({lost[0]} first).")
        if len(places) < 2:
            notes.append(f"{prompt.id}: fewer than two words, so no pair of them; left out.")
            continue
        found.append(Text(prompt, topic_of(prompt), tuple(places)))
    if not found:
        raise InputError("No text has two words that the tokenizer can encode; give longer texts, words parted by spaces.")
    if words is not None:
        shortest = min(len(text.slots) for text in found)
        if shortest < words:
            notes.append(f"Every text is cut to its first {shortest} words, as many as the shortest one has.")
        found = [replace(text, slots=text.slots[: min(words, shortest)]) for text in found]
    return found, notes


def by_topic(texts: Sequence[Text]) -> dict[str, list[Text]]:
    """The texts of each topic, in order of appearance."""
    groups: dict[str, list[Text]] = {}
    for text in texts:
        groups.setdefault(text.topic, []).append(text)
    return groups


def documents(texts: Sequence[Text], words: int) -> list[Text]:
    """One long text a topic: its texts one after the other, at most `words` words."""
    joined = []
    for topic, members in by_topic(texts).items():
        places = tuple(slot for text in members for slot in text.slots)[:words]
        joined.append(Text(replace(members[0].prompt, id=topic[:80]), topic, places))
    return joined


class Draws:
    """Seeded draws of other words for the places of a text; the same seed gives the same words in the same order of calls."""

    def __init__(self, model: LoadedModel, *seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._tokenizer = model.tokenizer
        self._pool: dict[int, list[Word]] = {}
        self._tokens: np.ndarray | None = None
        self._vocabulary = model.vocab_size
        self.other_length = 0
        """Words for which the list had none of the same number of tokens, so that the nearest number was taken."""

    def content(self, name: str, texts: Sequence[Text]) -> list[Text]:
        """The texts with the words that the content asks for: sentence, shuffled, random_words or random_tokens."""
        change = {"sentence": list, "shuffled": self._shuffled, "random_words": self._words, "random_tokens": self._random_tokens}
        return [text.with_words(change[name](text.words)) for text in texts]

    def _shuffled(self, words: Sequence[Word]) -> list[Word]:
        """Another order; for two words the other one."""
        order = self._random.permutation(len(words))
        if (order == np.arange(len(words))).all():
            order = np.roll(order, 1)
        return [words[place] for place in order]

    def _words(self, words: Sequence[Word]) -> list[Word]:
        """Random words, each with as many tokens as the one it replaces; none twice until the list is used up."""
        return [self._draw(len(word.ids)) for word in words]

    def _draw(self, length: int) -> Word:
        if not any(self._pool.values()):
            self._pool = by_length(self._tokenizer)
            for group in self._pool.values():
                self._random.shuffle(group)  # type: ignore[arg-type]
            if not self._pool:
                raise InputError("The tokenizer knows no word of the English list, so random words cannot be drawn.")
        if not self._pool.get(length):
            self.other_length += 1
            length = min((n for n, group in self._pool.items() if group), key=lambda n: (abs(n - length), n))
        return self._pool[length].pop()

    def _random_tokens(self, words: Sequence[Word]) -> list[Word]:
        """Random tokens of the vocabulary, as many for each word as it had; tokens without visible text are not drawn."""
        return [self._token_word(len(word.ids)) for word in words]

    def _token_word(self, length: int) -> Word:
        ids: list[int] = []
        special = set(getattr(self._tokenizer, "all_special_ids", []))
        while len(ids) < length:
            candidate = int(self._random.integers(min(self._vocabulary, len(self._tokenizer))))
            if candidate not in special and self._tokenizer.decode([candidate]).strip():
                ids.append(candidate)
        return Word(self._tokenizer.decode(ids).strip() or "?", tuple(ids))


def sequence_ids(text: Text, prefix: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A whole text as tokens behind a prefix (the sink token), and the position of each word's last token."""
    ids: list[int] = list(prefix)
    units = []
    for slot in text.slots:
        ids += [*slot.before, *slot.word.ids]
        units.append(len(ids) - 1)
        ids += slot.after
    return np.asarray(ids, np.int64), np.asarray(units, np.int64)


def unit_tokens(texts: Sequence[Text]) -> np.ndarray:
    """(S, n) id of each word's last token: pairs of the same one are left out of every overlap."""
    return np.asarray([[word.ids[-1] for word in text.words] for text in texts], np.int64)


def distinct(texts: Sequence[Text]) -> tuple[list[Word], np.ndarray]:
    """The different words of texts of equal length, by their tokens, and (S, n) which of them stands where."""
    places: dict[tuple[int, ...], int] = {}
    words: list[Word] = []
    where = np.empty((len(texts), len(texts[0].slots)), np.int64)
    for row, text in enumerate(texts):
        for column, word in enumerate(text.words):
            if word.ids not in places:
                places[word.ids] = len(words)
                words.append(word)
            where[row, column] = places[word.ids]
    return words, where


def facts_of(texts: Sequence[Text]) -> dict[str, Any]:
    """Numbers of texts, topics and words, for the manifest."""
    return {"texts": len(texts), "topics": len(by_topic(texts)), "words": len(texts[0].slots)}
