"""An environment that holds what requirements-read.txt asks for and nothing else, made of links to what is installed here.

    python -m tests.small_environment FOLDER     # with a pip that installs nothing, for what must run as if it had been installed
"""

from __future__ import annotations

import re
import sys
import sysconfig
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from moyu_core.home import REPOSITORY


def needed(requirements: Path) -> dict[str, Distribution]:
    """The distributions that a file of pinned requirements brings, with those that they ask for themselves."""
    lines = (line.split("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines())
    waiting, found = [line for line in lines if line], {}
    while waiting:
        asked = waiting.pop()
        name = re.match(r"[\w.-]+", asked)
        if name is None or "extra ==" in asked or name[0].lower() in found:
            continue
        try:
            found[name[0].lower()] = here = distribution(name[0])
        except PackageNotFoundError:  # for another system or Python
            continue
        waiting += here.requires or []
    return found


def make(folder: Path) -> str:
    """Make the environment in a new folder; returns the path of its Python, which finds these packages and no others."""
    venv.create(folder, symlinks=True)
    place = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for found in needed(REPOSITORY / "requirements-read.txt").values():
        for top in {file.parts[0] for file in found.files or [] if ".." not in file.parts}:
            if not (place / top).exists():
                (place / top).symlink_to(Path(str(found.locate_file(top))))
    return str(folder / "bin" / "python")


if __name__ == "__main__":
    pip = Path(make(Path(sys.argv[1]))).with_name("pip")
    pip.write_text('#!/bin/sh\n[ "$1 $2" = "install -r" ] && [ -f "$3" ]\n')
    pip.chmod(0o755)
