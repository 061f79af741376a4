"""The page Origin: every part opens, its numbers are the runs', links open what they name, live training is asked for once."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.ui import links
from moyu_core import monte_carlo, store, theory
from moyu_core.figures import origin as figures
from moyu_core.figures.text import number, percent
from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import JobTable
from moyu_core.queries import origin as queries
from moyu_core.studies import perform
from moyu_core.studies.origin_requests import LiveRequest
from tests.tracked import capture_of

MAIN = str(REPOSITORY / "app" / "main.py")
DEMO = REPOSITORY / "data" / "runs" / "demo"
PARTS = ("derivation", "training", "live", "model")


@pytest.fixture
def home(app_home: Home) -> Home:
    """An installation without any run; tests add what they need."""
    return app_home


@pytest.fixture
def demo(home):
    """With the tracked runs of the studies `training` and `origin`."""
    for study in ("training", "origin"):
        for folder in DEMO.glob(f"{study}-*"):
            shutil.copytree(folder, home.tracked[0] / folder.name)
    return home


def opened(**query: str) -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    app.switch_page("views/origin.py").run()
    assert not app.exception, app.exception
    return app


def at(part: str, **query: str) -> AppTest:
    """The page with a part open."""
    app = opened(**query)
    app.session_state["part"] = part
    app.run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.warning, app.error, app.info, app.title)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def runs(home: Home, study: str) -> list[store.Run]:
    return [run for run in store.list_runs(home)[0] if run.spec.study == study]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_opens(demo, part):
    app = at(part)
    assert not app.error and not app.warning
    assert app.title[0].value == "Origin"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_explains_an_empty_store(home, part):
    app = at(part)
    assert not app.error
    if part != "derivation":
        assert app.info, said(app)


def test_the_finding_is_built_from_the_runs(demo):
    text = said(opened())
    (training,), first = runs(demo, "training"), runs(demo, "origin")[0]
    for interval in queries.at_the_end(training, "zero_share").values():
        assert percent(interval.mean) in text
    for claim in queries.claims(first).values():
        if claim.name != "root cause, trained":
            assert claim.effect.text() in text and claim.verdict in text


def test_the_derivation_is_evaluated_at_the_slider(demo):
    app = at("derivation")
    app.slider(key="p").set_value(1.0).run()
    app.session_state["activation"] = "silu"
    app.run()
    found = monte_carlo.steps("silu", 1.0, "ce", 50, 0.5)
    text = said(app)
    assert number(found.closed_a) in text and number(found.closed_p) in text and f"{number(found.by_p[0])} ±" in text
    assert "driven towards 0" in text and "turns at p = -1.278" in text
    app.slider(key="p").set_value(-0.5).run()
    assert "pushed up" in said(app) and "driven towards 0" not in said(app)
    app.session_state["activation"] = "relu"
    app.run()
    assert "its zero is exact" in said(app)
    app.slider(key="p").set_value(0.0).run()
    app.session_state["activation"] = "gelu"  # its slope at 0 is 1/2
    app.run()
    assert "a is 0, nothing can shrink" in said(app)


def test_the_sign_table_stands_beside_monte_carlo(demo):
    table = at("derivation").dataframe[0].value
    assert len(table) == len(theory.POINTS) + 1
    row = table[table["p"] == "-0.5"].iloc[0]
    assert row["ReLU, closed form"] == "· 0" and row["GELU, closed form"].startswith("↑") and "±" in row["SiLU, Monte Carlo"]
    assert table[table["p"] == "2"].iloc[0]["SiLU, closed form"].startswith("↓")


def test_the_page_says_how_far_the_closed_form_is_from_monte_carlo(demo):
    from app.ui import origin_theory

    for loss in theory.LOSSES:
        assert "Closed form and Monte Carlo **agree at every point**" in said(at("derivation", loss=loss))
    rows = monte_carlo.sign_table("relu", [-1.0, 1.0, 2.0], draws=500)
    wrong = [*rows[:2], replace(rows[2], expected=rows[2].mean + 3.5 * rows[2].error)]
    text = origin_theory._agreement_of(wrong)
    assert "disagree at 1 of 2 points" in text and "is 3.5 standard errors" in text and "1 zeros are exact" in text


def test_the_matched_models_open_beside_each_other_on_the_map(demo):
    def links(app: AppTest) -> list[str]:
        return [link.proto.query_string for link in app.get("page_link")]

    assert not any("compare" in link for link in links(at("training")))  # none was captured here
    runs_of = {model: capture_of(f"tiny-{model}") for model in ("relu", "gelu", "swiglu")}
    for folder in runs_of.values():
        shutil.copytree(folder, demo.tracked[0] / folder.name)
    st.cache_resource.clear()
    found = [link for link in links(at("training")) if "compare" in link]
    assert len(found) == 2 and all(f"run={runs_of['relu'].name}" in link for link in found)
    assert [f"other_run={runs_of[other].name}" in link for link, other in zip(found, ("gelu", "swiglu"), strict=True)] == [True] * 2


def test_a_link_opens_the_view_it_names(demo):
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.run()
    app.switch_page("views/origin.py")
    for key, value in {"part": "derivation", "activation": "relu", "p": "0.75", "loss": "mse"}.items():
        app.query_params[key] = value
    app.run()
    assert app.session_state["activation"] == "relu" and app.slider(key="p").value == 0.75 and app.session_state["loss"] == "mse"
    link = "\n".join(block.value for block in app.code)
    assert all(piece in link for piece in ("activation=relu", "p=0.75", "loss=mse", "part=derivation"))


def test_a_late_address_does_not_undo_what_was_pressed_meanwhile(demo):
    app = at("derivation")
    app.slider(key="p").set_value(-0.45).run()
    assert app.query_params["p"] == "-0.45"
    for late, pressed in (({}, -0.4), ({"p": "-0.45"}, -0.35)):  # the browser has not seen our answer when it asks again
        app.query_params = {**late, "part": "derivation"}
        app.slider(key="p").set_value(pressed).run()
        assert app.slider(key="p").value == pressed and app.query_params["p"] == str(pressed)
    app.query_params = {"part": "derivation"}
    app.session_state["loss"] = "mse"  # another widget was pressed
    app.run()
    assert app.slider(key="p").value == -0.35 and app.query_params["p"] == "-0.35"


@pytest.mark.parametrize(("address", "shown"), [({}, -0.5), ({"p": "1.5"}, 1.5)])
def test_the_back_button_brings_the_address_back(demo, monkeypatch, address, shown):
    app = at("derivation")
    app.slider(key="p").set_value(-0.45).run()
    monkeypatch.setattr(links, "_travelled", lambda: True)
    app.query_params = {**address, "part": "derivation"}
    app.run()
    assert app.slider(key="p").value == shown


def test_a_link_that_names_a_run_opens_its_part(demo):
    wanted = runs(demo, "origin")[-1]
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.run()
    app.switch_page("views/origin.py")
    app.query_params["origin_run"] = wanted.id
    app.run()
    assert not app.exception and app.selectbox(key="origin_run").value == wanted.id
    assert wanted.id in said(app) and app.session_state["part"] == "model"


def test_a_layer_changes_the_curves(demo):
    app = at("training")
    before = [chart.proto.spec for chart in app.get("plotly_chart")]
    app.session_state["curve_layer"] = "0"
    app.run()
    after = [chart.proto.spec for chart in app.get("plotly_chart")]
    assert len(before) == len(after) == 4 and all(one != other for one, other in zip(before, after, strict=True))
    assert "layer 0" in said(app)


def test_the_real_model_says_its_verdicts(demo):
    text = said(at("model"))
    claims = queries.claims(runs(demo, "origin")[0])
    assert f"**{claims['root cause, trained'].verdict}**" in text
    assert "de-quantised" in text  # the default model's weights


def test_the_real_model_is_shown_where_only_reading_is_installed(demo, monkeypatch):
    for absent in ("sklearn", "torch", "transformers"):  # requirements-read.txt has none of them
        for name in [name for name in sys.modules if name.split(".")[0] == absent]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, absent, None)
    st.cache_resource.clear()
    app = at("model")
    assert not app.error and len(app.get("plotly_chart")) == 2
    table = app.dataframe[0].value
    claims = queries.claims(runs(demo, "origin")[0])
    assert table.loc["verdict", "fixed"] == claims["root cause, scale fixed"].verdict
    assert table.loc["measured / theorem", "free (the model)"] == claims["root cause, scale free"].effect.text()


def test_a_training_is_asked_for_once_and_can_be_stopped(demo):
    app = at("live")
    app.button(key="_live_start").click().run()
    (job,) = JobTable(demo.jobs).list()
    assert not [button for button in app.button if button.key == "_live_start"]  # nobody asks twice
    assert job.study == "live" and job.state == "queued" and job.request == LiveRequest().as_json()
    assert "No worker is running" in said(app) and "appear with the first measurement" in said(app)
    app.button(key="_live_stop").click().run()
    assert JobTable(demo.jobs).get(job.id).state == "cancelled"
    assert "Stopped" in said(app)


def test_finished_trainings_stand_side_by_side(demo, monkeypatch):
    from app.ui import origin_live

    monkeypatch.setattr(origin_live, "LiveRequest", lambda activation, width, seed: LiveRequest(activation, width, seed, 12))
    for activation in ("relu", "gelu"):
        perform("live", LiveRequest(activation, 384, 0, 12).as_json(), demo)
    app = at("live")
    assert not app.exception and "ReLU, seed 0, step 12" in said(app)
    spec = app.get("plotly_chart")[0].proto.spec
    assert '"ReLU"' in spec and '"GELU"' in spec and '"SwiGLU"' not in spec
    assert app.button(key="_live_start").disabled


def test_a_training_whose_time_ended_says_so_and_gives_way_to_a_longer_one(demo):
    short, full = (LiveRequest("relu", 96, seed, steps) for seed, steps in ((0, 12), (0, 20)))
    perform("live", short.as_json(), demo)
    app = at("live", live_width="96")
    assert "Its time ended at step 12 of 1,500" in said(app) and app.button(key="_live_start").disabled
    app = at("live", live_width="96", live_seed="1")
    assert re.search(r"Not trained yet; about \d+ s, as others of this width took\.", said(app))
    perform("live", full.as_json(), demo)
    st.cache_resource.clear()
    app = at("live", live_width="96")
    assert "ReLU, seed 0, step 20" in said(app) and "Its time ended at step 20 of 1,500" in said(app)
    assert '"toself"' not in app.get("plotly_chart")[0].proto.spec  # no band: the shorter one is no second seed


def test_a_run_is_opened_on_the_part_that_shows_it(demo, monkeypatch):
    from app.ui import origin_live

    monkeypatch.setattr(origin_live, "LiveRequest", lambda activation, width, seed: LiveRequest(activation, width, seed, 12))
    request = LiveRequest("gelu", 96, 3, 12)
    perform("live", request.as_json(), demo)
    shown = {"live": "GELU, seed 3, step 12", "training": "An exact zero has an exactly zero gradient", "origin": "36 seeds"}
    for study, words in shown.items():
        app = AppTest.from_file(MAIN, default_timeout=60)
        app.query_params["runs_run"] = runs(demo, study)[0].id
        app.run()
        app.switch_page("views/runs.py").run()
        (button,) = [button for button in app.button if button.label == "Open"]
        button.click().run()
        assert not app.exception and app.title[0].value == "Origin" and words in said(app), (study, said(app))


def test_figures_draw_bands_and_step_zero():
    import pandas as pd

    frame = pd.DataFrame({"activation": ["relu"] * 3, "step": [0, 10, 100], "mean": [0.5, 0.6, 0.9], "low": [0.4, 0.5, 0.8],
                          "high": [0.6, 0.7, 1.0], "seeds": [3] * 3})
    figure = figures.along_training(frame, "share")
    band, line = figure.data
    assert band.fill == "toself" and np.asarray(band.y).max() == 1.0 and line.name == "ReLU"
    assert list(line.x) == [figures.ZERO_STEP, 10, 100] and list(line.customdata) == [0, 10, 100]
    assert figure.layout.xaxis.ticktext[0] == "0"
    seeds = pd.DataFrame({"activation": ["relu"] * 4, "seed": [0, 0, 1, 1], "step": [0, 10] * 2, "value": [1.0, 2.0, 3.0, 4.0]})
    thin = figures.along_training(frame, "share", seeds).data[1]
    np.testing.assert_array_equal(thin.y, [1, 2, np.nan, 3, 4])  # a gap between the seeds
    np.testing.assert_array_equal(thin.x, [figures.ZERO_STEP, 10, np.nan, figures.ZERO_STEP, 10])
    bare = figures.along_training(frame.assign(low=np.nan, high=np.nan), "share")
    assert len(bare.data) == 1
    assert bare.layout.yaxis.rangemode == "nonnegative"  # SwiGLU's zero exact zeros: from 0 on, not from -1
    assert figures.along_training(frame, "sign", zero_line=True).layout.yaxis.rangemode == "normal"
    marks = figures.effects(["a", "b"], [1.0, 0.1], [0.9, -0.1], [1.1, 0.3], 0.5)
    assert list(marks.data[0].error_x.array) == pytest.approx([0.1, 0.2])
