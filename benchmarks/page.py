"""The activation map page: server time of a rerun, and what a browser sees.

    python -m benchmarks.page

Server: AppTest reruns of the real page on the demo run, layer after layer. Browser: `moyu serve` and headless Chromium; from
a cold tab to the first map, and from the key press that changes the layer to the redrawn map (41 x 1536, values).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
from streamlit.testing.v1 import AppTest

from benchmarks.record import save
from moyu_core.home import REPOSITORY
from tests.browser import chromium, free_port


def server_reruns(count: int = 60) -> list[float]:
    """Milliseconds of reruns that show another layer."""
    app = AppTest.from_file(str(REPOSITORY / "app" / "main.py"), default_timeout=60)
    app.session_state["_map_was_shown"] = True  # the sweep below the map is drawn, as after the first moments of a visit
    app.run()
    times = []
    for turn in range(count):
        slider = app.select_slider(key="layer")
        slider.set_value(slider.options[(7 * turn) % 30] if isinstance(slider.options[0], int) else (7 * turn) % 30)
        start = time.perf_counter()
        app.run()
        times.append(1e3 * (time.perf_counter() - start))
        assert not app.exception
    return times[5:]


def in_browser(rounds: int = 12) -> dict[str, float]:
    """Median milliseconds: cold tab to first map, layer change to redrawn map."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moyu_core.cli", "serve", "--port", str(port), "--read-only"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert server.stdout is not None
    next(line for line in server.stdout if "ready" in line)
    try:
        with chromium() as browser:
            cold = [_cold(browser, port) for _ in range(5)]
            warm = _layers(browser, port, rounds)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    return {"cold_tab_to_map": float(np.median(cold[1:])), "layer_change": float(np.median(warm))}


def _cold(browser, port: int) -> float:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    start = time.perf_counter()
    page.goto(f"http://127.0.0.1:{port}", wait_until="commit")
    page.locator(".st-key-map canvas").first.wait_for(timeout=60_000)
    page.locator(".st-key-map").get_by_text("layer 15", exact=False).first.wait_for()
    took = 1e3 * (time.perf_counter() - start)
    context.close()
    return took


def _layers(browser, port: int, rounds: int) -> list[float]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"http://127.0.0.1:{port}/?show=signed")
    page.locator(".st-key-map canvas").first.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    slider = page.get_by_role("slider", name="Layer")
    times = []
    for turn in range(rounds):
        slider.focus()
        layer = 16 + turn
        start = time.perf_counter()
        page.keyboard.press("ArrowRight")
        page.locator(".st-key-map").get_by_text(re.compile(f"layer {layer}$")).first.wait_for(timeout=30_000)
        times.append(1e3 * (time.perf_counter() - start))
        page.wait_for_timeout(700)
    return times[2:]


def main() -> None:
    """Measure and print."""
    reruns = server_reruns()
    browser = in_browser()
    record = {
        "server_rerun_ms": {"p50": float(np.quantile(reruns, 0.5)), "p95": float(np.quantile(reruns, 0.95))},
        "browser_ms": browser,
    }
    print(
        f"server rerun p50 {np.quantile(reruns, 0.5):.0f} ms, p95 {np.quantile(reruns, 0.95):.0f} ms; cold tab to first map "
        f"{browser['cold_tab_to_map']:.0f} ms; layer change to redrawn map {browser['layer_change']:.0f} ms"
    )
    save("page", record)


if __name__ == "__main__":
    main()
