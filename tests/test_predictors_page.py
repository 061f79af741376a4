"""The page Predictors: it opens on a run, on none, its words are the run's numbers, links open what they name, bad input stays."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from moyu_core import estimate, methods, registry, store
from moyu_core.figures.map_payload import decode
from moyu_core.figures.text import percent
from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import JobTable
from moyu_core.methods import parts
from moyu_core.queries import predictors as queries
from moyu_core.studies.predictors import Request, predictors_run
from moyu_core.studies.predictors.request import LEFT_OUT
from moyu_core.token_sequences import tokenise
from tests import plain

MAIN = str(REPOSITORY / "app" / "main.py")
NAMES = ("oracle", "cett", "griffin", "dejavu", "dejavu-threshold", "cats", "moefication", "static", "random", "native")
PROMPTS = tuple(replace(prompt, domain=f"kind{i % 4}") for i, prompt in enumerate(plain.prompts(20, 31, 14, 25, 18, 40)))


ALONE = "One text at density 1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two comparisons on a tiny model: one of six prompts, and one of a single prompt."""
    home, model = Home(tmp_path_factory.mktemp("made"), tracked=()), plain.model("llama")
    documents = tokenise(model, plain.prompts(*[58] * 10, seed=7))
    for name in ("static", "dejavu", "moefication"):
        parts.save(methods.find(name).fit(model, documents), home.root / "fitted")
    request = Request("tiny", PROMPTS, NAMES, densities=(0.1, 0.25), detail=("p0",), set_densities=(0.1, 0.25))
    predictors_run(model, request, home)
    predictors_run(model, replace(request, prompts=PROMPTS[:1], densities=(1.0,), set_densities=(1.0,), title=ALONE), home)
    return home.runs


@pytest.fixture
def home(app_home: Home) -> Home:
    """An installation without any run; tests add what they need."""
    return app_home


@pytest.fixture
def run(home: Home, runs: Path) -> store.Run:
    """The same with the comparison as a tracked run."""
    home.tracked[0].symlink_to(runs)
    return next(run for run in store.list_runs(home)[0] if run.spec.study == "predictors" and run.manifest["title"] != ALONE)


def opened(**query: str) -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    app.switch_page("views/predictors.py").run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.warning, app.error, app.info, app.title, app.subheader)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def test_it_explains_an_empty_store(home: Home) -> None:
    app = opened()
    assert "no comparison yet" in said(app) and "Estimated" not in said(app) and not app.error
    assert [button.label for button in app.button if button.label == "Compare"]


def test_the_form_says_what_a_comparison_takes_by_what_earlier_ones_took(run: store.Run, home: Home) -> None:
    """Seconds of the shipped run of another size, for this text, one density and the usual methods."""
    text = said(opened(part="own", own_model="tiny-relu"))
    words = re.search(r"Estimated: about (\d+) (s|min) \((.*?)\), ([\d,]+) tokens; fits of missing predictors", text)
    assert words, text
    assert words[3] == "speed of a shipped comparison of tiny-llama, made elsewhere, by the models' sizes"
    shape, scope = registry.model_facts(registry.TRACKED_MODELS / "tiny-relu").shape, run.manifest["scope"]
    cells = shape.layers * shape.n_neurons / (len(run.manifest["layers"]) * run.manifest["model"]["n_neurons"])
    usual = len([name for name in methods.catalog.titles() if name not in LEFT_OUT and name not in ("cats", "native")])
    share = int(words[4].replace(",", "")) / scope["tokens"] * usual / scope["methods"] * (1 + 1) / (1 + 2)
    seconds = estimate.START_SECONDS + run.manifest["seconds"] * cells * share
    assert int(words[1]) * (1 if words[2] == "s" else 60) == pytest.approx(seconds, abs=1 if words[2] == "s" else 31)


def test_own_comparisons_of_the_same_model_tell_more_than_others(run: store.Run) -> None:
    facts = replace(registry.model_facts(registry.TRACKED_MODELS / "tiny-relu"), name="tiny-llama")
    own = replace(run, tracked=False)
    shipped, known, twice = (estimate.comparison(facts, n, 3, 1, runs) for n, runs in ((10, [run]), (10, [run, own]), (20, [own])))
    assert shipped and known and twice and shipped.seconds == known.seconds and shipped.size is None
    assert known.basis == "speed of an earlier comparison of this model"
    assert shipped.basis == "speed of a shipped comparison of this model, made elsewhere"
    assert twice.seconds - estimate.START_SECONDS == pytest.approx(2 * (known.seconds - estimate.START_SECONDS))
    assert known.in_words() == f"about {known.seconds:.0f} s (speed of an earlier comparison of this model)"
    assert estimate.comparison(None, 10, 3, 1, [run]) is None and estimate.comparison(facts, 10, 3, 1, []) is None


def test_it_says_the_runs_numbers(run: store.Run) -> None:
    text, table = "", queries.table(run, 0.1)
    for part in ("tokens", "layers", "density", "stale", "trial", "questions", "own"):
        app = opened(part=part)
        assert not app.error and not app.warning
        text += said(app)
    best = table.loc[table.drop(index=["oracle", "cett"])["energy"].idxmax()]
    assert f"<b>{best['title']}</b>" in text and f"energy <b>{best['energy']:.2f}</b>" in text
    assert percent(best["cost_share"]) in text and f"would capture {table.loc['oracle', 'energy']:.2f}" in text
    for question in ("DejaVu #13", "PowerInfer #165", "PowerInfer #124"):
        assert question in text
    gap = queries.paired(run, "dejavu-threshold", "dejavu", 0.1, "energy")
    assert gap.text(3) in text
    app = opened(part="density")
    shown = next(frame.value for frame in app.dataframe if "marginal" in frame.value.columns)
    assert shown["energy"].tolist() == pytest.approx(table["energy"].tolist()) and len(shown) == len(NAMES) - 1
    assert "no router of its own" in "\n".join(str(element.proto.body) for element in app.get("html"))


def test_a_mixture_shows_kept_neurons_beside_the_routed_ones_too(run: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def columns() -> list[str]:
        return list(next(frame.value for frame in opened(part="density").dataframe if "marginal" in frame.value.columns))

    assert "|Â|/routed" not in columns(), "a dense model has no router"
    known = queries.table
    monkeypatch.setattr(queries, "table", lambda run, density: known(run, density).assign(of_routed=0.5))
    st.cache_resource.clear()
    assert columns()[2:4] == ["|Â|/F", "|Â|/routed"]


def test_one_text_has_no_intervals_and_says_so(run: store.Run, home: Home) -> None:
    alone = next(found for found in store.list_runs(home)[0] if found.manifest["title"] == ALONE)
    for part in ("tokens", "layers", "density", "stale", "questions"):
        app = opened(prun=alone.id, part=part)
        text = said(app)
        assert not app.error and "(one text, no interval)" in text and "in 1 prompt, " in text
        assert not re.search(r"\bnan\b", text) and "not distinguishable" not in text
    shown = next(frame.value for frame in opened(prun=alone.id, part="density").dataframe if "marginal" in frame.value.columns)
    assert set(shown["95 %"]) == {"none"}


def test_a_link_opens_method_density_layer_and_token(run: store.Run) -> None:
    app = opened(pmethod="griffin", pdensity="0.25", player="1", ppos="7", pmethods="oracle,griffin")
    assert app.selectbox(key="pmethod").value == "griffin" and app.slider(key="ppos").value == 7
    assert app.session_state["pdensity"] == 0.25 and app.session_state["player"] == 1
    token = queries.token_texts(run, "p0")[7]
    assert f"{token}** at position 7, layer 1" in said(app)
    link = "\n".join(block.value for block in app.code)
    for part in ("pmethod=griffin", "pdensity=0.25", "player=1", "ppos=7", "pmethods=oracle%2Cgriffin"):
        assert part in link


@pytest.mark.parametrize("part", ["tokens", "layers", "density", "stale"])
def test_with_no_method_chosen_none_is_drawn_strongly_and_a_hint_says_so(run: store.Run, part: str) -> None:
    app = opened(part=part, pmethods="")
    assert app.session_state["pmethods"] == [] and "No method is chosen." in said(app) and not app.error
    assert "drawn strongly" not in said(app)
    charts = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    assert len(charts) == (part == "density")
    assert not [trace["name"] for chart in charts for trace in chart["data"] if trace.get("showlegend")]


def test_figures_of_the_fit_are_told_from_those_of_this_run(run: store.Run) -> None:
    text = said(opened(part="questions"))
    fit = queries.methods(run)["dejavu"]["part"]["validation"]["recall"]
    assert f"At equal size both are {fit:.2f} on those tokens" in text and "on the validation tokens held out of the fit" in text
    recall = queries.table(run, 0.1).loc["dejavu", "recall"]
    assert f"On this run's prompts, as in the box above, from {percent(0.1)} to" in text
    assert f"recall goes from {recall:.2f}" in text


def test_a_stale_link_says_what_is_missing(run: store.Run) -> None:
    app = opened(pmethod="nonsense", player="77", pmethods="nonsense,griffin")
    note = "\n".join(str(warning.value) for warning in app.warning)
    assert "'nonsense'" in note and "'77'" in note


def test_the_map_shows_the_overlay(run: store.Run, home: Home) -> None:
    from app.ui import predictors_cached

    payload = predictors_cached.overlay_bytes(run.id, "p0", "plain", "griffin", 0.1, 1)
    picture, overlay = decode(payload), queries.overlay(run, "p0", "griffin", 0.1, 1)
    assert (picture.cells == overlay.cells).all()
    assert len({category.pattern for category in picture.categories[:3]}) == 3, "readable without colour"
    assert "SVG" in [button.proto.label for button in opened(part="tokens").get("download_button")]


def test_the_form_queues_a_comparison_and_keeps_bad_input(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from moyu_core import registry

    facts = [facts for facts in registry.known_models(home) if facts.name.startswith("tiny")]
    monkeypatch.setattr(registry, "known_models", lambda home: facts)
    app = opened()
    app.selectbox(key="own_model").set_value("tiny-relu").run()
    assert "CATS" in said(app) and "cats" not in app.multiselect(key="own_methods").options
    app.number_input(key="own_density").set_value(0.0).run()
    next(button for button in app.button if button.label == "Compare").click().run()
    assert "above 0" in said(app) and app.text_area(key="_ptext").value
    app.number_input(key="own_density").set_value(0.2).run()
    next(button for button in app.button if button.label == "Compare").click().run()
    assert "Queued" in "\n".join(str(element.value) for element in app.success)
    assert [job.study for job in JobTable(home.jobs).list()] == ["predictors"]
