"""The page Trinity on small runs, without any, and in conversation; figures from plain frames."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.ui import trinity_cached, trinity_card, trinity_chat, trinity_speed
from moyu_core import store
from moyu_core.architectures import TABLE
from moyu_core.figures import applicability
from moyu_core.figures import trinity as figures
from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import JobTable
from moyu_core.queries import trinity as queries
from moyu_core.streams import stream_file
from moyu_core.studies import perform
from moyu_core.studies.trinity.requests import ChatRequest, FamiliesRequest, SpeedRequest, TrinityRequest, evaluation_prompts

MAIN = str(REPOSITORY / "app" / "main.py")
PAGE = "views/trinity.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small runs of quality, speed and families."""
    home = Home(tmp_path_factory.mktemp("made"), tracked=())
    prompts = evaluation_prompts(home, 4)
    names = ("oracle", "griffin", "cats")
    perform(
        "trinity",
        TrinityRequest("tiny-relu", prompts, names, (0.5, 0.9), reading=(), max_tokens=41, prompt_tokens=17).as_json(),
        home,
    )
    perform("speed", SpeedRequest("tiny-relu", prompts[0].text, (("griffin", 0.5), ("oracle", 0.5)), (), 12, 20, 1).as_json(), home)
    few = {key: value for key, value in TABLE.items() if key in ("llama", "gpt2", "mixtral")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moyu_core.studies.trinity.families.TABLE", few)
        perform("families", FamiliesRequest(names).as_json(), home)
    return home.runs


@pytest.fixture
def home(app_home: Home) -> Home:
    """An installation without any run; tests add what they need."""
    return app_home


@pytest.fixture
def full(home: Home, made: Path) -> Home:
    shutil.copytree(made, home.runs, dirs_exist_ok=True)
    return home


def opened(**query: str) -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=120)
    app.run()
    for key, value in query.items():
        app.query_params[key] = value
    app.switch_page(PAGE).run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.warning, app.error, app.info, app.title)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def part(app: AppTest, name: str) -> AppTest:
    app.session_state["part"] = name
    app.run()
    assert not app.exception, app.exception
    return app


def test_without_runs_the_page_says_what_to_do(home: Home) -> None:
    assert "moyu study trinity" in said(opened())


def test_every_part_opens_on_runs(full: Home) -> None:
    app = opened()
    text = said(app)
    assert "tiny-relu" in text and "methods" in text and not app.error
    table = app.dataframe[0].value
    assert table["method"].tolist() == ["Oracle", "GRIFFIN"] and (table["speed ×"] != "not measured").all()
    app = part(app, "speed")
    assert len(app.dataframe) == 2 and "tokens/s" in app.dataframe[1].value and "Machine" in said(app)
    app = part(app, "where")
    assert len(app.get("plotly_chart")) == 1 and "pairs of family and method" in said(app)
    assert "CATS on tiny-relu: its FFN has no gate" in said(app)
    assert not part(app, "own").error


def test_the_slider_has_measured_densities_only(full: Home) -> None:
    app = opened()
    slider = next(slider for slider in app.select_slider if slider.key == "at")
    assert slider.options == ["50\u202f%", "90\u202f%"]
    slider.set_value(0.9).run()
    assert "not measured" in app.dataframe[0].value["speed ×"].tolist(), "speed was measured at 0.5 only, and nothing is made up"


def test_a_message_waits_streams_and_stays_when_the_worker_is_lost(full: Home) -> None:
    app = part(opened(), "chat")
    app.session_state["chat_model"], app.session_state["chat_method"] = "tiny-relu", "griffin"
    app.run()
    app.chat_input[0].set_value("The king said").run()
    assert not app.exception and "The worker does not answer" in said(app)
    request = ChatRequest("tiny-relu", "The king said", "griffin", 0.5, 48)
    path = stream_file(full, request.as_json())
    path.parent.mkdir()
    path.write_text(
        '{"side": "dense", "step": 0, "token_id": 7, "token": "<b>x", "seconds": 0.1}\n'
        '{"side": "sparse", "step": 0, "token_id": 8, "token": "y", "seconds": 0.1}\n',
        encoding="utf-8",
    )
    app.run()
    shown = "".join(str(element.proto.body) for element in app.get("html"))
    assert "&lt;b&gt;x" in shown and "<b>x" not in shown, "what a model writes is text"
    assert shown.count('class="moyu-other"') == 2 and "king" in "".join(element.value for element in app.text)
    stop = next(button for button in app.button if button.label == "Stop")
    stop.click().run()
    assert "Stopped; what was written stays." in said(app)


def test_a_message_that_fails_leaves_the_conversation(full: Home) -> None:
    app = part(opened(), "chat")
    app.session_state["chat_model"], app.session_state["chat_method"] = "tiny-relu", "griffin"
    app.run()
    app.chat_input[0].set_value("Hello").run()
    table = JobTable(full.jobs)
    job = table.claim("1@here", "cpu")
    assert job is not None
    table.fail(job.id, "1@here", "The prompt has 9 tokens and 48 are to be written.")
    app.run()
    assert "The prompt has 9 tokens" in said(app) and "The conversation stays" in said(app)
    next(button for button in app.button if button.label == "Edit the message").click().run()
    assert field(app) == "Hello" and not app.exception, "nobody has to write it again"


def test_a_message_that_cannot_be_queued_stays_in_the_field(full: Home) -> None:
    app = part(opened(), "chat")
    app.chat_input[0].set_value(20_001 * "x").run()
    assert [error.value for error in app.error] == ["A message has at most 20,000 characters and this one has 20,001; shorten it."]
    assert field(app) == 20_001 * "x" and not JobTable(full.jobs).list()


def field(app: AppTest) -> str:
    """What the page puts into the field of the message."""
    proto = app.chat_input[0].proto
    return proto.value if proto.set_value else ""


def test_trade_off_puts_speed_beside_quality(made: Path) -> None:
    runs = {run.spec.study: run for run in store.list_runs(Home(made.parent, tracked=()))[0]}
    frame: Any = queries.trade_off(runs["trinity"], runs["speed"]).set_index(["method", "density"])
    timed: Any = queries.speeds(runs["speed"]).set_index(["method", "density"])
    assert frame.loc[("griffin", 0.5), "speed"] == timed.loc[("griffin", 0.5), "ratio"]
    assert np.isnan(frame.loc[("griffin", 0.9), "speed"])
    assert queries.trade_off(runs["trinity"], None)["speed"].isna().all()


def test_figures_show_gaps_bounds_and_noise() -> None:
    axes = pd.DataFrame({"method": ["a", "b"], "performance": [0.5, 0.9], "speed": [2.0, np.nan], "applicability": [1.0, np.nan]})
    figure: Any = figures.three_axes(axes, {"a": "A", "b": "B"})
    assert [trace.name for trace in figure.data] == ["A", "B"] and np.isnan(figure.data[1].y[1]) and not figure.data[1].connectgaps
    bars = pd.DataFrame({"method": ["a"], "ratio": [0.8], "ratio_low": [0.7], "ratio_high": [0.9], "bound": [1.5], "noisy": [True]})
    figure = figures.speeds(bars, {"a": "A"})
    assert figure.data[0].marker.pattern.shape == ("/",) and list(figure.data[1].x) == [1.5] and "bound" in figure.data[1].name
    rows = {"method": ["a"], "density": [0.5], "kept": [0.5], "ratio": [1.2], "ratio_low": [1.1], "ratio_high": [1.3]}
    curve: Any = figures.against_density(pd.DataFrame(rows), "ratio", {"a": "A"}, 0.5, 0.01)
    assert curve.data[0].error_y.array[0] == pytest.approx(0.1)
    timed = pd.DataFrame({**rows, "speed": [1.1], "speed_low": [1.0], "speed_high": [1.2], "noisy": [True]})
    hollow: Any = figures.against_speed(timed, "ratio", {"a": "A"}, 0.01)
    assert hollow.data[0].marker.symbol == ("circle-open",)


def test_the_matrix_of_architectures_tells_three_states_and_why(made: Path) -> None:
    runs = {run.spec.study: run for run in store.list_runs(Home(made.parent, tracked=()))[0]}
    names = {"oracle": "Oracle", "griffin": "GRIFFIN", "cats": "CATS"}
    heat: Any = applicability.matrix(queries.families(runs["families"]), names).data[0]
    assert list(heat.y) == ["<b>gated</b>", "Llama", "<b>not gated</b>", "GPT-2", "<b>experts</b>", "Mixtral"]
    cells = dict(zip(heat.y, heat.text, strict=True))
    assert list(heat.x) == list(names.values()) and list(cells["Llama"]) == ["●"] * 3
    assert list(cells["GPT-2"]) == ["●", "●", "–"] and list(cells["Mixtral"]) == ["◐", "◐", "–"]
    reason = heat.customdata[list(heat.y).index("GPT-2")][2]
    assert reason.startswith("GPT-2: gelu_new<br>cannot be run") and "no gate" in reason.replace("<br>", " ")


def test_speeds_of_several_machines_can_be_chosen(full: Home) -> None:
    """A second run of the same weights, as if a GPU had made it: newest first, and the other one by its name."""
    mine = next(run for run in store.list_runs(full)[0] if run.spec.study == "speed")
    spec = dataclasses.replace(mine.spec, parameters={**mine.spec.parameters, "device": "Some GPU"})
    facts = {"machine": {**mine.manifest["machine"], "gather": "Triton 3"}, "created": mine.manifest["created"] + 1}
    shutil.copytree(mine.folder, full.runs / spec.run_id)
    manifest = {**mine.manifest, **facts, "spec": spec.as_json(), "run_id": spec.run_id, "fingerprint": spec.fingerprint}
    (full.runs / spec.run_id / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    app = opened(part="speed")
    chosen = next(box for box in app.selectbox if box.key == "speed_run")
    assert chosen.options == ["Some GPU, Triton 3, 1 thread", trinity_cached.machine(mine)] and "Some GPU" in said(app)
    chosen.set_value(mine.id).run()
    assert not app.exception and mine.id in said(app) and "Some GPU" not in said(app)


@pytest.mark.parametrize(
    ("noisy", "settings", "wanted"),
    [
        (1, 11, "1 of 11 settings is noisy: its quartiles"),
        (2, 11, "2 of 11 settings are noisy: their quartiles"),
        (1, 1, "The only setting is noisy: its quartiles"),
    ],
)
def test_noise_is_said_in_the_right_number(noisy: int, settings: int, wanted: str) -> None:
    said_of_it = trinity_speed.noise(noisy, settings, 0.15)
    assert said_of_it.startswith(wanted) and "15" in said_of_it


def test_only_an_interval_below_one_is_slower_and_noise_tells_nothing() -> None:
    timed = pd.DataFrame(
        {
            "method": ["a", "b", "c", "d"],
            "ratio": [0.908, 0.8, 0.9, 1.4],
            "ratio_low": [0.757, 0.7, 0.8, 1.3],
            "ratio_high": [0.95, 0.9, 1.1, 1.5],
            "noisy": [True, False, False, False],
        }
    )
    titles = {name: name.upper() for name in "abcd"}
    assert trinity_speed.told(timed, titles) == (
        "Slower than dense: **B**. Not to be told from dense (noisy, or the interval reaches 1): **A, C**."
    )
    assert trinity_speed.told(timed[3:], titles) == "Every method is faster than dense here."
    frame = timed.rename(columns={"ratio": "speed", "ratio_low": "speed_low", "ratio_high": "speed_high"})
    assert trinity_card.against(frame) == (
        "Measured decoding is slower than dense in 1 of 4 settings, and in 2 that cannot be told (noisy, or the interval reaches 1)"
    )


@pytest.fixture
def shipped(home: Home, made: Path) -> Home:
    """The runs as tracked ones, which visitors see."""
    shutil.copytree(made, home.tracked[0])
    return home


def public(monkeypatch: pytest.MonkeyPatch, said_of_limits: str) -> None:
    """A visitor of a public installation; a script run without a browser has no cookie."""
    monkeypatch.setenv("MOYU_PUBLIC", said_of_limits)
    monkeypatch.setattr("app.ui.visitors.visitor", lambda: "a" * 32)


def test_a_public_installation_says_beforehand_that_nobody_chats_here(shipped: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    public(monkeypatch, "1")
    app = part(opened(), "chat")
    assert "carries out capture, vocabulary, not 'chat'" in said(app)
    assert app.chat_input[0].proto.disabled and all(b.disabled for b in app.button if b.label in trinity_chat.EXAMPLES)


def test_where_a_host_allows_chat_the_longest_answer_is_said(
    shipped: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "public.toml"
    file.write_text('studies = ["chat"]\nmax_tokens = 40', encoding="utf-8")
    public(monkeypatch, str(file))
    app = part(opened(chat_model="tiny-relu", chat_method="griffin"), "chat")
    assert "at most 40 tokens on this public installation, not 48" in said(app) and app.chat_input[0].proto.disabled
    app.session_state["chat_tokens"] = 40
    app.run()
    assert not app.chat_input[0].proto.disabled and not app.error
