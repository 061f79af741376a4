"""Loading: what is read, what is refused and in which words, what a loaded model knows of itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from moyu_core import model_folder, registry
from moyu_core.devices import choose_device, choose_dtype
from moyu_core.errors import Cancelled, InputError, ModelError
from moyu_core.home import Home
from moyu_core.models import LoadedModel, from_module, load_model


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tracked=())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save("llama", tmp_path / "tiny")


@pytest.fixture(scope="session")
def default_home() -> Home:
    home = Home.default()
    if registry.on_disk("default", home) is None:
        pytest.skip("the default model is not fetched (moyu fetch default)")
    return home


def load(folder: Path, home: Home, **options: Any) -> LoadedModel:
    return load_model(str(folder), home, **{"sink_token_id": 1, "device": "cpu", **options})


def refused(folder: Path, home: Home) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder, home)
    return str(caught.value)


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_folder_loads_frozen_and_checked(folder: Path, home: Home) -> None:
    model = load(folder, home)
    assert not model.model.training
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert model.model.config._attn_implementation == "sdpa"
    assert model.check_error < 1e-5
    assert (model.vocab_size, model.d_model, model.max_positions, len(model.sites)) == (96, 32, 64, 2)
    assert model.tokenizer is None
    assert model.device == torch.device("cpu")
    assert model.identity == registry.identity(str(folder), home, "float32")
    assert model.identity.name == "tiny"


def test_weights_arrive_as_they_were_saved(folder: Path, home: Home) -> None:
    saved = tiny.build("llama").model.layers[1].mlp.down_proj.weight
    assert torch.equal(load(folder, home).sites[1].weight(), saved)


def test_decoder_runs_without_the_head(folder: Path, home: Home) -> None:
    model = load(folder, home)
    hidden = model.decoder(input_ids=tiny.ids(), use_cache=False).last_hidden_state
    assert hidden.shape == (2, 7, 32)
    assert not hasattr(model.decoder, "lm_head")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(folder: Path, home: Home, dtype: str) -> None:
    model = load(folder, home, dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert model.identity.dtype == dtype
    assert ("slow on a CPU" in model.device_reason) == (dtype == "float16")


def test_multimodal_gemma_loads_its_language_model(tmp_path: Path, home: Home) -> None:
    model = load(tiny.save("gemma3", tmp_path / "mm"), home)
    assert model.sites[0].name == "model.language_model.layers.0.mlp.down_proj"
    assert registry.model_facts(tmp_path / "mm").shape.n_neurons == tiny.F


def test_pickles_are_refused(folder: Path, home: Home) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin). Loading a pickle can run code" in refused(folder, home)


def test_folder_without_weights(folder: Path, home: Home) -> None:
    (folder / "model.safetensors").unlink()
    assert "has a config.json but no *.safetensors files" in refused(folder, home)


def test_folder_without_configuration(folder: Path, home: Home) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder, home)


def test_damaged_configuration(folder: Path, home: Home) -> None:
    (folder / "config.json").write_text('{"model_type": "lla')
    assert re.search(r"config\.json cannot be read \(JSONDecodeError", refused(folder, home))


def test_truncated_weights(folder: Path, home: Home) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert re.search(r"The weights in .*tiny cannot be read \(SafetensorError", refused(folder, home))


@pytest.mark.parametrize("shape", [None, (3, 3)])
def test_missing_or_misshapen_weights_are_not_made_up(folder: Path, home: Home, shape: tuple[int, int] | None) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    if shape:
        tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(shape)
    save_file(tensors, file, metadata={"format": "pt"})
    assert re.search(r"1 weights that llama needs .* model\.layers\.1\.mlp\.down_proj\.weight", refused(folder, home))


def test_unknown_architecture_that_transformers_knows(folder: Path, home: Home) -> None:
    rewrite(folder / "config.json", model_type="gpt_neo", num_layers=2, num_heads=4,
            attention_types=[[["global"], 2]])
    message = refused(folder, home)
    assert message.startswith("Architecture 'gpt_neo' is not in the table")
    assert "transformer.h.0.mlp.c_proj" in message


def test_unknown_architecture_with_code_of_its_own_runs_nothing(folder: Path, home: Home, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (folder / "modeling_martian.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    rewrite(folder / "config.json", model_type="martian",
            auto_map={"AutoConfig": "modeling_martian.Config", "AutoModelForCausalLM": "modeling_martian.Model"})
    assert refused(folder, home).startswith("Architecture 'martian' is not in the table")
    assert not ran.exists()


def test_known_architecture_with_code_of_its_own_runs_nothing(folder: Path, home: Home, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (folder / "modeling_mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    rewrite(folder / "config.json",
            auto_map={"AutoConfig": "modeling_mine.Config", "AutoModelForCausalLM": "modeling_mine.Model"})
    assert load(folder, home).check_error < 1e-5
    assert not ran.exists()


def test_quantised_models_are_refused(folder: Path, home: Home) -> None:
    rewrite(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "is quantised (gptq)" in refused(folder, home)


def test_bloom_that_bypasses_its_projection_is_refused(tmp_path: Path, home: Home) -> None:
    tiny.save("bloom", tmp_path / "bloom", pretraining_tp=2, slow_but_exact=True)
    assert "pretraining_tp=2 with slow_but_exact" in refused(tmp_path / "bloom", home)


def test_altered_conversion_is_refused(folder: Path, home: Home) -> None:
    fingerprint = model_folder.weights_fingerprint(folder)
    (folder / "moyu.json").write_text(json.dumps({"weights": fingerprint, "sink_token_id": 3, "note": "from 4 bits"}))
    model = load_model(str(folder), home, device="cpu")
    assert (model.sink_token_id, model.note) == (3, "from 4 bits")
    rewrite(folder / "config.json", rms_norm_eps=0.5)
    message = refused(folder, home)
    assert f"expected fingerprint {fingerprint}, found {model_folder.weights_fingerprint(folder)}" in message


@pytest.mark.parametrize("sink", [-1, 96])
def test_sink_token_outside_the_vocabulary(folder: Path, home: Home, sink: int) -> None:
    with pytest.raises(ModelError, match="id from 0 to 95"):
        load(folder, home, sink_token_id=sink)


def test_sink_token_must_be_given_without_a_tokenizer(folder: Path, home: Home) -> None:
    with pytest.raises(ModelError, match="give sink_token_id"):
        load_model(str(folder), home, device="cpu")


def test_unreachable_hub_fails_fast_with_one_sentence(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    asked: list[float] = []
    once = HfApi.model_info

    def model_info(self: HfApi, repo_id: str, *, timeout: float) -> object:
        asked.append(timeout)
        return once(self, repo_id, timeout=timeout)

    monkeypatch.setattr(HfApi, "model_info", model_info)
    with pytest.raises(ModelError, match=r"'someone/some-model' is neither a known name .*hub could not be reached"):
        load_model("someone/some-model", home)
    assert len(asked) == 1 and asked[0] <= 10, "asked once, with a time-out of seconds"


def test_a_path_that_is_not_there(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        load_model(str(tmp_path / "nowhere"), home)


def test_cancel_while_loading(folder: Path, home: Home) -> None:
    def cancel(stage: str, done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        load(folder, home, report=cancel)


def test_in_memory_fingerprint_is_the_weights() -> None:
    """The name does not matter, every weight does, and so does the activation function."""
    first = from_module(tiny.build("llama"), name="a").identity.weights
    assert from_module(tiny.build("llama"), name="b").identity.weights == first
    changed = tiny.build("llama")
    changed.lm_head.weight.data[0, 0] += 1e-3
    assert from_module(changed).identity.weights != first
    assert tiny.load("llama", hidden_act="relu").identity.weights != first


def test_device_and_dtype_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == (torch.device("cpu"), "cpu, because no GPU is available (threads: 1)")
    assert choose_device("cpu")[1] == "cpu, as asked for"
    with pytest.raises(ModelError, match="this machine has 0 of kind cuda"):
        choose_device("cuda:3")
    for name in ("gpu", "meta"):
        with pytest.raises(ModelError, match="use cpu, cuda"):
            choose_device(name)
    with pytest.raises(InputError, match="must be one of float32, bfloat16, float16, not 'int8'"):
        choose_dtype("int8", torch.device("cpu"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device()[0].type == "mps"


def test_tables_import_without_torch() -> None:
    """Pages list models and count tokens without the three seconds that torch costs."""
    code = ("import sys; import moyu_core.registry, moyu_core.tokens, moyu_core.fetch, moyu_core.architectures; "
            "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


@pytest.mark.model
def test_default_model(default_home: Home) -> None:
    model = load_model("default", default_home, device="cpu")
    assert model.identity.name == "smollm2-135m-instruct"
    assert model.check_error < 1e-5
    assert (len(model.sites), model.sites[0].n_neurons, model.d_model, model.sink_token_id) == (30, 1536, 576, 0)
    assert "4 bits" in model.note


@pytest.mark.model
def test_default_model_speaks_english(default_home: Home) -> None:
    model = load_model("default", default_home, device="cpu")
    ids = [model.sink_token_id, *model.tokenizer("The capital of France is", add_special_tokens=False)["input_ids"]]
    out = model.model.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)
    assert "Paris" in model.tokenizer.decode(out[0])
