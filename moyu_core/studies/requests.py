"""What can be asked of the studies: small frozen records that pages, command line and job table share. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt, PromptSet
from moyu_core.spec import SetRule

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class CaptureRequest:
    """Capture the active sets of prompts.

    Attributes:
        model: registry name, folder or Hugging Face id.
        prompts: the texts.
        rule: the active-set rule.
        layers: layers to keep; None = all.
        values: ids of the prompts whose 8-bit values are kept; None = of all.
        cett: whether the CETT of every row is computed.
        max_tokens: longest sequence, sink token included.
        dtype: arithmetic of the model.
        sink_token_id: overrides the model's own sink token.
        title: name shown for the run; changes no number.
        corpus: whether rates by half, pairs and strongest tokens of all neurons are kept (moyu_core.schema.corpus).
        refuse_cut: refuse prompts longer than the limit instead of cutting them.
    """

    model: str
    prompts: tuple[Prompt, ...]
    rule: SetRule = field(default_factory=SetRule)
    layers: tuple[int, ...] | None = None
    values: tuple[str, ...] | None = ()
    cett: bool = False
    max_tokens: int = 1024
    dtype: str = "float32"
    sink_token_id: int | None = None
    title: str = ""
    corpus: bool = False
    refuse_cut: bool = False

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError("A capture needs at least one prompt.")
        PromptSet("request", self.prompts)
        if self.layers is not None and not self.layers:
            raise InputError("A capture needs at least one layer; leave the layers out to take all of them.")
        if self.max_tokens < 2:
            raise InputError(f"A sequence holds the sink token and at least one more; {self.max_tokens} tokens are too few.")
        object.__setattr__(self, "title", self.title.encode("utf-8", "replace").decode())
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r} is not known; use one of {', '.join(DTYPES)}.")
        unknown = set(self.values or ()) - {prompt.id for prompt in self.prompts}
        if unknown:
            raise InputError(
                f"Values were asked for prompts that are not in the set: {', '.join(sorted(unknown)[:5])}."
            )

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> CaptureRequest:
        """The request that `as_json` wrote."""
        return CaptureRequest(
            **{
                **data,
                "prompts": tuple(Prompt(**prompt) for prompt in data["prompts"]),
                "rule": SetRule(**data["rule"]),
                "layers": None if data["layers"] is None else tuple(data["layers"]),
                "values": None if data["values"] is None else tuple(data["values"]),
            }
        )


@dataclass(frozen=True)
class VocabularyRequest:
    """Find the tokens that each neuron's output column promotes and suppresses. Depends on the model alone."""

    model: str
    tokens: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= 127:
            raise InputError(f"Between 1 and 127 tokens can be kept for each neuron, not {self.tokens}.")

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> VocabularyRequest:
        """The request that `as_json` wrote."""
        return VocabularyRequest(**data)
