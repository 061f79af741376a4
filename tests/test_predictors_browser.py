"""Predictors and Trinity in a real browser with a real worker: a neuron's way to the map, drawings by keyboard, a chat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import pytest
from playwright.sync_api import Browser, Page, expect

from moyu_core.home import Home
from moyu_core.jobs import Job
from moyu_core.queries import trinity
from moyu_core.studies.trinity.requests import ChatRequest
from tests.browser import at_rest, chromium, held, served, watched_page
from tests.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SCHEMES = ("TDA", "RODA", "RIDA", "sRIDA")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home that is served."""
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def address(installation: Home) -> Iterator[str]:
    """`moyu serve` with its worker and a home of its own; the tracked runs and tiny models are there."""
    with served(installation.root) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A wide page; an error of a script fails the test."""
    with watched_page(browser, 1440, 2000) as found:
        yield found


def test_the_drawings_are_stepped_by_keyboard(address: str, page: Page) -> None:
    """Every scheme: arrow keys, Home and End; at the last step a focused button is disabled, and the keys still work."""
    page.goto(f"{address}/predictors")
    drawing = page.locator(".sd")
    for scheme in SCHEMES:
        page.get_by_role("radiogroup", name="Scheme").get_by_text(scheme, exact=True).click()
        expect(page.get_by_text(f"{scheme}:").first).to_be_visible(timeout=60_000)
        at_rest(page)
        place, sentence = drawing.locator(".place"), drawing.locator("p")
        drawing.focus()
        page.keyboard.press("Home")
        expect(place).to_have_text("Step 1 of 4")
        said = []
        for _ in range(4):
            said.append(sentence.inner_text())
            page.keyboard.press("ArrowRight")
        assert len(set(said)) == 4
        expect(place).to_have_text("Step 4 of 4")
        drawing.get_by_role("button", name="Back").click()
        drawing.get_by_role("button", name="Next").click()
        expect(place).to_have_text("Step 4 of 4")
        page.keyboard.press("ArrowLeft")
        expect(place).to_have_text("Step 3 of 4")


def test_a_phone_shows_what_a_step_adds(address: str, browser: Browser) -> None:
    """The drawing is wider than a phone: the last step's box is brought into view, and the first one's again."""
    with watched_page(browser, 390, 844) as page:
        page.goto(f"{address}/predictors")
        drawing = page.locator(".sd")
        drawing.focus(timeout=60_000)
        for key in ("End", "Home"):
            page.keyboard.press(key)
            added = page.locator('.sd rect[data-now="yes"]').last
            until(added.bounding_box, lambda box: box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390)


def test_a_cell_leads_to_its_neuron_on_the_map(address: str, page: Page) -> None:
    """The pinned cell names its neuron; the link opens the activation map on the same neuron and layer."""
    page.goto(f"{address}/predictors?player=7")
    page.locator(".nm[data-state]").first.wait_for(timeout=60_000)
    page.locator(".nm-stage").first.focus()
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="on the activation map")
    expect(link).to_be_visible(timeout=60_000)
    neuron = re.findall(r"neuron (\d+)", link.inner_text())[0]
    link.click()
    expect(page.get_by_role("heading", name="Activation map")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("region", name=f"Tokens on which neuron {neuron} is largest")).to_be_visible(timeout=60_000)
    assert "layer=7" in page.url and f"neuron={neuron}" in page.url


def half_written(home: Home, job: Job) -> bool:
    """Whether an answer's second side has begun and not ended."""
    return 5 < len(trinity.written(home, ChatRequest.from_json(job.request), None)["sparse"]) < 200


def test_a_chat_streams_stops_and_says_what_is_wrong(address: str, page: Page, installation: Home) -> None:
    """A real worker answers with a tiny model: both sides, a stop in the middle, a message beyond the context."""
    page.goto(f"{address}/trinity?part=chat&chat_model=tiny-relu&chat_method=griffin&chat_tokens=16")
    box = page.get_by_role("textbox", name="Message")
    expect(page.get_by_text("CATS").first).to_be_visible(timeout=60_000)
    box.fill("The king said")
    box.press("Enter")
    expect(page.get_by_text("tokens/s dense")).to_be_visible(timeout=90_000)
    assert page.locator(".moyu-answer").nth(0).locator("span").count() == 16
    page.get_by_role("spinbutton", name="Tokens").fill("256")
    page.get_by_role("spinbutton", name="Tokens").press("Enter")
    box.fill("The king said that")
    box.press("Enter")
    with held(installation, "chat", partial(half_written, installation)):
        expect(page.locator(".moyu-answer").nth(3).locator("span").nth(5)).to_be_visible(timeout=60_000)
        page.locator("[class*=st-key-_chat_stop]").get_by_role("button").click()
        expect(page.get_by_text("stopping")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Stopped; what was written stays.")).to_be_visible(timeout=60_000)
    assert 5 < page.locator(".moyu-answer").nth(3).locator("span").count() < 256
    box.fill("one two three four five " * 300)
    box.press("Enter")
    expect(page.get_by_text("The conversation stays")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("tiny-relu takes")).to_be_visible()
    assert page.locator(".moyu-answer").nth(0).locator("span").count() == 16, "the first answer is still there"
