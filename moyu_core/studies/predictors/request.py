"""What can be asked of the study `predictors`. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt, PromptSet
from moyu_core.spec import SetRule

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
SET_DENSITIES = (0.1, 0.3)
RULES = ("top", "cett")
LEFT_OUT = ("dejavu-block", "dejavu-previous")
"""Methods that are not part of the usual comparison: each needs predictors of its own, which take minutes to fit."""


@dataclass(frozen=True)
class PredictorsRequest:
    """Compare methods on prompts.

    Attributes:
        model: registry name, folder or Hugging Face id.
        prompts: the texts; each is cut into a prompt, which frozen methods choose from, and its continuation, where all are judged.
        methods: names; empty = all that apply, DejaVu with its other alignments left out.
        rule: the reference set: `top` at a density or `cett`.
        densities: kept shares of the methods, ascending.
        detail: ids of prompts whose sets and tables by token are kept.
        set_densities: densities at which they are kept; some of `densities`.
        prompt_share: share of a sequence that is the prompt, in (0, 1).
        max_tokens: longest sequence, sink token included.
        seed: of the random sets.
        title: name shown for the run; changes no number.
    """

    model: str
    prompts: tuple[Prompt, ...]
    methods: tuple[str, ...] = ()
    rule: SetRule = field(default_factory=SetRule)
    densities: tuple[float, ...] = DENSITIES
    detail: tuple[str, ...] = ()
    set_densities: tuple[float, ...] = SET_DENSITIES
    prompt_share: float = 0.5
    max_tokens: int = 256
    seed: int = 0
    title: str = ""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError("A comparison of methods needs at least one prompt.")
        PromptSet("request", self.prompts)
        if self.rule.name not in RULES:
            raise InputError(f"The reference set is {' or '.join(RULES)}, not {self.rule.name!r}.")
        for density in self.densities:
            SetRule("top", density=density)
        if not self.densities or sorted(set(self.densities)) != list(self.densities):
            raise InputError(f"Densities must be given in ascending order, each once; received {list(self.densities)}.")
        if set(self.set_densities) - set(self.densities):
            raise InputError("Sets can be kept at densities of the comparison only; received "
                             f"{sorted(set(self.set_densities) - set(self.densities))}.")
        if not 0 < self.prompt_share < 1:
            raise InputError(f"The prompt's share lies between 0 and 1, not {self.prompt_share:g}.")
        if self.max_tokens < 4:
            raise InputError(f"A sequence needs the sink token, a prompt and a continuation; {self.max_tokens} tokens are too few.")
        unknown = set(self.detail) - {prompt.id for prompt in self.prompts}
        if unknown:
            raise InputError(f"Details were asked for prompts that are not in the set: {', '.join(sorted(unknown)[:5])}.")

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> PredictorsRequest:
        """The request that `as_json` wrote."""
        lists = {name: tuple(data[name]) for name in ("methods", "densities", "detail", "set_densities")}
        prompts = tuple(Prompt(**prompt) for prompt in data["prompts"])
        return PredictorsRequest(**{**data, **lists, "prompts": prompts, "rule": SetRule(**data["rule"])})
