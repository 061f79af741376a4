"""Worker, app and `moyu serve` itself are killed at random while visitors are at work: lost jobs, damaged runs.

    python -m benchmarks.killed [--kills 20] [--visitors 20]

A visitor whose server is gone comes back, as a browser does. Whoever keeps the server running (Docker's restart policy, systemd) is
played here: what was killed is started again on the same home and port; a worker is started again by `moyu serve`. In the end every
text that a page accepted must have a whole run, or a job that says that its worker died twice during it; every run must be sound.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from http.client import HTTPException
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
from websockets.exceptions import WebSocketException

from benchmarks import visitors
from benchmarks.record import save
from benchmarks.visitors import Seen, Visitor
from moyu_core import store
from moyu_core.errors import MoyuError
from moyu_core.home import Home
from moyu_core.jobs import JobTable

KILLS = 20
VICTIMS = {"worker": "moyu_core.worker", "app": "streamlit", "serve": ""}
"""What is killed in turn, and the word of its command line; `serve` is the parent of both."""
PAUSE = (1.0, 4.0)
"""Seconds of work between a start and the next kill."""
START_PATIENCE = 60.0


class Returning(Visitor):
    """A visitor who tries again when the server is gone."""

    async def visit(self) -> None:
        """Tab after tab, whatever becomes of the server."""
        await asyncio.sleep(self.draw.random())
        while time.monotonic() < self.until:
            try:
                await self._tab()
            except (OSError, TimeoutError, KeyError, HTTPException, WebSocketException):
                await asyncio.sleep(0.5)
            except MoyuError as error:
                self.seen.errors.append(f"visitor {self.number}: {error}")


class Server:
    """`moyu serve` in a folder, killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process, self.address = visitors.started(folder)
        self.port = int(self.address.rsplit(":", 1)[1])
        self.killed: Counter[str] = Counter()

    def kill(self, victim: str) -> None:
        """Kill without a warning; what does not come back by itself is started again."""
        children = self._children()
        for process in [psutil.Process(self.process.pid)] if victim == "serve" else children[VICTIMS[victim]]:
            process.kill()
            self.killed[victim] += 1
        if victim != "worker":
            self.process.wait(30)
            psutil.wait_procs([child for kind in children.values() for child in kind], 30)  # they notice that their parent is gone
            self.process, _ = visitors.started(self.folder, self.port)

    def _children(self) -> dict[str, list[psutil.Process]]:
        """App and worker by the word of their command line, as far as they live."""
        found: dict[str, list[psutil.Process]] = {word: [] for word in VICTIMS.values() if word}
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # a zombie, or gone meanwhile
                words = child.cmdline()  # just after its fork a child still bears its parent's
                for word in found.keys() & set(words):
                    found[word].append(child)
        return found

    def wait_for_worker(self) -> None:
        """Until there is a worker to be killed; `moyu serve` waits longer after each of its deaths."""
        deadline = time.monotonic() + START_PATIENCE
        while not self._children()[VICTIMS["worker"]]:
            if time.monotonic() > deadline:
                raise SystemExit("No worker was started again.")
            time.sleep(0.1)


async def _kill_all(server: Server, kills: int, people: list[Visitor], asked: list[str]) -> None:
    """So many kills, each at a moment nobody knows; then everybody goes home, but not before somebody asked for something."""
    draw = random.Random(0)
    for _, victim in zip(range(kills), cycle(VICTIMS), strict=False):
        await asyncio.to_thread(server.wait_for_worker)
        await asyncio.sleep(draw.uniform(*PAUSE))
        await asyncio.to_thread(server.kill, victim)
    await asyncio.sleep(PAUSE[1])
    deadline = time.monotonic() + START_PATIENCE
    while not asked and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    for person in people:
        person.until = 0.0


async def _crowd(server: Server, home: Home, kills: int, count: int) -> Seen:
    seen, table = Seen(), JobTable(home.jobs)
    people: list[Visitor] = [Returning(number, server.address, table, seen, float("inf")) for number in range(count)]
    await asyncio.gather(_kill_all(server, kills, people, seen.asked), *(person.visit() for person in people))
    return seen


def damaged(home: Home) -> list[str]:
    """What `moyu check` finds wrong in the runs made here."""
    found, errors = store.list_runs(home)
    said = [str(error) for error in errors]
    for run in found:
        try:
            run.verify()
        except MoyuError as error:
            said.append(str(error))
    return said


def measured(kills: int, count: int) -> dict[str, Any]:
    """What so many kills did to the work of so many visitors."""
    with tempfile.TemporaryDirectory() as folder:
        home, server = Home(Path(folder)), Server(Path(folder))
        try:
            seen = asyncio.run(_crowd(server, home, kills, count))
            missing = visitors.lost(home, seen.asked)
            jobs = JobTable(home.jobs).list(10_000)
            twice = {job.request["prompts"][0]["text"] for job in jobs if "died twice" in (job.error or "")}
            return {
                "kills": dict(server.killed),
                "visitors": count,
                "views": len(seen.times),
                "jobs": len(jobs),
                "done": sum(job.state == "done" for job in jobs),
                "died_twice": len(twice),
                "lost_jobs": [text for text in missing if text not in twice],
                "damaged_runs": damaged(home),
                "other_errors": [error for error in seen.errors if "died twice" not in error],
            }
        finally:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(30)


def main() -> None:
    """Measure, print, and record a full run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--visitors", type=int, default=visitors.VISITORS)
    given = parser.parse_args()
    found = measured(given.kills, given.visitors)
    print(found)
    if given.kills >= KILLS and given.visitors >= visitors.VISITORS:
        save("killed", found)


if __name__ == "__main__":
    main()
