"""The claims of the study `trial`: endpoint, density and smallest effect were fixed before any run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moyu_core import claims
from moyu_core.intervals import Interval, t_interval
from moyu_core.schema.trial import CONTINUATION
from moyu_core.studies.trial.request import OURS, RIVALS

DENSITY = 0.3
"""The middle one of those that are measured."""
SMALLEST = math.log(1.01)
"""Nats a token: the 1 % that the product allows everywhere; as for transplants of sets in the study `history`."""
SOURCE = "our definition"
WRITING_RIVAL = "static"
"""The only rival that is as free at run time and also known before the pass: what a table has to beat to be worth its memory."""

Rows = Sequence[Mapping[str, Any]]


def of(read: Rows, written: Rows, documents: Mapping[str, str], titles: Mapping[str, str], model: str) -> list[claims.Claim]:
    """The table against every rival on texts that are read, and against the static set on texts that are written.

    Args:
        read, written: rows of the tables.
        documents: text -> document, the unit.
        titles: method -> name for people.
        model: its name.
    """
    ours, found = OURS[0], []
    for rival in RIVALS:
        effect = difference([row for row in read if row["part"] == CONTINUATION], documents, ours, rival)
        found += [_claim(f"reads better than {rival}", rival, "text that is read", effect, titles, model)] if effect else []
    effect = difference(written, documents, ours, WRITING_RIVAL)
    name = f"writes better than {WRITING_RIVAL}"
    found += [_claim(name, WRITING_RIVAL, "text that each method writes itself", effect, titles, model)] if effect else []
    return claims.judge(found)


def difference(rows: Rows, documents: Mapping[str, str], ours: str, rival: str, density: float = DENSITY) -> Interval | None:
    """KL of the rival minus KL of ours over documents; None where one of them was not measured at this density."""
    by: dict[str, dict[str, list[float]]] = {ours: {}, rival: {}}
    for row in rows:
        if row["method"] in by and row["density"] == density:
            by[row["method"]].setdefault(documents[row["prompt_id"]], []).append(row["kl"])
    if not by[ours] or not by[rival]:
        return None
    return t_interval([np.mean(by[rival][document]) - np.mean(values) for document, values in by[ours].items()])


def _claim(name: str, rival: str, where: str, effect: Interval, titles: Mapping[str, str], model: str) -> claims.Claim:
    return claims.Claim(
        f"token table {name}, {model}",
        f"In {model}, with every token of prompt and text masked, a token table keeps closer to the dense model than "
        f"{titles[rival]} of the same size.",
        SOURCE,
        f"KL of {titles[rival]} - KL of the token table at density {DENSITY:g}, nats a token, {where}",
        SMALLEST,
        effect,
        model,
        f"{effect.n} documents",
    )
