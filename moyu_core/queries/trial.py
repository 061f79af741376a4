"""What a run of `trial` says: every method against the dense model and the token table against its rivals. No torch.

The unit is the document; genres are shown one by one with the documents that they have. Differences are paired by document.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moyu_core.intervals import Interval, t_interval
from moyu_core.schema.trial import CONTINUATION, DENSE
from moyu_core.store import Run
from moyu_core.studies.trial.request import OURS, RIVALS

STUDY = "trial"
READING, WRITING = "reading", "writing"
EVERY_GENRE = "all"


def titles(run: Run) -> dict[str, str]:
    """Method -> name for people, of those that were measured, in their order."""
    frame = run.table("methods").to_pandas()
    return {row["method"]: row["title"] for row in frame.to_dict("records") if row["state"] == "measured"}


def left_out(run: Run) -> dict[str, str]:
    """Name for people -> why the method was not measured."""
    frame = run.table("methods").to_pandas()
    return {row["title"]: row["reason"] for row in frame.to_dict("records") if row["state"] != "measured"}


def densities(run: Run) -> list[float]:
    """Those that were measured."""
    return [float(value) for value in run.spec.parameters["densities"]]


def ours(run: Run) -> list[str]:
    """Which of the two tables took part."""
    return [name for name in OURS if name in titles(run)]


def rivals(run: Run) -> list[str]:
    """Which of those that a table would replace took part."""
    return [name for name in RIVALS if name in titles(run)]


def by_document(run: Run, setting: str) -> Any:
    """One row a (method, density, document) with genre, kl and agreement; in reading the loss too, in writing the surprise.

    Args:
        run: of the study.
        setting: READING (the continuation, teacher-forced) or WRITING (what each method wrote itself).
    """
    keys = ["method", "density", "prompt_id"]
    frame: Any
    if setting == READING:
        frame = run.table("read").to_pandas()
        frame = frame[frame["part"] == CONTINUATION].drop(columns="part")
    else:
        frame = run.table("written").to_pandas().groupby(keys, sort=False)[["kl", "agreement", "surprise"]].mean().reset_index()
        frame = frame.merge(run.table("answers", [*keys, "kept"]).to_pandas(), on=keys)
    frame = frame.merge(run.table("texts", ["prompt_id", "document", "genre"]).to_pandas(), on="prompt_id")
    values = [name for name in frame.columns if name not in (*keys, "document", "genre")]
    return frame.groupby(["method", "density", "document", "genre"], sort=False)[values].mean().reset_index()


def table(run: Run, density: float) -> pd.DataFrame:
    """Every measure of every method at one density, indexed by method: means over documents, the KLs with their bounds."""
    read, written = _at(by_document(run, READING), density), _at(by_document(run, WRITING), density)
    dense: Any = _of(by_document(run, READING), DENSE).set_index("document")["loss"]
    rows = []
    for method, title in titles(run).items():
        own, said = _of(read, method), _of(written, method)
        loss = t_interval(own.set_index("document")["loss"] - dense)
        rows.append(
            {
                "method": method,
                "title": title,
                "kept": own["kept"].mean(),
                "perplexity": float(np.exp(loss.mean)),
                **_ends("perplexity", np.exp(loss.low), np.exp(loss.high)),
                **_measured("reading_kl", own["kl"]),
                "reading_agreement": own["agreement"].mean(),
                **_measured("writing_kl", said["kl"]),
                "writing_agreement": said["agreement"].mean(),
                "surprise": said["surprise"].mean(),
                "documents": len(own),
            }
        )
    return pd.DataFrame(rows).set_index("method")


def dense(run: Run) -> dict[str, float]:
    """The dense model itself: mean surprise at what it wrote."""
    return {"surprise": float(_of(by_document(run, WRITING), DENSE)["surprise"].mean())}


def curves(run: Run, setting: str) -> pd.DataFrame:
    """KL by method and density with its bounds over documents."""
    frame = by_document(run, setting)
    rows = []
    for (method, density), group in frame[frame["method"] != DENSE].groupby(["method", "density"], sort=False):
        found = t_interval(group["kl"])
        rows.append({"method": method, "density": density, "kept": group["kept"].mean(), "mean": found.mean, "low": found.low,
                     "high": found.high})
    return pd.DataFrame(rows)


def gap(run: Run, table: str, rival: str, density: float, setting: str) -> Interval:
    """KL of the rival minus KL of our table over documents, paired: above 0 the table keeps closer to the dense model."""
    return _gap(_at(by_document(run, setting), density), table, rival)


def gaps(run: Run, table: str, density: float, setting: str) -> pd.DataFrame:
    """`gap` against every rival, over all genres and in each: columns rival, genre, mean, low, high, documents."""
    frame = _at(by_document(run, setting), density)
    rows = []
    for rival in rivals(run):
        for genre in (EVERY_GENRE, *genres(run)):
            found = _gap(frame if genre == EVERY_GENRE else frame[frame["genre"] == genre], table, rival)
            rows.append({"rival": rival, "genre": genre, "mean": found.mean, "low": found.low, "high": found.high,
                         "documents": found.n})
    return pd.DataFrame(rows)


def _gap(frame: Any, table: str, rival: str) -> Interval:
    wide = frame[frame["method"].isin((table, rival))].pivot(index="document", columns="method", values="kl")
    return t_interval(wide[rival] - wide[table])


def genres(run: Run) -> list[str]:
    """Kinds of text, in the order of the texts."""
    return list(dict.fromkeys(run.table("texts", ["genre"]).to_pandas()["genre"]))


def known(run: Run) -> float:
    """Share of the continuations' tokens that the table has met; NaN where there was no table."""
    return float(run.table("texts", ["known"]).to_pandas()["known"].astype(float).mean())


def answers(run: Run, density: float) -> pd.DataFrame:
    """What was written, for the first text of each genre: one row a method, the dense model first, one column a genre."""
    frame: Any = run.table("answers", ["method", "density", "prompt_id", "text"]).to_pandas()
    frame = frame[(frame["text"] != "") & ((frame["density"] == density) | (frame["method"] == DENSE))]
    frame = frame.merge(run.table("texts", ["prompt_id", "genre"]).to_pandas(), on="prompt_id")
    return frame.pivot(index="method", columns="genre", values="text").reindex([DENSE, *titles(run)])


def _at(frame: Any, density: float) -> Any:
    return frame[frame["density"] == density]


def _of(frame: Any, method: str) -> Any:
    return frame[frame["method"] == method]


def _measured(name: str, values: Any) -> dict[str, float]:
    found = t_interval(values)
    return {name: found.mean, **_ends(name, found.low, found.high)}


def _ends(name: str, low: float, high: float) -> dict[str, float]:
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
