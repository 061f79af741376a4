"""What a capture will cost, before it is started: tokens, seconds, bytes. Without torch, from files and earlier runs."""

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
BYTES_OF_STATISTICS = 60


@dataclass(frozen=True)
class Need:
    """Estimated cost: seconds (loading included), bytes on disk, and where the speed comes from."""

    seconds: float
    size: int
    basis: str

    def in_words(self) -> str:
        """For instance `about 6 s, 1.2 MB (speed of your last run of this model)`."""
        time = f"{self.seconds:.0f} s" if self.seconds < 90 else f"{self.seconds / 60:.0f} min"
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


def _measured(model: ModelFacts, runs: Sequence[Run]) -> float | None:
    """Seconds a token of this model's largest own run here (tracked runs were made elsewhere)."""
    own = [
        run
        for run in runs
        if not run.tracked and "counts" in run.manifest and run.manifest["model"]["name"] == model.name
    ]
    if not own:
        return None
    largest = max(own, key=lambda run: run.manifest["counts"]["tokens"])
    return largest.manifest["seconds"] / max(1, largest.manifest["counts"]["tokens"])
