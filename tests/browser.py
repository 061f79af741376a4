"""A real browser for tests: whichever Chrome or Chromium is installed, started bare."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import Job, JobTable

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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
        assert server.stdout is not None
        next(line for line in server.stdout if "ready" in line)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


@contextmanager
def watched_page(browser: Browser, width: int, height: int) -> Iterator[Page]:
    """A page in a fresh profile; an error of a script fails the test."""
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []
    context.close()


def copied_link(page: Page) -> str:
    """What "Copy link" shows."""
    page.get_by_role("button", name="Copy link").click()
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
    jobs, ends = JobTable(home.jobs), time.monotonic() + 60
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
