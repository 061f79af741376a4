"""Live training: the same request gives the same bits, its curves can be read while it runs, stopping is clean."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from moyu_core import store
from moyu_core.errors import Cancelled, InputError
from moyu_core.home import Home
from moyu_core.queries import origin as queries
from moyu_core.schema import arrow_schema
from moyu_core.schema.training import ACTIVATIONS, CURVE_COLUMNS, MEASURES
from moyu_core.studies import live as studies_live
from moyu_core.studies import perform
from moyu_core.studies.origin_requests import LIVE_STEPS, LiveRequest
from moyu_core.training import live

SHORT = LiveRequest("relu", 96, 0, 30)


def last(run: store.Run) -> dict[str, float]:
    frame = run.table("curves").to_pandas()
    return frame[frame["step"] == frame["step"].max()].set_index("measure")["value"].to_dict()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_same_request_gives_the_same_bits(tmp_path: Path, activation: str) -> None:
    request = replace(SHORT, activation=activation)
    runs = []
    for name in "ab":
        home = Home(tmp_path / name, ())
        runs.append(store.find_run(home, perform("live", request.as_json(), home)))
        assert not list((home.root / "live").iterdir())  # the run has it all
    assert runs[0].id == runs[1].id
    assert runs[0].manifest["files"]["curves.parquet"]["sha256"] == runs[1].manifest["files"]["curves.parquet"]["sha256"]
    home = Home(tmp_path / "c", ())
    other = store.find_run(home, perform("live", replace(request, seed=1).as_json(), home))
    assert last(other)["held_out_loss"] != last(runs[0])["held_out_loss"]


def test_a_seed_decides_the_order_of_the_data_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network = live.Network
    monkeypatch.setattr(live, "Network", lambda activation, width, characters, seed: network(activation, width, characters, 0))
    ends = [list(live.training(replace(SHORT, steps=3, seed=seed)))[-1][1][-1]["value"] for seed in (0, 1)]
    assert ends[0] != ends[1]


def test_the_run_holds_every_measure_from_the_start_to_the_end(tmp_path: Path) -> None:
    home = Home(tmp_path, ())
    run = store.find_run(home, perform("live", SHORT.as_json(), home))
    table = run.table("curves")
    assert table.schema.equals(arrow_schema(CURVE_COLUMNS), check_metadata=True)
    frame = table.to_pandas()
    assert set(frame["step"]) == live.steps_measured(30) and {0, 1, 30} <= set(frame["step"])
    assert set(frame["measure"]) == {*MEASURES, "held_out_loss"}
    losses = queries.curves(run, "held_out_loss")["value"]
    assert losses.iloc[0] > np.log(90) and losses.iloc[-1] < losses.iloc[0] - 1  # it learns
    assert 0.4 < queries.curves(run, "zero_share", 0)["value"].iloc[0] < 0.6  # half of the neurons at the start


def test_the_measures_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    model = live.Network("swiglu", 96, 50, seed=3)
    inputs, labels = torch.randint(50, (live.GROUPS * live.GROUP, live.CONTEXT)), torch.randint(50, (live.GROUPS * live.GROUP,))
    found = {value.measure: value for value in live.measure(model, inputs, labels)}
    x = model.embedding(inputs).flatten(1)
    assert model.gate is not None and model.down.in_features == 64
    a = (functional.silu(model.gate(x)) * model.up(x)).detach()
    logits = a @ model.down.weight.T
    residual = logits.softmax(1) - functional.one_hot(labels, 50)
    gradient = (residual @ model.down.weight).detach()
    assert found["sign_gradient"].value == pytest.approx(float((a.sign() * gradient).mean()), rel=1e-4)
    assert found["held_out_loss"].value == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert all(weight.grad is None for weight in model.parameters())


def test_curves_are_there_while_it_runs_and_after_it_was_stopped(tmp_path: Path) -> None:
    home, seen = Home(tmp_path, ()), []

    def watch(stage: str, done: int, total: int) -> None:
        seen.append(queries.live_curves(home, SHORT))
        if done == 20:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        perform("live", SHORT.as_json(), home, watch)
    assert seen[0].empty and set(seen[1]["step"]) == {0} and len(seen[15]) > len(seen[5]) > len(seen[1])
    assert set(seen[1]["measure"]) == {*MEASURES, "held_out_loss"}
    kept = queries.live_curves(home, SHORT)
    assert kept["step"].max() in range(15, 21)
    assert not [path for path in home.runs.iterdir() if path.suffix != ".lock"]
    with queries.live_file(home, SHORT).open("a") as file:
        file.write('[{"step": 99, "val')  # a line that is being written
    assert queries.live_curves(home, SHORT).equals(kept)
    perform("live", SHORT.as_json(), home)
    assert queries.live_curves(home, SHORT).empty


def test_a_training_whose_time_ends_is_the_run_of_the_steps_it_has_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other, seen = Home(tmp_path / "a", ()), Home(tmp_path / "b", ()), []
    clock = SimpleNamespace(perf_counter=lambda: 1e6 if seen and seen[-1] >= 8 else 0.0)  # time is over after step 8
    with monkeypatch.context() as patch:
        patch.setattr(studies_live, "time", clock)
        cut = store.find_run(home, perform("live", SHORT.as_json(), home, lambda stage, done, total: seen.append(done)))
    assert seen[-1] == 9 and cut.spec.parameters == replace(SHORT, steps=9).as_json()
    assert set(cut.table("curves")["step"].to_pylist()) == {*range(10)} > live.steps_measured(8)
    assert last(cut)["held_out_loss"] < np.log(100)
    asked = store.find_run(other, perform("live", replace(SHORT, steps=9).as_json(), other))
    assert asked.id == cut.id
    assert asked.manifest["files"]["curves.parquet"]["sha256"] == cut.manifest["files"]["curves.parquet"]["sha256"]
    assert len(store.list_runs(home)[0]) == 1 and queries.live_curves(home, SHORT).empty
    whole = perform("live", SHORT.as_json(), home)  # asked again with time enough
    assert store.find_run(home, whole).spec.parameters["steps"] == 30


def test_measurements_of_a_short_training_are_those_of_a_longer_one() -> None:
    long = live.steps_measured(LIVE_STEPS)
    assert {0, 1, LIVE_STEPS} <= long and len(long) >= 30
    for steps in (1, 100, 842, 5000):
        found = live.steps_measured(steps)
        assert found - {steps} == {step for step in live.steps_measured(5000) if step < steps}
        assert {step for step in long if step < steps} <= found


def test_sparsity_appears_for_relu_alone(tmp_path: Path) -> None:
    home, ends = Home(tmp_path, ()), {}
    for activation in ACTIVATIONS:
        request = LiveRequest(activation, 96, 0, 250)
        ends[activation] = last(store.find_run(home, perform("live", request.as_json(), home)))
    assert ends["relu"]["zero_share"] > 0.52 > 0.01 > ends["gelu"]["zero_share"] >= ends["swiglu"]["zero_share"] == 0
    frame = queries.over_seeds(queries.curves(store.list_runs(home)[0][0], "zero_share"))
    assert frame["low"].isna().all() and (frame["seeds"] == 1).all()  # one seed has no interval


def test_bands_are_over_seeds(tmp_path: Path) -> None:
    home = Home(tmp_path, ())
    runs = [store.find_run(home, perform("live", replace(SHORT, seed=seed).as_json(), home)) for seed in range(3)]
    values = [queries.curves(run, "effective_neurons") for run in runs]
    import pandas as pd

    found = queries.over_seeds(pd.concat(values))
    final = [frame["value"].iloc[-1] for frame in values]
    row = found.iloc[-1]
    assert row["mean"] == pytest.approx(np.mean(final)) and row["seeds"] == 3
    half = 4.302652729911275 * np.std(final, ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert row["high"] - row["mean"] == pytest.approx(half)


def test_requests() -> None:
    assert LiveRequest.from_json(json.loads(json.dumps(SHORT.as_json()))) == SHORT
    for wrong, words in (({"activation": "tanh"}, "relu, gelu, swiglu"), ({"width": 100}, "one of 96"), ({"steps": 0}, "Steps go")):
        with pytest.raises(InputError, match=words):
            replace(SHORT, **wrong)
