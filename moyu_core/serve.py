"""`moyu serve`: the app and one worker as two child processes, started, watched and stopped together.

The children run in sessions of their own, so Ctrl+C reaches only this process, which then stops them in order. Should
it be killed outright, each child notices within a second that its parent is gone and stops by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moyu_core.errors import InputError, JobError
from moyu_core.home import REPOSITORY, Home
from moyu_core.limits import VARIABLE, limits

APP = REPOSITORY / "app" / "asgi.py"
PARENT = "MOYU_PARENT_PID"
EXIT_TAKEN = 75
"""Exit status of a worker whose device another worker holds."""

START_SECONDS = 120.0
STOP_SECONDS = 8.0
"""Less than the 10 s after which containers are killed."""

QUICK_SECONDS = 60.0
MAX_QUICK_DEATHS = 5
BACKOFF_SECONDS = 1.0
"""Pause after the first quick death of a worker; doubles each time."""

TAKEN_SECONDS = 30.0
"""Pause between looks whether the other worker is gone."""


def serve(
    home: Home,
    host: str = "127.0.0.1",
    port: int = 8501,
    worker: bool = True,
    read_only: bool = False,
    open_browser: bool = False,
    device: str | None = None,
    app: Path = APP,
    public: str = "",
    base_path: str = "",
) -> int:
    """Runs until SIGINT or SIGTERM; to be called from the main thread.

    Args:
        home: folder of models, runs and jobs.
        host: address to listen on; 0.0.0.0 for every interface.
        port: port to listen on; 0 = any free one.
        worker: whether to start a worker for what pages ask for.
        read_only: pages offer no computation, and there is no worker.
        open_browser: whether to open the page when it is ready.
        device: of the worker; None = the best there is.
        app: the ASGI app's file.
        public: "1" = public mode with the usual limits, a path = with those of a TOML file; "" = private.
        base_path: the prefix under which a reverse proxy shows the app, for instance `moyu`.

    Returns:
        0 after a signal, the app's exit status when it ended by itself.

    Raises:
        InputError: the address cannot be used.
        JobError: the app did not start.
    """
    base_path = _base_path(base_path)
    public = str(Path(public).resolve()) if public not in ("", "1") else public
    limits({VARIABLE: public})  # refused here, with a sentence, rather than by a page
    port = _free_port(host, port)
    environment = _environment(home, read_only, public)
    with _signals() as stop:
        children = [_start(_app_command(app, host, port, base_path), environment)]
        keeper = _Keeper(_worker_command(home, device), environment) if worker and not read_only else None
        try:
            address = _address(host, port) + base_path
            _say(f"MOYU Explorer is starting at {address}")
            if not _wait_until_healthy(children[0], address, stop):
                return 0
            _say(f"MOYU Explorer is ready at {address} (Ctrl+C stops it)")
            if open_browser:
                webbrowser.open(address)
            return _watch(children[0], keeper, stop)
        finally:
            _stop([*children, *([keeper.process] if keeper and keeper.process else [])])


def stop_with_parent() -> None:
    """In a child: stop in the ordinary way once the process that started it is gone."""
    parent = os.environ.pop(PARENT, "")
    if not parent or sys.platform == "win32":
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(1)  # an open page can hold up the app's ordinary end for ever

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class _Keeper:
    """Keeps a worker running: waits longer after each quick death and gives up after `MAX_QUICK_DEATHS`."""

    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    since: float = 0.0
    resume: float = 0.0
    waiting: bool = False

    def look(self) -> None:
        """Starts the worker, or starts it anew when it died and its pause is over."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self._died(self.process.returncode, now)
        if self.process is None and self.deaths < MAX_QUICK_DEATHS and now >= self.resume:
            self.process, self.since = _start(self.command, self.environment), now

    def _died(self, status: int, now: float) -> None:
        self.process = None
        if status == EXIT_TAKEN:  # the other worker reads the same table, so jobs are done; take over when it ends
            self.resume = now + TAKEN_SECONDS
            if not self.waiting:
                _say("Another worker serves this folder; it will be used.")
            self.waiting = True
            return
        self.waiting = False
        self.deaths = self.deaths + 1 if now - self.since < QUICK_SECONDS else 1
        pause = BACKOFF_SECONDS * 2 ** (self.deaths - 1)
        self.resume = now + pause
        if self.deaths == MAX_QUICK_DEATHS:
            _say(f"The worker died {self.deaths} times in a row (last exit status {status}) and is not started again. "
                 "Pages go on showing finished runs; see the messages above, then start the program anew.")
        else:
            _say(f"The worker ended with exit status {status}; starting it again in {pause:g} s.")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _free_port(host: str, port: int) -> int:
    """The port, proved to be free now. Should another program take it right after, the app ends and that is seen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        if sys.platform != "win32":  # as the server does: a port whose connections just ended counts as free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except (OSError, OverflowError) as error:
            raise InputError(f"Cannot listen on {host} port {port}: {error}. Stop the program that uses it, or choose "
                             "another with --port.") from error
        return probe.getsockname()[1]


def _base_path(said: str) -> str:
    """`/prefix` without a slash at its end, or nothing."""
    path = "/" + said.strip("/") if said.strip("/") else ""
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", path) or "/.." in path:
        raise InputError(f"A base path is made of letters, digits and . _ ~ - between slashes, not {said!r}.")
    return path


def _environment(home: Home, read_only: bool, public: str = "") -> dict[str, str]:
    """What the children are told: absolute paths, because their working folder is another."""
    root = home.root.resolve()
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    told = {"MOYU_HOME": str(root), "PYTHONPATH": os.pathsep.join(filter(None, paths)), PARENT: str(os.getpid())}
    kept = {name: value for name, value in os.environ.items() if name not in ("MOYU_READ_ONLY", VARIABLE)}
    modes = {"MOYU_READ_ONLY": "1" if read_only else "", VARIABLE: public}
    return {**kept, **told, **{name: value for name, value in modes.items() if value}}


def _app_command(app: Path, host: str, port: int, base_path: str = "") -> list[str]:
    flags = [f"--server.address={host}", f"--server.port={port}", "--server.headless=true"]
    flags += [f"--server.baseUrlPath={base_path}"] if base_path else []
    # The welcome message asks an outside service for this machine's address; the address is printed here anyway.
    return [sys.executable, "-m", "streamlit", "run", str(app), *flags, "--logger.hideWelcomeMessage=true"]


def _worker_command(home: Home, device: str | None) -> list[str]:
    command = [sys.executable, "-m", "moyu_core.worker", "--home", str(home.root.resolve())]
    return command if device is None else [*command, "--device", device]


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # In REPOSITORY: there lies .streamlit/config.toml, which Streamlit looks for in the working folder.
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdin=subprocess.DEVNULL, start_new_session=True)


def _address(host: str, port: int) -> str:
    """Where a browser on this machine finds the app."""
    shown = {"0.0.0.0": "localhost", "::": "localhost", "": "localhost"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _wait_until_healthy(app: subprocess.Popen[bytes], address: str, stop: threading.Event) -> bool:
    """True when the app answers, False when a signal came first."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: it is this machine
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if app.poll() is not None:
            raise JobError(f"The app ended at its start with exit status {app.returncode}; see the messages above.")
        with contextlib.suppress(OSError), direct.open(f"{address}/_stcore/health", timeout=5) as answer:
            if answer.status == 200:
                return True
        if stop.wait(0.2):
            return False
    raise JobError(f"The app did not answer at {address} within {START_SECONDS:g} s; see the messages above.")


def _watch(app: subprocess.Popen[bytes], keeper: _Keeper | None, stop: threading.Event) -> int:
    while app.poll() is None:
        if keeper is not None:
            keeper.look()
        if stop.wait(0.3):
            return 0
    _say(f"The app ended with exit status {app.returncode}.")
    return app.returncode


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and a closed terminal set instead of ending this process."""
    stop = threading.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it on purpose
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    """Asks every child to end, then ends it with all that it started."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        _kill_group(child)
        child.wait()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # its session's group bears its number; also reaches grandchildren
    else:
        child.kill()
