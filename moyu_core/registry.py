"""Models by name: what can be said of one without loading it, where its weights lie, and which model it is.

No torch in here: pages and the command line list models, and find the run of a model, without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from moyu_core.architectures import Shape, find, shape
from moyu_core.errors import ModelError
from moyu_core.home import REPOSITORY, Home
from moyu_core.model_folder import FACTS_FILE, read_json, weights_fingerprint
from moyu_core.model_sources import SOURCES, Source, canonical_name
from moyu_core.spec import ModelIdentity
from moyu_core.tokens import written_sink

TRACKED_MODELS = REPOSITORY / "data" / "models"


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
    with _readable(name):
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
    with _readable(name):
        complete = folder is not None and (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if complete else None


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn what the file system refuses inside the block into one sentence that names the model."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelError(f"The model {name[:200]!r} cannot be read ({reason}); check the permissions of its folder.") from error


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
    with _readable(name):
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
