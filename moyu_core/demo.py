"""Rebuild the tracked demo runs: `python -m moyu_core.demo [FOLDER]` (`make demo-data`).

All prompts of data/prompts/demo.jsonl on the default model, all layers, sets and statistics; values for a few short prompts of
different kinds, since values are eight times the size of a set. A few of them on the matched tiny models, by a rule under which
their densities can be compared. The promoted tokens of every neuron; and the inertia study on all of data/prompts/topics.jsonl.
The predictors of dynamic activation in data/fitted, and all methods side by side on the demo prompts
(moyu_core.studies.predictors.plan). Quality and speed of dynamic activation on the default and the tiny models
(moyu_core.studies.trinity.plan); speed is that of the machine this runs on, so let nothing else run.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

from moyu_core.home import Home
from moyu_core.prompts import read_prompts
from moyu_core.spec import SetRule
from moyu_core.studies.history.requests import PARTS, HistoryRequest
from moyu_core.studies.inertia.request import InertiaRequest
from moyu_core.studies.requests import CaptureRequest, VocabularyRequest

WITH_VALUES = ("prose-lighthouse", "code-python-gcd", "french-third-floor")
MODEL = "default"
VOCABULARY_TOKENS = 5
Request = CaptureRequest | VocabularyRequest | InertiaRequest | HistoryRequest
TINY = ("tiny-relu", "tiny-gelu", "tiny-swiglu")
MATCHED = (MODEL, *TINY)
BESIDE_EACH_OTHER = ("prose-lighthouse", "dialogue-ferry-dog", "recipe-flatbread")
"""What the map shows of the tiny models; values of the first two. Plain English, the only language that they learnt."""


def capture_request() -> CaptureRequest:
    """What the demo run answers."""
    prompts = read_prompts(Home.default().prompts / "demo.jsonl").prompts
    return CaptureRequest(MODEL, prompts, values=WITH_VALUES, cett=True, title="Demo prompts")


def matched_request(model: str) -> CaptureRequest:
    """What the demo run of a tiny model answers: at one CETT for all, how many neurons a token needs is the model's answer."""
    chosen = tuple(prompt for prompt in capture_request().prompts if prompt.id in BESIDE_EACH_OTHER)
    return CaptureRequest(
        model, chosen, SetRule("cett"), values=BESIDE_EACH_OTHER[:2], cett=True, title="Matched models"
    )


def inertia_request() -> InertiaRequest:
    """What the tracked run of the study `inertia` answers: all parts on 40 texts of 8 topics."""
    prompts = read_prompts(Home.default().prompts / "topics.jsonl").prompts
    return InertiaRequest(MODEL, prompts, title="Eight topics, five texts each")


def history_request() -> HistoryRequest:
    """What the tracked run of the study `history` answers: all parts, the default model and the matched tiny ones."""
    texts = read_prompts(Home.default().prompts / "histories.jsonl").prompts
    return HistoryRequest(MATCHED, texts, parts=PARTS, title="History: default and matched tiny models")


def first_requests() -> list[tuple[str, Request]]:
    """Study and what a tracked run of it answers, of those that need no fitted part; the app opens on the first."""
    return [
        ("capture", capture_request()),
        *(("capture", matched_request(model)) for model in TINY),
        ("vocabulary", VocabularyRequest(MODEL, VOCABULARY_TOKENS)),
        ("inertia", inertia_request()),
        ("history", history_request()),
    ]


def main(folder: Path) -> None:
    """Compute the demo runs anew and replace those of the same studies in `folder`."""
    from moyu_core.studies import perform
    from moyu_core.studies.predictors import plan as predictors
    from moyu_core.studies.trinity.plan import demo_runs

    building = folder.with_name(f".{folder.name}-building")
    shutil.rmtree(building, ignore_errors=True)
    home = dataclasses.replace(Home.default(), tracked=(), runs_folder=building)
    for study, request in first_requests():
        sys.stdout.write(f"{perform(study, request.as_json(), home)}\n")
    predictors.fit_tracked(Home.default())
    demo_runs(home, lambda run_id: sys.stdout.write(f"{run_id}\n"))
    predictors.demo_runs(home, lambda run_id: sys.stdout.write(f"{run_id}\n"))
    put_in_place(building, folder)


def put_in_place(building: Path, folder: Path) -> None:
    """Move the runs that were built into the folder, each in the place of the older ones of the same kind; all others stay.

    The runs of `training` and `origin` stay this way: the one is measured while the tiny models are trained (`moyu train tiny`),
    the other by `moyu study origin`, and both take far longer than all the rest. So do those of a model not on this machine, of
    another dtype, and speeds of another device.
    """
    built = [path for path in building.iterdir() if path.is_dir() and not path.name.startswith(".")]
    new = {_of_what(path) for path in built}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _of_what(old) in new:
            shutil.rmtree(old)
    for path in built:
        path.rename(folder / path.name)
    shutil.rmtree(building)


def _of_what(folder: Path) -> tuple[str, str, str, str]:
    """(study, model, dtype, device) of a run; the device only where it is asked about, as in a run of `speed`."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    spec = manifest["spec"]
    device = spec["parameters"].get("device", "")
    return folder.name.rpartition("-")[0], manifest["model"]["name"], spec["model"]["dtype"], device


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Home.default().tracked[0])
