"""The trinity without a run: evaluation text, the search for the operating point, medians with their spread, bounds, requests."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import numpy as np
import pytest
import tiny

from moyu_core import methods, store
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.methods.text import calibration_documents
from moyu_core.prompts import make_prompt
from moyu_core.studies.trinity import operating, reading, speed, texts
from moyu_core.studies.trinity.requests import READING, ChatRequest, SpeedRequest, TrinityRequest, evaluation_prompts
from moyu_core.training import corpus

HOME = Home.default()
RECORDS = [json.loads(line) for line in (HOME.prompts / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()]
LIMIT = math.log(1.01)
TRINITY = ("trinity", "speed", "families")


# Evaluation text.


def test_evaluation_text_is_held_out_from_everything_that_is_fitted() -> None:
    """Calibration takes the corpus's training part; every evaluation text names a document that the corpus holds out."""
    assert inspect.signature(calibration_documents).parameters["part"].default == "train"
    for record in RECORDS:
        package, _, name = record["source"].partition(": ")
        assert texts.GENRES[package] == record["domain"]
        assert corpus.Text(package, name, "").held_out, record["source"]


def test_the_evaluation_set_is_large_and_mixed() -> None:
    assert len(RECORDS) >= 160 and len({record["domain"] for record in RECORDS}) >= 4
    assert len({record["text"] for record in RECORDS}) == len({record["id"] for record in RECORDS}) == len(RECORDS)
    prompts = evaluation_prompts(HOME, 60)
    assert len({texts.document_of(prompt) for prompt in prompts}) == 60, "one text of every document comes first"
    assert len({prompt.domain for prompt in prompts}) >= 4


@pytest.mark.model
def test_no_calibration_document_holds_an_evaluation_text() -> None:
    """Looked for in the corpus itself, where it is there."""
    place = corpus.folder(HOME)
    if not (place / "corpus.json").is_file():
        pytest.skip("the corpus is not built: run `moyu train tiny`")
    held_out = {f"{text.source}: {text.name}": text.text for text in corpus.read(place, "held_out")}
    assert all(record["text"] in held_out[record["source"]] for record in RECORDS)
    assert texts.held_out(HOME) == RECORDS, "the file is not what the code makes"
    wanted = {record["text"][200:320] for record in RECORDS}
    for text in corpus.read(place, "train"):
        assert not any(piece in text.text for piece in wanted), text.name


def test_questions_are_about_texts_of_their_own() -> None:
    items = reading.read_items(READING)
    assert len(items) == len({item.id for item in items}) >= 30
    everything = " ".join(record["text"] for record in RECORDS)
    assert not any(item.text in everything for item in items)
    assert all(item.answers and item.question.endswith("?") for item in items)


def test_an_answer_is_right_after_normalisation_only() -> None:
    item = reading.Item("a/0", "t", "q?", ("the harbour café", "3"))
    assert item.passage == "a"
    assert reading.is_right("  The Harbour café.", item) and reading.is_right("3", item)
    assert not reading.is_right("harbour", item) and not reading.is_right("", item) and not reading.is_right("30", item)


# The operating point.


def planted(true_loss: Any, spread: float = 0.0, documents: int = 40, seed: int = 0) -> operating.Losses:
    """Differences with this mean at a density, independent in the two splits."""
    rng = np.random.default_rng(seed)
    noise = {0: rng.standard_normal(documents), 1: rng.standard_normal(documents)}
    return lambda density, split: true_loss(density) + spread * noise[split]


def test_bisection_finds_the_smallest_density_within_the_budget() -> None:
    for edge in (0.05, 0.35, 0.6, 0.95):
        found = operating.search(planted(lambda d, edge=edge: 0.001 if d >= edge - 1e-9 else 0.5), 0.01)
        assert (found.status, found.density) == (operating.CONFIRMED, edge)
        assert found.looked <= 5, "a search, not a sweep"


def test_what_is_known_is_not_measured_again() -> None:
    asked: list[tuple[float, int]] = []

    def losses(density: float, split: int) -> list[float]:
        asked.append((density, split))
        return [0.0 if density >= 0.6 else 1.0] * 8

    known = {0.5: [1.0] * 8, 0.7: [0.0] * 8}
    found = operating.search(losses, 0.01, known=known)
    assert found.density == 0.6 and set(asked) == {(0.55, 0), (0.6, 0), (0.6, 1)}


def test_no_density_and_unclear_densities_are_told_apart() -> None:
    none = operating.search(planted(lambda d: 0.5 if d < 1 else 0.0, 0.01), 0.01)
    assert none.status == operating.NONE and math.isnan(none.density)
    unclear = operating.search(planted(lambda d: 0.5 if d < 0.95 else LIMIT, 0.05), 0.01)
    assert unclear.status == operating.OPEN and unclear.open == 0.95
    few = operating.search(lambda density, split: [0.0], 0.01)
    assert few.status == operating.NO_INTERVAL


def test_what_the_other_half_does_not_show_is_not_confirmed() -> None:
    found = operating.search(lambda density, split: np.full(20, 0.03 * split) + 1e-4 * np.arange(20), 0.01)
    assert found.status == operating.NOT_CONFIRMED and found.confirmed is not None and found.confirmed.mean > LIMIT


def test_a_loss_at_the_budget_is_rarely_confirmed() -> None:
    """One-sided 5 % on the confirming half, where the choosing half saw no loss at all: 5 % of 1,000 draws, give or take."""
    rng = np.random.default_rng(0)
    found = [operating.search(lambda d, split: [0.0] * 30 if split == 0 else LIMIT + 0.03 * rng.standard_normal(30), 0.01)
             for _ in range(1000)]
    assert all(point.density == operating.GRID[0] for point in found)
    assert 0.03 < np.mean([point.status == operating.CONFIRMED for point in found]) < 0.07


# Speed.


def test_the_summary_of_pairs() -> None:
    dense = np.full(21, 0.02)
    found = speed.summary(np.c_[dense, dense / 2])
    assert found["ratio"] == 2 and found["ratio_low"] == found["ratio_high"] == 2 and not found["noisy"]
    assert found["dense_seconds"] == 0.02 and found["seconds"] == 0.01


def test_a_busy_machine_is_marked_and_not_hidden() -> None:
    slow = np.where(np.arange(21) % 2, 0.02, 0.03)
    found = speed.summary(np.c_[np.full(21, 0.02), slow])
    assert found["noisy"] and found["spread"] > speed.SPREAD_LIMIT and found["ratio"] > 0


def test_the_interval_of_the_median_covers() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(500):
        found = speed.summary(np.c_[np.exp(rng.standard_normal(21)), np.ones(21)])
        inside += found["ratio_low"] <= 1 <= found["ratio_high"]
    assert 0.93 <= inside / 500 <= 1


def test_bounds_are_those_of_bytes_per_token() -> None:
    """Gated, in units of dF: GRIFFIN 3 rho, CATS 1 + 2 rho, CETT 2 + rho, DejaVu 3 rho + r (d + F) / (dF)."""
    model = tiny.load("llama")
    read = speed.weights(model)
    parameters = sum(p.numel() for p in model.model.parameters()) - tiny.VOCAB * tiny.D  # the embedding is looked up
    assert read == {"all": 4 * parameters, "ffn": 4 * 3 * tiny.D * tiny.F * tiny.LAYERS}
    rank = 4  # d / 8
    shares = {
        "griffin": 3 * 0.25,
        "cats": 1 + 2 * 0.25,
        "cett": 2 + 0.25,
        "dejavu": 3 * 0.25 + rank * (tiny.D + tiny.F) / (tiny.D * tiny.F),
    }
    for name, share in shares.items():
        whole, ffn = speed.bound(model, methods.find(name), 0.25)
        assert ffn == pytest.approx(3 / share)
        assert whole == pytest.approx(read["all"] / (read["all"] - read["ffn"] * (1 - share / 3)))


# Bad input.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, "above 0 and at most 1"),
        ({"budget": float("nan")}, "above 0 and at most 1"),
        ({"densities": (0.5, 0.1)}, "each once, ascending"),
        ({"densities": (0.0,)}, "above 0"),
        ({"prompt_tokens": 128}, "prompt of 2 to 127 tokens"),
        ({"prompt": "sparse"}, "dense or masked"),
        ({"methods": ()}, "At least one method"),
        ({"dtype": "int8"}, "not known"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrinityRequest("default", (make_prompt("a text", "a"),), **changes)


def test_other_requests_are_checked_too() -> None:
    with pytest.raises(InputError, match="median of at least 20"):
        SpeedRequest("default", "text", (("griffin", 0.5),), repeats=5)
    with pytest.raises(InputError, match="among the settings"):
        SpeedRequest("default", "text", (("griffin", 0.5),), points=(("cats", 0.5),))
    with pytest.raises(InputError, match="message is empty"):
        ChatRequest("default", "  ", "griffin", 0.5)
    with pytest.raises(InputError, match="at most 20,000 characters and this one has 20,001"):
        ChatRequest("default", 20_001 * "x", "griffin", 0.5)
    with pytest.raises(InputError, match="at least 4 texts"):
        evaluation_prompts(HOME, 3)


def test_requests_survive_the_job_table() -> None:
    for request in (
        TrinityRequest("default", evaluation_prompts(HOME, 4)),
        ChatRequest("default", "Hello", "cats", 0.5),
        SpeedRequest("default", "text", (("griffin", 0.5), ("cett", 0.0)), (("griffin", 0.5),)),
    ):
        assert type(request).from_json(json.loads(json.dumps(request.as_json()))) == request


def test_the_tracked_runs_are_sound_small_and_name_their_machine() -> None:
    runs = [run for run in store.list_runs(Home(HOME.root, HOME.tracked, HOME.root / "none"))[0] if run.spec.study in TRINITY]
    assert {run.spec.study for run in runs} == set(TRINITY)
    assert sum(entry["bytes"] for run in runs for entry in run.manifest["files"].values()) < 3e6
    for run in runs:
        run.verify()
        if run.spec.study == "speed":
            assert run.manifest["machine"]["processor"] and run.manifest["machine"]["cores"] >= 1
    by_weights = {study: {run.spec.model.weights for run in runs if run.spec.study == study} for study in TRINITY}
    assert by_weights["speed"] == by_weights["trinity"], "every model that was judged was timed"
