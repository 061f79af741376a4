"""What can be asked about the trinity: quality, speed, families, chat. No torch here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError
from moyu_core.home import REPOSITORY, Home
from moyu_core.prompts import MAX_CHARACTERS, Prompt, PromptSet, read_prompts
from moyu_core.studies.requests import DTYPES

METHODS = (
    "oracle",
    "cett",
    "token-table",
    "token-table-prompt",
    "tda",
    "griffin",
    "dejavu",
    "moefication",
    "cats",
    "static",
    "random",
)
"""Methods that are judged unless others are named; the project has variants of some."""
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
MAX_TOKENS, PROMPT_TOKENS = 129, 33
"""Of an evaluation text, sink token included: 32 tokens of prompt, 96 that are judged."""
BUDGET = 0.01
EVALUATION = "evaluation.jsonl"
READING = REPOSITORY / "data" / "tasks" / "reading.jsonl"
"""The reading task, part of the code like the prompts."""
PROMPT_MODES = ("dense", "masked")
FEWEST_DOCUMENTS = 4


@dataclass(frozen=True)
class TrinityRequest:
    """Quality of methods on a model, and the sparsest setting within a budget.

    Attributes:
        model: registry name, folder or Hugging Face id.
        prompts: evaluation texts; texts whose ids agree up to `/` are one document, the unit of intervals.
        methods: names; fitted parts that are missing are made first. Methods that do not apply, or whose part cannot be made here,
            are left out, and the run says why.
        densities: of the curves, ascending.
        budget: perplexity that may be lost, 0.01 = 1 %.
        reading: densities at which the reading task is read, () = it is not.
        max_tokens: of a text, sink token included.
        prompt_tokens: positions of the text that are the prompt, sink token included.
        prompt: `dense`, or `masked`: the prompt runs sparse too with methods that decide by token.
        dtype: arithmetic of the model.
        title: name shown for the run; changes no number.
    """

    model: str
    prompts: tuple[Prompt, ...]
    methods: tuple[str, ...] = METHODS
    densities: tuple[float, ...] = DENSITIES
    budget: float = BUDGET
    reading: tuple[float, ...] = (0.5, 0.9)
    max_tokens: int = MAX_TOKENS
    prompt_tokens: int = PROMPT_TOKENS
    prompt: str = "dense"
    dtype: str = "float32"
    title: str = ""

    def __post_init__(self) -> None:
        PromptSet("request", self.prompts)
        _check_densities(self.densities)
        if self.reading:
            _check_densities(self.reading)
        if not self.methods:
            raise InputError("At least one method is needed.")
        if not (math.isfinite(self.budget) and 0 < self.budget <= 1):
            raise InputError(f"The budget is a share of perplexity above 0 and at most 1 (0.01 = 1 %), not {self.budget!r}.")
        if self.prompt not in PROMPT_MODES:
            raise InputError(f"The prompt runs {' or '.join(PROMPT_MODES)}, not {self.prompt!r}.")
        if not 2 <= self.prompt_tokens <= self.max_tokens - 2:
            raise InputError(
                f"A text of {self.max_tokens} tokens needs a prompt of 2 to {self.max_tokens - 2} tokens, sink token "
                f"included, not {self.prompt_tokens}."
            )
        _check_dtype(self.dtype)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> TrinityRequest:
        """The request that `as_json` wrote."""
        lists = {name: tuple(data[name]) for name in ("methods", "densities", "reading")}
        return TrinityRequest(**{**data, **lists, "prompts": tuple(Prompt(**prompt) for prompt in data["prompts"])})


@dataclass(frozen=True)
class SpeedRequest:
    """Decoding speed on this machine.

    Attributes:
        model: as above.
        text: the prompt.
        settings: (method, density) pairs; density 0 for the own size of a method that cannot be asked.
        points: those of the settings that a run of `trinity` confirmed to be within the budget; the claim is about them.
        prompt_tokens: length to which the prompt is cut, sink token included.
        repeats: paired samples of each setting, at least 20.
        tokens: decoded for a sample.
        dtype: arithmetic of the model.
        title: name shown for the run; changes no number.
    """

    model: str
    text: str
    settings: tuple[tuple[str, float], ...]
    points: tuple[tuple[str, float], ...] = ()
    prompt_tokens: int = 64
    repeats: int = 21
    tokens: int = 2
    dtype: str = "float32"
    title: str = ""

    def __post_init__(self) -> None:
        if not self.settings:
            raise InputError("At least one pair of method and density is needed.")
        for _, density in self.settings:
            if density:  # 0 = a method's own size
                _check_densities((density,))
        if not set(self.points) <= set(self.settings):
            raise InputError("Operating points must be among the settings that are timed.")
        if self.repeats < 20:
            raise InputError(f"A speed is the median of at least 20 samples, not of {self.repeats}.")
        if self.tokens < 1 or self.prompt_tokens < 2:
            raise InputError("A sample decodes at least one token, behind a prompt of the sink token and at least one more.")
        _check_dtype(self.dtype)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> SpeedRequest:
        """The request that `as_json` wrote."""
        pairs = {key: tuple((str(name), float(density)) for name, density in data[key]) for key in ("settings", "points")}
        return SpeedRequest(**{**data, **pairs})


@dataclass(frozen=True)
class FamiliesRequest:
    """Which methods can be applied to which architectures, tried on small random models."""

    methods: tuple[str, ...] = METHODS

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> FamiliesRequest:
        """The request that `as_json` wrote."""
        return FamiliesRequest(tuple(data["methods"]))


@dataclass(frozen=True)
class ChatRequest:
    """One message answered twice: by the dense model and with a method.

    Attributes:
        model: as above.
        text: the message.
        method, density: the sparse side.
        tokens: longest answer.
        turn: number of the message in its conversation; asking the same thing twice answers twice.
    """

    model: str
    text: str
    method: str
    density: float
    tokens: int = 48
    turn: int = 0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("The message is empty; write something.")
        if len(self.text) > MAX_CHARACTERS:
            raise InputError(
                f"A message has at most {MAX_CHARACTERS:,} characters and this one has {len(self.text):,}; shorten it."
            )
        _check_densities((self.density,))
        if not 1 <= self.tokens <= 1024:
            raise InputError(f"An answer has 1 to 1,024 tokens, not {self.tokens}.")

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> ChatRequest:
        """The request that `as_json` wrote."""
        return ChatRequest(**data)


def evaluation_prompts(home: Home, count: int, file: Path | None = None) -> tuple[Prompt, ...]:
    """The first texts of the evaluation set (another genre in turn, one text of every document first), or of a file.

    Raises:
        InputError: the file cannot be read, or fewer documents are asked for than intervals and two splits need.
    """
    if count < FEWEST_DOCUMENTS:
        raise InputError(f"Two splits with intervals need at least {FEWEST_DOCUMENTS} texts, not {count}.")
    return read_prompts(file or home.prompts / EVALUATION).prompts[:count]


def _check_densities(densities: tuple[float, ...]) -> None:
    if not densities or any(not 0 < density <= 1 for density in densities) or list(densities) != sorted(set(densities)):
        raise InputError(
            f"Densities lie above 0 and at most at 1, each once, ascending; not {', '.join(map(str, densities)) or 'none'}."
        )


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; use one of {', '.join(DTYPES)}.")
