"""What a capture or a comparison will cost, before it starts: tokens, seconds, bytes. No torch; from files and earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moyu_core import schema
from moyu_core.errors import ModelError
from moyu_core.registry import ModelFacts
from moyu_core.store import Run
from moyu_core.tokens import count_tokens

SECONDS_PER_TOKEN_AND_PARAMETER = 2 / 40e9
"""Fallback where no run of the model tells: two operations a parameter at 40 GFLOP/s, a slow laptop."""
START_SECONDS = 4.0
"""Loading and checking a small model."""
TELLING_TOKENS = 500
"""Of a run that tells a speed: in a shorter one what is done once (compiling, packing) is most of its seconds."""
BYTES_OF_STATISTICS = 60


@dataclass(frozen=True)
class Need:
    """Estimated cost: seconds (loading included), bytes on disk (None = not estimated), and where the speed comes from."""

    seconds: float
    size: int | None
    basis: str

    def in_words(self) -> str:
        """For instance `about 6 s and 1.2 MB (speed of an earlier run of this model)`."""
        time = f"{self.seconds:.0f} s" if self.seconds < 90 else f"{self.seconds / 60:.0f} min"
        if self.size is None:
            return f"about {time} ({self.basis})"
        size = f"{self.size / 1e6:.1f} MB" if self.size >= 1e5 else f"{self.size / 1e3:.0f} kB"
        return f"about {time} and {size} ({self.basis})"


def tokens(model: ModelFacts | None, text: str) -> int | None:
    """Tokens of a text with the sink token; None where the model's tokenizer is not on this machine."""
    if model is None or model.path is None or not text:
        return None
    try:
        return count_tokens(model.path, text) + 1
    except ModelError:
        return None


def capture(model: ModelFacts | None, n_tokens: int, values: bool, runs: Sequence[Run]) -> Need | None:
    """The need of capturing `n_tokens` tokens in all layers; None where nothing is known of the model yet."""
    if model is None:
        return None
    per_token = _measured(model, runs)
    basis = "speed of an earlier run of this model"
    if per_token is None:
        parameters = 12 * model.shape.layers * model.shape.d_model**2
        per_token, basis = parameters * SECONDS_PER_TOKEN_AND_PARAMETER, "a guess for an ordinary laptop"
    row = schema.packed_bytes(model.shape.n_neurons) + BYTES_OF_STATISTICS + (model.shape.n_neurons if values else 0)
    return Need(START_SECONDS + per_token * n_tokens, row * n_tokens * model.shape.layers, basis)


def comparison(model: ModelFacts | None, n_tokens: int, methods: int, densities: int, runs: Sequence[Run]) -> Need | None:
    """The need of comparing methods on `n_tokens` tokens, missing fits not counted; None where no comparison tells of a speed.

    The work grows with tokens, neurons and methods, and with the densities; what is done once for all of them counts as one more.
    """
    known = [run for run in runs if run.spec.study == "predictors"]
    if model is None or not known:
        return None
    like = max(known, key=lambda run: (not run.tracked, _of(model, run), run.manifest["scope"]["tokens"]))
    scope = like.manifest["scope"]
    neurons = len(like.manifest["layers"]) * like.manifest["model"]["n_neurons"]
    done = scope["tokens"] * neurons * scope["methods"] * (1 + len(like.spec.parameters["densities"]))
    asked = n_tokens * model.shape.layers * model.shape.n_neurons * max(1, model.shape.experts) * methods * (1 + densities)
    name = "this model" if _of(model, like) else like.manifest["model"]["name"]
    basis = f"speed of {'a shipped' if like.tracked else 'an earlier'} comparison of {name}"
    basis += ", made elsewhere" * like.tracked + ", by the models' sizes" * (not _of(model, like))
    return Need(START_SECONDS + like.manifest["seconds"] * asked / done, None, basis)


def _of(model: ModelFacts, run: Run) -> bool:
    return run.manifest["model"]["name"] == model.name


def _measured(model: ModelFacts, runs: Sequence[Run]) -> float | None:
    """Seconds a token of this model's largest own run here (tracked runs were made elsewhere); None where all are too short."""
    own = [run.manifest for run in runs if not run.tracked and "counts" in run.manifest and _of(model, run)]
    largest = max(own, key=lambda manifest: manifest["counts"]["tokens"], default=None)
    if largest is None or largest["counts"]["tokens"] < TELLING_TOKENS:
        return None
    return largest["seconds"] / largest["counts"]["tokens"]
