"""Many visitors of a public installation at once, over the loopback: errors, lost jobs, page times, memory of the server.

    python -m benchmarks.visitors [--visitors 20] [--seconds 300]

A visitor speaks to the server as the browser's half of Streamlit does: HTTP for the page and its cookie, then a websocket with
Streamlit's own messages. It draws nothing; twenty real browsers would need more of the machine than the server that is measured. A
page time is from the request for a view to the last message of its rerun. Each visitor opens a tab, looks at views, captures a text
of its own with a tiny model and opens the run, closes the tab, and begins anew.

Before they come, more maps are looked at than any cache of the app keeps, so that memory does not grow only because caches fill.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from websockets.asyncio.client import connect

from benchmarks.record import save
from benchmarks.visitor_tab import PATIENCE, Tab
from moyu_core import query, store
from moyu_core.errors import MoyuError
from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import JobTable

VISITORS, SECONDS = 20, 300
MODEL = "tiny-relu"
VIEWS = (
    ("", ""),
    ("", "layer=3"),
    ("origin", ""),
    ("origin", "part=theory"),
    ("history", ""),
    ("history", "part=flips"),
    ("inertia", ""),
    ("inertia", "part=distance"),
    ("predictors", ""),
    ("trinity", ""),
    ("trinity", "part=speed"),
    ("findings", ""),
    ("prompts", ""),
    ("runs", ""),
)
"""(page, parameters of the link)."""
VIEWS_OF_A_TAB = 6
PAUSE = (2.0, 8.0)
"""Seconds that a visitor looks at a view."""
WARM_VIEWS = 300
"""Maps that are looked at first; the caches of a map keep up to 256 entries (app/ui/cached.py)."""
WARM_TABS = 4
SAMPLE_SECONDS = 2.0


@dataclass
class Seen:
    """What all visitors found.

    Attributes:
        times: seconds of each view, by page.
        errors: what went wrong, in words.
        asked: texts whose capture the page accepted.
        tabs: tabs that were opened.
    """

    times: list[tuple[str, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tabs: int = 0


class Visitor:
    """One browser with a cookie of its own, at work until the time is over."""

    def __init__(self, number: int, address: str, table: JobTable, seen: Seen, until: float) -> None:
        self.number, self.address, self.table, self.seen, self.until = number, address, table, seen, until
        self.draw = random.Random(number)
        self.cookie = ""

    async def visit(self) -> None:
        """Tab after tab; whatever goes wrong is noted, and the visitor comes back."""
        await asyncio.sleep(self.draw.random() * PAUSE[1])
        while time.monotonic() < self.until:
            try:
                await self._tab()
            except (OSError, TimeoutError, KeyError, MoyuError) as error:
                self.seen.errors.append(f"visitor {self.number}: {type(error).__name__} {error}")

    async def _tab(self) -> None:
        self.cookie = self.cookie or await asyncio.to_thread(_cookie, self.address)
        async with connected(self.address, self.cookie) as socket:
            tab, self.seen.tabs = Tab(socket), self.seen.tabs + 1
            captures_at = self.draw.randrange(VIEWS_OF_A_TAB)
            for place in range(VIEWS_OF_A_TAB):
                if time.monotonic() >= self.until:
                    return
                await (self._capture(tab) if place == captures_at else self._view(tab, *self.draw.choice(VIEWS)))

    async def _view(self, tab: Tab, page: str, query: str, **widgets: Any) -> None:
        self.seen.times.append((page or "map", await tab.look(page, query, **widgets)))
        self.seen.errors += [f"{page or 'map'}?{query}: {problem}" for problem in tab.problems]
        await asyncio.sleep(self.draw.uniform(*PAUSE))

    async def _capture(self, tab: Tab) -> None:
        """Write a text, press the button, watch the job as the page does, open its map."""
        text = f"Visitor {self.number} looks at the clock and reads {len(self.seen.asked)} past {self.draw.randrange(10**6)}."
        query = f"new_model={MODEL}"
        await self._view(tab, "capture", query)
        await self._view(tab, "capture", query, text=text)
        await self._view(tab, "capture", query, text=text, press="Capture")
        if not tab.problems:
            self.seen.asked.append(text)
            run_id = await self._done(tab, query, text)
            await self._view(tab, "", f"run={run_id}")

    async def _done(self, tab: Tab, query: str, text: str) -> str:
        """The run of a text, once its job is done; the list of jobs is redrawn every second meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for job in await asyncio.to_thread(self.table.list, 1000):
                if job.request["prompts"][0]["text"] == text and not job.active:
                    if job.run_id is None:
                        raise MoyuError(f"job {job.id} ended without a run: {job.error}")
                    return job.run_id
            await asyncio.sleep(1.0)
            if tab.fragment:
                await tab.look("capture", query, tab.fragment)
        raise MoyuError("a job did not end in time")


class Memory:
    """Resident memory of the app and its worker, in MiB, again and again."""

    def __init__(self, server: int) -> None:
        self.server = psutil.Process(server)
        self.samples: list[tuple[float, float, float]] = []

    async def watch(self) -> None:
        """Sample until cancelled: (seconds, app, worker)."""
        started = time.monotonic()
        while True:
            sizes = {"streamlit": 0.0, "moyu_core.worker": 0.0}
            for child in self.server.children():
                with suppress(psutil.Error):  # gone meanwhile
                    words, size = child.cmdline(), child.memory_info().rss / 2**20
                    for name in sizes.keys() & set(words):
                        sizes[name] += size
            self.samples.append((time.monotonic() - started, sizes["streamlit"], sizes["moyu_core.worker"]))
            await asyncio.sleep(SAMPLE_SECONDS)

    def said(self, column: int) -> dict[str, float]:
        """Growth in MiB a minute over each half, by least squares, and the mean of each; at most, too.

        Closed tabs are kept for two minutes, so the first half begins with fewer of them than there will be.
        """
        samples = np.array(self.samples)
        halves = {"first": samples[: len(samples) // 2], "second": samples[len(samples) // 2 :]}
        slopes = {f"growth_a_minute_{name}_half": _slope(half[:, 0] / 60, half[:, column]) for name, half in halves.items()}
        means = {f"mean_{name}_half": float(half[:, column].mean()) for name, half in halves.items()}
        return {**slopes, **means, "most": float(samples[:, column].max())}


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 2 else float("nan")


def connected(address: str, cookie: str) -> connect:
    """The connection of a new tab."""
    stream = address.replace("http", "ws", 1) + "/_stcore/stream"
    options: dict[str, Any] = {"subprotocols": ["streamlit"], "max_size": None, "proxy": None}
    return connect(stream, additional_headers={"Cookie": cookie}, **options)


def _cookie(address: str) -> str:
    """A new visitor's cookie."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=PATIENCE) as answer:
        return str(answer.headers["Set-Cookie"]).partition(";")[0]


def started(folder: Path, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """`moyu serve --public` in a folder of its own, ready: (process, address)."""
    told = {**os.environ, "MOYU_HOME": str(folder), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "moyu_core.cli", "serve", "--public", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=told, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    ready = next((line for line in process.stdout if "ready at" in line), "")
    if not ready:
        raise SystemExit(f"The server did not start:\n{(folder / 'log').read_text()}")
    return process, ready.split("ready at ")[1].split()[0]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int, Home]]:
    """A server for as long as the block runs: (address, process id, home)."""
    process, address = started(folder)
    try:
        yield address, process.pid, Home(folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def lost(home: Home, asked: list[str]) -> list[str]:
    """Texts that were accepted and have no whole run once nothing is queued or running any more."""
    table = JobTable(home.jobs)
    deadline = time.monotonic() + PATIENCE
    while any(job.active for job in table.list(1000)) and time.monotonic() < deadline:
        time.sleep(0.5)
    whole = set()
    for job in table.list(1000):
        if job.state == "done" and job.run_id:
            store.find_run(home, job.run_id).verify()
            whole.add(job.request["prompts"][0]["text"])
    return [text for text in asked if text not in whole]


async def _warm(address: str, views: int) -> None:
    """Look at every view once, and at so many maps of the demo run, a different prompt and layer each."""
    run = next(run for run in store.list_runs(Home.default())[0] if run.tracked and run.spec.study == "capture")
    places = itertools.product(run.manifest["layers"], query.prompts(run)["prompt_id"])
    maps = [("", f"run={run.id}&prompt={prompt}&layer={layer}") for layer, prompt in itertools.islice(places, views)]
    cookie = await asyncio.to_thread(_cookie, address)

    async def look(part: list[tuple[str, str]]) -> None:
        async with connected(address, cookie) as socket:
            tab = Tab(socket)
            for page, view in part:
                await tab.look(page, view)

    await look(list(VIEWS))
    await asyncio.gather(*(look(maps[place::WARM_TABS]) for place in range(WARM_TABS)))


async def _crowd(address: str, server: int, home: Home, visitors: int, seconds: float) -> tuple[Seen, Memory]:
    seen, memory, until = Seen(), Memory(server), time.monotonic() + seconds
    watching = asyncio.create_task(memory.watch())
    await asyncio.gather(*(Visitor(n, address, JobTable(home.jobs), seen, until).visit() for n in range(visitors)))
    watching.cancel()
    return seen, memory


def measured(visitors: int, seconds: float, warm: int = WARM_VIEWS) -> dict[str, Any]:
    """What so many visitors found in so many seconds, after so many maps were looked at."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (address, server, home):
        asyncio.run(_warm(address, warm))
        seen, memory = asyncio.run(_crowd(address, server, home, visitors, seconds))
        missing = lost(home, seen.asked)
        log = (Path(folder) / "log").read_text()
    times = 1e3 * np.array([took for _, took in seen.times])
    pages = sorted({page for page, _ in seen.times})
    return {
        "visitors": visitors,
        "seconds": seconds,
        "pause_seconds": PAUSE,
        "tabs": seen.tabs,
        "views": len(times),
        "jobs": len(seen.asked),
        "lost_jobs": missing,
        "errors": seen.errors + (["a traceback in the server's log"] if "Traceback" in log else []),
        "page_ms": {"p50": float(np.quantile(times, 0.5)), "p95": float(np.quantile(times, 0.95)), "most": float(times.max())},
        "p95_ms_by_page": {
            page: float(np.quantile([1e3 * took for name, took in seen.times if name == page], 0.95)) for page in pages
        },
        "warm_views": warm,
        "memory_mib": {name: memory.said(column) for column, name in ((1, "app"), (2, "worker"))},
        "memory_samples": [[round(value, 1) for value in sample] for sample in memory.samples],
    }


def main() -> None:
    """Measure, print, and record a full run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=VISITORS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    found = measured(given.visitors, given.seconds)
    print({key: value for key, value in found.items() if key != "memory_samples"})
    if given.visitors >= VISITORS and given.seconds >= SECONDS:
        save("visitors", found)


if __name__ == "__main__":
    main()
