"""A run as one file that can be handed on."""

from __future__ import annotations

import io
import zipfile

from moyu_core.store import MANIFEST, Run


def pack(run: Run) -> bytes:
    """A zip of the run's folder: manifest and every file it names, under the run's id. Tables are compressed already."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.write(run.folder / MANIFEST, f"{run.id}/{MANIFEST}")
        for name in run.manifest["files"]:
            archive.write(run.path(name), f"{run.id}/{name}")
    return buffer.getvalue()
