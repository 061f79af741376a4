"""The whole way as a new user goes it: open, click a neuron, change layer, reload, type a prompt, watch it, see its map."""

import re

import pytest
from playwright.sync_api import Page, expect

from moyu_core.home import Home
from tests.browser import at_rest, chromium, served

pytestmark = [pytest.mark.browser, pytest.mark.model, pytest.mark.timeout(400)]
TEXT = "Nine herons stood in the rain and <b>nobody</b> sold umbrellas."


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """`moyu serve` with a home of its own that borrows the converted model."""
    if not (Home.default().models / "smollm2-135m-instruct" / "config.json").is_file():
        pytest.skip("the default model is not fetched: run `moyu fetch default`")
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(Home.default().models)
    with served(home) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser, address):
    """A page in a fresh profile that notes every request to elsewhere and every script error."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    found = context.new_page()
    found.outside, found.errors = [], []
    found.on("request", lambda r: found.outside.append(r.url) if not r.url.startswith((address, "ws:", "blob:", "data:")) else None)
    found.on("pageerror", lambda error: found.errors.append(str(error)))
    yield found
    assert found.outside == [] and found.errors == []
    context.close()


def map_is_shown(page: Page, title: str) -> None:
    expect(page.locator(".st-key-map canvas").first).to_be_visible(timeout=60_000)
    expect(page.locator(".st-key-map").get_by_text(title, exact=True).first).to_be_visible(timeout=60_000)


def test_from_the_first_look_to_a_map_of_ones_own(page, address):
    page.goto(address)
    map_is_shown(page, "prose-lighthouse, layer 15")

    box = at_rest(page).locator(".st-key-map canvas").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.wait_for_url(re.compile(r"neuron=\d+"), timeout=60_000)
    neuron = re.search(r"neuron=(\d+)", page.url)[1]
    expect(page.get_by_role("spinbutton", name="Neuron")).to_have_value(neuron)
    expect(page.get_by_text("Strongest tokens of the run")).to_be_visible()

    slider = page.get_by_role("slider", name="Layer")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile(r"layer=16"), timeout=60_000)
    map_is_shown(page, "prose-lighthouse, layer 16")

    page.get_by_text("a (signed)", exact=True).click()
    page.wait_for_url(re.compile(r"show=signed"), timeout=60_000)
    page.reload()
    map_is_shown(page, "prose-lighthouse, layer 16")
    assert {"layer=16", "show=signed", f"neuron={neuron}"} <= set(page.url.split("?")[1].split("&"))
    expect(page.get_by_role("spinbutton", name="Neuron")).to_have_value(neuron)

    page.get_by_role("link", name="New capture").click()
    text = page.get_by_role("textbox", name="Your text")
    text.fill("word " * 40_000)
    expect(page.get_by_text("200,000 of 20,000 characters; the last 180,000 will be left out")).to_be_visible(timeout=60_000)
    text.fill(TEXT)
    expect(page.get_by_text(f"{len(TEXT)} of 20,000 characters", exact=True)).to_be_visible(timeout=60_000)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("of 1,024 tokens")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Capture", exact=True).click()
    page.get_by_role("button", name="Open map").click(timeout=120_000)
    page.wait_for_url(re.compile(r"run=capture-[0-9a-f]{12}"), timeout=60_000)
    expect(page.locator(".moyu-strip").get_by_text("rain")).to_be_visible(timeout=60_000)
    expect(page.locator(".moyu-strip b")).to_have_count(0)  # the tag in the text stays text


def test_a_click_on_the_sweep_chooses_the_layer(page, address):
    page.goto(address)
    map_is_shown(page, "prose-lighthouse, layer 15")
    plot = page.locator(".js-plotly-plot .plotly .nsewdrag").first
    at_rest(page)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.9)
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.9)
    page.wait_for_url(re.compile(r"layer=\d+"), timeout=60_000)
    layer = int(re.search(r"layer=(\d+)", page.url)[1])
    assert layer < 6
    map_is_shown(page, f"prose-lighthouse, layer {layer}")


@pytest.mark.parametrize("width,scheme", [(390, "light"), (1400, "dark")])
def test_the_page_fits_a_phone_and_the_dark_theme(browser, address, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    expect(page.locator(".st-key-map canvas").first).to_be_visible(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    context.close()
