"""What can be asked about the origin of over-activation: the sign measure, the curves along training, live training. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt, PromptSet
from moyu_core.schema.training import ACTIVATIONS

WIDTHS = (96, 192, 384, 768)
"""F of live training, multiples of 3: the gated layer has 2/3 of it."""
LIVE_STEPS = 1500
LIVE_SECONDS = 40
"""After which a live training ends with the steps it has made, so that a slow or busy machine keeps a visitor waiting no longer."""
MAX_STEPS, MAX_SEEDS, MAX_LIVE_SEED = 5000, 500, 9999


@dataclass(frozen=True)
class OriginRequest:
    """The sign of dL/da at initialisation and as trained.

    Attributes:
        model: registry name, folder or Hugging Face id; its shape is initialised anew, its weights are described.
        prompts: the texts, the same for every seed.
        seeds: how many initialisations; seeds are the units.
        max_tokens: longest sequence, sink token included.
        title: name shown for the run; changes no number.
    """

    model: str
    prompts: tuple[Prompt, ...]
    seeds: int = 36
    max_tokens: int = 128
    title: str = ""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError("The sign measure needs at least one prompt.")
        PromptSet("request", self.prompts)
        if not 2 <= self.seeds <= MAX_SEEDS:
            raise InputError(f"Seeds are the units: between 2 and {MAX_SEEDS} are needed, not {self.seeds}.")
        if self.max_tokens < 3:
            raise InputError(f"A sequence holds the sink token and at least two more; {self.max_tokens} tokens are too few.")

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> OriginRequest:
        """The request that `as_json` wrote."""
        return OriginRequest(**{**data, "prompts": tuple(Prompt(**prompt) for prompt in data["prompts"])})


@dataclass(frozen=True)
class TrainingRequest:
    """The curves along training of everything that `moyu train tiny` has finished in this home."""

    title: str = "Along the training of the tiny models"

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> TrainingRequest:
        """The request that `as_json` wrote."""
        return TrainingRequest(**data)


@dataclass(frozen=True)
class LiveRequest:
    """Train a small network now and keep its curves.

    Attributes:
        activation: relu, gelu or swiglu.
        width: F, one of WIDTHS; the gated layer has 2/3 of it, so that the numbers of weights agree.
        seed: of weights and order of data.
        steps: optimizer steps, at most: LIVE_SECONDS may end it before.
    """

    activation: str = "relu"
    width: int = 384
    seed: int = 0
    steps: int = LIVE_STEPS

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InputError(f"Live training knows {', '.join(ACTIVATIONS)}, not {self.activation!r}.")
        if self.width not in WIDTHS:
            raise InputError(f"The width is one of {', '.join(map(str, WIDTHS))}, not {self.width}.")
        if not 1 <= self.steps <= MAX_STEPS or not 0 <= self.seed <= MAX_LIVE_SEED:
            raise InputError(f"Steps go from 1 to {MAX_STEPS} and seeds from 0 to {MAX_LIVE_SEED}; received {self.steps} steps, "
                             f"seed {self.seed}.")

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> LiveRequest:
        """The request that `as_json` wrote."""
        return LiveRequest(**data)
