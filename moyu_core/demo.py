"""Rebuild the tracked demo runs: `python -m moyu_core.demo [FOLDER]` (`make demo-data`).

All prompts of data/prompts/demo.jsonl on the default model, all layers, sets and statistics; values for a few short prompts
of different kinds, since values are eight times the size of a set; and the promoted tokens of every neuron.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

from moyu_core.home import Home
from moyu_core.prompts import read_prompts
from moyu_core.studies.requests import CaptureRequest, VocabularyRequest

WITH_VALUES = ("prose-lighthouse", "code-python-gcd", "french-third-floor")
MODEL = "default"
VOCABULARY_TOKENS = 5


def capture_request() -> CaptureRequest:
    """What the demo run answers."""
    prompts = read_prompts(Home.default().prompts / "demo.jsonl").prompts
    return CaptureRequest(MODEL, prompts, values=WITH_VALUES, cett=True, title="Demo prompts")


def main(folder: Path) -> None:
    """Compute the demo runs anew and replace those in `folder`."""
    from moyu_core.studies import perform

    building = folder.with_name(f".{folder.name}-building")
    shutil.rmtree(building, ignore_errors=True)
    home = dataclasses.replace(Home.default(), tracked=(), runs_folder=building)
    for study, request in (("capture", capture_request()), ("vocabulary", VocabularyRequest(MODEL, VOCABULARY_TOKENS))):
        sys.stdout.write(f"{perform(study, request.as_json(), home)}\n")
    for lock in building.glob(".*"):
        lock.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Home.default().tracked[0])
