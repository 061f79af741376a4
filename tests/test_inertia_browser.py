"""The page Inertia in a real browser: one cursor for all panels, a phone, and own sentences from the form to their picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import at_rest, chromium, painted, served, watched_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PANELS = 6
OTHER_PANELS = range(1, PANELS)
SHUFFLED = 5
"""The last panel: shuffled words in one sequence."""
SENTENCES = """sea: The boat came home before the storm.
sea: The tide turned and the harbour was quiet.
garden: The roses need water in the evening.
garden: The old tree gives good shade."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`moyu serve` with its worker and a home of its own; the tracked runs and tiny models are there."""
    with served(tmp_path_factory.mktemp("home")) as found:
        yield f"{found}/inertia"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A wide page high enough for all panels; an error of a script fails the test."""
    with watched_page(browser, 1440, 2200) as found:
        yield found


def opened(page: Page, address: str, maps: int = PANELS) -> Page:
    page.goto(address)
    for index in range(maps):
        page.locator(".nm[data-state]").nth(index).wait_for(timeout=60_000)
    return at_rest(page)


def inside(page: Page, expression: str, index: int = 0) -> Any:
    """Evaluate `expression` of `m`, the state of a panel."""
    return page.locator(".nm").nth(index).evaluate(f"root => {{ const m = root.neuronMap; return {expression}; }}")


def point(page: Page, row: int, column: int, index: int = 0) -> None:
    """Move the mouse to the middle of a cell."""
    box = page.locator(".nm-stage").nth(index).bounding_box()
    x, y = inside(page, f"""[m.geo.cells.x + ({column} + 0.5 - m.view.start) / (m.view.end - m.view.start) * m.geo.cells.w,
                            m.geo.cells.y + ({row} + 0.5) * m.geo.rowH - m.scroll]""", index)
    assert box is not None
    page.mouse.move(box["x"] + x, box["y"] + y)
    painted(page)


def drawn(page: Page, index: int) -> int:
    """Pixels of a panel's overlay that are not transparent."""
    return inside(page, """(() => { const c = m.el.over; return c.getContext("2d").getImageData(0, 0, c.width, c.height).data
                           .filter((v, i) => i % 4 === 3 && v > 0).length; })()""", index)


def word(page: Page, position: int, index: int) -> str:
    """The word of the row that a panel numbers so."""
    return inside(page, f"m.model.tokens.find((token) => token.position === {position}).text", index)


def test_pointing_in_one_panel_marks_neuron_and_word_in_all(page: Page, address: str) -> None:
    opened(page, address)
    assert page.locator(".nm").count() == PANELS
    assert [drawn(page, index) for index in OTHER_PANELS] == [0] * (PANELS - 1)
    for row, column, source in ((4, 200, 0), (9, 20, 0), (7, 60, SHUFFLED)):
        point(page, row, column, source)
        neuron = inside(page, f"m.model.order[{inside(page, 'm.hover.col', source)}]", source)
        position = inside(page, f"m.model.tokens[{row}].position", source)
        for index in set(range(PANELS)) - {source}:
            assert inside(page, "[m.remote.neuron, m.remote.position]", index) == [neuron, position]
            assert inside(page, f"m.model.order[{inside(page, 'm.hover.col', source)}]", index) == neuron, "one neuron order"
            assert drawn(page, index) > 100
        words = [word(page, position, index) for index in range(PANELS)]
        assert words[0] == words[1] == words[4] == words[5] and words[2] == words[3], "shuffled: the same word at its new place"
    page.mouse.move(5, 5)
    painted(page)
    assert [drawn(page, index) for index in range(PANELS)] == [0] * PANELS


def test_keys_move_the_cursor_of_all_panels(page: Page, address: str) -> None:
    opened(page, address)
    page.locator(".nm-stage").first.focus()
    page.keyboard.press("ArrowRight")
    painted(page)
    first = inside(page, "m.remote && m.remote.neuron", SHUFFLED)
    page.keyboard.press("ArrowRight")
    painted(page)
    second = inside(page, "m.remote.neuron", SHUFFLED)
    assert first is not None and first != second and drawn(page, SHUFFLED) > 100


@pytest.mark.parametrize("part", ["panels", "layers", "distance", "causes", "neurons", "own"])
def test_the_parts_fit_a_phone(browser: Browser, address: str, part: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(f"{address}?part={part}")
    expect(page.get_by_text("Run inertia-")).to_be_visible(timeout=60_000)
    at_rest(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    context.close()


def test_own_sentences_become_a_run_that_is_shown(page: Page, address: str) -> None:
    page.goto(f"{address}?part=own")
    text = page.get_by_role("textbox", name="Your sentences")
    text.fill("\n \n")
    page.keyboard.press("Control+Enter")
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name=re.compile("tiny.*relu", re.IGNORECASE)).click()
    page.get_by_role("button", name="Measure").click()
    expect(page.get_by_text("There is no sentence; write one a line")).to_be_visible(timeout=60_000)
    text.fill(SENTENCES)
    page.keyboard.press("Control+Enter")
    at_rest(page)
    page.get_by_role("button", name="Measure").click()
    page.locator("[class*=st-key-_open-] button").click(timeout=120_000)
    page.wait_for_url(re.compile(r"inertia_run=inertia-[0-9a-f]{12}"), timeout=60_000)
    expect(page.get_by_text("4 texts of 2 topics")).to_be_visible(timeout=60_000)
    expect(page.locator(".moyu-finding")).to_contain_text("2 topics")
    for index in range(PANELS):
        page.locator(".nm[data-state]").nth(index).wait_for(timeout=60_000)
    assert inside(page, "m.model.tokens.map((token) => token.text)", 0)[:3] == ["The", "boat", "came"]
