"""Fixtures that several files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from moyu_core.home import Home

torch.set_num_threads(1)

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # what takes long on a busy machine is not wrong


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An installation of its own: nothing in it, no tracked runs."""
    return Home(tmp_path / "home", tracked=())


@pytest.fixture
def app_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The installation that the app shows: a folder for tracked runs, none in it yet, and nothing kept from other tests."""
    import streamlit as st

    here = Home(tmp_path, tracked=(tmp_path / "tracked",))
    here.runs.mkdir()
    monkeypatch.setattr(Home, "default", staticmethod(lambda: here))
    st.cache_resource.clear()
    yield here
    st.cache_resource.clear()
