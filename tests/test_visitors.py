"""The load test in small: visitors of a public server at once, and that it sees what goes wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from benchmarks import visitor_tab, visitors
from benchmarks.visitor_tab import Tab
from moyu_core.home import Home
from moyu_core.jobs import JobTable
from tests.small_runs import make
from tests.waiting import PATIENCE


@pytest.mark.timeout(600)
def test_five_visitors_find_no_error_and_lose_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "PAUSE", (0.2, 1.0))
    monkeypatch.setattr(visitors, "PATIENCE", PATIENCE)
    monkeypatch.setattr(visitor_tab, "PATIENCE", PATIENCE)
    found = visitors.measured(5, 20, warm=8)
    assert found["errors"] == [] and found["lost_jobs"] == []
    assert found["jobs"] >= 3 and found["views"] >= 14 and len(found["p95_ms_by_page"]) >= 3, "of the first tabs alone"
    samples = found["memory_samples"]
    assert len(samples) >= 4 and all(app > 50 and worker > 20 for _, app, worker in samples[-2:])


def test_memory_is_told_for_each_half() -> None:
    memory = visitors.Memory(os.getpid())
    memory.samples = [(float(second), 100.0 + min(second, 60), 50.0) for second in range(0, 121, 2)]
    said = memory.said(1)
    assert round(said["growth_a_minute_first_half"]) == 60 and round(said["growth_a_minute_second_half"]) == 0
    assert said["mean_first_half"] < 135 < said["mean_second_half"] == said["most"] == 160
    assert memory.said(2)["growth_a_minute_first_half"] == pytest.approx(0, abs=1e-9)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A public server."""
    with visitors.serving(tmp_path_factory.mktemp("public")) as (found, _, _):
        yield found


def test_a_link_to_another_view_of_the_same_page_is_followed(address: str) -> None:
    async def look() -> list[int]:
        async with visitors.connected(address, visitors._cookie(address)) as socket:
            tab, drawn = Tab(socket), []
            for part in ("library", "import", "library"):
                await tab.look("prompts", f"part={part}")
                drawn.append(len([label for kind, label in tab.shown if kind == "text_area"]))
                tab.shown.clear()
            return drawn

    assert asyncio.run(look()) == [0, 1, 0], "fields for a pasted text"


def test_errors_of_a_page_are_seen(address: str) -> None:
    async def look() -> list[list[str]]:
        options: dict[str, Any] = {"subprotocols": ["streamlit"], "max_size": None, "proxy": None}
        problems = []
        async with connect(address.replace("http", "ws", 1) + "/_stcore/stream", **options) as socket:
            tab = Tab(socket)
            for page, given in (("nowhere", {}), ("capture", {}), ("capture", {"text": "  ", "press": "Capture"}), ("", {})):
                await tab.look(page, "new_model=tiny-relu" if page else "", **given)
                problems.append(tab.problems)
        return problems

    missing, form, refused, fine = asyncio.run(look())
    assert "there is no page" in missing[0] and form == [] and fine == []
    assert refused, "the form's refusal is an error to a visitor"


def test_jobs_without_a_whole_run_are_lost(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "PATIENCE", 1.0)
    table = JobTable(home.jobs)
    for text in ("kept", "failed", "waits"):
        table.submit("capture", {"prompts": [{"text": text}]})
    first, second = (table.claim("1@here", "cpu") for _ in range(2))
    assert first and second
    table.finish(first.id, "1@here", make(home).id)
    table.fail(second.id, "1@here", "No.")
    assert visitors.lost(home, ["kept", "failed", "waits", "never asked"]) == ["failed", "waits", "never asked"]
