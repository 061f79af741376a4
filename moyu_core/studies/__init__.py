"""One file per question. A study turns a request (JSON, so that it can wait in the job table) into a finished run.

Each study module has `NAME`, a frozen `Request` with `as_json`/`from_json`, and `run(request, home, report, device) -> run id`.
A new study is a new module and a line in `STUDIES`; modules are imported when they are needed, because they import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.progress import Reporter, silent

STUDIES = {
    "capture": "moyu_core.studies.capture",
    "vocabulary": "moyu_core.studies.vocabulary",
    "origin": "moyu_core.studies.origin",
    "training": "moyu_core.studies.training",
    "live": "moyu_core.studies.live",
    "history": "moyu_core.studies.history.study",
    "inertia": "moyu_core.studies.inertia",
    "predictors": "moyu_core.studies.predictors",
    "trial": "moyu_core.studies.trial",
    "trinity": "moyu_core.studies.trinity.study",
    "speed": "moyu_core.studies.trinity.speed",
    "families": "moyu_core.studies.trinity.families",
    "chat": "moyu_core.studies.trinity.chat",
}


def perform(
    study: str, request: dict[str, Any], home: Home, report: Reporter = silent, device: str | None = None
) -> str:
    """Carry out a request and return the id of its run; a run that exists already is returned at once.

    Raises:
        MoyuError: anything a user can mend; `Cancelled` when `report` said so.
    """
    if study not in STUDIES:
        raise InputError(f"Study {study!r} is not known; use one of {', '.join(STUDIES)}.")
    module = import_module(STUDIES[study])
    try:
        asked = module.Request.from_json(request)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"The request for a {study} run is not one that this version understands ({error}); ask anew.") from error
    return module.run(asked, home, report, device)
