"""Tables of the study `trial`: methods on held-out texts, every token masked."""

from __future__ import annotations

import pyarrow as pa

from moyu_core.schema import Column
from moyu_core.schema.trinity import METHOD, METHOD_COLUMNS

DENSE = "dense"
"""Stands in the column `method` for the whole model."""
PROMPT, CONTINUATION = "prompt", "continuation"

DENSITY = Column("density", pa.float64(), "1", "share of neurons that is to be kept; 1 for the whole model")
KEPT = Column("kept", pa.float32(), "1", "share that was really kept, mean over layers and all masked tokens")
PROMPT_ID = Column("prompt_id", pa.string(), "", "the text")
KL = Column("kl", pa.float32(), "nat / token", "mean KL(dense || sparse) of the next-token distributions")
AGREEMENT = Column("agreement", pa.float32(), "1", "share of positions at which both models have the same most probable token")

TEXTS = [
    PROMPT_ID,
    Column("document", pa.string(), "", "what the text was taken from: the unit of intervals"),
    Column("genre", pa.string(), "", "kind of text"),
    Column("known", pa.float32(), "1", "share of the continuation's tokens that the token table has met; empty without one",
           nullable=True),
]

SIZES = [
    METHOD,
    DENSITY,
    Column("asked", pa.float64(), "1", "what the method was asked for so that it keeps this density on the masked prompts"),
]

READ = [
    METHOD, DENSITY, PROMPT_ID,
    Column("part", pa.string(), "", "prompt (the sink token left out) or continuation, both masked"),
    Column("loss", pa.float32(), "nat / token", "mean loss, teacher-forced"),
    KL, AGREEMENT, KEPT,
]

WRITTEN = [
    METHOD, DENSITY, PROMPT_ID,
    Column("step", pa.int16(), "tokens", "first token of the stretch that the row is over, 0 = the first after the prompt"),
    KL, AGREEMENT,
    Column("surprise", pa.float32(), "nat / token", "mean -log probability that the dense model gives to what was written"),
]

ANSWERS = [
    METHOD, DENSITY, PROMPT_ID, KEPT,
    Column("text", pa.string(), "", "what was written; kept for the first text of each genre, else empty"),
]

TABLES = {
    "methods": METHOD_COLUMNS, "texts": TEXTS, "sizes": SIZES, "read": READ, "written": WRITTEN, "answers": ANSWERS,
}
