"""In a real browser: every format is uploaded, a link opens the same set in a fresh profile, and every download is what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from moyu_core import archive, store
from moyu_core.home import REPOSITORY, Home
from moyu_core.prompt_export import FORMATS, export
from moyu_core.prompts import make_prompt
from tests.browser import answering, chromium, copied_link, free_port, watched_page
from tests.tracked import capture_of
from tests.waiting import ended, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
DEMO = capture_of().name


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`moyu serve` without a worker; the tracked models' tokenizers are enough."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "streamlit",
            "run",
            str(REPOSITORY / "app" / "asgi.py"),
            f"--server.port={port}",
            "--server.headless=true",
        ],
        cwd=REPOSITORY,
        env={**os.environ, "MOYU_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield answering(f"http://127.0.0.1:{port}", server)
    finally:
        ended(server)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with watched_page(browser, 1400, 1000) as found:
        yield found


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_uploaded_and_its_link_opens_it_in_a_fresh_profile(
    kind: str, browser: Browser, page: Page, address: str, tmp_path: Path
) -> None:
    prompts = (make_prompt(f"The {kind} herons.", "herons"), make_prompt(f"The {kind} = umbrellas.", "umbrellas"))
    file = tmp_path / f"birds-{kind}.{kind}"
    file.write_bytes(export(prompts, kind))
    page.goto(f"{address}/prompts?part=import&for_model=tiny-relu")
    page.locator('input[type="file"]').set_input_files(file)
    expect(page.get_by_text("2 prompts understood, 0 rows left out")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Save to the library").click()
    expect(page.get_by_text(f"birds-{kind}: 2 prompts saved")).to_be_visible(timeout=60_000)
    page.wait_for_url(re.compile(r"set=[0-9a-f]{12}"), timeout=60_000)
    link = copied_link(page)
    assert re.search(r"set=[0-9a-f]{12}", link) and "for_model=tiny-relu" in link

    other = browser.new_context().new_page()
    other.goto(link)
    expect(other.get_by_role("combobox", name="Prompt set")).to_have_value(f"birds-{kind} · 2 prompts", timeout=60_000)
    assert copied_link(other) == link
    other.context.close()


def test_a_link_fills_the_widgets_whose_scripts_come_late(page: Page, address: str) -> None:
    """The map asks for its sweep by itself, which on a slow line is before the browser could draw the sidebar."""
    waiting: list[Route] = []
    page.route(re.compile(r"/(Selectbox|Slider)\.[^/]+\.js"), lambda route: waiting.append(route))
    page.goto(f"{address}/?prompt=prose-box-114&layer=7")
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=90_000)
    until(lambda: page.wait_for_timeout(50) or len(waiting), lambda count: count == 2)
    for script in waiting:
        script.continue_()
    expect(page.get_by_role("combobox", name="Prompt")).to_have_value(re.compile("^prose-box-114"), timeout=60_000)
    expect(page.get_by_role("slider", name="Layer")).to_have_attribute("aria-valuetext", "7")


def downloaded(page: Page, button: str, exact: bool = True) -> Path:
    with page.expect_download(timeout=60_000) as started:
        page.get_by_role("button", name=button, exact=exact).click()
    return Path(started.value.path())


def test_map_and_chart_are_saved_as_picture_table_report_and_notebook(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/?prompt=prose-box-114&sweep=density")
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=90_000)
    page.get_by_role("button", name="Download this view").click()
    seen, whole = downloaded(page, "PNG"), downloaded(page, "SVG").read_text()
    assert seen.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and len(seen.read_bytes()) > 10_000
    assert "prose-box-114, layer " in whole and "data:image/png;base64," in whole and "columns (neurons by index)" in whole
    page.get_by_test_id("stPopoverBody").locator('[data-testid="stSelectbox"]').click()
    page.get_by_role("option", name="Heat map of density").click()
    png, svg = downloaded(page, "PNG"), downloaded(page, "SVG")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and len(png.read_bytes()) > 10_000
    assert svg.read_text().startswith("<svg") and "effective" not in svg.read_text() and "density" in svg.read_text()
    table = pd.read_csv(downloaded(page, "CSV"))
    assert table["z"].between(0, 1).sum() > 30 * 40
    assert len(pd.read_parquet(downloaded(page, "Parquet"))) == len(table)
    cells = json.loads(downloaded(page, "Notebook").read_text())["cells"]
    assert any(DEMO in cell["source"] for cell in cells) and any("layer_sweep(" in cell["source"] for cell in cells)

    report = tmp_path / "report.html"
    report.write_bytes(downloaded(page, "Report (HTML)").read_bytes())
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if request.url.startswith("http") else None)
    page.goto("about:blank")
    outside.clear()
    page.goto(report.as_uri())
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Every number comes from the runs named here")).to_be_visible()
    assert outside == []


def test_a_bundle_is_opened_by_upload(page: Page, address: str, tmp_path: Path) -> None:
    file = archive.save(store.find_run(Home.default(), DEMO), tmp_path)
    page.goto(f"{address}/runs")
    page.get_by_text("Open a bundle").click()
    page.locator('input[type="file"]').set_input_files(file)
    expect(page.locator(".st-key-map canvas").first).to_be_visible(timeout=90_000)
    assert f"run={DEMO}" in page.url or "run=" not in page.url  # the demo run is the default, which a link leaves out


@pytest.mark.parametrize("width", [390, 1440])
def test_the_header_fits_and_nothing_is_cut(browser: Browser, address: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    page.goto(f"{address}/prompts")
    expect(page.get_by_text("37 prompts · 13 domains")).to_be_visible(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    for name in ("How to read this", "Download this view", "Copy link"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box is not None and box["y"] >= 40 and box["x"] >= 0 and box["x"] + box["width"] <= width
    context.close()


def test_a_touch_screen_shows_no_tool_bar_on_a_chart_and_still_saves_it(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    try:
        page.goto(f"{address}/?prompt=prose-box-114&sweep=density")
        expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=90_000)
        expect(page.locator(".modebar").first).to_be_attached()
        expect(page.locator(".modebar").first).to_be_hidden()
        page.get_by_role("button", name="Download this view").click()
        page.get_by_test_id("stPopoverBody").locator('[data-testid="stSelectbox"]').click()
        page.get_by_role("option", name="Heat map of density").click()
        assert downloaded(page, "PNG").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    finally:
        context.close()
