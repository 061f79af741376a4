"""What can be asked of the study `trial`. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.prompts import Prompt, PromptSet, read_prompts
from moyu_core.spec import SetRule
from moyu_core.studies.trinity.requests import EVALUATION

OURS = ("token-table", "token-table-prompt")
RIVALS = ("static", "griffin", "tda", "dejavu")
METHODS = (*OURS, *RIVALS, "oracle", "random")
"""The methods on trial, those that they would replace, and the two ends of the scale."""
DENSITIES = (0.1, 0.3, 0.5)
MAX_TOKENS, PROMPT_TOKENS, GENERATED = 97, 33, 48
"""Sink token and 32 tokens of prompt, 64 of continuation; tokens that each method writes behind the same prompt."""
PER_GENRE = 8
FEWEST_TEXTS = 2


@dataclass(frozen=True)
class TrialRequest:
    """Methods on held-out texts, everything masked but the sink token.

    Attributes:
        model: registry name, folder or Hugging Face id.
        prompts: held-out texts, one a document; `domain` is the genre. Those shorter than `max_tokens` are left out and counted.
        methods: names; those that do not apply are left out, and the run says why.
        densities: kept shares, ascending; methods that choose by a threshold are steered to keep as many.
        max_tokens: tokens of a text that are used, sink token included.
        prompt_tokens: how many of them are the prompt, sink token included.
        generated: tokens that each method writes behind the prompt.
        seed: of random sets and of what is drawn while writing.
        title: name shown for the run; changes no number.
    """

    model: str
    prompts: tuple[Prompt, ...]
    methods: tuple[str, ...] = METHODS
    densities: tuple[float, ...] = DENSITIES
    max_tokens: int = MAX_TOKENS
    prompt_tokens: int = PROMPT_TOKENS
    generated: int = GENERATED
    seed: int = 0
    title: str = ""

    def __post_init__(self) -> None:
        PromptSet("request", self.prompts)
        if not self.methods:
            raise InputError("At least one method is needed.")
        for density in self.densities:
            SetRule("top", density=density)
        if not self.densities or sorted(set(self.densities)) != list(self.densities):
            raise InputError(f"Densities must be given in ascending order, each once; received {list(self.densities)}.")
        if not 2 <= self.prompt_tokens <= self.max_tokens - 2:
            raise InputError(
                f"A text of {self.max_tokens} tokens needs a prompt of 2 to {self.max_tokens - 2} tokens, sink token "
                f"included, not {self.prompt_tokens}."
            )
        if self.generated < 1:
            raise InputError(f"At least one token has to be written, not {self.generated}.")

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> TrialRequest:
        """The request that `as_json` wrote."""
        lists = {name: tuple(data[name]) for name in ("methods", "densities")}
        return TrialRequest(**{**data, **lists, "prompts": tuple(Prompt(**prompt) for prompt in data["prompts"])})


def trial_prompts(home: Home, per_genre: int = PER_GENRE, file: Path | None = None) -> tuple[Prompt, ...]:
    """One text of each document of the evaluation set (or of a file), at most so many documents of a genre.

    Raises:
        InputError: the file cannot be read, or not even one document of a genre is wanted.
    """
    if per_genre < 1:
        raise InputError(f"At least one document of each genre is needed, not {per_genre}.")
    taken: dict[str, list[str]] = {}
    found: list[Prompt] = []
    for prompt in read_prompts(file or home.prompts / EVALUATION).prompts:
        documents = taken.setdefault(prompt.domain, [])
        document = prompt.id.rsplit("/", 1)[0]
        if document not in documents and len(documents) < per_genre:
            documents.append(document)
            found.append(prompt)
    return tuple(found)
