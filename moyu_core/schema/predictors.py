"""Tables of the study `predictors`: how each method's set compares with the reference set."""

from __future__ import annotations

import pyarrow as pa

from moyu_core.schema import CONDITION, LAYER, NEURON, POSITION, PROMPT_ID, Column

REFERENCE = "reference"
"""Stands in the column `method` of `sets` for the reference set itself."""
EVERY_POSITION = -1
"""Stands in the column `position` of `sets` where all tokens after the prompt share one set."""

METHOD = Column("method", pa.string(), "", "name of the method (moyu_core.methods)")
DENSITY = Column("density", pa.float32(), "1", "kept share that was asked of the method")
ENERGY = Column("energy", pa.float32(), "1", "captured energy, 1 - ||output of the neurons left out|| / ||output||; at "
                "most 1, below 0 where the neurons left out add up to more than the output; NaN inside prompts without details")
SQUARES = Column("squares", pa.float32(), "1", "share of sum (|a|c)^2 that the set keeps; the oracle has the largest of its size")
PREDICTED = Column("predicted", pa.float32(), "1", "|predicted set| / F, which is also the chance level of recall")

LAYERS = [
    PROMPT_ID, CONDITION, METHOD, DENSITY, LAYER,
    Column("tokens", pa.int32(), "tokens", "tokens of the continuation that the row is over"),
    Column("recall", pa.float32(), "1", "share of the reference set that was predicted, mean over tokens"),
    Column("recall_micro", pa.float32(), "1", "the same, ratio of sums over tokens"),
    Column("precision", pa.float32(), "1", "share of the predicted set that is in the reference set, ratio of sums"),
    Column("jaccard", pa.float32(), "1", "|both| / |either|, mean over tokens"),
    ENERGY, SQUARES, PREDICTED,
    Column("reference", pa.float32(), "1", "|reference set| / F"),
]

POSITIONS = [
    PROMPT_ID, CONDITION, METHOD, DENSITY, POSITION,
    Column("offset", pa.int32(), "tokens", "tokens since the end of the prompt, 0 = the first after it; negative inside it"),
    Column("recall", pa.float32(), "1", "mean over layers"),
    ENERGY, PREDICTED,
]

TOKENS = [
    PROMPT_ID, CONDITION, METHOD, DENSITY, LAYER, POSITION,
    Column("hits", pa.int32(), "neurons", "neurons in both sets"),
    Column("kept", pa.int32(), "neurons", "neurons in the predicted set; kept - hits are false alarms"),
    Column("needed", pa.int32(), "neurons", "neurons in the reference set; needed - hits are misses"),
    ENERGY, SQUARES,
]


def set_columns(n_neurons: int) -> list[Column]:
    """Columns of `sets`, whose width depends on the model."""
    return [
        PROMPT_ID, CONDITION, METHOD, DENSITY, LAYER,
        Column("position", pa.int32(), "index", "place in the sequence; -1 = every token after the prompt shares this set"),
        Column("active", pa.binary((n_neurons + 7) // 8), "bits", "the set, one bit a neuron, least significant bit first"),
    ]


CHANCE = [
    METHOD, DENSITY, LAYER,
    Column("uniform", pa.float32(), "1", "recall of a random set of this size: |predicted| / F"),
    Column("marginal", pa.float32(), "1", "recall from each neuron's own rate: sum p_i q_i / sum p_i, p from one half of "
           "the prompts and q, the method's rate, from the other, mean of both ways; empty for one prompt", nullable=True),
    Column("recall", pa.float32(), "1", "ratio of sums over all prompts"),
]

PROMPTS = [
    PROMPT_ID, CONDITION,
    Column("text", pa.string(), "", "the text that was tokenised, after any cut"),
    Column("domain", pa.string(), "", "kind of text, as given; the unit of intervals where there are several"),
    Column("n_tokens", pa.int32(), "tokens", "length of the sequence, sink token included"),
    Column("prompt_tokens", pa.int32(), "tokens", "length of the part that is the prompt, sink token included"),
    Column("cut_tokens", pa.int32(), "tokens", "tokens left out at the end because of the run's limit"),
    Column("has_sets", pa.bool_(), "", "whether sets and the table by token are stored for this prompt"),
]

TOKEN_TEXTS = [
    PROMPT_ID, CONDITION, POSITION,
    Column("token_id", pa.int32(), "id", "vocabulary id of the token"),
    Column("token", pa.string(), "", "the token's own text"),
]

EXPERTS = [LAYER, NEURON, Column("expert", pa.int16(), "index", "expert of MoEfication that holds the neuron")]

TABLES = {
    "layers": LAYERS, "positions": POSITIONS, "tokens": TOKENS, "sets": set_columns(8), "chance": CHANCE, "prompts": PROMPTS,
    "token_texts": TOKEN_TEXTS, "experts": EXPERTS,
}
