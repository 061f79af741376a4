"""The tracked demo runs that tests look for."""

from __future__ import annotations

from pathlib import Path

from moyu_core import demo, store
from moyu_core.home import REPOSITORY
from moyu_core.model_sources import canonical_name

TRACKED = REPOSITORY / "data" / "runs" / "demo"


def capture_of(model: str = demo.MODEL) -> Path:
    """The folder of the tracked capture of a model; that of the default model is what the app opens on."""
    name = canonical_name(model)
    return next(path for path in sorted(TRACKED.glob("capture-*")) if store.open_run(path).manifest["model"]["name"] == name)
