"""The page Inertia on a small run, on a run of one text, without a run; its card; the form for own sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import plain
import pytest
import streamlit as st
import test_inertia
from streamlit.testing.v1 import AppTest
from test_app import MAIN, said

from app.ui import inertia_card, inertia_causes, inertia_distance, inertia_form
from moyu_core import store
from moyu_core.claims import NOT_SUPPORTED, SUPPORTED, Claim
from moyu_core.errors import InputError
from moyu_core.figures import inertia as figures
from moyu_core.figures.token_strip import token_strip
from moyu_core.home import Home
from moyu_core.intervals import Interval
from moyu_core.jobs import JobTable
from moyu_core.queries import inertia as query
from moyu_core.spec import SetRule
from moyu_core.studies.inertia.request import PARTS, InertiaRequest
from moyu_core.studies.inertia.study import inertia_run

PAGE = "views/inertia.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a whole run of the tiny model and one of a single text."""
    home = Home(tmp_path_factory.mktemp("page"), tracked=())
    model = plain.model("llama", max_position_embeddings=128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moyu_core.words.word_list", lambda: tuple(plain.WORDS[5:]))
        for prompts, title in ((test_inertia.prompts(), "whole"), (test_inertia.prompts(1, 1), "alone")):
            inertia_run(model, InertiaRequest("tiny", prompts, SetRule("top", 0.25), words=9, title=title), home)
    return home


@pytest.fixture
def page(made: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(Home, "default", staticmethod(lambda: made))
    st.cache_resource.clear()
    yield made
    st.cache_resource.clear()


def run_named(home: Home, title: str) -> store.Run:
    return next(run for run in store.list_runs(home)[0] if run.manifest["title"] == title)


def opened(**query_: str) -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=60).run()
    app.switch_page(PAGE)
    for key, value in query_.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception
    return app


@pytest.mark.parametrize("part", ["panels", "layers", "distance", "causes", "neurons", "own"])
@pytest.mark.parametrize("title", ["whole", "alone"])
def test_every_part_opens_on_a_whole_run_and_on_one_text(page: Home, part: str, title: str) -> None:
    app = opened(part=part, inertia_run=run_named(page, title).id)
    assert not app.error and not app.warning
    if title == "alone" and part in ("distance", "causes"):
        assert "two topics" in said(app) or "single text" in said(app)


def test_the_panels_are_the_four_and_the_shuffled_pair(page: Home) -> None:
    app = opened(inertia_run=run_named(page, "whole").id)
    assert len(app.get("bidi_component")) == 6
    assert said(app).count("Overlap of two words of a text") == 6
    what = app.selectbox(key="_export")
    maps = [name for name in what.options if name.startswith("Map: ")]
    assert len(maps) == 6
    what.set_value(maps[-1]).run()
    assert "SVG" in [button.proto.label for button in app.get("download_button")]


def test_without_sink_control_the_artefact_is_named_with_its_size(page: Home) -> None:
    run = run_named(page, "whole")
    app = opened(inertia_run=run.id, sink_control="False", panel_layer="1")
    warning = "\n".join(str(each.value) for each in app.warning)
    bare = run.manifest["sink_artefact"]["by_layer_bare"][1]
    assert f"{100 * bare:.3g}" in warning and "artefact" in warning
    assert len(app.get("bidi_component")) == 4, "sentences and random words"


def test_matrices_of_two_texts(page: Home) -> None:
    app = opened(inertia_run=run_named(page, "whole").id, panels="matrices", beside="t1-0")
    assert "blocks on the diagonal" in said(app)
    two = query.joined(*(query.panels(run_named(page, "whole"), name, 0)["sentence", "sequence"] for name in ("t0-0", "t1-0")))
    grid = query.overlap_matrix(two)
    figure = figures.matrices([grid, grid], ["x", "y"], [two.words, two.words], 9, figures.highest([grid]))
    np.testing.assert_allclose(np.asarray(figure.data[0].z, float), grid, rtol=1e-6)
    assert figure.layout.coloraxis.cmax == np.nanmax(grid) and figures.highest([grid[:1, :1]]) == 1


def test_a_shuffled_word_keeps_its_place_in_the_sentence(page: Home) -> None:
    """Rows of all panels are numbered by the sentence, so that the linked cursor marks the same word."""
    run = run_named(page, "whole")
    first, second = (query.panels(run, name, 0) for name in ("t0-0", "t1-0"))
    for shown in (first, {key: query.joined(first[key], second[key]) for key in first}):
        sentence, shuffled = shown["sentence", "parallel"], shown["shuffled", "sequence"]
        places = query.places(shuffled, sentence)
        assert sorted(places) == list(range(len(sentence.words))) != places
        assert [sentence.words[place] for place in places] == shuffled.words
        assert query.places(shown["random_words", "sequence"], sentence) == list(range(len(sentence.words)))
    assert max(places[:9]) < 9, "of two texts each keeps to its own rows"


def test_a_lag_curve_that_ends_early_says_so(page: Home) -> None:
    app = opened(part="distance", inertia_run=run_named(page, "whole").id)
    assert "The texts are short: the curve ends at 13 words" in said(app)


def test_heavy_hitters_that_a_model_cannot_give_are_replaced_by_the_reason(page: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_named(page, "whole")
    assert "heaviest positions" in said(opened(part="causes", inertia_run=run.id))
    missing = {"done": False, "reason": "tiny gives no attention weights (none here)."}
    known = inertia_distance.done
    changed = replace(run, manifest={**run.manifest, "parts": {**run.manifest["parts"], "hitters": missing}})
    monkeypatch.setattr(inertia_causes, "done", lambda _, part: known(changed, part))
    app = opened(part="causes", inertia_run=run.id)
    assert "tiny gives no attention weights (none here)" in said(app) and "heaviest positions" not in said(app)
    assert "Share of the variance" in said(app), "the rest of the part is there"


def test_a_home_without_runs_offers_the_form(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path, tracked=())
    monkeypatch.setattr(Home, "default", staticmethod(lambda: home))
    st.cache_resource.clear()
    app = opened()
    assert "no run of the inertia study" in said(app) and app.text_area(key="_inertia_text").value
    st.cache_resource.clear()


def test_own_sentences_become_a_job(page: Home) -> None:
    app = opened(part="own", inertia_run=run_named(page, "whole").id)
    app.text_area(key="_inertia_text").set_value("sea: The tide went out.\n\nkitchen: Stir the rice.\nNo topic here: none.").run()
    next(button for button in app.button if button.label == "Measure").click().run()
    assert not app.exception and not app.error
    job = JobTable(page.jobs).list()[0]
    asked = InertiaRequest.from_json(job.request)
    assert job.study == "inertia" and [prompt.domain for prompt in asked.prompts] == ["sea", "kitchen", ""]
    assert asked.prompts[2].text == "No topic here: none." and asked.parts == ()


def test_the_form_refuses_what_it_cannot_read() -> None:
    with pytest.raises(InputError, match="one a line"):
        inertia_form.read(" \n ")
    with pytest.raises(InputError, match="At most 120"):
        inertia_form.read("word\n" * 121)
    assert inertia_form.read("note: It is 12:30.")[0].text == "It is 12:30."
    assert set(inertia_form.PASSES_OF_PART) == set(PARTS)


def claim(mean: float, half: float, verdict: str, name: str = "inertia", delta: float = 0.02, n: int = 8) -> Claim:
    effect = Interval(mean, mean - half, mean + half, half / 2, n)
    return Claim(name, "x", "y", "z", delta, effect, "<m>", f"{n} topics", verdict)


@pytest.mark.parametrize(
    ("found", "part"),
    [(claim(0.05, 0.01, SUPPORTED), "so there is inertia"), (claim(0.01, 0.005, NOT_SUPPORTED), "less than the 2"),
     (claim(0.02, 0.01, "not resolved"), "is not resolved"), (claim(0.01, 0.05, "not resolved"), inertia_card.BASELINE),
     (claim(-0.05, 0.01, NOT_SUPPORTED), "<b>less</b> alike"), (claim(0.05, float("nan"), "not resolved"), "no interval")],
)
def test_the_card_says_what_the_interval_says(found: Claim, part: str) -> None:
    text = inertia_card._inertia(found)
    assert part in text and "&lt;m&gt;" in text and "<m>" not in text


def test_the_card_says_when_the_paper_does_not_hold() -> None:
    assert "does not hold here" in inertia_card._meaning(claim(0.5, 0.1, NOT_SUPPORTED, delta=0.8))
    assert "as the paper says" in inertia_card._meaning(claim(0.95, 0.05, SUPPORTED, delta=0.8))
    assert "<b>worse</b>" in inertia_card._prefix(claim(-0.3, 0.1, NOT_SUPPORTED, delta=0.05))
    assert inertia_card.BASELINE in inertia_card._prefix(claim(0.01, 0.1, "not resolved", delta=0.05))


def test_heavy_hitters_are_underlined_and_named() -> None:
    strip = token_strip(["a", "b", "c"], np.array([0.1, 0.5, 0.2]), "attention", np.array([True, False, False]),
                        notes={1: "heavy <b>", 2: "other"})
    assert "heavy &lt;b&gt;" in strip and "border-bottom-style:solid" in strip and "border-bottom-style:dotted" in strip
    plain_strip = token_strip(["a"], np.array([0.1]), "x", np.array([False]))
    assert "border-bottom-style" not in plain_strip
