"""Every run is opened on the page and part that show it; without anything that can show it there is no button."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.ui import cached, opening
from app.ui.places import PLACES
from moyu_core.home import REPOSITORY, Home
from moyu_core.store import Run
from moyu_core.studies import STUDIES
from tests.tracked import TRACKED

MAIN = str(REPOSITORY / "app" / "main.py")
SHOWN = {
    "speed": ("Trinity", "Machine", "speed_run"),
    "trial": ("Predictors", "The token table is our own predictor", "trial_run"),
    "families": ("Trinity", "pairs of family and method", ""),
    "vocabulary": ("Activation map", "", ""),
}
"""Study -> title of the page, words of the part, key that names the run."""


@pytest.fixture
def demo(app_home: Home) -> Home:
    app_home.tracked[0].symlink_to(TRACKED, target_is_directory=True)
    return app_home


def last(study: str) -> Run:
    """The last tracked run of a study, so not the one that a page opens with."""
    return [run for run in cached.runs()[0] if run.spec.study == study][-1]


def test_every_study_has_a_place_on_a_page() -> None:
    addresses = re.findall(r'url_path="(\w+)"', Path(MAIN).read_text(encoding="utf-8"))
    assert PLACES.keys() == STUDIES.keys() - {"chat"}, "an answer is seen in its conversation"
    assert {place.page for place in PLACES.values()} <= set(addresses)


@pytest.mark.parametrize("study", SHOWN)
def test_a_run_is_opened_where_it_is_seen(demo: Home, study: str) -> None:
    run = last(study)
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.query_params["runs_run"] = run.id
    app.run()
    app.switch_page("views/runs.py").run()
    (button,) = [button for button in app.button if button.label.startswith("Open")]
    button.click().run()
    title, words, key = SHOWN[study]
    said = "\n".join(str(element.value) for kind in (app.markdown, app.caption) for element in kind)
    assert not app.exception and app.title[0].value == title and words in said
    if key:
        assert app.session_state[key] == run.id
    if study == "speed":
        assert cached.find_run(app.session_state["trinity_run"]).spec.model == run.spec.model
    if study == "vocabulary":
        assert cached.find_run(app.session_state["run"]).spec.model.weights == run.spec.model.weights


def test_without_what_stands_beside_it_a_run_has_no_button(app_home: Home) -> None:
    app_home.tracked[0].mkdir()
    for study in ("speed", "vocabulary", "families", "trial"):
        folder = next(TRACKED.glob(f"{study}-*"))
        (app_home.tracked[0] / folder.name).symlink_to(folder, target_is_directory=True)
    found = {run.spec.study: opening.button(run) for run in cached.runs()[0]}
    assert found == {"speed": "", "vocabulary": "", "families": "", "trial": "Open"}


def test_the_table_of_runs_has_a_dash_for_what_a_study_does_not_count(demo: Home) -> None:
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.run()
    app.switch_page("views/runs.py").run()
    table = next(frame for frame in app.dataframe if "set rule" in frame.value)
    empty: Any = table.value["prompts"].isna()
    assert table.proto.placeholder == "\u2013" and empty.any()
