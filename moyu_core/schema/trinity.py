"""Tables of the studies `trinity`, `speed`, `families` and `chat`."""

from __future__ import annotations

import pyarrow as pa

from moyu_core.schema import Column

METHOD = Column("method", pa.string(), "", "name of the method (moyu_core.methods); `dense` = the whole model")
DENSITY = Column(
    "density", pa.float64(), "1", "share of neurons that was asked for; 0 = the own size of a method that cannot be asked"
)
KEPT = Column("kept", pa.float64(), "1", "share of neurons that was really kept, mean over layers and tokens")

STATES = {
    "measured": "measured",
    "unfit": "the method does not apply to this model",
    "not fitted": "the method needs a fitted part that could not be made where the run was",
}

METHOD_COLUMNS = [
    METHOD,
    Column("title", pa.string(), "", "its name for people"),
    Column("family", pa.string(), "", "oracle, static, TDA, RODA, RIDA or sRIDA"),
    Column("steerable", pa.bool_(), "", "whether the density decides the size of its sets"),
    Column("frozen", pa.bool_(), "", "whether one set serves a whole prompt"),
    Column("state", pa.string(), "", "measured, unfit or not fitted"),
    Column("reason", pa.string(), "", "why it was not measured; empty where it was"),
]

DOCUMENT_COLUMNS = [
    Column("prompt_id", pa.string(), "", "the evaluation text"),
    Column("document", pa.string(), "", "what the text was taken from: the unit of intervals"),
    Column("genre", pa.string(), "", "kind of text"),
    Column("split", pa.int8(), "index", "0 = chooses the operating point, 1 = confirms it"),
    Column("tokens", pa.int32(), "tokens", "positions that are judged, those behind the prompt"),
    Column("dense_loss", pa.float64(), "nat / token", "mean loss of the dense model over them"),
]

QUALITY_COLUMNS = [
    METHOD,
    DENSITY,
    Column("prompt_id", pa.string(), "", "the evaluation text"),
    Column("loss", pa.float64(), "nat / token", "mean loss with the method, teacher-forced"),
    Column("kl", pa.float64(), "nat / token", "mean KL(dense || sparse) of the next-token distributions"),
    Column("agreement", pa.float64(), "1", "share of positions at which both models would write the same token"),
    KEPT,
]

OPERATING_COLUMNS = [
    METHOD,
    Column("status", pa.string(), "", "confirmed, not confirmed, not resolved, none below 1, or too few documents"),
    Column("density", pa.float64(), "1", "the smallest density within the budget; empty where there is none", nullable=True),
    Column("chosen", pa.float64(), "nat / token", "mean paired loss difference on the half that chose", nullable=True),
    Column("chosen_bound", pa.float64(), "nat / token", "its one-sided upper 95 % bound", nullable=True),
    Column("confirmed", pa.float64(), "nat / token", "mean paired loss difference on the other half", nullable=True),
    Column("confirmed_bound", pa.float64(), "nat / token", "its one-sided upper 95 % bound", nullable=True),
    Column(
        "unresolved_from", pa.float64(), "1", "smallest density looked at that cannot be told apart from the budget", nullable=True
    ),
    Column("looked", pa.int16(), "densities", "how many densities the search looked at"),
]

READING_COLUMNS = [
    METHOD,
    DENSITY,
    Column("item", pa.string(), "", "the question"),
    Column("passage", pa.string(), "", "the text it is about: the unit of intervals"),
    Column("answer", pa.string(), "", "what the model wrote, up to the first line break"),
    Column("correct", pa.bool_(), "", "whether the answer equals an accepted one after normalisation"),
]

SPEED_COLUMNS = [
    METHOD,
    DENSITY,
    KEPT,
    Column("path", pa.string(), "", "frozen = compacted copies; before, gate, activation = gathered for each token, and how early"),
    Column("seconds", pa.float64(), "s / token", "median over the samples"),
    Column("dense_seconds", pa.float64(), "s / token", "median of the dense samples that were taken in turn with them"),
    Column("ratio", pa.float64(), "1", "median over pairs of dense / sparse time; above 1 = faster than dense"),
    Column("ratio_low", pa.float64(), "1", "lower end of its distribution-free 95 % interval"),
    Column("ratio_high", pa.float64(), "1", "upper end"),
    Column("spread", pa.float64(), "1", "distance of the quartiles / median, the larger one of dense and sparse"),
    Column("noisy", pa.bool_(), "", "whether the spread is above the limit in the manifest"),
    Column("router_share", pa.float64(), "1", "share of a decoded token's time spent choosing"),
    Column("first_token_ratio", pa.float64(), "1", "median over pairs of dense / sparse time to the first token"),
    Column("first_token_seconds", pa.float64(), "s", "median time to the first token"),
    Column("choose_seconds", pa.float64(), "s", "once a prompt: choosing and copying a set that stays, or laying columns out"),
    Column("extra_bytes", pa.int64(), "byte", "weights held beside the model's own"),
    Column("bound", pa.float64(), "1", "largest speed-up that the bytes a token reads allow, all weights of the model counted"),
    Column("ffn_bound", pa.float64(), "1", "the same for the FFNs alone"),
    Column(
        "agreeing", pa.int32(), "tokens", "tokens that greedy decoding wrote like the dense model before the first that differs"
    ),
    Column("decoded", pa.int32(), "tokens", "tokens that were decoded for `agreeing`"),
]

SAMPLE_COLUMNS = [
    METHOD,
    DENSITY,
    Column("sample", pa.int16(), "index", "pair of samples, from 0; the two are taken one after the other"),
    Column("seconds", pa.float64(), "s / token", "with the method"),
    Column("dense_seconds", pa.float64(), "s / token", "without"),
]

FAMILY_COLUMNS = [
    Column("model_type", pa.string(), "", "architecture (moyu_core.architectures)"),
    Column("family", pa.string(), "", "its name for people"),
    Column("activation", pa.string(), "", "activation function of the small random model"),
    Column("gated", pa.bool_(), "", "whether the FFN has a gate"),
    Column("experts", pa.int16(), "experts", "0 = dense FFN"),
    METHOD,
    Column("masked", pa.bool_(), "", "whether its quality can be measured: a masked pass runs and density 1 equals dense"),
    Column("gathered", pa.bool_(), "", "whether its speed can be measured: gathered weights give the masked logits"),
    Column("error", pa.float64(), "1", "largest difference of the two, relative to the largest logit", nullable=True),
    Column("reason", pa.string(), "", "what fails and why; empty where nothing does"),
]

CHAT_COLUMNS = [
    Column("side", pa.string(), "", "dense or sparse"),
    Column("step", pa.int32(), "index", "place in the answer, from 0"),
    Column("token_id", pa.int32(), "id", "vocabulary id"),
    Column("token", pa.string(), "", "the token's own text"),
    Column("seconds", pa.float64(), "s", "time of its decoding step"),
    Column(
        "same",
        pa.bool_(),
        "",
        "dense side: whether the method, given the dense answer so far, would have written the same; "
        "empty on the sparse side and where it was not reached",
        nullable=True,
    ),
]

TABLES = {
    "methods": METHOD_COLUMNS,
    "documents": DOCUMENT_COLUMNS,
    "quality": QUALITY_COLUMNS,
    "operating": OPERATING_COLUMNS,
    "reading": READING_COLUMNS,
    "speeds": SPEED_COLUMNS,
    "samples": SAMPLE_COLUMNS,
    "families": FAMILY_COLUMNS,
    "chat": CHAT_COLUMNS,
}
"""`methods` to `reading` belong to runs of `trinity`, `speeds` and `samples` to `speed`, the last two to studies of their name."""
