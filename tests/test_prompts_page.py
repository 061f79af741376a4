"""The Prompts page as a person uses it, bundles on the Runs page, and two visitors of a public installation."""

from __future__ import annotations

import io
import shutil
from urllib.parse import parse_qsl

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from app.ui import visitors
from moyu_core import archive, prompt_library, store
from moyu_core.home import Home
from moyu_core.jobs import JobTable
from moyu_core.limits import Limits
from moyu_core.prompts import PromptSet, make_prompt
from moyu_core.public import hold
from tests.test_app import DEMO, MAIN, said
from tests.test_app import demo as demo
from tests.test_app import home as home

CSV = b"question,topic\nWho came?,people\n=1+1,sums\nonly one cell\n,empty\n"


def opened(page: str, **query: str) -> AppTest:
    """A page opened by a link; its own parameters come after the switch, as a browser would bring them."""
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.session_state["_map_was_shown"] = True
    app.run()
    for key, value in query.items():
        app.query_params[key] = value
    app.switch_page(f"views/{page}.py").run()
    assert not app.exception, app.exception
    return app


def button(app: AppTest, label: str) -> Button:
    return next(found for found in app.button if found.label == label)


def press(app: AppTest, label: str) -> AppTest:
    button(app, label).click().run()
    assert not app.exception, app.exception
    return app


def uploaded(app: AppTest, name: str, data: bytes) -> AppTest:
    app.file_uploader(key="_upload").upload(name, data).run()
    assert not app.exception, app.exception
    return app


def test_every_part_opens(demo: Home) -> None:
    for query in (
        {},
        {"part": "import"},
        {"part": "make"},
        {"part": "make", "template": "switch"},
        {"part": "make", "template": "chat"},
    ):
        app = opened("prompts", **query)
        assert not app.error and not app.warning, (query, said(app))
    assert "37 prompts · 13 domains" in said(opened("prompts"))


def test_an_upload_says_what_was_left_out_and_is_kept_only_when_saved(demo: Home) -> None:
    app = uploaded(opened("prompts", part="import"), "faq.csv", CSV)
    assert "2 prompts understood, 2 rows left out" in said(app)
    problems = next(frame.value for frame in app.dataframe if "reason" in frame.value)
    assert problems["row"].tolist() == [4, 5] and "'question' is empty" in problems["reason"][1]
    assert not [found for found in prompt_library.list_sets(demo) if not found.shipped]
    press(app, "Save to the library")
    stored = next(found for found in prompt_library.list_sets(demo) if not found.shipped)
    assert stored.name == "faq"
    texts = [prompt.text for prompt in prompt_library.load(demo, stored.newest.reference).prompts]
    assert texts == ["Who came?", "=1+1"]
    assert f"set={stored.newest.reference}" in "\n".join(block.value for block in app.code)


def test_a_pasted_table_is_mapped_like_a_file_unless_lines_are_asked_for(demo: Home) -> None:
    app = opened("prompts", part="import")
    app.text_area(key="_pasted").set_value("question\ttopic\nWho?\tpeople\nHow many?\tsums\n").run()
    assert "**tsv**: 2 prompts understood" in said(app) and "Read as a table" in said(app)
    assert any(box.label.startswith("domain") and box.value == "topic" for box in app.selectbox)
    app.selectbox(key="split").set_value("lines").run()
    assert "**txt**: 3 prompts understood" in said(app) and "Read as a table" not in said(app)
    app.text_area(key="_pasted").set_value('{"text": "Who?"}').run()
    assert "**jsonl**: 1 prompt understood" in said(app) and "is called" not in said(app)


def test_a_bad_file_is_one_sentence_and_the_page_stays(demo: Home) -> None:
    app = uploaded(opened("prompts", part="import"), "bad.csv", b"text\ngut\nzw\xf6lf\n")
    assert "line 3" in app.error[0].value and "0xf6" in app.error[0].value
    app.selectbox(key="encoding").set_value("cp1252").run()
    assert not app.error and "2 prompts understood" in said(app)


def test_a_link_to_a_set_works_wherever_the_same_prompts_are(demo: Home) -> None:
    first = prompt_library.save(demo, PromptSet("mine", (make_prompt("One.", "a"),)))[1]
    prompt_library.save(demo, PromptSet("mine", (make_prompt("Two.", "b"),)))
    app = opened("prompts", set=first.reference)
    assert "version 1 of 2" in app.selectbox(key="set").options[-1]
    assert app.selectbox(key="set").value == first.reference
    stale = opened("prompts", set="0123456789ab")
    assert "set = '0123456789ab'" in stale.warning[0].value


def test_deleting_a_set_can_be_undone(demo: Home) -> None:
    version = prompt_library.save(demo, PromptSet("mine", (make_prompt("One.", "a"),)))[1]
    app = press(opened("prompts", set=version.reference), "Delete")
    assert "in the trash" in said(app) and prompt_library.deleted(demo)
    press(app, "Bring mine back")
    assert prompt_library.load(demo, version.reference).prompts[0].text == "One."


FORM_OF = {"capture": "captured_set", "history": "history_set", "inertia": "inertia_set", "predictors": "predictors_set",
           "trinity": "trinity_set"}  # fmt: skip
"""Page of a study -> key of the box in which a set is chosen."""


def test_a_grid_is_saved_and_captured_as_one_job(demo: Home) -> None:
    app = opened("prompts", part="make", n_probes="2", n_histories="3")
    assert "8 prompts." in said(app)
    press(app, "Save to the library")
    reference = next(found for found in prompt_library.list_sets(demo) if not found.shipped).newest.reference
    capture = opened("capture", source="set", captured_set=reference, new_model="tiny-relu")
    press(capture, "Capture")
    job = JobTable(demo.jobs).list()[0]
    assert len(job.request["prompts"]) == 8 and job.request["model"] == "tiny-relu"
    assert {prompt["condition"] for prompt in job.request["prompts"]} >= {"plain"}


def test_a_set_of_ones_own_is_filled_in_in_the_form_of_every_study(demo: Home) -> None:
    reference = prompt_library.save(demo, PromptSet("mine", (make_prompt("One."), make_prompt("Two."))))[1].reference
    library = opened("prompts", set=reference)
    links = [link.proto for link in library.get("page_link")]
    found = {link.page: dict(parse_qsl(link.query_string)) for link in links if reference in link.query_string}
    assert set(found) == set(FORM_OF)
    for page, query in found.items():
        app = opened(page, **query)
        assert not app.warning and app.selectbox(key=FORM_OF[page]).value == reference, page


def test_an_unknown_parameter_and_a_newer_link_are_explained(demo: Home) -> None:
    note = opened("prompts", nonsense="<b>1</b>", v="7").warning[0].value
    assert "newer version" in note and "'nonsense'" in note and "<b>" not in note
    assert not opened("runs", layer="3", show="signed").warning  # keys of other pages are no fault of a link


def test_every_page_offers_link_and_download(demo: Home) -> None:
    for page in ("activation_map", "prompts", "runs"):
        labels = {button.label for button in opened(page).get("download_button")}
        assert {"CSV", "Parquet", "Report (HTML)", "Notebook"} <= labels, page


def test_a_bundle_is_opened_by_upload_and_a_harmed_one_refused(demo: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = store.find_run(demo, DEMO.name)
    data = b"".join(archive.stream(run))
    shutil.rmtree(demo.tracked[0])
    st.cache_resource.clear()
    app = opened("runs")
    app.file_uploader(key="_bundle-0").upload("demo.zip", data[:-200]).run()
    assert "bundle cannot be read" in app.error[0].value and not store.has_run(demo, run.id)
    app.file_uploader(key="_bundle-0").upload("demo.zip", data).run()
    assert store.has_run(demo, run.id, verify=True)


@pytest.fixture
def public(demo: Home, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A public installation; the entry `name` says whose browser it is."""
    who = {"name": "a" * 32}
    allowed = Limits(models=("tiny-relu",), max_characters=50, max_tokens=32)
    monkeypatch.setattr(visitors, "limits", lambda: allowed)
    monkeypatch.setattr(visitors, "visitor", lambda: who["name"])
    return who


def captured(home: Home, text: str) -> str:
    """A visitor captures a text; a worker would make the run, here a copy of the demo run stands for it."""
    app = opened("capture", new_model="tiny-relu")
    app.text_area(key="_text").set_value(text).run()
    press(app, "Capture")
    table = JobTable(home.jobs)
    taken = table.claim("1@here", "cpu")
    assert taken is not None
    assert table.finish(taken.id, "1@here", DEMO.name)
    return DEMO.name


def test_two_visitors_do_not_see_each_others_jobs_runs_and_sets(public: dict[str, str], demo: Home) -> None:
    demo.runs.mkdir(exist_ok=True)
    shutil.move(demo.tracked[0] / DEMO.name, demo.runs / DEMO.name)
    run_id = captured(demo, "Nobody else may read this.")
    mine = opened("runs")
    assert run_id in mine.dataframe[0].value["run"].tolist()
    prompt_library.save(demo, PromptSet("diary", (make_prompt("Dear diary"),)), owner=public["name"])
    assert any("diary" in option for option in opened("prompts").selectbox(key="set").options)
    assert "Nobody else" in said(opened("capture"))

    public["name"] = "b" * 32
    st.cache_resource.clear()
    theirs = opened("runs")
    assert run_id not in str([frame.value for frame in theirs.dataframe])
    assert not any("diary" in option for option in opened("prompts").selectbox(key="set").options)
    assert "Nobody else" not in said(opened("capture"))
    linked = AppTest.from_file(MAIN, default_timeout=60)
    linked.session_state["_map_was_shown"] = True
    linked.query_params["run"] = run_id
    linked.run()
    assert linked.selectbox(key="run").value == run_id  # who was sent the link may look

    sharing = {"List to everybody", "Take off the list"}
    public["name"] = "a" * 32
    owners = opened("runs", runs_run=run_id)
    press(owners, "List to everybody")
    public["name"] = "b" * 32
    theirs = opened("runs", runs_run=run_id)
    assert run_id in theirs.dataframe[0].value["run"].tolist() and not sharing & {found.label for found in theirs.button}
    press(owners, "Take off the list")
    assert run_id not in str([frame.value for frame in opened("runs").dataframe])


def test_limits_are_said_before_they_bite_and_then_bite(public: dict[str, str], demo: Home) -> None:
    app = opened("capture")
    assert "50 characters" in said(app) and "0 of 3 jobs" in said(app)
    assert app.number_input(key="new_limit").max == 32
    assert len(app.selectbox(key="new_model").options) == 1
    assert "runs tiny-relu; install the project" in app.selectbox(key="new_model").help
    app.text_area(key="_text").set_value("x" * 60).run()
    assert any("60 characters" in str(warning.value) and "left out" in str(warning.value) for warning in app.warning)
    for number in range(3):
        app.text_area(key="_text").set_value(f"text {number}").run()
        assert not button(app, "Capture").disabled
        press(app, "Capture")
        assert f"You use {number + 1} of 3 jobs" in said(app)
    assert button(app, "Capture").disabled and "3 jobs waiting or running and 3 are allowed" in said(app)
    table = JobTable(demo.jobs)
    assert len(table.list()) == 3
    table.cancel(table.list()[0].id, public["name"])
    assert not button(app.run(), "Capture").disabled and "are allowed at once" not in said(app)


FORMS = {"history": "Measure", "inertia": "Measure", "predictors": "Compare", "trinity": "Measure quality"}
"""Page -> button of the form of its study."""


@pytest.mark.parametrize("page", FORMS)
def test_a_study_that_is_not_carried_out_here_says_so_beside_its_form(public: dict[str, str], demo: Home, page: str) -> None:
    app = opened(page, part="own")
    assert button(app, FORMS[page]).disabled and f"carries out capture, vocabulary, not '{page}'" in said(app)


def test_a_set_that_is_too_large_is_refused_beside_the_form(public: dict[str, str], demo: Home) -> None:
    few, many, long = (
        prompt_library.save(demo, PromptSet(name, tuple(make_prompt(text, f"p{n}") for n, text in enumerate(texts))))[1].reference
        for name, texts in (("few", ["a"]), ("many", [f"text {n}" for n in range(41)]), ("long", ["x" * 51]))
    )
    for reference, sentence in ((few, ""), (many, "at most 40 prompts"), (long, "at most 50 characters")):
        app = opened("capture", source="set", captured_set=reference, new_model="tiny-relu")
        assert button(app, "Capture").disabled == bool(sentence) and sentence in said(app), sentence


def test_sets_over_the_limits_are_not_kept_and_the_reason_stands_below_the_button(public: dict[str, str], demo: Home) -> None:
    app = opened("prompts", part="import")
    for pasted, sentence in (
        ("\n".join(f"text {n}" for n in range(41)), "at most 40 prompts"),
        ("x" * 51, "at most 50 characters"),
        ("short", ""),
    ):
        app.text_area(key="_pasted").set_value(pasted).run()
        assert button(app, "Save to the library").disabled == bool(sentence) and sentence in said(app), sentence
    for number in range(20):
        prompt_library.save(demo, PromptSet(f"set {number}", (make_prompt("One."),)), owner=public["name"])
    assert button(app.run(), "Save to the library").disabled and "You keep 20 sets and 20 are allowed" in said(app)
    app.text_input[0].set_value("set 3").run()
    assert not button(app, "Save to the library").disabled, "another version of a set that is kept"


def test_own_runs_stand_before_those_of_the_program(public: dict[str, str], demo: Home) -> None:
    *others, last = opened("runs").dataframe[0].value["run"]
    demo.runs.mkdir(exist_ok=True)
    shutil.move(demo.tracked[0] / last, demo.runs / last)
    hold(JobTable(demo.jobs), last, public["name"])
    table = opened("runs").dataframe[0].value
    assert table["run"].tolist() == [last, *others] and table["kind"].tolist() == ["own"] + ["demo"] * len(others)


def test_a_job_whose_run_was_deleted_says_so(public: dict[str, str], demo: Home) -> None:
    demo.runs.mkdir(exist_ok=True)
    shutil.move(demo.tracked[0] / DEMO.name, demo.runs / DEMO.name)
    captured(demo, "Gone before long.")
    assert "was deleted since" not in said(opened("capture"))
    store.delete_run(demo, DEMO.name)
    assert "was deleted since, ask again" in said(opened("capture"))


def test_a_file_like_object_is_enough_for_a_bundle(demo: Home, tmp_path) -> None:
    from moyu_core import archive_import

    data = io.BytesIO(b"".join(archive.stream(store.find_run(demo, DEMO.name))))
    assert archive_import.unpack(data, Home(tmp_path / "other", tracked=()))[1]
