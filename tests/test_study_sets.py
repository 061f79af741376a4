"""A prompt set of the library becomes the texts of a study, from the form of each study page, by hand and by a link."""

from __future__ import annotations

import re

import pytest
from streamlit.testing.v1 import AppTest

from app.ui import places
from moyu_core import prompt_library
from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import Job, JobTable
from moyu_core.prompts import Prompt, PromptSet, make_prompt
from moyu_core.studies.history.requests import HistoryRequest
from moyu_core.studies.inertia.request import InertiaRequest
from moyu_core.studies.predictors.request import PredictorsRequest
from moyu_core.studies.trinity.requests import TrinityRequest

MAIN = str(REPOSITORY / "app" / "main.py")
TEXTS = tuple(
    make_prompt(f"{word} number {number} stands on the quay and looks out over the grey water.", f"t{number}", domain)
    for number, (word, domain) in enumerate(
        [("Boat", "sea"), ("Gull", "sea"), ("Crane", "sea"), ("Pan", "kitchen"), ("Pot", "kitchen")] * 2
    )
)
FORMS = {
    "inertia": ("inertia_set", "Measure", "inertia_model"),
    "predictors": ("predictors_set", "Compare", "own_model"),
    "trinity": ("trinity_set", "Measure quality", "trinity_model"),
    "history": ("history_set", "Measure", "history_models"),
}


@pytest.fixture
def reference(app_home: Home) -> str:
    """A set of ten texts of two domains in the library, and the 12 digits of its link."""
    return prompt_library.save(app_home, PromptSet("Harbour", TEXTS), "test")[1].reference


def opened(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=60).run()
    app.switch_page(f"views/{page}.py")
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    return "\n".join(str(element.value) for kind in (app.caption, app.error, app.warning, app.markdown) for element in kind)


def with_model(app: AppTest, page: str) -> AppTest:
    key = FORMS[page][2]
    if page == "history":
        return app.multiselect(key=key).set_value(["tiny-relu"]).run()
    return app.selectbox(key=key).set_value("tiny-relu").run()


def queued(app: AppTest, page: str, home: Home) -> Job:
    """Press the button of the form; the job that this made."""
    next(button for button in app.button if button.label == FORMS[page][1]).click().run()
    assert not app.exception and not app.error, said(app)
    return JobTable(home.jobs).list()[0]


def prompts_of(job: Job) -> tuple[Prompt, ...]:
    """The texts as the study reads them from the job."""
    if job.study == "history":
        asked = HistoryRequest.from_json(job.request)
        assert asked.own
        return asked.texts
    requests = {"inertia": InertiaRequest, "predictors": PredictorsRequest, "trinity": TrinityRequest}
    return requests[job.study].from_json(job.request).prompts


@pytest.mark.parametrize("page", FORMS)
def test_a_link_to_a_set_makes_its_prompts_the_texts_of_the_study(app_home: Home, reference: str, page: str) -> None:
    app = with_model(opened(page, **{FORMS[page][0]: reference}), page)
    job = queued(app, page, app_home)
    assert job.study == page and prompts_of(job) == TEXTS
    assert "Harbour" in job.request["title"] + said(app)


@pytest.mark.parametrize("page", ["inertia", "predictors"])
def test_a_written_text_is_used_until_a_set_is_chosen(app_home: Home, reference: str, page: str) -> None:
    app = with_model(opened(page), page)
    assert app.text_area, "the field for a text"
    app.selectbox(key=FORMS[page][0]).set_value(reference).run()
    assert not app.text_area and "All 10 prompts of Harbour" in said(app)
    assert f"{FORMS[page][0]}={reference}" in "\n".join(block.value for block in app.code), "the set is in the link"
    app.selectbox(key=FORMS[page][0]).set_value("written").run()
    assert app.text_area and len(prompts_of(queued(app, page, app_home))) != len(TEXTS)


def test_histories_may_come_from_a_set(app_home: Home, reference: str) -> None:
    app = with_model(opened("history"), "history")
    app.segmented_control(key="history_source").set_value("set").run()
    app.selectbox(key="history_set").set_value(reference).run()
    assert "10 prompts of 2 kinds in Harbour" in said(app)
    assert {text.domain for text in prompts_of(queued(app, "history", app_home))} == {"sea", "kitchen"}


def test_a_set_that_a_study_cannot_take_is_refused_with_its_reason(app_home: Home) -> None:
    few = PromptSet("Two", TEXTS[:2])
    many = PromptSet("Many", tuple(make_prompt(f"Line {number} of many.", f"m{number}") for number in range(121)))
    for page, found, sentence in (("history", few, "At least 3 histories"), ("inertia", many, "1 to 120 texts, not 121")):
        reference = prompt_library.save(app_home, found, "test")[1].reference
        app = with_model(opened(page, **{FORMS[page][0]: reference}), page)
        next(button for button in app.button if button.label == FORMS[page][1]).click().run()
        assert not app.exception and sentence in said(app) and not JobTable(app_home.jobs).list()


def test_a_link_to_a_set_that_is_not_here_says_so(app_home: Home) -> None:
    app = opened("inertia", inertia_set="0123456789ab")
    assert "inertia_set = '0123456789ab'" in said(app) and app.text_area


def test_trinity_takes_the_shipped_evaluation_texts_at_first(app_home: Home) -> None:
    from moyu_core.studies.trinity.requests import evaluation_prompts

    app = with_model(opened("trinity"), "trinity")
    assert "Estimated: about" in said(app) and "67 passes over the texts" in said(app), "before the button is pressed"
    job = queued(app, "trinity", app_home)
    assert prompts_of(job) == evaluation_prompts(app_home, 24) and job.request["title"] == ""


def test_every_key_of_a_link_that_names_a_run_is_known_to_public_installations() -> None:
    """Whoever is sent a link to a run may open it, whichever page it leads to."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "app").rglob("*.py"))
    named = set(re.findall(r'"(\w*_?run)",\s*(?:runs|found)(?:\[0\]\.id)?,', sources))
    assert {"history_run", "inertia_run", "trinity_run", "origin_run", "trial_run", "prun"} <= named
    assert named <= set(places.RUN_KEYS)
