"""The claims that the studies judged, out of the manifests of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moyu_core.claims import Claim
from moyu_core.store import Run


@dataclass(frozen=True)
class Judged:
    """A claim and the run that judged it."""

    claim: Claim
    run: Run


def judged(runs: Sequence[Run]) -> list[Judged]:
    """All claims of all runs; runs in the order given, a run's claims in its own order."""
    return [Judged(Claim.from_json(data), run) for run in runs for data in run.manifest.get("claims", [])]
