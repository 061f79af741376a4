"""The Dockerfile's instructions carried out without Docker, each absolute path of it inside a folder.

    python -m tests.rehearsal FOLDER [read|full] [ARG=VALUE ...]     # really installs; then serves until interrupted

Left out: the base image (the Python that runs this stands for it), `useradd` and `USER` (whoever runs this stays who they are).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from moyu_core.home import REPOSITORY

PLACES = ("/opt/models", "/models", "/venv", "/app", "/data")
"""Absolute paths of the image that are moved into the folder."""
NOT_HERE = ("useradd ",)
"""Beginnings of RUN lines that would change this machine."""


@dataclass
class Image:
    """What the instructions left.

    Attributes:
        root: the folder that stands for `/`.
        environment: of the final stage, with what this machine's shells need.
        entrypoint, command, health: the words that Docker would run.
        ran: the RUN lines that were carried out.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def start(self, *arguments: str) -> list[str]:
        """The words of `docker run IMAGE arguments`."""
        return [*self.entrypoint, *(arguments or self.command)]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, rest) of each line, continued lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]  # pyright: ignore[reportReturnType]


def build(root: Path, arguments: dict[str, str], outside: dict[str, str] | None = None) -> Image:
    """Carry out every stage.

    Args:
        root: an empty folder.
        arguments: of `--build-arg`.
        outside: environment of this machine that RUN lines see besides the image's own.

    Raises:
        subprocess.CalledProcessError: a RUN line failed.
    """
    image, known, folder = Image(root), dict(outside or os.environ), root
    for word, rest in instructions(REPOSITORY / "Dockerfile"):
        rest = _moved(rest, root)
        if word == "FROM":
            image.environment = dict(known)
        elif word == "ARG":
            name, _, default = rest.partition("=")
            image.environment[name] = arguments.get(name, default)
        elif word == "ENV":
            image.environment |= _values(rest, image.environment)
        elif word == "WORKDIR":
            folder = Path(rest)
            folder.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            _copy([part for part in rest.split() if not part.startswith("--")], folder)
        elif word == "RUN" and not rest.startswith(NOT_HERE):
            subprocess.run(["/bin/sh", "-c", rest], cwd=folder, env=image.environment, check=True)
            image.ran.append(rest)
        elif word == "HEALTHCHECK":
            image.health = json.loads(rest[rest.index("CMD") + 3 :])
        elif word in ("ENTRYPOINT", "CMD"):
            setattr(image, {"ENTRYPOINT": "entrypoint", "CMD": "command"}[word], json.loads(rest))
    (root / "data").mkdir(exist_ok=True)  # made by the line of `useradd`
    script = root / "app" / "deploy" / "start.sh"  # it names the place of the baked models
    script.write_text(_moved(script.read_text(encoding="utf-8"), root), encoding="utf-8")
    return image


def _moved(text: str, root: Path) -> str:
    return re.sub(rf"(?<![\w.])({'|'.join(map(re.escape, PLACES))})(?![\w-])", lambda found: f"{root}{found[1]}", text)


def _values(text: str, known: dict[str, str]) -> dict[str, str]:
    pairs = (word.partition("=") for word in shlex.split(text))
    return {name: re.sub(r"\$(\w+)", lambda found: known.get(found[1], ""), value) for name, _, value in pairs}


def _copy(words: list[str], folder: Path) -> None:
    """COPY; what stands in .dockerignore stays out, and paths of an earlier stage lie where they are to be."""
    *sources, target = words
    if Path(sources[0]).is_absolute():
        if Path(sources[0]) != Path(target):
            shutil.copytree(sources[0], target)
        return
    if sources != ["."]:
        for name in sources:
            shutil.copy(REPOSITORY / name, folder / target)
        return
    ignored = [line.removeprefix("**/") for line in (REPOSITORY / ".dockerignore").read_text().split()]

    def left_out(place: str, names: list[str]) -> list[str]:
        inside = [str((Path(place) / name).relative_to(REPOSITORY)) for name in names]
        return [
            name
            for name, path in zip(names, inside, strict=True)
            if any(fnmatch(path, rule) or fnmatch(name, rule) for rule in ignored)
        ]

    shutil.copytree(REPOSITORY, folder, ignore=left_out, dirs_exist_ok=True)


def main() -> None:
    """Build with a real installation, then run as `docker run` would."""
    root, profile = Path(sys.argv[1]).resolve(), (sys.argv[2:] or ["read"])[0]
    given = dict(word.split("=", 1) for word in sys.argv[3:])
    image = build(root, {"PROFILE": profile, **given})
    sys.stdout.write("\n".join(image.ran) + "\n")
    subprocess.run(image.start(*(["--read-only"] if profile == "read" else ["--public"])), env=image.environment, check=False)


if __name__ == "__main__":
    main()
