"""Tables of the study `inertia`: overlaps within and across sequences, and what explains them."""

from __future__ import annotations

import pyarrow as pa

from moyu_core.schema import LAYER, NEURON, POSITION, PROMPT_ID, Column, packed_bytes

CONTENTS = {
    "sentence": "the text as it is",
    "shuffled": "the same words in another order",
    "random_words": "other English words, each with as many tokens as the one it replaces",
    "random_tokens": "random tokens of the vocabulary, as many as each word had",
}
HISTORIES = {
    "parallel": "each word alone behind the sink token",
    "sequence": "all words in one context",
    "bare": "each word alone at position 0, without the sink token: an artefact",
}
CONTINUATIONS = {
    "true": "the text goes on",
    "unrelated": "the end of a text of another topic",
    "random_words": "random words",
}
SOURCES = {
    "own": "the token's own set",
    "prefix": "GRIFFIN set of the words before",
    "static": "GRIFFIN set of the texts of all other topics",
    "random": "a random set",
}
TERMS = {
    "same_token": "the two tokens are the same",
    "similarity": "semantic similarity of the two words, cosine",
    "same_sequence": "the two words stand in the same sequence",
    "distance": "log of their distance, where they stand in the same sequence",
}

_CONTENT = Column("content", pa.string(), "", "sentence, shuffled, random_words or random_tokens")
_LAYER = Column("layer", pa.int16(), "index", "decoder layer, from 0; empty = mean over layers", nullable=True)
_LOW = Column(
    "low",
    pa.float32(),
    "1",
    "lower bound of the 95 % interval over topics, simultaneous over the rows of a curve; empty for a single topic",
    nullable=True,
)
_HIGH = Column("high", pa.float32(), "1", "upper bound, likewise", nullable=True)


def _share(name: str, doc: str) -> Column:
    return Column(name, pa.float32(), "1", doc, nullable=True)


OVERLAP_COLUMNS = [
    _CONTENT,
    Column("history", pa.string(), "", "parallel, sequence, or bare (words alone at position 0, one-token words only)"),
    LAYER,
    _share("within", "W, mean overlap of two words of a text, pairs of the same token left out"),
    _share("across", "X, mean overlap of two words of different texts at the same two places"),
    _share("across_same", "X of texts of the same topic"),
    _share("across_other", "X of texts of different topics"),
    _share("within_energy", "W, energy-weighted: share of one set's sum (a*c)^2 that lies in the other"),
    _share("across_energy", "X, energy-weighted"),
    _share("chance", "overlap of two random sets: mean density"),
    _share("marginal", "overlap of sets drawn by each neuron's rate, sum p q / sum p, p and q from different texts"),
]
INDEX_COLUMNS = [
    _CONTENT,
    Column("measure", pa.string(), "", "overlap = by count; energy = energy-weighted"),
    _LAYER,
    _share("index", "I = [(W - X) in sequence - (W - X) in parallel] / (1 - X in sequence)"),
    _LOW,
    _HIGH,
]
LAG_COLUMNS = [
    _CONTENT,
    Column("history", pa.string(), "", "parallel or sequence"),
    _LAYER,
    Column("lag", pa.int16(), "words", "d, distance of the two words; the later ones are the same for every d"),
    _share("overlap", "mean overlap of a word's set with that of the word d places before"),
    _LOW,
    _HIGH,
]
CARRIER_COLUMNS = [
    Column("continuation", pa.string(), "", "true, unrelated or random_words"),
    Column("prefix", pa.string(), "", "own = the words before; other = the prefixes of texts of other topics, the baseline"),
    _LAYER,
    Column("word", pa.int16(), "index", "place after the join, from 0"),
    _share("overlap", "mean overlap of the word's set with the prefix's GRIFFIN set of the same size"),
    _LOW,
    _HIGH,
]
TRANSPLANT_COLUMNS = [
    PROMPT_ID,
    Column("topic", pa.string(), "", "unit of the intervals"),
    Column("continuation", pa.string(), "", "true, unrelated or random_words"),
    Column("word", pa.int16(), "index", "place after the join of the token whose neurons were chosen"),
    Column("source", pa.string(), "", "own, prefix, static or random"),
    Column("density", pa.float32(), "1", "share of neurons kept at that token, in every layer"),
    Column("kl", pa.float32(), "nat", "KL(dense || masked) of the next-token distribution"),
]
SWITCH_COLUMNS = [
    Column("before", pa.string(), "", "other = the text follows one of another topic; same = one of its own topic"),
    Column("target", pa.string(), "", "new or old: which topic's set the words are compared with"),
    _LAYER,
    Column("word", pa.int16(), "index", "place after the switch, from 0"),
    _share("overlap", "mean overlap of the word's set with the topic's GRIFFIN set, made from its other texts"),
    _LOW,
    _HIGH,
]
REGRESSION_COLUMNS = [
    _CONTENT,
    _LAYER,
    Column("term", pa.string(), "", "same_token, similarity, same_sequence or distance"),
    _share("coefficient", "change of overlap for one unit of the term"),
    _LOW,
    _HIGH,
    _share("share", "Shapley share of R^2"),
    _share("r_squared", "R^2 of the whole regression"),
]
ATTENTION_COLUMNS = [
    PROMPT_ID,
    POSITION,
    Column("token", pa.string(), "", "the token's own text"),
    _share("attention", "mean attention that later positions give it, over layers, heads and the queries that could see it"),
    Column("role", pa.string(), "", "sink, heavy (blocked), matched (blocked in the comparison), recent (never blocked), or empty"),
]
BLOCKED_COLUMNS = [
    PROMPT_ID,
    Column("topic", pa.string(), "", "unit of the intervals"),
    Column("blocked", pa.string(), "", "heavy = attention to the heavy hitters blocked; matched = to other positions"),
    Column("positions", pa.int16(), "positions", "how many were blocked"),
    _share("mass", "share of attention that was blocked, over queries that could see the positions"),
    _share("place", "mean blocked position / length"),
    Column("kl", pa.float32(), "nat", "mean KL(whole || blocked) of the next-token distribution at later positions"),
]
HITTER_COLUMNS = [
    Column("blocked", pa.string(), "", "none, heavy or matched"),
    LAYER,
    _share("within", "W of sentences in sequence"),
    _share("across", "X of sentences in sequence"),
]
RATE_COLUMNS = [
    LAYER,
    NEURON,
    Column("rate_parallel", pa.float16(), "1", "share of the sentences' words in which it is active, words alone"),
    Column("rate_sequence", pa.float16(), "1", "the same in sequence"),
    Column("rate_random", pa.float16(), "1", "the same for random words in sequence"),
    Column(
        "binding",
        pa.float16(),
        "1",
        "share of its variance in sequence that lies between texts, less the same in parallel, mean of sentences and random words",
    ),
]


def panel_columns(n_neurons: int) -> list[Column]:
    """Columns of `panels`, one row per (text, layer, content, history, word)."""
    return [
        PROMPT_ID,
        LAYER,
        _CONTENT,
        Column("history", pa.string(), "", "parallel, sequence or bare"),
        Column("word", pa.int16(), "index", "place in the text, from 0"),
        Column("text", pa.string(), "", "the word"),
        Column("token_id", pa.int32(), "id", "vocabulary id of the word's last token, whose set it is"),
        Column(
            "active", pa.binary(packed_bytes(n_neurons)), "bits", "the active set, one bit per neuron, least significant bit first"
        ),
    ]


TEXT_COLUMNS = [
    PROMPT_ID,
    Column("topic", pa.string(), "", "unit of the intervals: the prompt's domain, or the prompt itself"),
    _CONTENT,
    Column("text", pa.string(), "", "the words as they were presented, parted by spaces"),
    Column("shown", pa.bool_(), "", "whether its panels are stored"),
]

TABLES = {
    "overlaps": OVERLAP_COLUMNS,
    "indices": INDEX_COLUMNS,
    "lags": LAG_COLUMNS,
    "carrier": CARRIER_COLUMNS,
    "transplants": TRANSPLANT_COLUMNS,
    "switch": SWITCH_COLUMNS,
    "regression": REGRESSION_COLUMNS,
    "attention": ATTENTION_COLUMNS,
    "blocked": BLOCKED_COLUMNS,
    "hitters": HITTER_COLUMNS,
    "rates": RATE_COLUMNS,
    "panels": panel_columns(8),
    "texts": TEXT_COLUMNS,
}
