"""`moyu serve` as real processes, with a page and a study that are made up here."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from moyu_core import serve as serving
from moyu_core.errors import InputError, JobError
from moyu_core.home import REPOSITORY, Home
from moyu_core.jobs import JobTable
from moyu_core.serve import serve
from tests.waiting import PATIENCE, ended, until

SCRIPT = """
import sys
from pathlib import Path
from moyu_core import serve as serving
from moyu_core.home import Home

real = serving._worker_command
serving._worker_command = lambda home, device: [*real(home, device), "--studies", "made_up_study"]
serving.BACKOFF_SECONDS = 0.05
here = Path(sys.argv[1])
sys.exit(serving.serve(Home(here / "home"), port=0, device="cpu", read_only=sys.argv[2] == "read only",
                       app=here / "app" / "asgi.py"))
"""
STUDY = "def perform(study, request, home, report, device=None):\n    return f'{study}-1'\n"


class Served:
    """A running `serve` with its output."""

    def __init__(self, folder: Path, mode: str = "") -> None:
        self.home = Home(folder / "home")
        (folder / "app").mkdir()
        shutil.copy(REPOSITORY / "app" / "asgi.py", folder / "app")
        (folder / "app" / "main.py").write_text("import streamlit as st\nst.write('hello')\n")
        (folder / "made_up_study.py").write_text(STUDY)
        (folder / "elsewhere").mkdir()
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(folder), mode],
                env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{folder}"},
                cwd=folder / "elsewhere", stdout=log, stderr=log,
            )
        self.address = until(self._address, bool)

    def _address(self) -> str:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"is ready at (\S+)", self.log.read_text())
        return found[1] if found else ""

    def get(self, path: str, **headers: str) -> HTTPResponse:
        request = urllib.request.Request(self.address + path, headers=headers)
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)

    def children(self) -> dict[int, str]:
        """Number and command of each child."""
        listed = (line.split(maxsplit=3) for line in processes())
        return {int(pid): command for pid, parent, _, command in listed if parent == str(self.process.pid)}

    def worker(self) -> int:
        """Number of the worker's process, 0 while there is none."""
        return next((pid for pid, command in self.children().items() if "moyu_core.worker" in command), 0)


def processes() -> list[str]:
    out = subprocess.run(["ps", "-eo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in out.splitlines() if line.split()[2][0] != "Z"]


def gone(pids: list[int]) -> bool:
    return not {str(pid) for pid in pids} & {line.split()[0] for line in processes()}


def kill(served: Served) -> None:
    if served.process.poll() is None:
        ended(served.process)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    kill(served)


def test_health_and_page(served: Served) -> None:
    assert served.get("/_stcore/health").read() == b"ok"
    assert b"<title>" in served.get("/").read()


def test_the_policy_allows_the_installed_inline_scripts_and_no_others(served: Served) -> None:
    answer = served.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    page = answer.read().decode()
    inline = [block.split(">", 1) for block in re.findall(r"<script(.*?)</script>", page, re.DOTALL)]
    texts = [text for attributes, text in inline if "src=" not in attributes]
    hashes = ["'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'" for text in texts]
    assert texts
    assert policy["script-src"].split() == ["'self'", "blob:", *hashes]
    assert policy["default-src"] == policy["frame-ancestors"] == "'self'"
    assert policy["object-src"] == "'none'"


def test_every_answer_has_the_headers_once(served: Served) -> None:
    script = re.search(r"static/js/index\.[\w-]+\.js", served.get("/").read().decode())
    assert script
    for path in ("/", "/_stcore/health", "/" + script[0]):
        headers = served.get(path, **{"Accept-Encoding": "gzip"}).headers
        for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Permissions-Policy"):
            assert len(headers.get_all(name, [])) == 1, (path, name)
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_scripts_are_compressed_for_those_who_can_read_it(served: Served) -> None:
    page = served.get("/").read().decode()
    for name in (*re.findall(r"static/js/[\w.-]+\.js", page)[:3], *re.findall(r"static/css/[\w.-]+\.css", page)[:1]):
        plain, packed = served.get("/" + name), served.get("/" + name, **{"Accept-Encoding": "br, gzip"})
        assert plain.headers["Content-Encoding"] is None
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Vary"] == "Accept-Encoding"
        for header in ("Content-Type", "Cache-Control"):
            assert packed.headers[header] == plain.headers[header], header
        body = plain.read()
        assert gzip.decompress(packed.read()) == body
    part = served.get("/" + name, **{"Accept-Encoding": "gzip", "Range": "bytes=0-9"})
    assert (part.status, part.read()) == (206, body[:10])


def test_paths_out_of_the_assets_are_not_followed(served: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        served.get("/static/../../../pyproject.toml", **{"Accept-Encoding": "gzip"})
    assert error.value.code in (400, 404)


def test_children_work_in_the_given_home_and_a_killed_worker_comes_back(served: Served) -> None:
    table = JobTable(served.home.jobs)
    first = until(served.worker, bool)
    job = table.submit("one", {})
    until(lambda: table.get(job.id).state, lambda state: state == "done")
    os.kill(first, signal.SIGKILL)
    second = until(served.worker, lambda pid: pid not in (0, first))
    job = table.submit("two", {})
    until(lambda: table.get(job.id).state, lambda state: state == "done")
    assert table.get(job.id).worker == f"{second}@{socket.gethostname()}"
    assert "ended with exit status -9; starting it again" in served.log.read_text()
    assert len(served.children()) == 2


def test_sigterm_ends_everything(served: Served) -> None:  # the last test of the shared server
    until(served.worker, bool)
    children = list(served.children())
    assert len(children) == 2
    served.process.terminate()
    assert served.process.wait(PATIENCE) == 0
    assert gone(children)


def test_children_end_when_serve_is_killed(tmp_path: Path) -> None:
    served = Served(tmp_path)
    until(served.worker, bool)
    children = list(served.children())
    served.process.kill()
    served.process.wait()
    try:
        until(lambda: gone(children))
    finally:
        for pid in [pid for pid in children if not gone([pid])]:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads a process's environment from /proc")
def test_read_only_has_no_worker_and_says_so(tmp_path: Path) -> None:
    served = Served(tmp_path, "read only")
    try:
        time.sleep(1)  # a worker would be started as soon as the app is ready
        (app,) = served.children()
        environment = Path(f"/proc/{app}/environ").read_bytes().split(b"\0")
        assert b"MOYU_READ_ONLY=1" in environment
        assert f"MOYU_HOME={served.home.root}".encode() in environment
        assert not served.home.root.exists()
    finally:
        kill(served)


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1 port {port}.*--port"):
            serve(Home(tmp_path / "home"), port=port, app=tmp_path / "missing.py")
    assert not (tmp_path / "home").exists()


def test_an_app_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(JobError, match="ended at its start with exit status"):
        serve(Home(tmp_path), port=0, worker=False, app=tmp_path / "missing.py")
    assert signal.getsignal(signal.SIGTERM) is before


def keep(code: str, monkeypatch: pytest.MonkeyPatch) -> serving._Keeper:
    monkeypatch.setattr(serving, "BACKOFF_SECONDS", 0.01)
    return serving._Keeper([sys.executable, "-c", code], dict(os.environ))


def test_a_worker_that_dies_at_once_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keeper = keep(f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); raise SystemExit(3)", monkeypatch)
    until(lambda: keeper.look() or keeper.deaths, lambda deaths: deaths == serving.MAX_QUICK_DEATHS)
    keeper.resume = 0  # the pause is over
    keeper.look()
    assert keeper.process is None
    assert (tmp_path / "starts").read_text() == "x" * serving.MAX_QUICK_DEATHS
    assert "died 5 times in a row (last exit status 3)" in capsys.readouterr().out


def test_a_worker_elsewhere_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "TAKEN_SECONDS", 0.01)
    keeper = keep(f"raise SystemExit({serving.EXIT_TAKEN})", monkeypatch)
    started = set()
    until(lambda: keeper.look() or started.add(keeper.process and keeper.process.pid) or len(started), lambda n: n > 7)
    assert keeper.deaths == 0
    assert capsys.readouterr().out.count("Another worker serves this folder") == 1
    if keeper.process is not None:
        keeper.process.wait()


def test_warm_up_freezes_what_it_imported() -> None:
    script = "import gc, sys; sys.path.insert(0, 'app'); import asgi; before = gc.get_freeze_count(); asgi.warm_up();"
    script += "assert before == 0 and gc.get_freeze_count() > 50_000; assert 'pandas' in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, timeout=PATIENCE)


def test_the_configuration_is_understood_and_its_colours_survive() -> None:
    from streamlit import config

    text = (REPOSITORY / ".streamlit" / "config.toml").read_text()
    options = flat(tomllib.loads(text))
    known = config._config_options_template
    assert not [name for name in options if name not in known]
    assert options["server.maxUploadSize"] == 20
    assert options["server.fileWatcherType"] == "none"
    assert "server.address" not in options
    # Streamlit replaces #000001 to #000040 in every figure.
    colours = re.findall(r"#[0-9a-f]{6}", text.split("[theme]")[1])
    assert len(colours) > 30
    assert not [colour for colour in colours if int(colour[1:], 16) < 0x100]
    assert {len(options[f"theme.chart{kind}Colors"]) for kind in ("Sequential", "Diverging")} == {10}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
