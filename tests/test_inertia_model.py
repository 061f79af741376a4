"""What must be true on the default model: the sink artefact, and no inertia where words cannot see each other."""

from __future__ import annotations

import pytest

from moyu_core.home import Home
from moyu_core.models import load_model
from moyu_core.progress import silent
from moyu_core.prompts import read_prompts
from moyu_core.spec import SetRule
from moyu_core.studies.inertia import checks, overlap
from moyu_core.studies.inertia.conditions import read_texts
from moyu_core.studies.inertia.units import Reader


@pytest.mark.model
def test_the_default_model_shows_the_artefact_and_no_inertia_without_attention() -> None:
    home = Home.default()
    model = load_model("default", home)
    prompts = read_prompts(home.prompts / "topics.jsonl").prompts[::2]
    texts, _ = read_texts(model, prompts, 12)
    reader = Reader(model, SetRule(), {}, silent)
    found = overlap.measure(reader, texts, 0)
    artefact = overlap.sink_artefact(found)
    assert artefact["bare"] > 0.7 and artefact["behind_sink"] < 0.4
    blind = found.controls["attention cut"]
    assert blind.low < 0 < blind.high and blind.high - blind.low < 0.01
    assert found.controls["labels shuffled"].low < 0 < found.controls["labels shuffled"].high
    assert checks.token_by_token(reader, texts)["mean_overlap"] > 0.999
