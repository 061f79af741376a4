"""Tables that a capture writes beside its own when it is asked for a corpus (`moyu capture --corpus`)."""

from __future__ import annotations

import pyarrow as pa

from moyu_core.schema import CONDITION, LAYER, NEURON, POSITION, PROMPT_ID, Column

PAIR_NEURONS = 128
"""Neurons of a layer whose pairs are counted: a fixed random sample, the same in every layer, listed in the manifest."""
TOP_TOKENS = 8
"""Tokens kept for each neuron."""
PAIR_SEED = 20_240_612
"""Of the sample of neurons; together with F it decides which ones."""

RATE_COLUMNS = [
    LAYER,
    NEURON,
    Column("rate_a", pa.float32(), "1", "p, share of half a's rows in which the neuron is active (sink left out)", nullable=True),
    Column("rate_b", pa.float32(), "1", "q, share of half b's rows in which it is", nullable=True),
]

PAIR_COLUMNS = [
    LAYER,
    NEURON,
    Column("other", pa.int32(), "index", "the second neuron of the pair, above `neuron`"),
    Column("together", pa.int64(), "rows", "rows in which both are active (sink left out)"),
    Column("expected", pa.float32(), "rows", "rows in which both would be active if they were independent: n p_i p_j"),
]

TOKEN_COLUMNS = [
    LAYER,
    NEURON,
    Column("rank", pa.int8(), "index", "0 = largest |a|; of equal ones the first in the order of capture"),
    Column("value", pa.float32(), "activation", "a, exact in the model's dtype"),
    PROMPT_ID,
    CONDITION,
    POSITION,
    Column("token_id", pa.int32(), "id", "vocabulary id of the token; the sink token is left out wherever it stands"),
    Column("token", pa.string(), "", "the token's own text"),
]

TABLES = {"corpus_rates": RATE_COLUMNS, "corpus_pairs": PAIR_COLUMNS, "corpus_tokens": TOKEN_COLUMNS}
