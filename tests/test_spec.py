"""The identity of a run: what changes it, what does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import plain
import pytest

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt
from moyu_core.schema import SCHEMA_VERSION, SET_RULES
from moyu_core.spec import ModelIdentity, RunSpec, SetRule, canonical_json, fingerprint
from moyu_core.studies.requests import CaptureRequest, VocabularyRequest


def spec(**changes: Any) -> RunSpec:
    parts: dict[str, Any] = {"study": "capture", "model": ModelIdentity("tiny", "abc", "float32"), "prompts_hash": "0f",
                             "set_rule": SetRule(), "sink_token_id": 1, "parameters": {"layers": [0, 1]}}
    return RunSpec(**{**parts, **changes})


def test_the_id_is_the_study_and_a_hash_that_does_not_move() -> None:
    assert spec().run_id == f"capture-{spec().fingerprint[:12]}"
    assert spec().fingerprint == spec().fingerprint
    assert len(spec().fingerprint) == 64
    assert fingerprint({"b": 1, "a": [1.0, "é"]}) == fingerprint({"a": [1.0, "é"], "b": 1})
    # a hash that moves would mean that runs which exist are not found again
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'
    assert spec().fingerprint == "844f76e80074d9d48eea368d0fb6c1b893ae91a5ff9e1e1f446e80b5d7c57099"


@pytest.mark.parametrize("changes", [
    {"study": "other"}, {"prompts_hash": "1f"}, {"set_rule": SetRule("top", 0.2)}, {"set_rule": SetRule("magnitude")},
    {"sink_token_id": 2}, {"parameters": {"layers": [0]}}, {"seed": 1}, {"schema_version": SCHEMA_VERSION + 1},
    {"model": ModelIdentity("tiny", "abc", "bfloat16")}, {"model": ModelIdentity("tiny", "abd", "float32")},
])
def test_whatever_decides_a_number_changes_the_id(changes: dict[str, Any]) -> None:
    assert spec(**changes).run_id != spec().run_id


def test_the_models_name_decides_nothing() -> None:
    assert spec(model=ModelIdentity("another name", "abc", "float32")).run_id == spec().run_id


def test_equal_rules_have_equal_ids() -> None:
    assert spec(set_rule=SetRule("top", 1)).run_id == spec(set_rule=SetRule("top", 1.0)).run_id
    assert spec(set_rule=SetRule("top", float(np.float64(0.1)))).run_id == spec(set_rule=SetRule("top")).run_id
    assert spec(set_rule=SetRule("cett", target=0.2)).run_id == spec(set_rule=SetRule("cett")).run_id


def test_a_spec_survives_json() -> None:
    for rule in (SetRule("top", 0.25), SetRule("cett", target=0.1), SetRule("positive")):
        there = RunSpec.from_json(json.loads(json.dumps(spec(set_rule=rule).as_json())))
        assert there == spec(set_rule=rule)
        assert there.fingerprint == spec(set_rule=rule).fingerprint


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "best"}, "'best' is not known"), ({"name": "top", "density": 0}, "above 0"),
    ({"name": "top", "density": 1.01}, "at most 1"), ({"name": "top", "density": float("nan")}, "nan"),
    ({"name": "top", "density": -0.1}, "above 0"), ({"name": "cett", "target": 1.0}, "between 0 and 1"),
    ({"name": "cett", "density": 0.1}, "takes no density"), ({"name": "positive", "density": 0.1}, "takes no density"),
    ({"name": "top", "target": 0.1}, "takes no CETT target"), ({"name": "magnitude", "target": 0.1}, "takes no CETT"),
])
def test_rules_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SetRule(**arguments)


def test_every_rule_has_defaults_and_a_label() -> None:
    labels = {SetRule(name).label() for name in SET_RULES}
    assert labels == {"top 10 % by |a|·c", "top 10 % by |a|", "CETT threshold, target 0.2", "a > 0"}
    with pytest.raises(InputError, match="no fixed number"):
        SetRule("positive").count(10)


def test_requests_survive_json() -> None:
    for request in (CaptureRequest("m", plain.prompts(3, 4), SetRule("cett"), (1, 0), ("p1",), True, 99, "bfloat16", 5, "x"),
                    CaptureRequest("m", plain.prompts(3), values=None)):
        assert CaptureRequest.from_json(json.loads(json.dumps(request.as_json()))) == request
    assert VocabularyRequest.from_json(VocabularyRequest("m", 3).as_json()) == VocabularyRequest("m", 3)


@pytest.mark.parametrize(("changes", "message"), [
    ({"prompts": ()}, "at least one prompt"), ({"dtype": "float8"}, "float8"), ({"layers": ()}, "at least one layer"),
    ({"values": ("p0", "zz")}, "zz"), ({"max_tokens": 1}, "sink token"),
    ({"prompts": (Prompt("a", "x"), Prompt("a", "y"))}, "occurs 2 times"),
])
def test_requests_that_cannot_be_met_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CaptureRequest(**{"model": "m", "prompts": plain.prompts(3), **changes})


@pytest.mark.parametrize("tokens", [0, -1, 128])
def test_vocabulary_ranks_fit_their_column(tokens: int) -> None:
    with pytest.raises(InputError, match="1 and 127"):
        VocabularyRequest("m", tokens)


def test_a_title_that_has_no_utf8_form_is_mended() -> None:
    CaptureRequest("m", plain.prompts(3), title="a \ud800 b").title.encode("utf-8")
