"""What is asked of a manifest holds for every tracked run, and a bundle whose manifest lacks it is refused by name."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from moyu_core import archive, archive_import, store
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.schema.manifest import COMMON, LATEST, STUDIES, misfit

TRACKED = store.list_runs(Home(Path("no home")))[0]
"""None of whoever runs the tests: processes of one test run would disagree on what there is while an app makes another."""
BY_STUDY = {run.spec.study: run for run in TRACKED}


@pytest.mark.parametrize("run", TRACKED, ids=lambda run: run.id)
def test_what_is_asked_holds_for_every_tracked_run(run: store.Run) -> None:
    assert misfit(run.manifest, run.spec.study) == ""


@pytest.mark.parametrize("study", BY_STUDY)
def test_every_entry_that_is_asked_for_is_missed_by_name(study: str) -> None:
    manifest = BY_STUDY[study].manifest
    shapes = {**COMMON, **STUDIES.get(study, {})}
    for key in shapes:
        name = key.removesuffix("?")
        if name in manifest:
            assert misfit({**manifest, name: ["odd"] if shapes[key] is str else "odd"}, study).split(".")[0] == name
        if key == name:
            assert misfit({other: manifest[other] for other in manifest if other != name}, study).split(".")[0] == name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"created": LATEST}, "created"),
        ({"created": True}, "created"),
        ({"seconds": float("inf")}, "seconds"),
        ({"layers": []}, "layers"),
        ({"model": {"name": "m"}}, "model.family"),
        ({"counts": {"prompts": 1, "tokens": "many"}}, "counts.tokens"),
    ],
)
def test_odd_values_are_named(change: dict[str, Any], said: str) -> None:
    assert misfit({**BY_STUDY["capture"].manifest, **change}, "capture") == said


@pytest.mark.parametrize(
    ("study", "change", "said"),
    [
        ("families", {"model": "odd"}, "'model'"),
        ("speed", {"claims": [{"name": "odd"}]}, "'claims'"),
        ("speed", {"budget": "odd"}, ""),
    ],
)
def test_a_bundle_with_an_odd_manifest_is_refused(study: str, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Its identity and every hash are right; a page that lists it with others would fail for all of them."""
    run, home = BY_STUDY[study], Home(tmp_path, tracked=())
    with zipfile.ZipFile(io.BytesIO(b"".join(archive.stream(run)))) as found:
        files = {name: found.read(name) for name in found.namelist()}
    name = f"{run.id}/{store.MANIFEST}"
    files[name] = json.dumps({**json.loads(files[name]), **change}).encode()
    head = json.loads(files[archive.BUNDLE])
    head["files"][store.MANIFEST] = {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as target:
        for member, content in {**files, archive.BUNDLE: json.dumps(head).encode()}.items():
            target.writestr(member, content)
    if not said:  # nobody relies on it
        assert archive_import.unpack(bundle, home)[1]
        return
    with pytest.raises(InputError, match=said):
        archive_import.unpack(bundle, home)
    assert not store.list_runs(home)[0]
