"""The page Origin in a real browser: quick keys on the slider, the back button, a training that is stopped and one that ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import at_rest, chromium, served, watched_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`moyu serve` with its worker and a home of its own; the tracked runs are there."""
    with served(tmp_path_factory.mktemp("home")) as found:
        yield f"{found}/origin"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A wide page; an error of a script fails the test."""
    with watched_page(browser, 1440, 1000) as found:
        yield found


def slider(page: Page, address: str) -> Locator:
    """The pre-activation's slider with the keyboard on it, the page at rest."""
    page.goto(address)
    page.get_by_text("What the theorem does not cover").wait_for(timeout=60_000)
    at_rest(page)
    found = page.locator(".st-key-p").get_by_role("slider")
    found.focus()
    return found


@pytest.mark.parametrize("gap", [40, 120])
def test_no_key_press_is_lost(page: Page, address: str, gap: int) -> None:
    handle = slider(page, address)
    for _ in range(10):  # from -0.5 in steps of 0.05, more of them than the server can answer meanwhile
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(gap)
    page.wait_for_url(re.compile(r"\?p=-1\.0$"))
    at_rest(page)
    assert float(handle.input_value()) == -1 and page.url.endswith("?p=-1.0")
    expect(page.get_by_test_id("stCaptionContainer").filter(has_text="p = -1,")).to_be_visible()


def test_the_back_button_goes_back_and_forward_again(page: Page, address: str) -> None:
    handle = slider(page, address)
    for value in ("-0.45", "-0.4"):
        page.keyboard.press("ArrowRight")
        page.wait_for_url(f"**p={value}")
    at_rest(page)
    for move, value in ((page.go_back, "-0.45"), (page.go_back, "-0.5"), (page.go_forward, "-0.45")):
        move()
        expect(handle).to_have_value(value)


def test_a_training_is_watched_stopped_and_done_again(page: Page, address: str) -> None:
    page.goto(f"{address}?part=live&live_width=768")
    page.get_by_role("button", name="Train", exact=True).click(timeout=60_000)
    expect(page.get_by_text(re.compile(r"training: step [1-9]"))).to_be_visible(timeout=60_000)
    expect(page.get_by_text("held-out loss", exact=False).first).to_be_visible()
    page.locator(".st-key-_live_stop").get_by_role("button").click()
    expect(page.get_by_text("Stopped; what it had measured by then is kept below.")).to_be_visible(timeout=60_000)
    page.goto(f"{address}?part=live&live_width=96&live_activation=gelu")
    page.get_by_role("button", name="Train", exact=True).click(timeout=60_000)
    expect(page.get_by_role("button", name="Trained")).to_be_disabled(timeout=60_000)
    expect(page.get_by_text(re.compile("GELU, seed 0, step [0-9,]+: exact zeros"))).to_be_visible()
