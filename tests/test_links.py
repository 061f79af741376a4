"""Every widget of every page is part of the link, or the table in app/ui/links.py says why not; several choices are one value."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.ui.links import UNLINKED
from moyu_core.home import REPOSITORY, Home
from tests.small_runs import make
from tests.test_app import MAIN, said
from tests.test_app import demo as demo
from tests.test_app import home as home

WIDGETS = {
    "selectbox", "multiselect", "slider", "select_slider", "number_input", "text_input", "text_area", "radio", "checkbox", "toggle",
    "pills", "segmented_control", "pagination", "date_input", "time_input", "color_picker", "feedback", "file_uploader",
    "chat_input", "data_editor", "camera_input", "audio_input",
}  # fmt: skip
LINKING = {"linked", "linked_several", "linked_number"}


def constant(node: ast.expr | None) -> str:
    """The text of a literal, the beginning of an f-string; a name as `<name>`."""
    if isinstance(node, ast.JoinedStr):
        return constant(node.values[0])
    if isinstance(node, ast.Constant):
        return str(node.value)
    return f"<{node.id}>" if isinstance(node, ast.Name) else ""


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))


def assigned(path: Path) -> dict[str, str]:
    """`<name>` -> the text that a file gives it, for names that are given one."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    given = ((node.targets[0], constant(node.value)) for node in nodes if isinstance(node, ast.Assign))
    return {constant(target): text for target, text in given if text and isinstance(target, ast.Name)}


def selects(node: ast.Call) -> bool:
    return called(node) in ("dataframe", "plotly_chart") and any(word.arg == "on_select" for word in node.keywords)


def widgets() -> Iterator[tuple[str, str]]:
    """(where, key) of every widget of the app."""
    for path in sorted((REPOSITORY / "app").rglob("*.py")):
        names = assigned(path)
        for node in calls(path):
            if called(node) in WIDGETS or selects(node):
                key = next((word.value for word in node.keywords if word.arg == "key"), None)
                yield f"{path.name}:{node.lineno} {called(node)}", names.get(constant(key), constant(key))


def linked_keys() -> set[str]:
    sources = sorted((REPOSITORY / "app").rglob("*.py"))
    return {constant(node.args[0]) for path in sources for node in calls(path) if called(node) in LINKING}


def test_every_widget_is_in_the_link_or_in_the_table_of_those_that_are_not() -> None:
    found, keys = list(widgets()), linked_keys()
    assert len(found) > 80
    loose = [f"{place} {key!r}" for place, key in found if key not in keys and not any(key.startswith(known) for known in UNLINKED)]
    assert loose == []
    for known in UNLINKED:
        assert any(key.startswith(known) for _, key in found), f"{known} is no widget any more"


@pytest.fixture
def form(demo: Home) -> AppTest:
    return opened("trinity_densities=0.3%2C0.1&trinity_budget=2.5&trinity_prompt=masked&trinity_model=tiny-gelu")


def opened(query: str, page: str = "trinity", part: str = "own") -> AppTest:
    from urllib.parse import parse_qsl

    app = AppTest.from_file(MAIN, default_timeout=60).run()
    app.switch_page(f"views/{page}.py")
    for key, value in [("part", part), *parse_qsl(query, keep_blank_values=True)]:
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception
    return app


def link(app: AppTest) -> str:
    return next(block.value for block in app.code if "?v=" in block.value)


def test_a_form_is_part_of_its_link(form: AppTest) -> None:
    assert form.multiselect(key="trinity_densities").value == [0.1, 0.3]
    assert form.number_input(key="trinity_budget").value == 2.5 and form.selectbox(key="trinity_model").value == "tiny-gelu"
    for part in ("trinity_densities=0.1%2C0.3", "trinity_budget=2.5", "trinity_prompt=masked", "trinity_texts=24"):
        assert part in link(form)
    form.multiselect(key="trinity_densities").set_value([0.9, 0.5]).run()
    assert "trinity_densities=0.5%2C0.9" in link(form)


def test_no_choice_at_all_travels_too(demo: Home) -> None:
    app = opened("trinity_densities=")
    assert app.multiselect(key="trinity_densities").value == [] and "trinity_densities=&" in link(app) + "&"


def test_what_is_hidden_by_another_part_of_the_page_comes_back(form: AppTest) -> None:
    form.session_state["part"] = "speed"
    assert not form.run().multiselect
    form.session_state["part"] = "own"
    assert form.run().multiselect(key="trinity_densities").value == [0.1, 0.3]


@pytest.mark.parametrize("value", ["0.3,0.33", "a", "0.3;0.1", ",", "<b>"])
def test_a_hand_edited_choice_of_several_is_named_and_the_default_shown(demo: Home, value: str) -> None:
    app = opened(f"trinity_densities={value}")
    assert f"trinity_densities = {value!r}" in said(app) and "'0.1, 0.3, 0.5, 0.7, 0.9'" in said(app)
    assert app.multiselect(key="trinity_densities").value == [0.1, 0.3, 0.5, 0.7, 0.9]


def test_what_a_link_asks_for_in_vain_is_said_until_something_else_is_chosen(demo: Home) -> None:
    app = opened("trinity_budget=999")
    assert "trinity_budget = '999'" in said(app) and "trinity_budget = '999'" in said(app.run())  # drawn again by itself
    app.number_input(key="trinity_budget").set_value(2.0).run()
    assert "999" not in said(app)


def test_a_link_marks_a_row_of_the_runs(demo: Home) -> None:
    other = make(demo, title="The other run", model={"name": "m"})
    app = opened("", "runs", "")  # a run made here stands first, and in the address: tomorrow another one may
    assert "The other run" in [block.value for block in app.subheader] and other.id in str(app.query_params["runs_run"])
    shipped = app.dataframe[0].value["run"].tolist()[-1]
    app = opened(f"runs_run={shipped}", "runs", "")
    assert "The other run" not in [block.value for block in app.subheader] and f"runs_run={shipped}" in link(app)


def test_a_page_is_as_it_was_left_and_a_link_still_says_all(form: AppTest) -> None:
    form.number_input(key="trinity_budget").set_value(3.5).run()
    form.switch_page("views/findings.py").run()
    form.query_params.clear()  # as the sidebar leaves them
    form.switch_page("views/trinity.py").run()
    assert form.number_input(key="trinity_budget").value == 3.5 and form.multiselect(key="trinity_densities").value == [0.1, 0.3]
    assert "3.5" in form.query_params["trinity_budget"]
    form.switch_page("views/findings.py").run()
    form.query_params.clear()
    form.query_params["part"] = "own"
    form.switch_page("views/trinity.py").run()
    assert form.number_input(key="trinity_budget").value == 1.0, "a link leaves out what stands at its default"


def test_a_written_text_stays_while_another_page_is_open(demo: Home) -> None:
    app = opened("", "capture", "")
    app.text_area(key="_text").set_value("My own words.").run()
    app.switch_page("views/findings.py").run()
    assert not app.text_area
    app.switch_page("views/capture.py").run()
    assert app.text_area(key="_text").value == "My own words."


def test_an_emptied_number_stands_for_the_default(demo: Home) -> None:
    app = opened("new_limit=64", "capture", "")
    assert app.number_input(key="new_limit").value == 64
    app.number_input(key="new_limit").set_value(None).run()
    emptied = app.number_input(key="new_limit")
    assert not app.exception and emptied.value is None and emptied.proto.placeholder == "1024"
    assert "new_limit" not in app.query_params
