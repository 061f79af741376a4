"""The page History on a small run: every part, its words, its form, and the way from the form through a worker to a shown run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import plain
import pytest
import streamlit as st
import test_history
from streamlit.testing.v1 import AppTest
from test_history import WORDS
from typer.testing import CliRunner

from app.ui import history_cached, history_figures, history_flips
from moyu_core import store
from moyu_core.cli import app as cli
from moyu_core.figures.map_payload import decode
from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import Job, JobTable
from moyu_core.queries import history
from moyu_core.queries.history import Cell
from moyu_core.studies.history.study import history_run
from tests.waiting import ended, until

run = test_history.run
PAGE = "views/history.py"


@pytest.fixture
def page(run: store.Run, monkeypatch: pytest.MonkeyPatch) -> object:
    here = Home(run.folder.parent.parent, tracked=())
    monkeypatch.setattr(Home, "default", staticmethod(lambda: here))
    st.cache_resource.clear()
    yield here
    st.cache_resource.clear()


def opened(**query: str) -> AppTest:
    app = AppTest.from_file(str(REPOSITORY / "app" / "main.py"), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    app.switch_page(PAGE).run()
    assert not app.exception, app.exception
    return app


@pytest.mark.parametrize("part", ["flips", "layers", "kinds", "transplant", "predictor", "drift", "own"])
def test_every_part_of_the_page_opens(page, part: str) -> None:
    app = opened(part=part)
    assert not app.error and not app.warning
    if part in ("layers", "kinds", "transplant", "predictor", "drift"):
        assert len(app.get("plotly_chart")) >= 2, "one column for each model"
    if part == "flips":
        what = app.selectbox(key="_export")
        what.set_value(next(name for name in what.options if name.startswith("What flips"))).run()
        assert "SVG" in [button.proto.label for button in app.get("download_button")]


def test_the_card_is_built_from_the_claims(page, run: store.Run) -> None:
    card = next(element.value for element in opened().markdown if "moyu-finding" in element.value)
    claim = history.claims(run)["uncertainty, tiny-llama"]
    assert claim.effect.text() in card and "needs a matched pair" in card


def test_the_flip_map_shows_the_probes(page, run: store.Run) -> None:
    first, second = Cell("none", 0), Cell("source_code", 16, 1)
    picture = decode(history_cached.flip_bytes(run.id, "tiny-llama", 1, first, second))
    assert list(picture.tokens) == list(WORDS) and [c.pattern for c in picture.categories[:3]] == ["none", "hatch", "dot"]
    _, codes = history.flip_map(run, "tiny-llama", 1, first, second)
    np.testing.assert_array_equal(picture.cells, codes)


def test_the_form_queues_what_was_written(page, monkeypatch) -> None:
    app = opened(part="own")
    app.text_area(key="_history_probes").set_value(" one\n two\n three").run()
    app.multiselect(key="history_models").set_value(app.multiselect(key="history_models").options[:1]).run()
    button = next(button for button in app.button if button.label == "Measure")
    button.click().run()
    jobs = history_cached.cached.jobs().list(5)
    assert jobs and jobs[0].study == "history" and jobs[0].request["probes"] == [" one", " two", " three"]


def test_the_page_explains_an_empty_store(tmp_path, monkeypatch) -> None:
    here = Home(tmp_path, tracked=())
    here.runs.mkdir()
    monkeypatch.setattr(Home, "default", staticmethod(lambda: here))
    st.cache_resource.clear()
    assert any("no run of the history study" in element.value for element in opened().info)
    st.cache_resource.clear()


def said(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.warning, app.error, app.info)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def html(app: AppTest) -> list[str]:
    """What stands on the page as HTML, without the isolates around tokens that keep right-to-left text in its place."""
    return [str(element.proto.body).translate(dict.fromkeys((0x2068, 0x2069))) for element in app.get("html")]


def test_what_a_run_does_not_hold_is_said(page, run: store.Run) -> None:
    """Three histories: no entropy, and the reason with the numbers. Energy and the artefact are there."""
    text = said(opened(part="layers"))
    assert "at least 60 histories of a kind and this run has 3 of other topics" in text and "weighted by energy, so" not in text
    assert len(opened(part="layers").get("plotly_chart")) == 2 * 3


def test_an_older_run_opens_without_the_newer_measures(page, run: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [name for name in history.measures(run, "tiny-llama") if "energy" not in name]
    whole = history.by_layer
    monkeypatch.setattr(history, "measures", lambda run, model: held)
    monkeypatch.setattr(history, "by_layer", lambda run, model, name, *rest: (
        whole(run, model, name, *rest) if name in held else whole(run, model, "none", *rest)))
    monkeypatch.setattr(history, "facts", lambda run, model: {**FACTS(run, model), "sink_artefact": None})
    assert "before overlaps were also weighted" in said(opened(part="layers"))
    assert "before probes also stood without" in said(opened(part="layers", history_sink="False"))
    assert "overlap_same_token_energy" not in opened(part="kinds").selectbox(key="measure").options


FACTS = history.facts


def test_without_sink_control_the_artefact_is_named_with_its_size(page, run: store.Run) -> None:
    app = opened(part="layers", history_sink="False")
    found = history.facts(run, "tiny-llama")["sink_artefact"]
    warning = str(app.warning[0].value)
    assert f"{100 * found['bare']:.3g}" in warning and f"{100 * found['behind_sink']:.3g}" in warning
    assert ("artefact of position 0" in warning) == (found["bare"] > found["behind_sink"])
    assert len(app.get("plotly_chart")) == 2


def test_overlaps_stand_beside_their_level(page, run: store.Run) -> None:
    level = history.over_layers(run, "tiny-llama", "overlap_different")["value"].mean()
    text = said(opened(part="kinds", measure="overlap_same_token"))
    assert f"{100 * level:.3g}" in text and "for a random set" in text
    assert f"{100 * history.stays_of_others(run, 'tiny-llama'):.3g}" in said(opened(part="kinds", measure="stays"))


@pytest.mark.parametrize("score", ["recall", "precision", "jaccard", "captured", "density"])
def test_every_score_of_the_predictors_is_drawn(page, score: str) -> None:
    app = opened(part="predictor", score=score)
    assert len(app.get("plotly_chart")) == 2 and ("chance recall" in said(app)) == (score == "recall")


def test_the_boundary_of_a_merging_probe_is_shown(page, run: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    table = history_cached.probes(run.id, "tiny-llama").assign(merges=7)
    monkeypatch.setattr(history_cached, "probes", lambda run_id, model: table)
    app = opened()
    assert "in 7 cells plain text would have merged" in said(app)
    assert any("token boundary" in str(element.proto.body) for element in app.get("html"))


@pytest.fixture(scope="module")
def phrased(tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    """A run with a phrase that begins like another probe: its first token is measured once."""
    home = Home(tmp_path_factory.mktemp("phrased"), tracked=())
    asked = test_history.request(probes=(*WORDS, f"{WORDS[0]} word30 word31"), parts=())
    return store.find_run(home, history_run([plain.model("llama")], asked, home))


def test_a_token_of_a_phrase_stands_behind_the_whole_beginning(phrased: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Home(phrased.folder.parent.parent, tracked=())
    monkeypatch.setattr(Home, "default", staticmethod(lambda: here))
    st.cache_resource.clear()
    table = history_cached.probes(phrased.id, "tiny-llama")
    assert [history_cached.path(phrased.id, "tiny-llama", item) for item in (0, 6, 7)] == [
        [WORDS[0]], [WORDS[0], "word30"], [WORDS[0], "word30", "word31"]]
    counted = table.assign(merges=[5, *[0] * (len(table) - 1)])
    monkeypatch.setattr(history_cached, "probes", lambda run_id, model: counted)
    app = opened(probe="7")
    assert sum(body.count(f"{WORDS[0]}word30<mark") and "word31</mark>" in body for body in html(app)) == 2, "both histories"
    assert "in 5 cells plain text would have merged" in said(app), "the boundary is that before the phrase"
    assert f"{WORDS[0]}word30word31" in app.selectbox(key="probe").options
    st.cache_resource.clear()


def test_two_histories_of_one_kind_share_a_curve(page, run: store.Run) -> None:
    one, again, other = Cell("source_code", 16, 0), Cell("source_code", 16, 1), Cell("random_words", 16, 0)
    drawn = [history_figures.probe_over_layers(run.id, "tiny-llama", 0, one, second) for second in (again, other)]
    assert [len(figure.data) if figure else 0 for figure in drawn] == [1, 2]


@pytest.mark.parametrize(("kinds", "lengths", "expected"), [
    (("same_topic", "other_topics", "source_code"), (4, 64, 256), ["other_topics:64:0", "source_code:64:0"]),
    (("same_topic", "other_topics", "source_code"), (4, 16), ["other_topics:16:0", "source_code:16:0"]),
    (("lamps", "rivers"), (128, 512), ["lamps:128:0", "lamps:128:1"]),
    ((), (), ["none:0:0", "none:0:0"]),
])
def test_the_map_begins_with_two_histories_worth_comparing(kinds, lengths, expected: list[str]) -> None:
    cells = [Cell("none", 0), *(Cell("sink_tokens", length) for length in lengths),
             *(Cell(kind, length, draw) for kind in kinds for length in lengths for draw in range(2))]
    assert history_flips._starts({history_cached.key_of(cell): cell for cell in cells}) == expected


def form() -> AppTest:
    """The form, filled in for a quick study of a tiny model."""
    app = opened(part="own")
    app.multiselect(key="history_models").set_value(["tiny-relu"]).run()
    app.multiselect(key="history_lengths").set_value([4, 8]).run()
    app.number_input(key="history_draws").set_value(3).run()
    return app


def measure(app: AppTest) -> AppTest:
    return next(button for button in app.button if button.label == "Measure").click().run()


FEW = " bank\n the\n of"
OWN = [f"{{}} history {number}: the keeper looked at the lamp and wrote its number down in the book.".format(word)
       for number, word in enumerate(("A short", "Another", "Some other", "The last"))]


def test_what_predictors_read_is_chosen_where_there_are_predictors(app_home: Home) -> None:
    app = form()
    assert "history_ahead" not in [box.key for box in app.selectbox]
    app.button_group(key="history_parts").set_value(["predictor"]).run()
    app.selectbox(key="history_ahead").set_value("previous").run()
    assert not app.exception and "previous" in app.query_params["history_ahead"]
    assert "Queued" in str(measure(app).toast[0].value)
    asked = JobTable(app_home.jobs).list()[0].request
    assert asked["look_ahead"] == "previous" and asked["parts"] == ["predictor"]


@pytest.mark.parametrize(("probes", "written", "message"), [
    (" bank\n the", None, "Between 3 and 200 probes"),
    (" bank\n the\n the", None, "stands 2 times"),
    (FEW, "Only one.\n\nAnd a second.", "At least 3 histories"),
    (FEW, "", "needs texts"),
])
def test_the_form_refuses_and_keeps_what_was_written(app_home: Home, probes: str, written: str | None, message: str) -> None:
    app = form()
    app.text_area(key="_history_probes").set_value(probes).run()
    if written is not None:
        app.segmented_control(key="history_source").set_value("written").run()
        app.text_area(key="_history_texts").set_value(written).run()
    measure(app)
    assert not app.exception and message in said(app) and not JobTable(app_home.jobs).list()
    assert app.text_area(key="_history_probes").value == probes
    assert written is None or app.text_area(key="_history_texts").value == written


@pytest.mark.parametrize(("key", "name", "data", "message"), [
    ("_history_probe_file", "p.txt", b"b\xf6se", "not text in UTF-8"),
    ("_history_file", "h.jsonl", b"{not json", "line 1"),
    ("_history_file", "", b"", "No file of histories"),
])
def test_files_that_cannot_be_read_are_refused(app_home: Home, key: str, name: str, data: bytes, message: str) -> None:
    app = form()
    if key == "_history_file":
        app.segmented_control(key="history_source").set_value("file").run()
    if name:
        app.file_uploader(key=key).upload(name, data).run()
    measure(app)
    assert not app.exception and message in said(app) and not JobTable(app_home.jobs).list()


@pytest.fixture
def worker(app_home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A live worker of the app's home."""
    process = subprocess.Popen([sys.executable, "-m", "moyu_core.worker", "--home", str(app_home.root), "--device", "cpu"],
                               cwd=REPOSITORY)
    yield process
    ended(process)


def done(table: JobTable, job: Job) -> Job:
    return until(lambda: table.get(job.id), lambda job: not job.active, 240)


def test_own_probes_and_histories_go_through_a_worker_to_a_shown_run(app_home: Home, worker: subprocess.Popen[bytes]) -> None:
    """Once from the form, once from files."""
    table = JobTable(app_home.jobs)
    app = form()
    app.text_area(key="_history_probes").set_value(FEW).run()
    app.segmented_control(key="history_source").set_value("written").run()
    app.text_area(key="_history_texts").set_value("\n\n".join(OWN)).run()
    assert "Queued" in str(measure(app).toast[0].value)
    job = done(table, table.list()[0])
    assert job.state == "done", job.error
    made = store.find_run(app_home, job.run_id or "")
    assert history.models(made) == ["tiny-relu"] and made.manifest["scope"]["probes"] == 3
    app.run()
    app.button(key=f"_open-{job.id}").click().run()
    assert not app.exception and job.run_id in said(app) and "tiny-relu: with the token known" in said(app)
    assert app.selectbox(key="probe").options[0].endswith("bank"), "the first part shows the run's own probes"
    assert [app.selectbox(key=key).value for key in ("first", "second")] == ["own:8:0", "own:8:1"], "and its histories"
    assert "4 histories of each kind" not in said(app) and "3 histories of each kind" in said(app)
    assert "claims are about histories of the kind “own histories”, 8 tokens" in said(app)

    app = form()
    app.file_uploader(key="_history_probe_file").upload("p.txt", b" water\n not\n and\n she").run()
    app.segmented_control(key="history_source").set_value("file").run()
    lines = [json.dumps({"id": f"own-{n}", "text": text, "domain": "lamps"}) for n, text in enumerate(OWN)]
    app.file_uploader(key="_history_file").upload("h.jsonl", "\n".join(lines).encode()).run()
    measure(app)
    second = done(table, table.list()[0])
    assert second.state == "done" and second.run_id != job.run_id, second.error
    app = opened(history_run=second.run_id, part="kinds")
    assert "4 probes" in said(app) and history.over_layers(store.find_run(app_home, second.run_id or ""), "tiny-relu",
                                                           "uncertainty")["kind"].unique().tolist() == ["lamps"]
    shown = opened(history_run=second.run_id, first="lamps:8:0", second="lamps:8:1")
    assert shown.selectbox(key="first").options[-1] == "lamps, 8 tokens, draw 3", "all own histories can be looked at"
    _, tokens = history.history_tokens(store.find_run(app_home, second.run_id or ""), "tiny-relu", Cell("lamps", 8, 0))
    text = "".join(tokens).strip()
    assert OWN[0].startswith(text) and len(text) > 8
    assert any(text in body and "<mark" in body for body in html(shown)), text


def test_the_command_line_makes_the_run_of_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOYU_HOME", str(tmp_path / "home"))
    (tmp_path / "p.txt").write_text(FEW, encoding="utf-8")
    (tmp_path / "h.jsonl").write_text("\n".join(json.dumps({"id": f"h{n}", "text": text}) for n, text in enumerate(OWN)))
    arguments = ["--model", "tiny-relu", "--texts", str(tmp_path / "h.jsonl"), "--own", "--probes", str(tmp_path / "p.txt"),
                 "--lengths", "4", "--draws", "3", "--part", "none", "--device", "cpu", "--json"]
    found = CliRunner().invoke(cli, ["study", "history", *arguments])
    assert not found.exit_code, found.output
    runs = store.list_runs(Home(tmp_path / "home", tracked=()))[0]
    assert len(runs) == 1 and runs[0].id in found.output and history.models(runs[0]) == ["tiny-relu"]
    first = history.frame(runs[0], "probes", "tiny-relu")
    assert set(first["probe"]) == {" bank", " the", " of"}
    assert set(history.over_layers(runs[0], "tiny-relu", "uncertainty")["kind"]) == {"own"}, "the histories are the file's"
