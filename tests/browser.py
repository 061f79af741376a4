"""A real browser for tests: whichever Chrome or Chromium is installed, started bare."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import Job, JobTable
from tests.waiting import PATIENCE, ended, line_with, until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAINTED = "roots => roots.every(({ neuronMap: map }) => map && !map.dirty && !map.frame)"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=60_000)  # the 5 s that are usual are few where two test processes and their servers share two cores


def executable() -> str:
    """The path of a Chrome, from CHROME or the usual names; the test is skipped where there is none."""
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chrome or Chromium is installed")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(home: Path) -> Iterator[str]:
    """The address of `moyu serve` with its worker and this home; the tracked runs and tiny models are there."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moyu_core.cli", "serve", "--port", str(port)],
        cwd=home,
        env={**os.environ, "MOYU_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line_with("ready", server.stdout)
        yield f"http://127.0.0.1:{port}"
    finally:
        ended(server)


def answering(address: str, server: subprocess.Popen[bytes]) -> str:
    """The address, once the server of its own that was started there answers."""

    def healthy() -> bool:
        assert server.poll() is None, f"the server ended with exit status {server.returncode}"
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/_stcore/health", timeout=30):
                return True
        except OSError:
            return False

    until(healthy)
    return address


@contextmanager
def watched_page(browser: Browser, width: int, height: int) -> Iterator[Page]:
    """A page in a fresh profile; an error of a script fails the test."""
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield page
    finally:
        context.close()  # also after a failure: Streamlit waits at its end for pages that are open
    assert errors == []


def painted(page: Page) -> Page:
    """The page, once every map has drawn what was asked of it by now."""
    until(lambda: page.locator(".nm").evaluate_all(PAINTED))
    return page


def at_rest(page: Page) -> Page:
    """The page, once its script has run, nothing old is shown and every map is painted; all that for a moment."""
    app = page.get_by_test_id("stApp")

    def moments() -> int:
        """How many looks in a row found it so: one rerun may follow on another's heels."""
        for calm in range(4):
            state = [app.get_attribute(f"data-test-{of}-state") for of in ("connection", "script")]
            if state != ["CONNECTED", "notRunning"] or page.locator('[data-stale="true"]').count():
                return calm
            if not page.locator(".nm").evaluate_all(PAINTED):
                return calm
            page.wait_for_timeout(100)
        return 4

    until(moments, lambda calm: calm == 4)
    return page


def copied_link(page: Page) -> str:
    """What "Copy link" shows."""
    at_rest(page).get_by_role("button", name="Copy link").click()
    link = page.get_by_test_id("stPopoverBody").get_by_test_id("stCode").inner_text()
    page.keyboard.press("Escape")
    return "".join(link.split())


@contextmanager
def held(home: Home, study: str, when: Callable[[Job], bool]) -> Iterator[Job]:
    """Stops the worker's process in the middle of a job, so that a page can be used there however fast the machine is.

    Args:
        home: the installation that is served.
        study: the job's study.
        when: whether the running job is where it is to be held; asked every few milliseconds.
    """
    jobs, ends = JobTable(home.jobs), time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        job = next((job for job in jobs.list(50) if job.study == study and job.state == "running"), None)
        if job is None or not when(job):
            time.sleep(0.005)
            continue
        worker = int(str(job.worker).split("@")[0])
        os.kill(worker, signal.SIGSTOP)
        try:
            if _writable(home.jobs):
                yield job
                return
        finally:
            os.kill(worker, signal.SIGCONT)
    raise AssertionError(f"no {study} job came to where it was to be held")


def _writable(path: Path) -> bool:
    """Whether the stopped worker does not hold the table's lock."""
    with closing(sqlite3.connect(path, timeout=0.2)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True
