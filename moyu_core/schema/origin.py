"""Table of the study `origin`: which way descent pushes activations, at initialisation and as trained."""

from __future__ import annotations

import pyarrow as pa

from moyu_core.schema import LAYER, Column

CONDITIONS = {
    "initial": "every matrix drawn anew by the seed, entries independent N(0, s^2), the last down projection as drawn and with "
    "its sign turned; one row a seed",
    "trained": "the model's own weights; one row a prompt, description only: at a minimum the measure is about zero",
}
SCALES = {
    "free": "the model as it is: the final norm's divisor depends on the activations",
    "fixed": "the final norm's divisor is a constant for the gradient, as the theorem has no norm",
}

SIGN_COLUMNS = [
    Column("condition", pa.string(), "", "initial = drawn by the seed, trained = the model's own weights"),
    Column("seed", pa.int32(), "index", "seed of the weights; empty for trained", nullable=True),
    Column("prompt_id", pa.string(), "", "the prompt; empty for initial, whose rows are over all prompts", nullable=True),
    Column("scale", pa.string(), "", "whether the final norm's divisor is free (the model as it is) or fixed for the gradient"),
    LAYER,
    Column("rows", pa.int64(), "activations", "activations that are not 0, over which the means go; position 0 left out"),
    Column("sign_gradient", pa.float64(), "nat / activation", "mean of sign(a) * dL/da; positive = descent shrinks |a|"),
    Column("gradient_size", pa.float64(), "nat / activation", "mean of |dL/da|"),
    Column("shrinking_share", pa.float64(), "1", "share with sign(a) * dL/da > 0; 0.5 = no preference"),
    Column("expected", pa.float64(), "nat / activation", "sign_gradient by the closed form, at initialisation and in the "
           "last layer, where the readout is linear and no norm follows the FFN; else empty", nullable=True),
]

TABLES = {"signs": SIGN_COLUMNS}
