"""The study `trial`: the token table put to the test, every token of prompt and generation masked.

    forward (masked prompt, continuation, generation) -> judge (against the dense model, text by text)
    verdicts (claims, fixed beforehand)               -> study (the run `trial`)

Texts are held out, one a document, genres in equal shares; rivals keep as many neurons as the table does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.studies.trial.request import TrialRequest as Request

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

NAME = "trial"
__all__ = ["NAME", "Request", "run", "trial_run"]


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model, fit what is missing, and judge; returns the run id. A finished run is returned without loading."""
    from moyu_core.studies.trial import study

    return study.run(request, home, report, device)


def trial_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """The same with a model that is loaded already."""
    from moyu_core.studies.trial import study

    return study.trial_run(model, request, home, report)
