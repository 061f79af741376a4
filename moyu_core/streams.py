"""What a job writes line by line so that a page can show it before its run is there: `<home>/live/<12 hex>.jsonl`.

The file is named by the request, is removed when the run has been written, and stays as it is where the job was stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moyu_core.home import Home
from moyu_core.spec import fingerprint


def stream_file(home: Home, request: dict[str, Any]) -> Path:
    """Where the job of this request writes."""
    return home.root / "live" / f"{fingerprint(request)[:12]}.jsonl"


def read_lines(path: Path) -> list[Any]:
    """The complete lines so far, parsed; none where there is no file."""
    found: list[Any] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:  # the last line is being written
            break
    return found
