"""The identity of a run: a frozen description whose hash names the folder.

Same spec = same fingerprint = the same numbers, so a finished run is never computed again. Nothing that does not change
the numbers (device, batch size, folder) belongs in here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from moyu_core.errors import InputError
from moyu_core.schema import DEFAULT_CETT_TARGET, DEFAULT_DENSITY, SCHEMA_VERSION, SET_RULES


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, so their hashes can be compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class SetRule:
    """How an activation becomes an active set (schema.SET_RULES).

    Attributes:
        name: top, magnitude, cett or positive.
        density: kept share of neurons, in (0, 1]; for top and magnitude, else None.
        target: CETT target in (0, 1); for cett, else None.
    """

    name: str = "top"
    density: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        if self.name not in SET_RULES:
            raise InputError(f"Set rule {self.name!r} is not known; use one of {', '.join(SET_RULES)}.")
        by_count = self.name in ("top", "magnitude")
        if by_count and self.density is None:
            object.__setattr__(self, "density", DEFAULT_DENSITY)
        if self.name == "cett" and self.target is None:
            object.__setattr__(self, "target", DEFAULT_CETT_TARGET)
        for name in ("density", "target"):  # 1 and 1.0 are the same rule, but not the same JSON
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.density is not None and not by_count:
            raise InputError(f"Set rule {self.name!r} takes no density; leave it out.")
        if self.target is not None and self.name != "cett":
            raise InputError(f"Set rule {self.name!r} takes no CETT target; leave it out.")
        if self.density is not None and not 0 < self.density <= 1:
            raise InputError(f"Density must be above 0 and at most 1, not {self.density:g}.")
        if self.target is not None and not 0 < self.target < 1:
            raise InputError(f"The CETT target must lie between 0 and 1, not {self.target:g}.")

    def count(self, n_neurons: int) -> int:
        """k of the rules that keep a fixed number: max(1, floor(density*F + 1e-9))."""
        if self.density is None:
            raise InputError(f"Set rule {self.name!r} keeps no fixed number of neurons.")
        return max(1, int(self.density * n_neurons + 1e-9))

    def label(self) -> str:
        """What stands under every chart, for instance `top 10 % by |a|·c`."""
        if self.name == "positive":
            return "a > 0"
        if self.name == "cett":
            return f"CETT threshold, target {self.target:g}"
        score = "|a|·c" if self.name == "top" else "|a|"
        return f"top {100 * (self.density or 0):.3g} % by {score}"


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights, in which arithmetic.

    Attributes:
        name: as the user gave it: a registry name, a Hugging Face id, or the folder's name.
        weights: revision or SHA-256 of the weights: what makes two models the same.
        dtype: float32, bfloat16 or float16.
    """

    name: str
    weights: str
    dtype: str


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the numbers of a run."""

    study: str
    model: ModelIdentity
    prompts_hash: str
    set_rule: SetRule
    sink_token_id: int
    parameters: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> RunSpec:
        """The spec that `as_json` wrote."""
        return RunSpec(**{**data, "model": ModelIdentity(**data["model"]), "set_rule": SetRule(**data["set_rule"])})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity. The model's `name` is left out: only its weights and dtype decide the numbers."""
        identity = self.as_json()
        del identity["model"]["name"]
        return fingerprint(identity)

    @property
    def run_id(self) -> str:
        """`<study>-<12 hex>`, the name of the run and of its folder."""
        return f"{self.study}-{self.fingerprint[:12]}"
