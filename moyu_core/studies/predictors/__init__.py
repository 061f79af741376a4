"""The predictors study: every dynamic-activation method on the same tokens, in one dense pass.

For each token and layer the set that a method would have kept, against the reference set: hits, misses, false alarms, captured
energy and size, beside the chance levels. Nothing is masked here, so all methods are judged on the same activations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.studies.predictors.request import PredictorsRequest as Request

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

NAME = "predictors"
__all__ = ["NAME", "Request", "predictors_run", "run"]


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model, fit what is missing, and compare; returns the run id. A finished run is returned without loading."""
    from moyu_core.studies.predictors import study

    return study.run(request, home, report, device)


def predictors_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """The same with a model that is loaded already."""
    from moyu_core.studies.predictors import study

    return study.predictors_run(model, request, home, report)
