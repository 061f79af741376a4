"""The project's vocabulary: every table, column, unit and Arrow schema, and the constants that files depend on.

One word for one thing, here, in code, on pages and in the documents. A reader needs this file and pyarrow, no torch.
Tables of the studies stand in modules of this package, one a study; `python -m moyu_core.schema` prints the column reference
that `data/README.md` holds (a test compares the two).
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised whenever a stored column changes its meaning; part of every run's identity."""

SET_RULES = {
    "top": "the k largest |a|*c per token, k = max(1, floor(density*F + 1e-9)); exact zeros are never active",
    "magnitude": "the k largest |a| per token, k as for top; exact zeros are never active",
    "cett": "|a|*c at least the layer's threshold eps, found so that the mean CETT meets the target",
    "positive": "a > 0",
}
"""The rules that turn an activation into an active set. c is the L2 norm of the neuron's down-projection column."""

DEFAULT_DENSITY = 0.10
DEFAULT_CETT_TARGET = 0.2
PLAIN_CONDITION = "plain"
"""The `condition` of a prompt that was captured as it is; studies add their own."""


@dataclass(frozen=True)
class Column:
    """One stored column: its Arrow type, unit ("" = none, "1" = a share or count without unit) and meaning."""

    name: str
    type: pa.DataType
    unit: str
    doc: str
    nullable: bool = False

    def field(self) -> pa.Field:
        """The Arrow field; unit and meaning travel in its metadata, so a file explains itself."""
        return pa.field(self.name, self.type, self.nullable, metadata={"unit": self.unit, "doc": self.doc})


PROMPT_ID = Column("prompt_id", pa.string(), "", "name of the prompt, unique in the run together with `condition`")
CONDITION = Column("condition", pa.string(), "", "how the prompt was presented; `plain` = as it is")
LAYER = Column("layer", pa.int16(), "index", "decoder layer, from 0")
NEURON = Column("neuron", pa.int32(), "index", "FFN neuron = coordinate of the down projection's input, from 0")
POSITION = Column("position", pa.int32(), "index", "place in the sequence; 0 is the sink token")


def packed_bytes(n_neurons: int) -> int:
    """Bytes of one packed active set: ceil(F / 8)."""
    return (n_neurons + 7) // 8


def activation_columns(n_neurons: int, values: bool) -> list[Column]:
    """Columns of `activations`, one row per (prompt, condition, layer, position[, slot]).

    Args:
        n_neurons: F, the width of the down projection's input.
        values: whether the run stores `values` and `scale` for at least one prompt.
    """
    columns = [
        PROMPT_ID,
        CONDITION,
        LAYER,
        POSITION,
        Column("slot", pa.int8(), "index", "which of the routed experts of this token; 0 in dense models"),
        Column("expert", pa.int16(), "index", "the expert that held the slot; 0 in dense models"),
        Column("token_id", pa.int32(), "id", "vocabulary id of the token"),
        Column("token", pa.string(), "", "the token's own text; bytes that are no text appear as \\xNN"),
        Column("is_sink", pa.bool_(), "", "true at position 0, which every statistic leaves out"),
        Column(
            "active",
            pa.binary(packed_bytes(n_neurons)),
            "bits",
            "the active set, one bit per neuron, least significant bit first",
        ),
        Column("density", pa.float32(), "1", "share of neurons that are active, |A| / F"),
        Column("l2_norm", pa.float32(), "activation", "L2 norm of the activation"),
        Column("abs_max", pa.float32(), "activation", "largest |a|"),
        Column("effective_neurons", pa.float32(), "neurons", "exp of the entropy of a^2 / sum a^2; from 1 to F"),
        Column("zero_share", pa.float32(), "1", "share of neurons that are exactly 0"),
        Column("nonfinite", pa.int32(), "neurons", "activations that are NaN or infinite; they count as inactive"),
        Column(
            "cett",
            pa.float32(),
            "1",
            "norm of what the inactive neurons add / norm of the whole down-projection "
            "output without bias; where asked for",
            nullable=True,
        ),
    ]
    if values:
        columns += [
            Column(
                "values",
                pa.binary(n_neurons),
                "code",
                "one byte per neuron, sign and logarithm of |a| / scale (moyu_core.companding); where asked for",
                nullable=True,
            ),
            Column(
                "scale",
                pa.float32(),
                "activation",
                "largest finite |a| of the row, the unit of `values`",
                nullable=True,
            ),
        ]
    return columns


PROMPT_COLUMNS = [
    PROMPT_ID,
    CONDITION,
    Column("text", pa.string(), "", "the text that was tokenised, after any cut"),
    Column("domain", pa.string(), "", "kind of text, as given"),
    Column("n_tokens", pa.int32(), "tokens", "length of the sequence, sink token included"),
    Column("cut_tokens", pa.int32(), "tokens", "tokens left out at the end because of the run's limit"),
    Column("has_values", pa.bool_(), "", "whether `values` are stored for this prompt"),
]

NEURON_COLUMNS = [
    LAYER,
    NEURON,
    Column(
        "column_norm",
        pa.float32(),
        "weight",
        "c, L2 norm of the neuron's down-projection column (before any "
        "norm that follows the FFN); in mixture models the mean over experts",
    ),
    Column("rate", pa.float32(), "1", "share of the run's rows (sink left out) in which the neuron is active"),
]

INDEX_COLUMNS = [
    PROMPT_ID,
    CONDITION,
    LAYER,
    Column("file", pa.string(), "", "file of `activations` that holds the slice"),
    Column("row_group", pa.int32(), "index", "row group of that file"),
    Column("rows", pa.int32(), "rows", "rows of the slice"),
]

THRESHOLD_COLUMNS = [
    LAYER,
    Column("threshold", pa.float32(), "|a|*c", "eps of the layer under the rule `cett`"),
    Column("cett", pa.float32(), "1", "mean CETT over the calibration tokens at eps"),
]

VOCABULARY_COLUMNS = [
    LAYER,
    NEURON,
    Column("sign", pa.int8(), "", "+1: tokens promoted by a positive activation; -1: tokens suppressed by it"),
    Column("rank", pa.int8(), "index", "0 = strongest"),
    Column("token_id", pa.int32(), "id", "vocabulary id"),
    Column("token", pa.string(), "", "the token's own text"),
    Column(
        "logit",
        pa.float16(),
        "logit",
        "W_U (g * column), g = the final norm's scale: logit change per unit of "
        "activation before the final norm's division",
    ),
]

TABLES = {
    "activations": activation_columns(8, values=True),
    "prompts": PROMPT_COLUMNS,
    "neurons": NEURON_COLUMNS,
    "thresholds": THRESHOLD_COLUMNS,
    "index": INDEX_COLUMNS,
    "vocabulary": VOCABULARY_COLUMNS,
}
"""Every table, for the reference; `activations` is shown with F = 8 and with values."""


def arrow_schema(columns: list[Column]) -> pa.Schema:
    """The Arrow schema of a table, with units and meanings in the field metadata."""
    return pa.schema([column.field() for column in columns], metadata={"schema_version": str(SCHEMA_VERSION)})
