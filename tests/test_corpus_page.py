"""The map page takes a corpus as baseline and for a neuron's strongest tokens, where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plain
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from moyu_core import query, store
from moyu_core.figures.text import percent
from moyu_core.home import REPOSITORY, Home
from moyu_core.models import LoadedModel
from moyu_core.queries import corpus
from moyu_core.spec import SetRule
from moyu_core.studies.capture import capture_run
from moyu_core.studies.requests import CaptureRequest

RULE = SetRule("top", 0.25)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return plain.model("llama")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    here = Home(tmp_path, tracked=())
    monkeypatch.setattr(Home, "default", staticmethod(lambda: here))
    st.cache_resource.clear()
    yield here
    st.cache_resource.clear()


def captured(model: LoadedModel, home: Home, *lengths: int, **changes: Any) -> store.Run:
    request = CaptureRequest("tiny", plain.prompts(*lengths, seed=sum(lengths)), RULE, **changes)
    return store.find_run(home, capture_run(model, request, home))


def page(run: store.Run, **query_params: str) -> str:
    app = AppTest.from_file(str(REPOSITORY / "app" / "main.py"), default_timeout=60)
    app.session_state["_map_was_shown"] = True
    for key, value in {"run": run.id, "layer": "1", **query_params}.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception
    return "\n".join(str(element.value) for kind in (app.markdown, app.caption, app.get("html")) for element in kind)


def test_with_and_without_a_corpus(model: LoadedModel, home: Home) -> None:
    run = captured(model, home, 9, 12)
    assert "in a corpus of" not in page(run) and "strongest tokens of a corpus" not in page(run, neuron="5").lower()
    big = captured(model, home, *range(4, 16), corpus=True)
    st.cache_resource.clear()
    text = page(run, neuron="5")
    tokens = big.manifest["counts"]["tokens"]
    assert f"in a corpus of {tokens:,} tokens they would share {percent(corpus.rates(big, 1).overlap)}" in text
    assert f"Strongest tokens of a corpus of {tokens:,} tokens" in text
    assert query.top_tokens(big, 1, 5)
    other = captured(model, home, 9, 12, corpus=False, layers=(1,))
    assert "in a corpus of" in page(other)


def test_the_rates_of_another_rule_are_no_baseline(model: LoadedModel, home: Home) -> None:
    run = captured(model, home, 9, 12)
    request = CaptureRequest("tiny", plain.prompts(*range(4, 16)), SetRule("top", 0.5), corpus=True)
    capture_run(model, request, home)
    assert "in a corpus of" not in page(run)
