"""Answers from a stored run against the capture it was made of."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pyarrow.parquet as pq
import pytest
import tiny

from moyu_core import capture, companding, query, sets, store
from moyu_core.errors import DamagedRunError, InputError, NotInRunError
from moyu_core.home import Home
from moyu_core.models import LoadedModel
from moyu_core.spec import SetRule
from moyu_core.studies.capture import capture_run
from moyu_core.studies.requests import CaptureRequest, VocabularyRequest
from moyu_core.studies.vocabulary import vocabulary_run
from moyu_core.token_sequences import tokenise

LENGTHS = (4, 9, 3, 7, 7, 2, 5, 6, 8, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6)  # 19 prompts: two files
WITH_VALUES = ("p1", "p4", "p18")


@dataclasses.dataclass
class Made:
    """A home with a capture run and what was captured."""

    home: Home
    model: LoadedModel
    run: store.Run
    captured: dict[str, capture.CapturedPrompt]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = Home(tmp_path_factory.mktemp("home"), ())
    model = plain.model("llama")
    request = CaptureRequest("tiny", plain.prompts(*LENGTHS), SetRule("top", 0.2), values=WITH_VALUES, cett=True)
    run = store.find_run(home, capture_run(model, request, home))
    options = capture.CaptureOptions(request.rule, (0, 1), cett=True, values=frozenset(WITH_VALUES))
    captured = capture.capture(model, tokenise(model, request.prompts), options)
    return Made(home, model, run, {c.sequence.prompt.id: c for c in captured})


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> store.Run:
    """A copy of the run that may be damaged."""
    return store.open_run(Path(shutil.copytree(made.run.folder, tmp_path / made.run.id)))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """Every read from Parquet: (row group, columns)."""
    done: list[tuple[Any, ...]] = []
    original = pq.ParquetFile.read_row_group

    def read_row_group(self: Any, i: int, columns: Any = None, **more: Any) -> Any:
        done.append((i, columns))
        return original(self, i, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    for name in ("read", "read_row_groups", "iter_batches"):
        monkeypatch.setattr(pq.ParquetFile, name, lambda *_, **__: done.append(("whole file",)))
    yield done


def rows_of(made: Made, prompt: str, layer: int) -> dict[str, np.ndarray]:
    found = made.captured[prompt]
    part = slice(layer * found.rows_per_layer, (layer + 1) * found.rows_per_layer)
    return {name: column[part] for name, column in found.columns.items()}


@pytest.mark.parametrize("prompt", ["p0", "p1", "p16", "p18"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_slice_is_what_was_captured(made: Made, prompt: str, layer: int) -> None:
    piece, expected = query.read_slice(made.run, prompt, layer), rows_of(made, prompt, layer)
    sequence = made.captured[prompt].sequence
    np.testing.assert_array_equal(piece.active, expected["active"])
    np.testing.assert_array_equal(piece.mask, sets.unpack(expected["active"], tiny.F))
    for name in (*query.STATISTICS, "nonfinite"):
        np.testing.assert_array_equal(piece.frame[name], expected[name])
    assert piece.frame["token"].tolist() == sequence.texts
    assert piece.frame["token_id"].tolist() == sequence.token_ids.tolist()
    assert piece.frame["position"].tolist() == list(range(len(sequence)))
    assert piece.frame["is_sink"].tolist() == [True] + [False] * (len(sequence) - 1)
    assert (piece.frame["prompt_id"] == prompt).all()
    assert (piece.frame["layer"] == layer).all()
    assert not piece.frame[["slot", "expert"]].any().any()
    if prompt in WITH_VALUES:
        np.testing.assert_array_equal(piece.codes, expected["values"])
        np.testing.assert_array_equal(piece.values, companding.decode(expected["values"], expected["scale"]))
    else:
        assert piece.codes is None
        with pytest.raises(NotInRunError, match="captured without values"):
            _ = piece.values


def test_a_slice_touches_one_row_group(made: Made, reads: list) -> None:
    query.index(made.run)
    reads.clear()
    query.read_slice(made.run, "p7", 1)
    assert len(reads) == 1
    assert reads[0][0] == query.index(made.run)["p7", "plain", 1][1]


def test_a_sweep_reads_three_columns_of_one_row_group_a_layer(made: Made, reads: list) -> None:
    query.index(made.run)
    reads.clear()
    query.sweep(made.run, "p7", "cett")
    assert [columns for _, columns in reads] == [["layer", "position", "cett"]] * 2


def test_many_threads_read_one_file(made: Made) -> None:
    """pyarrow's files crash or mix up when two threads read one while it buffers ahead."""
    wrong: list[Any] = []
    names = list(made.captured)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(150):
            prompt, layer = names[random.integers(len(names))], int(random.integers(2))
            try:
                piece = query.read_slice(made.run, prompt, layer)
                if not np.array_equal(piece.active, rows_of(made, prompt, layer)["active"]):
                    wrong.append(prompt)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_the_run_does_not_hold_is_said(made: Made) -> None:
    with pytest.raises(NotInRunError, match="no layer 7; it has 2 layers from 0 to 1"):
        query.read_slice(made.run, "p0", 7)
    for prompt, condition in (("poem", "plain"), ("p0", "shuffled")):
        with pytest.raises(NotInRunError, match=rf"no prompt '{prompt}' \({condition}\)"):
            query.read_slice(made.run, prompt, 0, condition)
    with pytest.raises(NotInRunError, match="no layer 9"):
        query.neurons(made.run, 9)
    for neuron in (-1, tiny.F):
        with pytest.raises(NotInRunError, match=f"neurons 0 to {tiny.F - 1}"):
            query.top_tokens(made.run, 0, neuron)
    with pytest.raises(InputError, match="'beauty' is not known"):
        query.sweep(made.run, "p0", "beauty")


@pytest.mark.parametrize("statistic", query.STATISTICS)
def test_a_sweep_is_its_slices(made: Made, statistic: str) -> None:
    frame = query.sweep(made.run, "p1", statistic)
    assert frame.index.tolist() == [0, 1]
    assert frame.columns.tolist() == list(range(10))
    for layer in (0, 1):
        np.testing.assert_array_equal(frame.loc[layer], query.read_slice(made.run, "p1", layer).frame[statistic])


def test_prompts_and_neurons(made: Made) -> None:
    table = query.prompts(made.run)
    assert table["prompt_id"].tolist() == [f"p{i}" for i in range(19)], "in the order of the request"
    assert table["n_tokens"].tolist() == [n + 1 for n in LENGTHS]
    assert table.loc[table["has_values"], "prompt_id"].tolist() == list(WITH_VALUES)
    masks = [sets.unpack(rows_of(made, name, 1)["active"][1:], tiny.F) for name in made.captured]
    frame = query.neurons(made.run, 1)
    np.testing.assert_allclose(frame["rate"], np.concatenate(masks).mean(0), rtol=1e-6)
    np.testing.assert_allclose(frame["column_norm"], made.model.sites[1].column_norms(), rtol=1e-6)
    assert frame.index.tolist() == list(range(tiny.F))


def test_top_tokens_are_the_largest_behind_the_sink(made: Made) -> None:
    hits = query.top_tokens(made.run, 1, 5, count=6)
    everything = [(abs(value), name, position) for name in WITH_VALUES
                  for position, value in enumerate(query.read_slice(made.run, name, 1).values[:, 5]) if position > 0]
    assert [abs(hit.value) for hit in hits] == pytest.approx(sorted((v for v, *_ in everything), reverse=True)[:6])
    assert {(hit.prompt_id, hit.position) for hit in hits} <= {(name, position) for _, name, position in everything}
    for hit in hits:
        assert hit.token == made.captured[hit.prompt_id].sequence.texts[hit.position]
    assert len(query.top_tokens(made.run, 1, 5, count=1000)) == len(everything)


def test_top_tokens_leave_out_what_is_not_finite(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = query.read_slice(made.run, "p1", 1)
    assert piece.codes is not None
    codes = piece.codes.copy()
    codes[3] = companding.NOT_FINITE
    spoilt = dataclasses.replace(piece, codes=codes)
    monkeypatch.setattr(query, "layer_values", lambda run, layer: [spoilt])
    hits = query.top_tokens(made.run, 1, 5, count=100)
    assert len(hits) == 8
    assert 3 not in [hit.position for hit in hits]
    assert [abs(hit.value) for hit in hits] == sorted((abs(hit.value) for hit in hits), reverse=True)


@pytest.mark.parametrize("rule", [SetRule("top", 0.2), SetRule("top", 0.05), SetRule("magnitude", 0.3), SetRule("top", 1.0)])
def test_rethresholded_sets_are_close_to_exact_ones(made: Made, rule: SetRule) -> None:
    piece = query.read_slice(made.run, "p1", 1)
    norms = query.neurons(made.run, 1)["column_norm"].to_numpy()
    a, c = plain.activation(made.model, "llama", 1, plain.token_ids(made.captured["p1"].sequence.prompt))
    again = query.rethreshold(piece, rule, norms)
    missing = rule.count(tiny.F) - sets.sizes(again)
    assert (missing == 0).all() or (rule.density == 1 and 0 <= missing.min() <= missing.max() <= 2), "tiny values became 0"
    assert sets.overlap(again, sets.pack(plain.members(a, c, rule))).mean() > 0.93
    with pytest.raises(NotInRunError, match="'p0' was captured without values"):
        query.rethreshold(query.read_slice(made.run, "p0", 1), rule, norms)
    with pytest.raises(InputError, match="no fixed number"):
        query.rethreshold(piece, SetRule("cett"), norms)


def test_similarity_order_groups_identical_columns() -> None:
    random = np.random.default_rng(0)
    kinds = random.random((12, 6)).astype(np.float32)
    which = random.permutation(np.repeat(np.arange(6), 7))
    weights = kinds[:, which] * random.uniform(0.5, 2, 42)  # alike but for their length
    weights = np.concatenate([weights, np.zeros((12, 4))], axis=1)
    order = query.order_by_similarity(weights)
    assert sorted(order) == list(range(46)), "a permutation"
    assert set(order[-4:]) == {42, 43, 44, 45}, "silent neurons come last"
    assert (np.diff(which[order[:-4]]) != 0).sum() == 5, "six kinds, five borders"


@pytest.mark.parametrize("weights", [np.zeros((3, 5)), np.ones((1, 5)), np.full((3, 5), np.nan), np.ones((2, 5), bool)])
def test_similarity_order_of_odd_tables_is_a_permutation(weights: np.ndarray) -> None:
    assert sorted(query.order_by_similarity(weights)) == list(range(5))


def test_a_run_of_another_study_says_so(made: Made) -> None:
    run = store.find_run(made.home, vocabulary_run(made.model, VocabularyRequest("tiny", 3), made.home))
    for ask in (lambda: query.sweep(run, "p0", "density"), lambda: query.read_slice(run, "p0", 0),
                lambda: query.top_tokens(run, 0, 0), lambda: query.prompts(run), lambda: query.neurons(run, 0)):
        with pytest.raises(NotInRunError, match=run.id):
            ask()


@pytest.mark.parametrize("name", ["index.parquet", "activations-000.parquet", "prompts.parquet", "neurons.parquet"])
def test_a_file_of_garbage_is_named(copy: store.Run, name: str) -> None:
    (copy.folder / name).write_bytes(b"x" * (copy.folder / name).stat().st_size)
    with pytest.raises(DamagedRunError, match=rf"{copy.id} is damaged: {name} cannot be read"):
        query.prompts(copy), query.neurons(copy, 0), [query.read_slice(copy, f"p{i}", 0) for i in range(19)]


def test_no_altered_byte_gives_other_numbers(made: Made, copy: store.Run) -> None:
    """Bytes of a file of pages, one after the other: the slice is right or the file is named; sizes do not change."""
    path = copy.folder / query.index(copy)["p1", "plain", 0][0]
    good = path.read_bytes()
    footer = len(good) - int.from_bytes(good[-8:-4], "little") - 8
    expected = query.read_slice(copy, "p1", 0)
    named = 0
    for place in range(4, footer, 97):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        query._open.cache_clear()
        try:
            piece = query.read_slice(copy, "p1", 0)
        except DamagedRunError as error:
            assert path.name in str(error)
            named += 1
        else:
            np.testing.assert_array_equal(piece.active, expected.active)
            np.testing.assert_array_equal(piece.codes, expected.codes)
            assert piece.frame.equals(expected.frame)
    assert named > 5


def test_a_rewritten_file_is_read_anew(made: Made, copy: store.Run) -> None:
    before = query.read_slice(copy, "p1", 0)
    assert copy.folder != made.run.folder
    (copy.folder / "activations-000.parquet").unlink()
    with pytest.raises(DamagedRunError, match=r"activations-000\.parquet is missing"):
        query.read_slice(copy, "p1", 0)
    shutil.copy(made.run.folder / "activations-000.parquet", copy.folder)
    np.testing.assert_array_equal(query.read_slice(copy, "p1", 0).active, before.active)
