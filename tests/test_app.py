"""Every page opens on the demo run, on an empty store and on a damaged run; links open the view they name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.ui import pictures
from moyu_core import store
from moyu_core.figures.map_payload import read_header
from moyu_core.home import REPOSITORY, Home
from tests.tracked import capture_of

MAIN = str(REPOSITORY / "app" / "main.py")
PAGES = ("views/activation_map.py", "views/capture.py", "views/runs.py")
DEMO = capture_of()


@pytest.fixture
def home(app_home: Home) -> Home:
    """An installation without any run; tests add what they need."""
    return app_home


@pytest.fixture
def demo(home):
    shutil.copytree(DEMO.parent, home.tracked[0])
    return home


def opened(page: str = "views/activation_map.py", **query: str) -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.session_state["_map_was_shown"] = True  # no browser here that would draw the map and ask for the rest
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    if page != PAGES[0]:
        app.switch_page(page).run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.warning, app.error, app.info, app.title)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_the_demo_run(demo, page):
    app = opened(page)
    assert not app.error and not app.warning


@pytest.mark.parametrize("page", PAGES)
def test_every_page_explains_an_empty_store(home, page):
    app = opened(page)
    text = said(app)
    assert not app.error
    assert page == PAGES[1] or "no run" in text


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("harm", ["manifest", "truncated", "missing"])
def test_every_page_survives_a_damaged_run_and_names_the_file(demo, page, harm):
    shutil.copytree(demo.tracked[0] / DEMO.name, demo.runs / DEMO.name)
    shutil.rmtree(demo.tracked[0])
    folder = demo.runs / DEMO.name
    name = "manifest.json" if harm == "manifest" else "activations-000.parquet"
    if harm == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    app = opened(page)
    needs_the_file = page != PAGES[1]
    assert (name in "\n".join(str(error.value) for error in app.error)) == needs_the_file, said(app)


def test_a_link_opens_the_view_it_names(demo):
    app = opened(prompt="code-python-gcd", layer="3", show="signed", order="rate", neuron="17", marks="3.17 loops")
    assert app.selectbox(key="prompt").value == "code-python-gcd"
    assert app.select_slider(key="layer").value == 3
    assert app.session_state["show"] == "signed" and app.session_state["order"] == "rate"
    assert app.number_input(key="neuron").value == 17
    assert "layer 3" in said(app).lower()
    link = "\n".join(block.value for block in app.code)
    parts = ("prompt=code-python-gcd", "layer=3", "show=signed", "order=rate", "neuron=17", "marks=3.17+loops")
    for part in (*parts, f"run={DEMO.name}"):
        assert part in link


def test_a_stale_link_says_what_is_missing_and_falls_back(demo):
    app = opened(run="capture-000000000000", layer="99", show="<b>", neuron="99999", density="7")
    note = "\n".join(str(warning.value) for warning in app.warning)
    assert all(part in note for part in ("capture-000000000000", "'99'", "'<b>'", "'99999'"))
    assert app.selectbox(key="run").value == DEMO.name


def test_a_changed_rule_is_labelled_approximate_and_changes_the_finding(demo):
    app = opened()
    before = said(app)
    app.selectbox(key="rule").set_value("top").run()
    app.slider(key="density").set_value(30).run()
    assert not app.exception
    after = said(app)
    assert "460" in after and "460" not in before  # floor(0.30 * 1536)
    assert "approximate" in after and "approximate" not in before


def test_the_neuron_panel_shows_rate_tokens_and_promoted_tokens(demo):
    app = opened(neuron="700", layer="15")
    assert {metric.label for metric in app.metric} == {"rate, this prompt", "rate, whole run"}
    assert "promotes" in said(app) and "Strongest tokens" in said(app)


def test_two_prompts_side_by_side(demo):
    app = opened(compare="True")
    assert not app.exception
    maps = [part for part in app.get("bidi_component") if part.key != "chart-image"]
    assert len(maps) == 4  # the map, two maps of the comparison, their difference
    what = app.selectbox(key="_export")
    offered = [name for name in what.options if name.startswith(("Active neurons of", "Side by side", "Difference of"))]
    assert len(offered) == 4
    for name in offered:
        what.set_value(name).run()
        assert [button.proto.label for button in app.get("download_button")][:3] == ["SVG", "CSV", "Parquet"]
    what.set_value(next(name for name in what.options if name.startswith("Heat map"))).run()
    assert "SVG" not in [button.proto.label for button in app.get("download_button")], "the browser saves a chart"


def test_the_scale_of_a_difference_says_that_it_is_one(demo):
    first, second = ((DEMO.name, name, "plain", 15) for name in ("prose-lighthouse", "prose-piano-tuner"))
    header = read_header(pictures.rate_difference_bytes(first, second, "", ""))
    assert header["value_label"] == "difference of rates" and "unit" not in header


def test_a_single_neuron_that_always_fires_is_and_several_are(demo, monkeypatch):
    for count, words in ((1, "<b>1</b> always is."), (2, "<b>2</b> always are.")):
        rates = np.full(1536, 0.5)
        rates[:count] = 1
        monkeypatch.setattr("moyu_core.sets.rates", lambda rows, n_neurons, rates=rates: rates)
        assert words in said(opened())


def test_how_pooled_neurons_are_drawn_is_told_for_values_and_sets(demo):
    text = said(opened())
    assert "values show the strongest of them; the active set shows how many of them are active" in text


def test_deleting_a_run_can_be_undone(demo):
    shutil.copytree(demo.tracked[0] / DEMO.name, demo.runs / "capture-aaaaaaaaaaaa")
    manifest = demo.runs / "capture-aaaaaaaaaaaa" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "run_id": "capture-aaaaaaaaaaaa"}))
    store.delete_run(demo, "capture-aaaaaaaaaaaa")
    app = opened(PAGES[2])
    next(button for button in app.button if "Bring" in button.label).click().run()
    assert store.has_run(demo, "capture-aaaaaaaaaaaa")


def test_a_prompt_that_is_too_long_is_announced_before_it_is_cut(demo):
    app = opened(PAGES[1])
    app.text_area(key="_text").set_value("word " * 40_000).run()
    assert any("200,000 characters" in str(warning.value) and "left out" in str(warning.value) for warning in app.warning)


@pytest.mark.parametrize("text", ["", "   \n "])
def test_an_empty_prompt_is_refused_with_a_sentence(demo, text):
    app = opened(PAGES[1])
    app.text_area(key="_text").set_value(text).run()
    next(button for button in app.button if button.label == "Capture").click().run()
    assert any("empty" in str(error.value) for error in app.error)
    assert not app.exception


def test_asking_twice_makes_one_job(demo):
    from moyu_core.jobs import JobTable

    app = opened(PAGES[1])
    app.text_area(key="_text").set_value("Two moons, one tide.").run()
    for _ in range(2):
        next(button for button in app.button if button.label == "Capture").click().run()
    jobs = JobTable(demo.jobs).list()
    assert len(jobs) == 1 and jobs[0].state == "queued"
    assert "queued, place 1" in said(app) and "No worker is running" in said(app)


def test_a_job_names_all_the_models_it_was_asked_for(demo):
    from moyu_core.jobs import JobTable

    table = JobTable(demo.jobs)
    table.submit("history", {"models": ["tiny-relu", "tiny-gelu"]})
    table.submit("capture", {"model": "gemma3-270m", "title": "One"})
    table.submit("live", {"activation": "relu"})
    lines = [element.value for element in opened("views/capture.py").markdown if "queued, place" in element.value]
    assert lines == ["**live** · relu, width 384, seed 0 · queued, place 3", "**One** · gemma3\\-270m · queued, place 2",
                     "**history** · tiny\\-relu, tiny\\-gelu · queued, place 1"]


def test_the_app_imports_neither_torch_nor_transformers():
    import subprocess
    import sys

    code = ("import sys; sys.path.insert(0, '.'); from streamlit.testing.v1 import AppTest;"
            "app = AppTest.from_file('app/main.py', default_timeout=60).run();"
            "assert not app.exception;"
            "found = {'torch', 'transformers'} & set(sys.modules); assert not found, found")
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_all_pages_compile():
    for path in Path(REPOSITORY / "app").rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
