"""Tables of the study `history`: which neurons a token activates, depending on what came before it."""

from __future__ import annotations

import pyarrow as pa

from moyu_core.schema import LAYER, Column

KINDS = {
    "same_topic": "texts of one domain: the histories of the kind differ in wording only",
    "other_topics": "texts of different domains",
    "shuffled_words": "the words of `other_topics` in random order",
    "random_words": "words drawn at random from all texts",
    "other_language": "German, French, Spanish and Italian prose",
    "source_code": "Python source code",
}
"""Kinds of history, each of exactly the same numbers of tokens."""
OWN_KIND = "own"
"""The kind of a user's own histories that name none."""
NONE, SINKS, ONE_TOKEN = "none", "sink_tokens", "one_token"
CONTROLS = {
    NONE: "no history: the probe stands right behind the sink token",
    SINKS: "position only: as many sink tokens",
    ONE_TOKEN: "position only: one token repeated",
}
"""What stands beside the kinds: one history each, no draws."""

MEASURES = {
    "uncertainty": "U: 0 = the token alone decides its set, 1 = knowing the token says nothing",
    "history_share": "what of the set knowing the history alone tells",
    "interaction": "U - history share: what only token and history together tell",
    "overlap_same_token": "mean overlap, same token, other history",
    "overlap_same_history": "mean overlap, other token, same history",
    "overlap_different": "mean overlap, both different",
    "uncertainty_shuffled": "U with the labels of the cells shuffled: 1 if the code is right",
    "uncertainty_energy": "U of energy-weighted overlap: the share of one set's sum (a*c)^2 that lies in the other",
    "overlap_same_token_energy": "mean energy-weighted overlap, same token, other history",
    "overlap_different_energy": "mean energy-weighted overlap, both different",
    "uncertainty_entropy": "H(active | token) / H(active), Miller-Madow, mean over neurons: a second view, from 60 histories only",
    "variance_token": "token's share of the variance components of log(1+|a|)",
    "variance_history": "history's share of the variance components of log(1+|a|)",
    "variance_interaction": "interaction's share of the variance components of log(1+|a|)",
}
ENTROPY_HISTORIES = 60
"""Histories from which the entropy view is shown: with 15 the plug-in entropy was 0.10 too low in a trial, U was not."""
SOURCES = {
    "own": "own set",
    "other_history": "same token, other history",
    "other_token": "other token, same history",
    "both_other": "other token, other history",
    "prefix": "the prefix's GRIFFIN set",
    "static": "static mean set",
    "random": "random set",
}
"""Where a transplanted set comes from."""
QUANTITIES = {
    "increment": "a * dL/da, our reading of the weight importance update",
    "literal": "|V| * dL/da with |V| = c, the column norm: the formula as it stands",
}
DRIFT_MEASURES = {
    "positive_share": "share of the increments that are not 0 which are positive",
    "zero_share": "share of increments that are exactly 0",
    "cancellation": "|sum| / sum of |.| over the positions so far, mean over neurons: 1 = one sign only",
    "stability": "overlap of the top 10 % by Theta of one half of the texts with that of the other half",
    "stability_flipped": "the same with the sign of each text's sum drawn at random",
}

MODEL = Column("model", pa.string(), "", "name of the model")
KIND = Column("kind", pa.string(), "", "kind of history, or `none`, `sink_tokens`, `one_token`")
LENGTH = Column("length", pa.int16(), "tokens", "length of the history, sink token not counted")
DRAW = Column("draw", pa.int16(), "index", "which history of the kind; a draw of one length is the beginning of the longer ones")
ITEM = Column("item", pa.int16(), "index", "a probe token: a row of `probes`")
OFFSET = Column("offset", pa.int8(), "index", "place of the token in its probe; 0 in one-token probes")
SEED = Column("seed", pa.int32(), "index", "seed of the predictor: weights, order, split, domains")
_BOUND = "lower bound: simultaneous over layers where a layer is named, else that of the mean"
LOW = Column("low", pa.float32(), "1", _BOUND, True)
HIGH = Column("high", pa.float32(), "1", "upper bound, likewise", True)
ANY_LAYER = Column("layer", pa.int16(), "index", "decoder layer, from 0; empty = mean over layers", True)

TABLES = {
    "histories": [
        MODEL,
        KIND,
        DRAW,
        Column("source", pa.string(), "", "the text it was taken from"),
        Column(
            "token_ids",
            pa.list_(pa.int32()),
            "id",
            "all tokens of the longest length, sink token left out; the first n are the history of length n",
        ),
        Column("tokens", pa.list_(pa.string()), "", "their texts"),
    ],
    "probes": [
        MODEL,
        ITEM,
        Column("probe", pa.string(), "", "the probe as it was asked for"),
        OFFSET,
        Column("token_ids", pa.list_(pa.int32()), "id", "the probe's tokens up to and with this one"),
        Column("token", pa.string(), "", "this token's own text"),
        Column(
            "merges",
            pa.int32(),
            "cells",
            "cells in which plain text would have merged the history's last token with the "
            "probe's first; the grid is built on token ids, so they are kept apart",
        ),
    ],
    "measures": [
        MODEL,
        KIND,
        LENGTH,
        OFFSET,
        ANY_LAYER,
        Column("measure", pa.string(), "", "which: " + ", ".join(MEASURES)),
        Column("value", pa.float32(), "1", "its value"),
        LOW,
        HIGH,
        Column("probes", pa.int16(), "probes", "probe tokens of the table"),
        Column("histories", pa.int16(), "histories", "histories of the table"),
    ],
    "flips": [
        MODEL,
        ITEM,
        KIND,
        LENGTH,
        LAYER,
        Column("stay", pa.float32(), "1", "of the set without history, the share that is there with one, mean over draws"),
        Column("come_in", pa.float32(), "1", "neurons that come in / size of the set without history, mean over draws"),
        Column(
            "stay_resampled",
            pa.float32(),
            "1",
            "of the set with one history, the share that is there with another of the same kind and length; empty for controls",
            True,
        ),
    ],
    "sets": [
        MODEL,
        ITEM,
        KIND,
        LENGTH,
        DRAW,
        LAYER,
        Column("active", pa.binary(), "bits", "the active set, ceil(F/8) bytes, least significant bit first"),
    ],
    "transplant": [
        MODEL,
        KIND,
        LENGTH,
        DRAW,
        ITEM,
        Column("density", pa.float32(), "1", "share of neurons kept at the current token in every layer"),
        Column("source", pa.string(), "", "where the kept set comes from: " + ", ".join(SOURCES)),
        Column("kl", pa.float32(), "nat", "KL(dense || masked) of the next-token distribution"),
    ],
    "drift": [
        MODEL,
        LAYER,
        Column("quantity", pa.string(), "", "increment = a * dL/da; literal = c * dL/da"),
        Column("measure", pa.string(), "", "which: " + ", ".join(DRIFT_MEASURES)),
        Column("position", pa.int16(), "index", "positions 1 to this one; empty = the whole text or all texts", True),
        Column("value", pa.float32(), "1", "mean over texts"),
        Column("low", pa.float32(), "1", "lower bound over texts", True),
        Column("high", pa.float32(), "1", "upper bound over texts", True),
    ],
    "predictor": [
        MODEL,
        SEED,
        Column("trained_on", pa.int8(), "domains", "how many domains the histories came from, at equal total tokens"),
        Column("domain", pa.string(), "", "domain of the test texts"),
        Column("seen", pa.bool_(), "", "whether the predictor was trained on texts of this domain"),
        LAYER,
        Column("recall", pa.float32(), "1", "|A* and A^| / |A*|, ratio of sums"),
        Column("precision", pa.float32(), "1", "|A* and A^| / |A^|, ratio of sums"),
        Column("jaccard", pa.float32(), "1", "|A* and A^| / |A* or A^|, ratio of sums"),
        Column("captured", pa.float32(), "1", "captured energy, 1 - |what the missed neurons add| / |output|, mean over tokens"),
        Column("density", pa.float32(), "1", "|A^| / F: chance recall of a uniform set"),
        Column("chance", pa.float32(), "1", "marginal chance recall, sum p_i q_i / sum p_i"),
        Column("tokens", pa.int32(), "tokens", "tokens it was trained on"),
    ],
}
"""Every table; `transplant`, `drift` and `predictor` are there where the request asks for them."""
