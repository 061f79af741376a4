"""What can be asked of the study `inertia`. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt, PromptSet
from moyu_core.spec import SetRule

PARTS = ("lag", "carrier", "switch", "regression", "hitters")
"""Parts that can be left out; the overlaps, the index and the panels are always there."""
MAX_TEXTS = 120
MAX_WORDS = 64
MIN_WORDS = 2


@dataclass(frozen=True)
class InertiaRequest:
    """Do the same neurons keep firing within a sequence?

    Attributes:
        model: registry name, folder or Hugging Face id.
        prompts: the texts; `domain` is the topic, which is the unit of every interval (a text without one is its own topic).
        rule: the active-set rule.
        seed: of shuffles, random words and random tokens.
        words: words of each text that are used; all texts are cut to the shortest one's number of words where that is lower.
        parts: which of PARTS are carried out.
        shown: texts whose panels are stored, from different topics.
        dtype: arithmetic of the model.
        sink_token_id: overrides the model's own sink token.
        title: name shown for the run; changes no number.
    """

    model: str
    prompts: tuple[Prompt, ...]
    rule: SetRule = field(default_factory=SetRule)
    seed: int = 0
    words: int = 32
    parts: tuple[str, ...] = PARTS
    shown: int = 3
    dtype: str = "float32"
    sink_token_id: int | None = None
    title: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.prompts) <= MAX_TEXTS:
            raise InputError(f"The inertia study takes 1 to {MAX_TEXTS} texts, not {len(self.prompts)}.")
        PromptSet("request", self.prompts)
        if not MIN_WORDS <= self.words <= MAX_WORDS:
            raise InputError(f"Between {MIN_WORDS} and {MAX_WORDS} words of each text can be used, not {self.words}.")
        if not 1 <= self.shown <= 4:
            raise InputError(f"Panels of 1 to 4 texts can be stored, not {self.shown}.")
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown:
            raise InputError(f"Part {unknown[0]!r} is not known; use some of {', '.join(PARTS)}.")

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> InertiaRequest:
        """The request that `as_json` wrote."""
        return InertiaRequest(
            **{
                **data,
                "prompts": tuple(Prompt(**prompt) for prompt in data["prompts"]),
                "rule": SetRule(**data["rule"]),
                "parts": tuple(data["parts"]),
            }
        )
