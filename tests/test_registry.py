"""Names, facts, fingerprints; fetching that is interrupted, altered, cancelled, asked for twice, and whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from moyu_core import fetch as fetching
from moyu_core import model_folder, registry
from moyu_core.architectures import Shape
from moyu_core.errors import Cancelled, ModelError, MoyuError
from moyu_core.fetch import fetch
from moyu_core.home import Home
from moyu_core.model_folder import weights_fingerprint
from moyu_core.model_sources import SOURCES, Source, Wheel
from moyu_core.models import load_model
from moyu_core.registry import identity, known_models, locate
from moyu_core.spec import ModelIdentity
from tests.waiting import until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tracked=())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tiny.save("llama", tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def flip_last_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


# --- fingerprints ---


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_fingerprint_changes_with_a_byte(folder: Path, home: Home, name: str) -> None:
    before = weights_fingerprint(folder, home)
    assert weights_fingerprint(folder, home) == before == weights_fingerprint(folder)
    flip_last_byte(folder / name)
    assert weights_fingerprint(folder, home) == weights_fingerprint(folder) != before


def test_fingerprint_changes_with_the_activation_function(folder: Path) -> None:
    before = weights_fingerprint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "4"}, indent=7))
    assert weights_fingerprint(folder) == before, "layout and version of the file decide nothing"
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    assert weights_fingerprint(folder) != before


def test_fingerprint_is_of_the_content_not_of_the_folder(folder: Path, tmp_path: Path) -> None:
    before = weights_fingerprint(folder)
    assert weights_fingerprint(folder.rename(tmp_path / "moved")) == before
    (tmp_path / "moved" / "model.safetensors").rename(tmp_path / "moved" / "other.safetensors")
    assert weights_fingerprint(tmp_path / "moved") != before


def test_fingerprint_hashes_once(folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights_fingerprint(folder, home)
    monkeypatch.setattr(model_folder, "file_sha256", lambda path: pytest.fail(f"{path} hashed again"))
    assert weights_fingerprint(folder, home) == before


def test_a_change_that_keeps_size_and_time_is_noticed(folder: Path, home: Home) -> None:
    before, file = weights_fingerprint(folder, home), folder / "model.safetensors"
    times = file.stat()
    flip_last_byte(file)

    def changed() -> int:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        return file.stat().st_ctime_ns

    until(changed, lambda now: now != times.st_ctime_ns)  # the clock of a file system goes in steps
    assert weights_fingerprint(folder, home) != before


def test_damaged_hash_cache_is_rebuilt(folder: Path, home: Home) -> None:
    before, cache = weights_fingerprint(folder, home), home.root / "fingerprints.json"
    for rubbish in ("{", "[]", json.dumps({str((folder / "model.safetensors").resolve()): "x"})):
        cache.write_text(rubbish)
        assert weights_fingerprint(folder, home) == before
    assert str((folder / "model.safetensors").resolve()) in json.loads(cache.read_text())
    assert [file.name for file in home.root.iterdir()] == ["fingerprints.json"]


def test_two_threads_that_hash_at_once_do_not_take_each_others_file(
    folder: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second writes the cache between the first one's writing and renaming, as a thread of the app may."""
    other, write = tiny.save("gpt2", tmp_path / "other"), Path.write_text

    def interrupted(path: Path, *given: Any, **more: Any) -> int:
        monkeypatch.setattr(Path, "write_text", write)
        size = path.write_text(*given, **more)
        weights_fingerprint(other, home)
        return size

    monkeypatch.setattr(Path, "write_text", interrupted)
    assert weights_fingerprint(folder, home) == weights_fingerprint(folder)
    assert json.loads((home.root / "fingerprints.json").read_text())
    assert [file.name for file in home.root.iterdir()] == ["fingerprints.json"]


def test_a_home_that_takes_nothing_costs_a_rehash_no_more(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the folder")
    assert weights_fingerprint(folder, Home(tmp_path / "file" / "home", ())) == weights_fingerprint(folder)


def test_a_closed_model_folder_is_one_sentence(folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *given: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("is_dir", "is_file"):
        with monkeypatch.context() as patch, pytest.raises(ModelError, match=r"cannot be read \(Permission denied\)"):
            patch.setattr(Path, name, refused)
            registry.identity(str(folder), home, "float32")
    monkeypatch.setattr(model_folder, "file_sha256", refused)
    with pytest.raises(ModelError, match=r"cannot be read \(Permission denied\)"):
        registry.identity(str(folder), home, "float32")


def test_fingerprint_needs_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no safetensors"):
        weights_fingerprint(tmp_path)


# --- names and facts ---


def test_locate(home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "TRACKED_MODELS", tmp_path)
    assert locate("default", home) == home.models / "smollm2-135m-instruct"
    assert locate(str(folder), home) == folder
    assert "tiny" in {facts.name for facts in known_models(home)}
    assert locate("tiny", home) == tmp_path / "tiny", "models shipped with the code go by their name"
    assert locate("Qwen/Qwen3-0.6B", home) == "Qwen/Qwen3-0.6B"
    for name in ("", "/no/such/folder", "../x", "a/b/c", "weights.gguf", "no spaces"):
        with pytest.raises(ModelError, match="There is no model folder") as refused:
            locate(name, home)
        assert all(facts.name in str(refused.value) for facts in known_models(home))


def test_identity_without_loading(folder: Path, home: Home) -> None:
    assert identity("default", home, "float32") is None
    assert identity(str(folder), home, "bfloat16") == ModelIdentity("tiny", weights_fingerprint(folder), "bfloat16")
    (folder / "model.safetensors").unlink()
    assert identity(str(folder), home, "bfloat16") is None


def test_identity_of_a_hub_snapshot_is_its_revision(
    home: Home, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache layout of huggingface_hub: models--org--name/snapshots/<revision>/, refs/main."""
    from huggingface_hub import constants

    cache = tmp_path / "hub" / "models--org--name"
    snapshot = cache / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    (folder / "tokenizer.json").unlink()
    folder.rename(snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert identity("org/name", home, "float32") == ModelIdentity("org/name", "a" * 40, "float32")
    assert load_model("org/name", home, device="cpu", sink_token_id=1, dtype="float32").identity.weights == "a" * 40
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert identity("org/name", home, "float32") is None, "an incomplete download does not count"


def test_known_models(folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "TRACKED_MODELS", tmp_path)
    home.models.mkdir(parents=True)
    (home.models / ".half.tmp").mkdir()
    (home.models / "empty").mkdir()
    known = {facts.name: facts for facts in known_models(home)}
    assert list(known) == ["smollm2-135m-instruct", "gemma3-270m", "tiny"]
    default = known["smollm2-135m-instruct"]
    assert (default.aliases, default.installed, default.sink_token_id) == (("default",), False, 0)
    assert (default.shape.layers, default.shape.n_neurons, default.shape.activation) == (30, 1536, "silu")
    assert "de-quantised from 4 bits" in default.note
    assert "norm follows the FFN" in known["gemma3-270m"].remark
    assert known["tiny"].installed
    assert known["tiny"].size_bytes == (folder / "model.safetensors").stat().st_size
    assert known["tiny"].shape == Shape(2, 64, 32, 64, "silu")


def test_facts_of_an_unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "martian"}')
    with pytest.raises(ModelError, match="'martian'"):
        registry.model_facts(folder)


def test_every_source_is_pinned() -> None:
    for source in SOURCES.values():
        for digest in (source.gguf_sha256, *(wheel.sha256 for wheel in source.wheels)):
            assert len(bytes.fromhex(digest)) == 32
        assert all("==" in wheel.requirement for wheel in source.wheels)


# --- fetching ---

PARTS = (b"GGUF-first-half-", b"second-half")


def make_wheel(index: Path, number: int, content: bytes) -> Wheel:
    """A wheel `moyu-fake-part<number>` 1.0 that pip accepts."""
    name = f"moyu_fake_part{number}"
    file, info = index / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}/data.bin", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Wheel(f"moyu-fake-part{number}==1.0", digest, f"{name}/data.bin")


def pinned(index: Path, parts: tuple[bytes, ...]) -> Source:
    whole = b"".join(parts)
    wheels = tuple(make_wheel(index, number, part) for number, part in enumerate(parts))
    return dataclasses.replace(
        SOURCES["smollm2-135m-instruct"], name="fake", aliases=("f",), title="Fake", wheels=wheels,
        gguf_bytes=len(whole), gguf_sha256=hashlib.sha256(whole).hexdigest(), sink_token_id=1)


class Fake:
    """A source in two wheels of a local index, with pip calls and conversions counted; conversion is a copy."""

    def __init__(self, index: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        index.mkdir()
        self.index, self.folder, self.patch = index, tiny_folder, monkeypatch
        self.downloads: list[str] = []
        self.conversions: list[bytes] = []
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(index))
        self.pin(pinned(index, PARTS))
        download = fetching.pip_download
        monkeypatch.setattr(fetching, "pip_download", lambda *a: (self.downloads.append(a[0]), download(*a)))
        monkeypatch.setattr(fetching, "_convert", self.convert)

    def pin(self, source: Source) -> None:
        self.source = source
        self.patch.setitem(SOURCES, "fake", source)

    def convert(self, source: Source, gguf: Path, target: Path, report: object) -> None:
        self.conversions.append(gguf.read_bytes())
        for file in self.folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        (target / "moyu.json").write_text(json.dumps({"name": "fake"}))


@pytest.fixture
def fake(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path / "index", folder, monkeypatch)


def test_fetch_joins_the_parts_once(fake: Fake, home: Home) -> None:
    stages = []
    folder = fetch("f", home, report=lambda stage, done, total: stages.append(stage))
    assert folder == home.models / "fake"
    assert fake.conversions == [b"".join(PARTS)]
    assert fake.downloads == ["moyu-fake-part0==1.0", "moyu-fake-part1==1.0"]
    assert any(stage.startswith("downloading moyu-fake-part1") for stage in stages)
    assert not (home.downloads / "fake").exists(), "wheels are not kept"
    assert [path.name for path in home.models.iterdir()] == ["fake"]
    assert fetch("fake", home) == folder
    assert len(fake.conversions) == 1 and len(fake.downloads) == 2


def test_partial_wheel_is_fetched_again_and_a_good_one_is_not(fake: Fake, home: Home) -> None:
    work = home.downloads / "fake"
    work.mkdir(parents=True)
    good, cut = sorted(fake.index.iterdir())
    (work / good.name).write_bytes(good.read_bytes())
    (work / cut.name).write_bytes(cut.read_bytes()[:100])
    (work / "new").mkdir()
    (work / "new" / "pip-unpack-xyz").write_bytes(b"half")
    fetch("fake", home)
    assert fake.downloads == ["moyu-fake-part1==1.0"]
    assert fake.conversions == [b"".join(PARTS)]


def test_half_written_folder_is_made_again(fake: Fake, home: Home) -> None:
    """Killed while converting (hidden folder), or a folder without moyu.json, which is written last."""
    for name in (".fake.tmp", "fake"):
        (home.models / name).mkdir(parents=True)
        (home.models / name / "model.safetensors").write_bytes(b"half")
    folder = fetch("fake", home)
    assert len(fake.conversions) == 1
    assert (folder / "model.safetensors").read_bytes() == (fake.folder / "model.safetensors").read_bytes()
    assert [path.name for path in home.models.iterdir()] == ["fake"]


def test_altered_wheel_is_refused(fake: Fake, home: Home) -> None:
    received = make_wheel(fake.index, 1, b"second-hAlf").sha256
    with pytest.raises(ModelError, match=f"expected SHA-256 {fake.source.wheels[1].sha256}, received {received}"):
        fetch("fake", home)
    assert fake.conversions == []
    assert not home.models.exists()
    make_wheel(fake.index, 1, PARTS[1])
    fake.pin(dataclasses.replace(fake.source, wheels=tuple(make_wheel(fake.index, n, p) for n, p in enumerate(PARTS))))
    fetch("fake", home)
    assert fake.conversions == [b"".join(PARTS)]


@pytest.mark.parametrize("change", [{"gguf_sha256": "0" * 64}, {"gguf_bytes": 3}])
def test_altered_weights_file_is_refused(fake: Fake, home: Home, change: dict[str, object]) -> None:
    fake.pin(dataclasses.replace(fake.source, **change))  # pyright: ignore[reportArgumentType]
    whole = hashlib.sha256(b"".join(PARTS)).hexdigest()
    with pytest.raises(ModelError, match=f"Fake is altered: expected .* received 27 bytes with {whole}"):
        fetch("fake", home)
    assert fake.conversions == []


def test_two_at_once_do_it_once(fake: Fake, home: Home) -> None:
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(fetch("fake", home))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [home.models / "fake"] * 3
    assert len(fake.conversions) == 1
    assert len(fake.downloads) == 2


def test_cancel_stops_pip_and_leaves_nothing_that_looks_complete(fake: Fake, home: Home) -> None:
    def cancel(stage: str, done: int, total: int) -> None:
        if stage.startswith("downloading"):
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch("fake", home, report=cancel)
    assert not home.models.exists()
    fetch("fake", home)
    assert fake.conversions == [b"".join(PARTS)]


def test_cancel_kills_the_running_process(tmp_path: Path) -> None:
    """It is gone when the error comes; without that the call would last longer than the time-out of a test."""
    code = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(3600)"

    def cancel_once_started() -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise Cancelled

    with pytest.raises(Cancelled):
        fetching.run_reporting([sys.executable, "-c", code], dict(os.environ), cancel_once_started, "failed")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_no_network_is_one_sentence(fake: Fake, home: Home) -> None:
    for file in fake.index.iterdir():
        file.unlink()
    with pytest.raises(ModelError, match=r"pip could not download moyu-fake-part0==1\.0; check the network .*\(ERROR"):
        fetch("fake", home)


def test_a_home_that_takes_nothing_is_named(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the folder")
    with pytest.raises(MoyuError, match=r"Nothing can be written to .*file/home"):
        fetch("fake", Home(tmp_path / "file" / "home", ()))


def test_full_disk_is_noticed_before_the_download(fake: Fake, home: Home) -> None:
    fake.pin(dataclasses.replace(fake.source, gguf_bytes=10**18))
    with pytest.raises(ModelError, match=r"needs 8000000000\.0 GB"):
        fetch("fake", home)
    assert fake.downloads == []


def test_terms_must_be_accepted(fake: Fake, home: Home) -> None:
    fake.pin(dataclasses.replace(fake.source, terms="https://example.org/terms"))
    with pytest.raises(ModelError, match=r"read https://example\.org/terms and.*--accept-terms"):
        fetch("fake", home)
    assert fake.downloads == []
    fetch("fake", home, accept_terms=True)
    assert fetch("fake", home) == home.models / "fake", "what is there needs no second yes"
    with pytest.raises(ModelError, match=r"https://ai\.google\.dev/gemma/terms"):
        fetch("gemma3-270m", home)


def test_a_model_that_lies_here_needs_no_fetch(home: Home, folder: Path) -> None:
    assert fetch("tiny-relu", home) == registry.TRACKED_MODELS / "tiny-relu" and fetch(str(folder), home) == folder


def test_the_progress_of_a_download_outlives_folders_that_pip_takes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, list_folder = tmp_path / "pip-unpack-x", os.scandir
    gone.mkdir()
    (tmp_path / "kept.whl").write_bytes(b"12345")

    def scandir(path: str | Path) -> object:
        if Path(path) == gone:
            raise FileNotFoundError(path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert fetching._bytes_below(tmp_path) == 5


def test_unknown_name(home: Home) -> None:
    with pytest.raises(ModelError, match="'nothing' is not a model that can be fetched here; those are smollm2"):
        fetch("nothing", home)


def tiny_gguf(path: Path) -> dict[str, np.ndarray]:
    """A Llama GGUF of 2 layers, d 32, F 64, with a byte-level vocabulary that the file calls `smollm`."""
    gguf = pytest.importorskip("gguf")
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ab", "ĊĠ", "12"]
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {"block_count": 2, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64,
                       "head_count": 4, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5, "vocab_size": len(tokens),
                       "rope_dimension_count": 8, "rope_freq_base": 1e4}.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["a b", "Ċ Ġ", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(0)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32), "ffn_gate": (64, 32),
              "ffn_up": (64, 32), "ffn_down": (32, 64), "attn_norm": (32,), "ffn_norm": (32,)}
    named = {f"blk.{layer}.{key}.weight": shape for layer in range(2) for key, shape in shapes.items()}
    named |= {"token_embd.weight": (len(tokens), 32), "output_norm.weight": (32,)}
    tensors = {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in named.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_end_to_end(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real, tiny GGUF file through wheel, pip, unpacking, conversion in a process of its own, and loading."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    tensors = tiny_gguf(tmp_path / "tiny.gguf")
    source = pinned(tmp_path / "index", ((tmp_path / "tiny.gguf").read_bytes(),))
    monkeypatch.setitem(SOURCES, "fake", source)
    model = load_model("f", home, device="cpu")
    assert model.sink_token_id == 1
    assert model.check_error < 1e-5
    assert "4 bits" in model.note
    assert np.array_equal(model.sites[1].weight().numpy(), tensors["blk.1.ffn_down.weight"])
    assert model.tokenizer.tokenize("ab\n 12") == ["ab", "ĊĠ", "1", "2"], "numerals stand alone"
    facts = registry.model_facts(home.models / "fake")
    assert facts.check.startswith("activation identity holds")
    assert facts.licence == "Apache-2.0"
    assert identity("f", home, "float32") == model.identity
    flip_last_byte(home.models / "fake" / "model.safetensors")
    with pytest.raises(ModelError, match="was altered after its conversion"):
        load_model("f", home, device="cpu")
