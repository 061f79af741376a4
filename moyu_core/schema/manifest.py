"""What the manifest of a run says beside its identity and files, as far as lists and pages rely on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Shape = Any
"""A type (`float` takes whole numbers too), a mapping of keys to shapes ("key?" may be missing or null), or a list of one shape."""

LATEST = 2**33
"""Seconds since 1970; a calendar reaches so far."""

_MODEL = {"name": str, "family": str, "activation": str, "gated": bool, "n_layers": int, "n_neurons": int, "note?": str}

COMMON: Mapping[str, Shape] = {
    "created": int,
    "model": {"name": str},
    "title?": str,
    "seconds?": float,
    "layers?": [int],
    "scope?": {},
    "headline?": {},
    "claims?": [{"name": str}],
    "notes?": [str],
    "checks?": {},
    "counts?": {"prompts": int, "tokens": int},
}
"""Of every study."""

STUDIES: Mapping[str, Mapping[str, Shape]] = {
    "capture": {
        "model": _MODEL,
        "layers": [int],
        "counts": {"prompts": int, "tokens": int, "nonfinite": int, "cut_tokens": int},
        "checks": {"identity_error?": float},
        "values_agreement?": {"mean": float, "worst_layer_mean": float, "worst_layer": int, "rows": int},
    },
    "inertia": {
        "model": _MODEL,
        "layers": [int],
        "scope": {"texts": int, "topics": int, "words": int},
        "notes": [str],
        "parts": {},
        "controls": {},
        "checks": {"token_by_token": {}},
        "sink_artefact?": {},
    },
    "history": {"models": [{"name": str}], "scope": {"probes": int}},
    "predictors": {
        "model": _MODEL,
        "layers": [int],
        "scope": {"tokens": int, "prompts": int, "methods": int},
        "methods": [{"name": str, "title": str}],
        "skipped?": {},
    },
    "trinity": {"model": _MODEL, "scope": {"documents": int, "questions": int}, "budget": float},
    "speed": {"model": _MODEL, "scope": {}, "machine": {}, "weights": {}, "spread_limit": float},
    "origin": {"model": _MODEL, "layers": [int], "scope": {"seeds": int, "prompts": int}, "initialiser": float},
    "trial": {"model": _MODEL, "layers": [int], "scope": {"documents": int}, "parts": {}, "title": str},
}
"""What each study adds."""


def misfit(manifest: Mapping[str, Any], study: str = "") -> str:
    """The first entry that is missing or of another kind, for instance `model.name`; empty where all are as they should be.

    Without a study only what all studies have is looked at.
    """
    found = _misfit(manifest, COMMON, "") or _misfit(manifest, STUDIES.get(study, {}), "")
    return found or ("" if 0 <= manifest["created"] < LATEST else "created")


def _misfit(value: Any, shape: Shape, place: str) -> str:
    if isinstance(shape, Mapping):
        return _misfit_inside(value, shape, place) if isinstance(value, Mapping) else place
    if isinstance(shape, list):
        if not isinstance(value, list) or (shape == [int] and not value):  # a run without a layer shows nothing
            return place
        return next(filter(None, (_misfit(part, shape[0], place) for part in value)), "")
    number = isinstance(value, int | float) if shape is float else isinstance(value, shape)
    sound = number and (shape is bool or not isinstance(value, bool))
    return "" if sound and (shape is not float or math.isfinite(value)) else place


def _misfit_inside(value: Mapping[str, Any], shape: Mapping[str, Shape], place: str) -> str:
    for key, inner in shape.items():
        name = key.removesuffix("?")
        part = value.get(name)
        if key == name or part is not None:
            said = _misfit(part, inner, f"{place}.{name}".lstrip("."))
            if said:
                return said
    return ""
