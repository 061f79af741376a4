"""The model cards: recomputed, compared figure by figure, and found wrong when one is altered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moyu_core.home import REPOSITORY, Home
from moyu_core.schema.training import ACTIVATIONS
from moyu_core.training import card, card_check, cards, log, tokenizer
from moyu_core.training.data import Data, unigram_loss
from moyu_core.training.export import export
from moyu_core.training.sources import PACKAGES
from moyu_core.training.tiny_models import Size
from moyu_core.training.train import Config, Result, train

MODELS = REPOSITORY / "data" / "models"
MICRO = Size(layers=1, d_model=16, heads=2, width=24, positions=16, vocabulary=300)


def differs(path: Path, text: str) -> list[str]:
    return [sentence for line in card_check.compare(path, text) for sentence in line.wrong]


def test_cards_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    where = f"{tmp_path.name}/README.md"
    old = ("seed 0, rate 0.003\n\n## Quality on held-out text\n\n| loss | 3.013 | 98 windows |\nlast\n"
           "\n## Activations after training\n\n| effective number of neurons | 98 |\n")
    path.write_text(old)
    assert not differs(path, old)
    assert not differs(path, old.replace("3.013", "3.014").replace("neurons | 98", "neurons | 99"))  # rounded otherwise
    assert differs(path, old.replace("3.013", "3.113")) == [
        f"{where}:5: says 3.013 where 3.113 was recomputed (0.2% or a last digit is allowed between them), in "
        "'| loss | 3.013 | 98 windows |'"]
    for count, other in (("98 windows", "99 windows"), ("seed 0", "seed 1"), ("0.003", "0.004")):  # nothing that is measured
        assert len(differs(path, old.replace(count, other))) == 1, count
    assert differs(path, old.replace("loss", "lost"))
    assert differs(path, old.replace("last\n", "")) == [f"{where}:6: says 'last', recomputed nothing"]
    assert differs(path, "first 1\n" + old.replace("3.013", "3.113"))[0] == f"{where}:0: recomputed behind it 'first 1'"
    assert differs(tmp_path / "nowhere.md", old) == [f"{tmp_path.name}/nowhere.md: is not there"]
    told = list(card_check.told(card_check.compare(path, old.replace("3.013", "3.014"))))
    assert told == [f"{where}:1: 2 numbers, equal: seed 0, rate 0.003",
                    f"{where}:5: 2 numbers, 0.033% apart: | loss | 3.013 | 98 windows |",
                    f"{where}:10: 1 number, 0.000% apart: | effective number of neurons | 98 |",
                    f"{where}: 3 lines without numbers, word for word"]


def micro_models(place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Result]]:
    """Folder and results of three models of one step, which `card` takes for the tracked ones."""
    home, generator = Home(place / "home", ()), np.random.default_rng(0)
    words = tokenizer.train(iter(["the king said unto them once upon a time"] * 9), MICRO.vocabulary)
    words.save(str(place / "tokenizer.json"))
    data = Data(*((generator.zipf(1.5, n) % MICRO.vocabulary).astype(np.uint16) for n in (600, 200)))
    recipes = [Config(name, size=MICRO, steps=1, batch=4, points=2, measured=3, judged=4) for name in ACTIVATIONS]
    results = [train(recipe, home, device="cpu", data=data) for recipe in recipes]
    (models := place / "models").mkdir()
    for result in results:
        weights = home.root / "training" / result.identity / "weights.safetensors"
        export(result, weights, place / "tokenizer.json", models / f"tiny-{result.config['activation']}")
    counts = {package.name: {"train_bytes": 10_000} for package in PACKAGES}
    parts = {"one": data.held_out[:90], "other": data.held_out[90:]}
    common = card.Ground(data, counts, 3.0, unigram_loss(data, MICRO.vocabulary), parts)
    for name, value in {"MODELS": models, "NEW_TOKENS": 3, "ground": lambda *_: common, "tracked": lambda: None,
                        "read_results": lambda _: results}.items():
        monkeypatch.setattr(card, name, value)
    return models, results


def test_cards_are_written_checked_and_found_wrong(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (models, results), told = micro_models(tmp_path, monkeypatch), []
    with monkeypatch.context() as patch:
        patch.setattr(card, "_report", lambda *said: told.append(said))
        assert card.main([]) == 0
    windows = 200 // 16 + 90 // 16 + 110 // 16  # all held-out text, then source by source
    assert [(done, total) for stage, done, total in told if stage.startswith("judging tiny-gelu")] == [
        (0, windows), (4, windows), (8, windows), (12, windows), (16, windows), (17, windows), (21, windows)]
    path = models / "tiny-gelu" / "README.md"
    text = path.read_text()
    (loss,) = [line for line in text.splitlines() if "(this model)" in line]
    assert f"{results[ACTIVATIONS.index('gelu')].held_out_loss:.3f} ± " in loss
    capsys.readouterr()
    assert card.main(["--check"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("The cards say what was recomputed.\n")
    assert "tiny-gelu/README.md:" in out and "0.000% apart: | GELU (this model)" in out and "models/README.md:" in out

    wrong = loss.split(" | ")[1].split(" ")[0]
    path.write_text(text.replace(loss, loss.replace(wrong, f"{float(wrong) + 0.1:.3f}", 1)))
    assert card.main(["--check"]) == 1
    out = capsys.readouterr().out
    assert f"says {float(wrong) + 0.1:.3f} where {wrong} was recomputed" in out.splitlines()[-1]
    assert out.splitlines()[-1].startswith("tiny-gelu/README.md:") and "DIFFERS" in out
    with pytest.raises(SystemExit):
        card.main(["--chekc"])  # and nothing is written
    assert path.read_text() != text


def test_tracked_cards_say_what_lies_beside_them() -> None:
    for result in log.read_results(log.tracked()):
        folder = MODELS / f"tiny-{result.config['activation']}"
        text = (folder / "README.md").read_text()
        named = text.split("| class | ")[1].split(" ")[0].lower()
        assert named == json.loads((folder / "config.json").read_text())["model_type"]
        assert cards.WHY_THESE_CLASSES in text
        assert f"{np.exp(result.held_out_loss):.2f}" in text
    assert all(package.name in text and package.version in text for package in PACKAGES)
