"""Page Trinity: the sentence at the top, made from the numbers."""

from __future__ import annotations

from typing import Any

from app.ui import trinity_cached as reads
from moyu_core.figures.text import number, percent
from moyu_core.queries.trinity import OPEN, OWN, SLOWER, against_dense
from moyu_core.store import Run
from moyu_core.studies.trinity import operating

REFERENCES = ("oracle", "random", "static")
"""Bounds and baselines: no method that decides anything at run time from what it could know."""


def sentence(run: Run, speed: Run | None) -> str:
    """Who keeps the budget, how sparse, and how fast that is."""
    frame: Any = reads.points(run.id, speed.id if speed else None)
    judged = frame[~frame["method"].isin(REFERENCES)]
    within = judged[judged["status"] == operating.CONFIRMED]
    open_ones = judged[judged["status"].isin((operating.NOT_CONFIRMED, operating.OPEN))]
    budget, model = percent(run.manifest["budget"]), run.manifest["model"]["name"]
    if within.empty:
        said = f"On {model} <b>none</b> of {len(judged)} methods was shown to keep perplexity within {budget} at a density below 1"
    else:
        said = (
            f"On {model} <b>{len(within)} of {len(judged)}</b> methods keep perplexity within {budget} below density 1: "
            f"{'; '.join(_one(row) for row in within.to_dict('records'))}"
        )
    if len(open_ones):
        said += f". Could not be resolved: {', '.join(open_ones['title'])}"
    return f"{said}. {_speed(run, speed)}"


def _one(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    size = "its own size" if row["density"] == OWN else f"density {row['density']:g}"
    timed = f", {number(float(ratio))} × dense speed{' (noisy)' if row['noisy'] is True else ''}" if ratio == ratio else ""
    return f"{row['title']} at {size}{timed}"


def _speed(run: Run, speed: Run | None) -> str:
    if speed is None:
        return "Speed has not been measured for this model on this machine: `moyu study speed` does it."
    frame: Any = reads.trade_off(run.id, speed.id).dropna(subset=["speed"])
    frame = frame[~frame["method"].isin(REFERENCES)]
    if frame.empty:
        return ""
    best = frame.loc[frame["speed"].idxmax()]
    title = reads.titles(run.id)[best["method"]]
    return (
        f"{against(frame)}; the highest median, {title} at density "
        f"{best['density']:g}, reaches {number(best['speed'])} × dense{' (noisy)' if best['noisy'] else ''} at "
        f"{number(best['ratio'])} × the perplexity."
    )


def against(frame: Any) -> str:
    """In how many settings decoding is slower than dense, and in how many that cannot be told."""
    found = against_dense(frame["speed_low"], frame["speed_high"], frame["noisy"]).tolist()
    slower, open_ones = found.count(SLOWER), found.count(OPEN)
    said = f"Measured decoding is slower than dense in {slower} of {len(found)} settings"
    return said + (f", and in {open_ones} that cannot be told (noisy, or the interval reaches 1)" if open_ones else "")
