"""The tracked demo run is what the code makes: a slice of it is rebuilt and compared."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from moyu_core import demo, query, registry, sets, store
from moyu_core.home import REPOSITORY, Home
from moyu_core.methods import parts
from moyu_core.model_sources import canonical_name
from moyu_core.prompts import read_prompts
from moyu_core.studies import perform
from moyu_core.studies.predictors import plan as predictors
from moyu_core.studies.predictors.study import part_hashes
from moyu_core.studies.trinity import plan as trinity
from moyu_core.studies.trinity.requests import DENSITIES, METHODS, FamiliesRequest
from tests.tracked import TRACKED, capture_of


@pytest.fixture(scope="module")
def run():
    return store.open_run(capture_of(), tracked=True)


MEGABYTES = {
    ("capture", "vocabulary"): 22, ("inertia",): 8, ("history",): 8, ("predictors",): 6, ("training", "origin"): 1,
    ("trinity", "speed", "families"): 3, ("trial",): 1,
}  # fmt: skip
"""What the tracked runs of the studies may take, so that a clone stays small."""


def test_the_tracked_runs_are_sound_and_small():
    taken = dict.fromkeys(MEGABYTES, 0.0)
    for folder in TRACKED.iterdir():
        store.open_run(folder).verify()
        group = next(studies for studies in MEGABYTES if folder.name.rpartition("-")[0] in studies)
        taken[group] += sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    assert all(taken[group] < limit for group, limit in MEGABYTES.items()), taken


def test_the_tracked_run_answers_todays_request(run):
    """Prompts, rule and parameters of the run are those that `make demo-data` asks for now."""
    request = demo.capture_request()
    assert query.prompts(run)["text"].tolist() == [prompt.text for prompt in request.prompts]
    assert len(request.prompts) >= 30 and run.manifest["layers"] == list(range(30))
    assert run.spec.parameters["values"] == sorted(demo.WITH_VALUES)
    assert run.spec.set_rule == request.rule


def test_the_matched_models_can_be_compared_on_the_map():
    """The same tokens under the same rule, with values of the same prompts; ReLU's zeros and density stand out."""
    runs = {model: store.open_run(capture_of(model), tracked=True) for model in demo.TINY}
    assert {run.spec.prompts_hash for run in runs.values()} == {runs["tiny-relu"].spec.prompts_hash}
    assert {run.spec.set_rule for run in runs.values()} == {demo.matched_request("tiny-relu").rule}
    densities, zeros = {}, {}
    for model, run in runs.items():
        assert query.prompts(run)["prompt_id"].tolist() == list(demo.BESIDE_EACH_OTHER)
        for prompt in demo.BESIDE_EACH_OTHER:
            piece = query.read_slice(run, prompt, 3)
            assert (piece.codes is not None) == (prompt in demo.BESIDE_EACH_OTHER[:2])
            assert piece.frame["token_id"].tolist() == query.read_slice(runs["tiny-relu"], prompt, 3).frame["token_id"].tolist()
        densities[model] = float(query.sweep(run, "prose-lighthouse", "density").to_numpy()[:, 1:].mean())
        zeros[model] = float(query.sweep(run, "prose-lighthouse", "zero_share").to_numpy()[:, 1:].mean())
    assert densities["tiny-relu"] < 0.5 * min(densities["tiny-gelu"], densities["tiny-swiglu"])
    assert zeros["tiny-relu"] > 0.8 > 0.05 > zeros["tiny-gelu"] >= zeros["tiny-swiglu"] == 0


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """An installation with the models whose fitted parts are tracked, those parts, and no way to load weights."""
    real = Home.default()
    home = Home(tmp_path)
    home.models.mkdir(parents=True)
    for name in predictors.MODELS:
        if (real.models / name).is_dir():
            (home.models / name).symlink_to(real.models / name)
    known = real.root / "fingerprints.json"
    if known.is_file():
        shutil.copy(known, home.root)
    for run in map(store.open_run, TRACKED.glob("trial-*")):
        recipe = run.manifest["parts"]["token_table"]
        part = parts.Part("token_table", run.spec.model.weights, run.spec.model.name, {"none": torch.zeros(1)}, **recipe)
        parts.save(part, home.root / "fitted")

    def refuse(*args):
        raise AssertionError("the request is not that of the tracked run: it would be computed anew")

    monkeypatch.setattr("moyu_core.model_files.read_weights", refuse)
    monkeypatch.setattr("moyu_core.studies.trinity.families.tried", refuse)
    return home


def asked_for(home):
    """(study, request) of everything that `make demo-data` computes but the speeds, which are of one machine."""
    yield from demo.first_requests()
    yield from (("predictors", request) for request in predictors.demo_requests(home))
    yield from (("trial", request) for request in predictors.trial_requests(home))
    yield from (("trinity", request) for request in trinity.demo_requests(home))
    yield "families", FamiliesRequest()


@pytest.mark.model
def test_every_command_of_make_demo_data_finds_its_tracked_run(prepared):
    """The id of a run holds everything that decides its numbers: model, texts, parameters, what the fitted parts were made from."""
    need(prepared, demo.MODEL)
    found = [perform(study, request.as_json(), prepared) for study, request in asked_for(prepared)]
    here = {canonical_name(model) for model in trinity.DEMO_MODELS if registry.on_disk(model, prepared)}
    absent = {canonical_name(model) for model in trinity.DEMO_MODELS} - here
    tracked = {path.name for path in TRACKED.iterdir() if path.name.rpartition("-")[0] in dict(asked_for(prepared))}
    others = {name for name in tracked if store.open_run(TRACKED / name).manifest["model"]["name"] in absent}
    assert set(found) == tracked - others and len(found) == len(set(found))


@pytest.mark.parametrize("model", trinity.DEMO_MODELS)
def test_the_tracked_speeds_are_those_that_would_be_measured(model, prepared):
    """Settings, operating points of the tracked quality and prompt; a run of its own for every machine."""
    need(prepared, model)
    densities = trinity.DEMO_SPEEDS if model == demo.MODEL else DENSITIES
    wanted = trinity.speed_request(model, prepared, METHODS, densities, trinity.operating_points(model, [prepared]))
    name = canonical_name(model)
    held = [run.spec.parameters for run in map(store.open_run, TRACKED.glob("speed-*")) if run.manifest["model"]["name"] == name]
    assert [parameters["device"] for parameters in held].count("cpu") == 1
    identity = registry.identity(model, prepared, "float32")
    assert identity is not None
    for parameters in held:
        for name in ("settings", "points", "prompt_tokens", "repeats", "tokens"):
            assert json.loads(json.dumps(getattr(wanted, name))) == parameters[name], name
        assert parameters["parts"] == part_hashes(model, METHODS, identity, prepared)


def need(home, model):
    """Skips where the model is not on this machine."""
    if registry.on_disk(model, home) is None:
        pytest.skip(f"{model} is not fetched: run `moyu fetch {model}`")


def test_rebuilding_replaces_the_runs_of_a_study_and_model_and_leaves_the_others(tmp_path):
    building, folder = tmp_path / ".demo-building", tmp_path / "demo"
    for where, name, model, dtype, device in (
        (folder, "capture-1", "m", "float32", ""), (folder, "training-1", "m", "float32", ""),
        (folder, "live-x-1", "m", "float32", ""), (folder, "capture-3", "not here", "float32", ""),
        (folder, "capture-4", "m", "bfloat16", ""), (folder, "speed-1", "m", "float32", "cpu"),
        (folder, "speed-2", "m", "float32", "a GPU"), (building, "capture-2", "m", "float32", ""),
        (building, "speed-3", "m", "float32", "cpu"),
    ):  # fmt: skip
        (where / name).mkdir(parents=True)
        spec = {"model": {"name": model, "dtype": dtype}, "parameters": {"device": device} if device else {}}
        (where / name / "manifest.json").write_text(json.dumps({"model": {"name": model}, "spec": spec}))
    (building / ".capture-2.lock").touch()
    demo.put_in_place(building, folder)
    replaced, kept = {"capture-2", "speed-3"}, {"capture-3", "capture-4", "speed-2", "training-1", "live-x-1"}
    assert {path.name for path in folder.iterdir()} == replaced | kept
    assert not building.exists()


@pytest.mark.model
def test_a_rebuilt_slice_equals_the_tracked_one(run, tmp_path):
    """Two prompts, all layers. Another machine sums in another order, so a few neurons at the border may swap."""
    home = dataclasses.replace(Home.default(), tracked=(), runs_folder=tmp_path)
    if not (home.models / "smollm2-135m-instruct" / "config.json").is_file():
        pytest.skip("the default model is not fetched: run `moyu fetch default`")
    wanted = ("code-python-gcd", "prose-lighthouse")
    prompts = tuple(p for p in read_prompts(REPOSITORY / "data" / "prompts" / "demo.jsonl").prompts if p.id in wanted)
    request = dataclasses.replace(demo.capture_request(), prompts=prompts, values=wanted)
    again = store.find_run(home, perform("capture", request.as_json(), home))
    assert again.spec.model.weights == run.spec.model.weights
    for prompt in wanted:
        for layer in run.manifest["layers"]:
            old, new = query.read_slice(run, prompt, layer), query.read_slice(again, prompt, layer)
            assert old.frame["token_id"].tolist() == new.frame["token_id"].tolist()
            assert sets.overlap(old.active, new.active).min() > 0.98
            for name in ("l2_norm", "abs_max", "effective_neurons", "scale"):
                np.testing.assert_allclose(old.frame[name], new.frame[name], rtol=1e-3)
            assert old.codes is not None and new.codes is not None and old.scale is not None
            assert (np.abs(old.values - new.values) <= 0.08 * np.abs(old.values) + 1e-3 * old.scale[:, None]).all()
