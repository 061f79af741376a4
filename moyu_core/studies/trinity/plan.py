"""Requests that depend on runs that are there: what to time, and the demo runs.

    python -m moyu_core.studies.trinity.plan [FOLDER]      # makes the demo runs of the trinity in the folder of demo runs

Speed runs are of the machine they are made on, so make them on a quiet one; `make demo-data` makes them too.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moyu_core import methods, registry, store
from moyu_core.home import Home
from moyu_core.queries import trinity
from moyu_core.studies.trinity.contenders import OWN_SIZE
from moyu_core.studies.trinity.operating import CONFIRMED
from moyu_core.studies.trinity.requests import DENSITIES, METHODS, FamiliesRequest, SpeedRequest, TrinityRequest, evaluation_prompts

DEMO_MODELS = ("default", "tiny-relu", "tiny-gelu", "tiny-swiglu", "gemma3-270m")
DEMO_TEXTS = 48
"""One of almost every document of the evaluation set: about half an hour on two quiet cores, most of it for the default model."""
DEMO_SPEEDS = (0.1, 0.5, 0.9)
DEMO_READING = (0.5,)


def demo_requests(home: Home) -> list[TrinityRequest]:
    """Quality of the demo models on this machine; the tiny ones, trained on old books, answer no question: they read nothing."""
    texts = evaluation_prompts(home, DEMO_TEXTS)
    here = [model for model in DEMO_MODELS if registry.on_disk(model, home)]
    return [TrinityRequest(model, texts, reading=() if model.startswith("tiny-") else DEMO_READING) for model in here]


def speed_request(
    model: str,
    home: Home,
    names: Sequence[str],
    densities: Sequence[float],
    points: Mapping[tuple[str, float], str],
    repeats: int = 21,
    tokens: int = 2,
    dtype: str = "float32",
) -> SpeedRequest:
    """What to time: every method at every density, at its own size, and at the operating point that was found for it.

    Args:
        model: as in the request.
        home: where the prompt is.
        names: methods.
        densities: of the curves.
        points: operating points that are timed too, from `operating_points`.
        repeats, tokens, dtype: as in the request.
    """
    found: list[tuple[str, float]] = []
    for name in names:
        found += [(name, density) for density in densities] if methods.find(name).steerable else [(name, OWN_SIZE)]
    own = {setting: status for setting, status in points.items() if setting[0] in names}
    confirmed = tuple(setting for setting, status in own.items() if status == CONFIRMED)
    text = evaluation_prompts(home, 4)[0].text
    return SpeedRequest(model, text, tuple(dict.fromkeys([*found, *own])), confirmed, repeats=repeats, tokens=tokens, dtype=dtype)


def operating_points(model: str, homes: Sequence[Home], dtype: str = "float32") -> dict[tuple[str, float], str]:
    """(method, density) -> status of the operating points of a run of `trinity` on this model.

    Args:
        model: as in the request.
        homes: where one may be: the newest of the first home that has any; none = no points.
        dtype: its arithmetic.
    """
    for home in homes:
        identity = registry.identity(model, home, dtype)
        found = trinity.matching(store.list_runs(home)[0], identity.weights, "trinity") if identity else []
        runs = [run for run in found if run.spec.model.dtype == dtype]
        if runs:
            frame: Any = trinity.points(runs[0]).dropna(subset=["density"])
            return {(str(row["method"]), float(row["density"])): str(row["status"]) for row in frame.to_dict("records")}
    return {}


def demo_runs(home: Home, say: Callable[[str], object]) -> None:
    """Make the demo runs in this home: quality, then speed at the operating points too, model by model; and the families."""
    from moyu_core.studies import perform

    for request in demo_requests(home):
        say(perform("trinity", request.as_json(), home))
        densities = DEMO_SPEEDS if request.model == "default" else DENSITIES
        points = operating_points(request.model, [home])
        say(perform("speed", speed_request(request.model, home, METHODS, densities, points).as_json(), home))
    say(perform("families", FamiliesRequest().as_json(), home))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Home.default().tracked[0]
    demo_runs(dataclasses.replace(Home.default(), tracked=(), runs_folder=folder), lambda run_id: sys.stdout.write(f"{run_id}\n"))
    for lock in folder.glob(".*.lock"):
        lock.unlink()
