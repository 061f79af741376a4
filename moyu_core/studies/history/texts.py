"""Histories: texts -> draws of exactly so many tokens, kind by kind. The grid is built on token ids, never on joined text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt
from moyu_core.schema.history import KINDS, NONE, ONE_TOKEN, OWN_KIND, SINKS
from moyu_core.studies.history.requests import MIN_HISTORIES, HistoryRequest

Encode = Callable[[str], list[int]]
DOMAIN_OF = {"other_language": "another language", "source_code": "source code"}
"""Domains of the texts that are a kind of their own; all others are the material of the English kinds."""
REPEATED = " the"
"""Whose first token the control `one_token` repeats."""
BOUNDARY_TOKENS = 12
"""Tokens before the boundary that are written out and tokenised again to see whether plain text would have merged."""


@dataclass(frozen=True)
class Draw:
    """One history.

    Attributes:
        kind: its kind, or a control.
        number: which of the kind.
        source: ids of the texts it was taken from.
        token_ids: (N,) all its tokens, sink token left out; the history of length n is the first n.
    """

    kind: str
    number: int
    source: str
    token_ids: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What a model's grid consists of.

    Attributes:
        lengths: lengths that are measured.
        kinds: kind -> its draws, all as long as the longest length that the kind has.
        notes: what was left out and why, one sentence each.
    """

    lengths: tuple[int, ...]
    kinds: dict[str, list[Draw]]
    notes: tuple[str, ...]

    def lengths_of(self, kind: str) -> list[int]:
        """Lengths that every draw of the kind has."""
        shortest = min(len(draw.token_ids) for draw in self.kinds[kind])
        return [length for length in self.lengths if length <= shortest]


def plan(request: HistoryRequest, encode: Encode, sink: int, max_positions: int, probe_tokens: int) -> Plan:
    """Draws of every kind for one model.

    Args:
        request: what is asked for.
        encode: text -> ids, no special token added.
        sink: id of the sink token.
        max_positions: longest sequence of the model.
        probe_tokens: tokens of the longest probe.

    Raises:
        InputError: no length fits into the model, or no kind has three histories.
    """
    notes: list[str] = []
    lengths = _fitting(request.lengths, max_positions - 1 - probe_tokens, notes)
    kinds: dict[str, list[Draw]] = {}
    for kind, texts in (_own(request) if request.own else _shipped(request, notes)).items():
        ids = [(text.id, encode(text.text)) for text in texts]
        kept = _reaching(kind, ids, lengths, request.draws, notes)
        if kept:
            kinds[kind] = [Draw(kind, number, name, np.asarray(found, np.int64)) for number, (name, found) in enumerate(kept)]
    if not kinds:
        raise InputError(
            f"No kind of history has {MIN_HISTORIES} different texts of at least {lengths[0]} tokens; give longer texts or "
            f"shorter lengths. {' '.join(notes)}"
        )
    longest = lengths[-1]
    repeated = encode(REPEATED)[0]
    controls = {
        NONE: Draw(NONE, 0, "", np.empty(0, np.int64)),
        SINKS: Draw(SINKS, 0, "", np.full(longest, sink)),
        ONE_TOKEN: Draw(ONE_TOKEN, 0, "", np.full(longest, repeated)),
    }
    return Plan(lengths, {**{kind: [draw] for kind, draw in controls.items()}, **kinds}, tuple(notes))


def _fitting(lengths: tuple[int, ...], room: int, notes: list[str]) -> tuple[int, ...]:
    """Lengths that leave room for the sink token and the longest probe."""
    kept = tuple(length for length in lengths if length <= room)
    if not kept:
        raise InputError(
            f"The shortest history has {lengths[0]} tokens and the model has room for {max(room, 0)} beside the sink "
            "token and the longest probe; ask for shorter ones."
        )
    if len(kept) < len(lengths):
        notes.append(f"Histories above {room} tokens do not fit into the model beside the probe and were left out.")
    return kept


def _reaching(
    kind: str, texts: list[tuple[str, list[int]]], lengths: tuple[int, ...], draws: int, notes: list[str]
) -> list[tuple[str, list[int]]]:
    """The texts of a kind, cut to the longest length that enough of them reach; the design stays balanced."""
    given = len(texts)
    texts = list({tuple(ids): (name, ids) for name, ids in reversed(texts)}.values())[::-1]  # the first of each stays
    if len(texts) < given:
        notes.append(f"{kind}: {given - len(texts)} texts were there twice and count once; a history is never paired with itself.")
    wanted = min(draws, len(texts))
    for length in reversed(lengths):
        reaching = [(name, ids[:length]) for name, ids in texts if len(ids) >= length]
        if len(reaching) >= max(wanted, MIN_HISTORIES):
            if length < lengths[-1]:
                notes.append(f"{kind}: fewer than {wanted} texts have more than {length} tokens; longer histories were left out.")
            return reaching[:draws]
    notes.append(f"{kind}: fewer than {max(wanted, MIN_HISTORIES)} texts have {lengths[0]} tokens; the kind was left out.")
    return []


def _own(request: HistoryRequest) -> dict[str, list[Prompt]]:
    """The user's own histories, a kind for each domain."""
    kinds: dict[str, list[Prompt]] = {}
    for text in request.texts:
        kinds.setdefault(text.domain or OWN_KIND, []).append(text)
    return kinds


def _shipped(request: HistoryRequest, notes: list[str]) -> dict[str, list[Prompt]]:
    """The six kinds, out of texts with domains."""
    random = np.random.default_rng(request.seed)
    special = set(DOMAIN_OF.values())
    by_domain: dict[str, list[Prompt]] = {}
    for text in request.texts:
        by_domain.setdefault(text.domain, []).append(text)
    english = {domain: texts for domain, texts in by_domain.items() if domain not in special}
    if not english:
        raise InputError(
            f"The texts need at least one domain that is not {' or '.join(sorted(special))}; the kinds of history are made from it."
        )
    topic = max(english, key=lambda domain: (len(english[domain]), domain))
    if len(english) == 1:
        notes.append(f"All texts are of one topic{f', {topic}' if topic else ''}: other_topics has the texts of same_topic.")
    others = list(_round_robin({domain: texts for domain, texts in english.items() if domain != topic} or english, random))
    words = sorted({word for texts in english.values() for text in texts for word in text.text.split()})
    amount = 2 * request.lengths[-1]  # words; a word has at least one token in almost every vocabulary
    found = {
        "same_topic": [english[topic][i] for i in random.permutation(len(english[topic]))],
        "other_topics": others,
        "shuffled_words": [_joined(text.id, random.permutation(text.text.split()), "shuffled") for text in others],
        "random_words": [_joined(f"random-{i:02d}", random.choice(words, amount), "random") for i in range(request.draws)],
        **{kind: by_domain.get(domain, []) for kind, domain in DOMAIN_OF.items()},
    }
    assert set(found) == set(KINDS)
    return {kind: texts for kind, texts in found.items() if texts}


def _joined(name: str, words: np.ndarray, how: str) -> Prompt:
    return Prompt(name, " ".join(words.tolist()), how)


def _round_robin(groups: dict[str, list[Prompt]], random: np.random.Generator) -> Iterator[Prompt]:
    """One text of each domain in turn, in random order within a domain."""
    queues = [[texts[i] for i in random.permutation(len(texts))] for texts in groups.values()]
    for turn in range(max(map(len, queues))):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def merges(encode: Encode, decode: Callable[[Sequence[int]], str], history: Sequence[int], probe: Sequence[int]) -> bool:
    """Whether plain text would have been cut into other tokens at the boundary between history and probe.

    Args:
        encode, decode: the tokenizer's.
        history: the history's ids; only the last few play a part.
        probe: the probe's ids.
    """
    tail = list(history)[-BOUNDARY_TOKENS:]
    apart = [decode(tail), decode(list(probe))]
    return bool(tail) and encode("".join(apart)) != [*encode(apart[0]), *encode(apart[1])]
