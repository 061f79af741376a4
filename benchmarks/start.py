"""How long a read-only installation takes from the command to the first answer, in an environment without torch.

    python -m benchmarks.start [--starts 7]

The environment holds what requirements-read.txt asks for and nothing else (tests/small_environment.py); the home is empty, so the
tracked runs are shown. One start comes before and is not counted: it compiles and fills the file cache.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.record import save
from moyu_core.home import REPOSITORY
from tests import small_environment

GOAL = 3.0
"""Seconds."""


def seconds(python: str, home: Path) -> float:
    """One start, until the server says that it answers."""
    told = {**os.environ, "MOYU_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    command = [python, "-m", "moyu_core.cli", "serve", "--read-only", "--port", "0"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=home, env=told, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ready = any("ready at" in line for line in process.stdout)
    took = time.perf_counter() - started
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    if not ready:
        raise SystemExit("The server did not start; see the messages above.")
    return took


def main() -> None:
    """Start several times, print the median, record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = small_environment.make(Path(folder) / "venv")
        times = [seconds(python, Path(folder)) for _ in range(given.starts + 1)][1:]
    found = {"median": statistics.median(times), "most": max(times), "goal": GOAL, "starts": given.starts}
    print(f"median {found['median']:.2f} s, longest {found['most']:.2f} s of {given.starts} starts; goal {GOAL:g} s")
    save("start", {"start_s": found})


if __name__ == "__main__":
    main()
