"""The tracked demo run is what the code makes: a slice of it is rebuilt and compared."""

import dataclasses

import numpy as np
import pytest

from moyu_core import demo, query, sets, store
from moyu_core.home import REPOSITORY, Home
from moyu_core.prompts import read_prompts
from moyu_core.studies import perform

TRACKED = REPOSITORY / "data" / "runs" / "demo"


@pytest.fixture(scope="module")
def run():
    return store.open_run(next(TRACKED.glob("capture-*")), tracked=True)


MEGABYTES = {
    ("capture", "vocabulary"): 20, ("inertia",): 8, ("history",): 8, ("predictors",): 6, ("training", "origin"): 1,
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


def test_rebuilding_replaces_the_runs_of_a_study_and_leaves_the_others(tmp_path):
    building, folder = tmp_path / ".demo-building", tmp_path / "demo"
    for name in ("capture-1", "training-1", "live-x-1"):
        (folder / name).mkdir(parents=True)
    (building / "capture-2").mkdir(parents=True)
    (building / ".capture-2.lock").touch()
    demo.put_in_place(building, folder)
    assert {path.name for path in folder.iterdir()} == {"capture-2", "training-1", "live-x-1"} and not building.exists()


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
            assert old.codes is not None and new.codes is not None
            assert (np.abs(old.values - new.values) <= 0.08 * np.abs(old.values) + 1e-3 * old.scale[:, None]).all()
