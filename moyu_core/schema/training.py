"""Tables of the studies `training` and `live`: what is seen of an FFN along training, and what each training gave."""

from __future__ import annotations

import pyarrow as pa

from moyu_core.schema import Column

ACTIVATIONS = ("relu", "gelu", "swiglu")

MEASURES = {
    "zero_share": "share of activations that are exactly 0",
    "cett_density": "share of neurons with |a|*c at or above the layer's threshold for CETT 0.2, found on the same batch",
    "effective_neurons": "mean over tokens of exp of the entropy of a^2 / sum a^2",
    "l2_norm": "mean over tokens of the L2 norm of a",
    "sign_gradient": "mean of sign(a) * dL/da over activations that are not 0; positive = descent shrinks |a|",
    "gradient_size": "mean of |dL/da| over activations that are not 0, the unit to read sign_gradient in",
    "shrinking_share": "share of the activations that are not 0 with sign(a) * dL/da > 0; 0.5 = no preference",
}
"""Per layer. `held_out_loss` and `train_loss` (nats a token) stand beside them with layer -1."""

CURVE_COLUMNS = [
    Column("activation", pa.string(), "", "relu, gelu or swiglu"),
    Column("seed", pa.int16(), "index", "seed of weights and order of data"),
    Column("step", pa.int32(), "steps", "optimizer steps taken; 0 = at initialisation"),
    Column("tokens", pa.int64(), "tokens", "tokens seen"),
    Column("layer", pa.int16(), "index", "decoder layer, from 0; -1 = the whole model"),
    Column("measure", pa.string(), "", "what was measured (moyu_core.schema.training), or held_out_loss, train_loss"),
    Column("value", pa.float64(), "as the measure", "mean over sequences"),
    Column("error", pa.float64(), "as the measure", "standard error over sequences, for fixed weights", nullable=True),
]

TRAINING_COLUMNS = [
    Column("activation", pa.string(), "", "relu, gelu or swiglu"),
    Column("seed", pa.int16(), "index", "seed of weights and order of data"),
    Column("identity", pa.string(), "", "name of the training: activation, seed and hash of configuration and corpus"),
    Column("held_out_loss", pa.float64(), "nat / token", "over the whole held-out part, weights rounded as they are stored"),
    Column("held_out_error", pa.float64(), "nat / token", "its standard error over sequences"),
    Column("train_loss", pa.float64(), "nat / token", "mean of the last readings of the training loss"),
    Column("tokens", pa.int64(), "tokens", "tokens seen"),
    Column("seconds", pa.float64(), "s", "time spent in training"),
    Column("device", pa.string(), "", "where it ran"),
    Column("config", pa.string(), "JSON", "everything that decides the training apart from the corpus"),
]

TABLES = {"curves": CURVE_COLUMNS, "trainings": TRAINING_COLUMNS}
