"""What is tracked: parts that are small enough, in data/fitted, the demo's comparisons and trials. Part of `make demo-data`.

The token table of the default model has 46 KB for each of some thousand tokens, so it is fitted at first use: about three minutes
on two free cores, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from moyu_core import registry
from moyu_core.home import Home
from moyu_core.methods import find, parts
from moyu_core.methods.text import calibration_documents
from moyu_core.models import load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import read_prompts
from moyu_core.studies import perform
from moyu_core.studies.predictors.request import PredictorsRequest
from moyu_core.studies.predictors.study import FIT_TOKENS
from moyu_core.studies.trial.request import TrialRequest, trial_prompts

MODELS = ("smollm2-135m-instruct", "tiny-relu", "tiny-gelu", "tiny-swiglu")
TRIED = (*MODELS, "gemma3-270m")
"""Of the trial; the last is fetched on demand, so what is fitted for it is not tracked."""
METHODS = ("static", "dejavu", "moefication")
"""One method for each part that is tracked: calibration, dejavu, moefication."""
DETAIL = ("prose-lighthouse",)
DENSITIES = (0.05, 0.1, 0.3, 0.5)


def fit_tracked(
    home: Home, models: Sequence[str] = MODELS, folder: Path = parts.TRACKED, report: Reporter = silent
) -> list[Path]:
    """Fit every tracked part anew; returns the files. About an hour on two cores, most of it for the default model."""
    written = []
    for name in models:
        model = load_model(name, home, report=report)
        for method in METHODS:
            part = find(method).part
            documents = calibration_documents(model, home, FIT_TOKENS[part], report=report)
            written.append(parts.save(find(method).fit(model, documents, 0, report), folder))
    return written


def demo_requests(home: Home) -> list[PredictorsRequest]:
    """The demo prompts on the default model, with the sets of one prompt, and on two matched tiny models without."""
    prompts = read_prompts(home.prompts / "demo.jsonl").prompts
    first = PredictorsRequest("default", prompts, densities=DENSITIES, detail=DETAIL, title="Demo prompts on the default model")
    others = [PredictorsRequest(name, prompts, densities=DENSITIES, set_densities=(0.1,), title=f"Demo prompts on {name}")
              for name in ("tiny-relu", "tiny-swiglu")]
    return [first, *others]


def trial_requests(home: Home) -> list[TrialRequest]:
    """The token table on trial: every model of TRIED that is on this machine, the same texts for all."""
    texts = trial_prompts(home)
    return [TrialRequest(name, texts, title=f"Token table on trial, {name}") for name in TRIED if registry.on_disk(name, home)]


def demo_runs(home: Home, said: Callable[[str], object], device: str | None = None) -> None:
    """Carry the demo's comparisons and trials out."""
    for request in demo_requests(home):
        said(perform("predictors", request.as_json(), home, device=device))
    for request in trial_requests(home):
        said(perform("trial", request.as_json(), home, device=device))
