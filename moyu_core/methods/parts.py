"""Fitted parts: what a method learnt from calibration text, as a safetensors file that says what it was made from.

Written below MOYU_HOME/fitted; parts of the models that ship with the code lie in data/fitted and are never written to. A
part belongs to one set of weights and is refused for any other.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moyu_core.errors import InputError
from moyu_core.folders import writable
from moyu_core.home import REPOSITORY, Home
from moyu_core.spec import ModelIdentity

if TYPE_CHECKING:
    from torch import Tensor

TRACKED = REPOSITORY / "data" / "fitted"
VERSION = 1
"""Raised when the meaning of stored tensors changes; older files are then fitted anew."""


@dataclass(frozen=True)
class Part:
    """A fitted part.

    Attributes:
        name: what it is: dejavu, moefication, calibration, token_table ...
        weights: fingerprint of the model's weights.
        model: the model's name.
        tensors: by name.
        recipe: what decided it: settings, seed, tokens.
        data_hash: SHA-256 of the calibration token ids.
        validation: figures on documents that were held out; empty where there is nothing to validate.
        seconds: how long the fit took.
    """

    name: str
    weights: str
    model: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    recipe: dict[str, Any]
    data_hash: str
    validation: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def check(self, identity: ModelIdentity) -> None:
        """Refuse another model's part.

        Raises:
            InputError: the fingerprints differ.
        """
        if self.weights != identity.weights:
            raise InputError(f"The fitted part {self.name!r} was made for {self.model} (weights {self.weights[:12]}), not for "
                             f"{identity.name} (weights {identity.weights[:12]}); fit it for this model.")

    def facts(self) -> dict[str, Any]:
        """Everything but the tensors, JSON-ready."""
        names = ("name", "weights", "model", "recipe", "data_hash", "validation", "seconds")
        return {**{name: getattr(self, name) for name in names}, "version": VERSION}


def file_name(name: str, weights: str) -> str:
    """`<part>-<12 hex of the weights>.safetensors`."""
    return f"{name}-{weights[:12]}.safetensors"


def save(part: Part, folder: Path) -> Path:
    """Write the part; the file appears whole or not at all."""
    from safetensors.torch import save_file

    path = folder / file_name(part.name, part.weights)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # two workers may fit the same part at once
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in part.tensors.items()}
        try:
            save_file(tensors, partial, metadata={"moyu": json.dumps(part.facts(), sort_keys=True)})
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def read_facts(path: Path) -> dict[str, Any]:
    """What a part says about itself, without its tensors and without torch.

    Raises:
        InputError: the file is no part that this version can read.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        facts = json.loads(header["__metadata__"]["moyu"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"{path} is no fitted part ({type(error).__name__}); delete it and fit it again.") from error
    if facts.get("version") != VERSION:
        raise InputError(f"{path} has version {facts.get('version')}, this program reads {VERSION}; delete it and fit it again.")
    return facts


def load(path: Path) -> Part:
    """The part in a file; errors as `read_facts`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts = read_facts(path)
    del facts["version"]
    try:
        return Part(tensors=load_file(path), **facts)
    except (SafetensorError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and fit it again.") from error


def folders(home: Home) -> tuple[Path, ...]:
    """Where parts are looked for: those fitted here first."""
    return (home.root / "fitted", TRACKED)


def find(name: str, identity: ModelIdentity, home: Home) -> Part | None:
    """The part of this name for these weights, or None."""
    for folder in folders(home):
        path = folder / file_name(name, identity.weights)
        if path.is_file():
            part = load(path)
            part.check(identity)
            return part
    return None


def listed(home: Home) -> Iterator[dict[str, Any]]:
    """The facts of every part that can be read, with `path` and `bytes`; damaged ones are left out."""
    for folder in folders(home):
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
            try:
                yield {**read_facts(path), "path": str(path), "bytes": path.stat().st_size}
            except InputError:
                continue


def by_model(names: Sequence[str], home: Home) -> dict[str, tuple[str, ...]]:
    """The names of the fitted parts of each of these models, by their weights."""
    from moyu_core import registry

    known = list(listed(home))
    found = {}
    for name in names:
        identity = registry.identity(name, home, "float32")
        found[name] = tuple(sorted({facts["name"] for facts in known if identity and facts["weights"] == identity.weights}))
    return found
