"""Fixtures that several files share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moyu_core.home import Home

torch.set_num_threads(1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An installation of its own: nothing in it, no tracked runs."""
    return Home(tmp_path / "home", tracked=())
