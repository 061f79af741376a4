"""The GPU's side of a capture gives what the CPU's side gives; on the CPU it runs in plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
import tiny
import torch

from moyu_core import activation_table, capture, moe, sets
from moyu_core.activation_files import PROMPTS_PER_FILE
from moyu_core.activation_table import ActivationWriter
from moyu_core.capture import CapturedPrompt, CaptureOptions
from moyu_core.device_capture import DeviceCollector
from moyu_core.errors import ModelError
from moyu_core.firing import FiringCounts
from moyu_core.models import LoadedModel, from_module
from moyu_core.spec import SetRule
from moyu_core.token_sequences import tokenise

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")])]
RULES = [SetRule("top"), SetRule("magnitude", 0.3), SetRule("cett"), SetRule("positive")]
LENGTHS = (3, 17, 9, 17, 1, 12, 17)


def options(rule: SetRule, **changes: Any) -> CaptureOptions:
    thresholds = {0: 0.05, 1: 0.08} if rule.name == "cett" else {}
    return CaptureOptions(**{"rule": rule, "layers": (0, 1), "thresholds": thresholds, "batch_tokens": 40, **changes})


def on(device: str, model: LoadedModel) -> LoadedModel:
    moved = from_module(model.model.to(device), model.tokenizer, sink_token_id=1)
    assert moved.device.type == device
    return moved


def run(model: LoadedModel, chosen: CaptureOptions) -> tuple[dict[str, CapturedPrompt], FiringCounts]:
    firing = FiringCounts((0, 1), model.sites[0].n_neurons)
    sequences = tokenise(model, plain.prompts(*LENGTHS))
    found = {f.sequence.prompt.id: f for f in capture.capture(model, sequences, chosen, firing=firing)}
    return found, firing


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mixtral"])
@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
def test_device_and_host_say_the_same(family: str, rule: SetRule, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(rule, cett=True, values=frozenset({"p1", "p4"}))
    expected, counted = run(plain.model(family), chosen)
    monkeypatch.setattr(capture, "_collector", DeviceCollector)
    found, firing = run(on(device, plain.model(family)), chosen)
    assert list(found) == list(expected)
    swapped = 0
    for name, one in expected.items():
        other = found[name]
        assert one.columns.keys() == other.columns.keys()
        assert ("values" in other.columns) == (name in ("p1", "p4"))
        for column, values in one.columns.items():
            assert (other.columns[column].dtype, other.columns[column].shape) == (values.dtype, values.shape), column
            if column not in ("active", "values", "expert", "nonfinite"):
                np.testing.assert_allclose(other.columns[column], values, rtol=2e-3, atol=1e-5, err_msg=column)
        np.testing.assert_array_equal(other.columns["nonfinite"], one.columns["nonfinite"])
        if "values" in one.columns:
            assert (other.columns["values"] != one.columns["values"]).mean() < 0.005, "only values between two levels may differ"
        swapped += int(sets.sizes(one.columns["active"] ^ other.columns["active"]).sum())
    assert swapped <= (0 if device == "cpu" else 4), "only near ties may differ"
    assert np.abs(firing.counts - counted.counts).sum() <= swapped
    assert (firing.rows, firing.nonfinite) == (counted.rows, 0)
    assert firing.counts.sum() > 0


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_that_does_not_fit_is_halved(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = on(device, plain.model("llama"))
    monkeypatch.setattr(capture, "_collector", DeviceCollector)
    chosen = options(SetRule("top"), batch_tokens=1000)
    expected, counted = run(model, chosen)
    handle = model.sites[1].module.register_forward_pre_hook(_full_beyond(2))
    try:
        found, firing = run(model, chosen)
        small, _ = run(model, options(SetRule("top"), batch_tokens=20))
        assert small.keys() == expected.keys()
    finally:
        handle.remove()
    assert found.keys() == expected.keys()
    assert sum(sets.sizes(f.columns["active"] ^ expected[name].columns["active"]).sum() for name, f in found.items()) <= 4
    np.testing.assert_array_equal(firing.counts.sum(axis=1), counted.counts.sum(axis=1))
    handle = model.sites[0].module.register_forward_pre_hook(_full_beyond(0))
    try:
        with pytest.raises(ModelError, match="A sequence of 18 tokens does not fit"):
            run(model, chosen)
    finally:
        handle.remove()


def _full_beyond(prompts: int) -> Any:
    def hook(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > prompts:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return hook


def test_halving_says_so() -> None:
    model = plain.model("llama")
    handle = model.sites[1].module.register_forward_pre_hook(_full_beyond(3))
    stages: list[str] = []
    try:
        sequences = tokenise(model, plain.prompts(*LENGTHS))
        list(capture.capture(model, sequences, options(SetRule("top"), batch_tokens=1000), lambda stage, *_: stages.append(stage)))
    finally:
        handle.remove()
    assert "capturing, 4 prompts at a time because the GPU's memory is full" in stages


@pytest.mark.parametrize(("lanes", "piece"), [(1, 1), (3, 1), (3, 1 << 20)])
def test_lanes_write_every_prompt_where_the_index_says(
    lanes: int, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(activation_table, "PIECE_BYTES", piece)  # of one byte: every layer is a piece
    model = plain.model("llama")
    prompts = plain.prompts(*(1 + i % 5 for i in range(3 * PROMPTS_PER_FILE + 5)))
    captured = list(capture.capture(model, tokenise(model, prompts), options(SetRule("top"))))
    with ActivationWriter(tmp_path, model.sites[0].n_neurons, False, lanes) as writer:
        for one in captured:
            assert writer.write(one) == 2 * one.rows_per_layer
        index = writer.close().to_pylist()
    files = {name: pq.ParquetFile(tmp_path / name) for name in sorted({row["file"] for row in index})}
    assert list(files) == [f"activations-{number:03d}.parquet" for number in range(len(files))]
    assert len(files) == 4 if lanes == 1 else 4 <= len(files) <= 3 + lanes
    expected = [(one.sequence.prompt.id, layer) for one in captured for layer in (0, 1)]
    assert [(row["prompt_id"], row["layer"]) for row in index] == expected
    by_name = {one.sequence.prompt.id: one for one in captured}
    for row in index:
        group = files[row["file"]].read_row_group(row["row_group"])
        one = by_name[row["prompt_id"]]
        rows = slice(row["layer"] * one.rows_per_layer, (row["layer"] + 1) * one.rows_per_layer)
        assert set(group["prompt_id"].to_pylist()) == {row["prompt_id"]}
        assert set(group["layer"].to_pylist()) == {row["layer"]}
        assert group["active"].to_pylist() == [bytes(bits) for bits in one.columns["active"][rows]]
    assert sum(file.num_row_groups for file in files.values()) == len(index)


def test_every_second_lane_packs_and_all_do_when_the_disk_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    model = plain.model("llama")
    captured = list(capture.capture(model, tokenise(model, plain.prompts(5, 6, 7, 8)), options(SetRule("top"))))
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    for behind in (False, True):
        folder = tmp_path / str(behind)
        folder.mkdir()
        monkeypatch.setattr(ActivationWriter, "_disk_is_behind", lambda _, behind=behind: behind)
        with ActivationWriter(folder, model.sites[0].n_neurons, False, 4) as writer:
            for lane, one in zip(writer._lanes, captured, strict=True):
                lane.write(one)
            writer.close()
            assert len(writer.sealed) == 4
        groups = [pq.read_metadata(path).row_group(0) for path in sorted(folder.iterdir())]
        columns = [[group.column(i) for i in range(group.num_columns)] for group in groups]
        found = [column.compression for group in columns for column in group if column.path_in_schema == "active"]
        assert found == ["ZSTD", "ZSTD" if behind else "UNCOMPRESSED"] * 2


def test_beside_a_model_on_the_processor_one_prompt_waits_and_all_are_packed(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert [activation_table.lanes("cpu", prompts, 2) for prompts in (1, PROMPTS_PER_FILE, PROMPTS_PER_FILE + 1)] == [1, 1, 2]
    assert activation_table.lanes("cpu", 100, 1) == 1, "nothing is gained where there is one processor"
    model = plain.model("llama")
    captured = list(capture.capture(model, tokenise(model, plain.prompts(*[7] * 40)), options(SetRule("top"))))
    with ActivationWriter(tmp_path, model.sites[0].n_neurons, False, 2, on_processor=True) as writer:
        for one in captured:
            writer.write(one)
            assert sum(not future.done() for future in writer._pending) <= 1
        writer.close()
    for path in tmp_path.iterdir():
        group = pq.read_metadata(path).row_group(0)
        columns = {column.path_in_schema: column.compression for column in map(group.column, range(group.num_columns))}
        assert columns["active"] == "ZSTD"


def test_files_of_large_prompts_hold_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moyu_core import activation_files

    model = plain.model("llama")
    captured = list(capture.capture(model, tokenise(model, plain.prompts(*[9] * 6)), options(SetRule("top"))))
    monkeypatch.setattr(activation_files, "FILE_BYTES", 2 * activation_files.size_of(captured[0]))
    with ActivationWriter(tmp_path, model.sites[0].n_neurons, False) as writer:
        for one in captured:
            writer.write(one)
        files = writer.close()["file"].to_pylist()
    assert [files.count(name) for name in sorted(set(files))] == [4, 4, 4], "two prompts of two layers each"


def test_a_lane_that_cannot_write_is_heard(tmp_path: Path) -> None:
    model = plain.model("llama")
    captured = list(capture.capture(model, tokenise(model, plain.prompts(3, 4)), options(SetRule("top"))))
    missing = tmp_path / "gone"
    with pytest.raises(OSError, match="gone"), ActivationWriter(missing, model.sites[0].n_neurons, False, 2) as writer:
        for one in captured:
            writer.write(one)
        writer.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["mixtral", "olmoe", "gpt_oss"])
def test_a_grouped_product_is_the_loop_over_experts(family: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = next(module for module in tiny.build(family).to(device, torch.bfloat16).modules() if moe.is_experts(module))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, tiny.D, generator=generator).to(device, torch.bfloat16)
    chosen = torch.stack([torch.randperm(3, generator=generator)[:2] for _ in range(20)]).to(device)  # nobody takes the fourth
    found = []
    for grouped in (False, True):
        monkeypatch.setattr(moe, "_can_group", lambda *_, grouped=grouped: grouped)
        a = moe.activations(experts, hidden, chosen)
        found.append((a, moe.down(experts, a, chosen)))
    for plain_one, grouped_one in zip(*found, strict=True):
        assert plain_one.shape == grouped_one.shape
        assert (plain_one - grouped_one).abs().max() <= 0.02 * plain_one.abs().max()
