"""Where things are kept. A `Home` is passed around; nobody reads the environment anywhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Home:
    """The folders of one installation.

    Attributes:
        root: writable folder: models/, runs/, downloads/, jobs.sqlite.
        tracked: folders of finished runs that are shipped with the code and never written to.
        runs_folder: where runs go, if not to root/runs.
    """

    root: Path
    tracked: tuple[Path, ...] = (REPOSITORY / "data" / "runs" / "demo",)
    runs_folder: Path | None = None

    @staticmethod
    def default() -> Home:
        """`MOYU_HOME` where it is set, else the user's cache directory."""
        chosen = os.environ.get("MOYU_HOME")
        return Home(Path(chosen) if chosen else Path(platformdirs.user_cache_dir("moyu-explorer")))

    @property
    def models(self) -> Path:
        """Converted models, one folder each."""
        return self.root / "models"

    @property
    def downloads(self) -> Path:
        """Files being fetched, and fetched ones until they are converted."""
        return self.root / "downloads"

    @property
    def runs(self) -> Path:
        """Runs made here."""
        return self.runs_folder or self.root / "runs"

    @property
    def jobs(self) -> Path:
        """The SQLite file of the job table."""
        return self.root / "jobs.sqlite"

    @property
    def prompts(self) -> Path:
        """The prompt sets shipped with the code, *.jsonl."""
        return REPOSITORY / "data" / "prompts"
