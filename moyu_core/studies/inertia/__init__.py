"""The inertia study: do the same neurons keep firing within a sequence, whatever the meaning?

The forward passes import torch, so they stand in modules that are imported when the study runs; what can be asked does not.
"""

from __future__ import annotations

from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.studies.inertia.request import InertiaRequest as Request

NAME = "inertia"
__all__ = ["NAME", "Request", "run"]


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model and carry the study out; returns the run id. A finished run of the same spec is returned without loading."""
    from moyu_core.studies.inertia import study

    return study.run(request, home, report, device)
