"""Page Predictors: what came out, in one finding, from the numbers of the run."""

from __future__ import annotations

from typing import Any

from app.ui import predictors_cached
from moyu_core.figures.text import percent
from moyu_core.store import Run

CHEAP = 2
"""Methods that cost at most so many times the density skip all matrices; the others compute at least one of them whole."""
BUILDABLE_NOT = ("oracle", "cett", "native")
"""Not methods that save time before the activation is known, so they cannot win."""
_AGAINST = ("cannot be told from", "is not distinguishable from", "beats", "falls behind")
"""How the first of two methods stands to the second, as `Interval.in_words` takes it."""


def finding(run: Run, density: float) -> str:
    """What came out, from the numbers: the best method, the best that is cheap, and whether the prompt helps."""
    table: Any = predictors_cached.table(run.id, density)
    rivals = table.drop(index=[name for name in BUILDABLE_NOT if name in table.index])
    own = _own_router(table)
    if rivals.empty:
        return f"{len(table)} methods were compared.{own}"
    best = rivals.loc[rivals["energy"].idxmax()]
    text = (
        f"At density {percent(density)}, <b>{best['title']}</b> captures most of the layers' output among the methods "
        f"that could be built: {_result(best)}."
    )
    cheap = rivals[rivals["cost_share"] <= CHEAP * density]
    if not cheap.empty and cheap["energy"].idxmax() != best.name:
        second = cheap.loc[cheap["energy"].idxmax()]
        text += f" Among those that cost at most {CHEAP} times the density, <b>{second['title']}</b>: {_result(second)}."
    if "oracle" in table.index:
        text += f" An oracle of that size would capture {table.loc['oracle', 'energy']:.2f}."
    if {"griffin", "static"} <= set(table.index):
        gap = predictors_cached.paired(run.id, "griffin", "static", density, "energy")
        text += f" Choosing from the prompt (GRIFFIN) {gap.in_words(*_AGAINST)} one static set for all texts, difference in energy "
        text += f"{gap.text(3)}."
    return text + own


def _own_router(table: Any) -> str:
    """A mixture's router is the upper design point: it was trained with the model, which has no dense form."""
    if "native" not in table.index:
        return ""
    row = table.loc["native"]
    return (
        f" The model's own router runs {percent(row['predicted'])} of all experts' neurons and loses nothing by construction: it "
        "was trained with the model, so it shows what a router can be and is no rival of the others, whose density counts the "
        "neurons of all experts."
    )


def _result(row: Any) -> str:
    """One method's numbers in words."""
    bounds = f"[{row['energy_low']:.2f}, {row['energy_high']:.2f}]" if row["units"] > 1 else "(one text, no interval)"
    return (
        f"energy <b>{row['energy']:.2f}</b> {bounds}, recall {row['recall']:.2f} with "
        f"{percent(row['predicted'])} of the neurons kept (chance {row['uniform']:.2f}), for {percent(row['cost_share'])} of the "
        "FFN's multiply-adds"
    )
