"""The folder of a model: its JSON files, and the hash of everything in it that decides a number. Without torch."""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from moyu_core.errors import ModelError
from moyu_core.hashing import file_sha256
from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.spec import canonical_json

FACTS_FILE = "moyu.json"
"""Written beside converted weights: source, hashes, licence, note, sink token, result of the check."""
VOLATILE = ("transformers_version", "_name_or_path")
"""Keys of config.json that do not decide any number."""


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
        """Adds what was computed to the file, atomically. A lost race, or a folder that takes nothing, costs a rehash, no more."""
        if self.path is None or not self.new:
            return
        temporary = self.path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # threads of one process write at once too
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({**self._read(), **self.new}, indent=0), encoding="utf-8")
            temporary.replace(self.path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
