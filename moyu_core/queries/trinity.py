"""Reading the runs of `trinity`, `speed`, `families` and `chat`, and an answer while it is written. No torch.

Intervals are t intervals over documents (questions: over passages). Nothing is extrapolated: a density that was not measured is
not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from moyu_core.home import Home
from moyu_core.intervals import t_interval
from moyu_core.store import Run
from moyu_core.streams import read_lines, stream_file
from moyu_core.studies.trinity import operating
from moyu_core.studies.trinity.requests import ChatRequest

MEASURES = {
    "ratio": "perplexity, sparse / dense",
    "kl": "KL(dense || sparse), nats a token",
    "agreement": "share of tokens that stay the same",
    "reading": "share of questions answered",
}
"""What quality can be read as; `ratio` = exp of the mean paired loss difference."""
OWN = 0.0
"""In the column `density`: the own size of a method that cannot be asked for one."""
SLOWER, FASTER, OPEN = "slower", "faster", "open"
"""What a measured speed says against dense decoding."""


def methods(run: Run) -> pd.DataFrame:
    """The table `methods`, in the order in which methods are shown."""
    return run.table("methods").to_pandas()


def titles(run: Run) -> dict[str, str]:
    """Method -> its name for people."""
    frame = methods(run)
    return dict(zip(frame["method"], frame["title"], strict=True))


def by_document(run: Run) -> pd.DataFrame:
    """Means over the texts of each document: method, density, document, genre, split, difference (nats), kl, agreement, kept."""
    texts = run.table("documents").to_pandas()
    frame = run.table("quality").to_pandas().merge(texts[["prompt_id", "document", "genre", "split", "dense_loss"]], on="prompt_id")
    frame["difference"] = frame["loss"] - frame["dense_loss"]
    keys = ["method", "density", "document", "genre", "split"]
    return frame.groupby(keys, as_index=False, sort=False)[["difference", "kl", "agreement", "kept"]].mean()


def quality(run: Run) -> pd.DataFrame:
    """One row a (method, density): kept, documents, and mean, low, high of `ratio`, `kl` and `agreement` as `<measure>_low` ...

    Densities that only the search for the operating point looked at have fewer documents.
    """
    rows = []
    grouped: Any = by_document(run).groupby(["method", "density"], sort=False)
    for (method, density), group in grouped:
        row: dict[str, Any] = {"method": method, "density": density, "kept": group["kept"].mean(), "documents": len(group)}
        for measure, column in (("ratio", "difference"), ("kl", "kl"), ("agreement", "agreement")):
            found = t_interval(group[column])
            for name, value in ((measure, found.mean), (f"{measure}_low", found.low), (f"{measure}_high", found.high)):
                row[name] = math.exp(value) if measure == "ratio" else value
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["method", "kept"], ignore_index=True)


def curves(run: Run) -> pd.DataFrame:
    """`quality` at the densities of the curves, which all documents were judged at."""
    frame: Any = quality(run)
    wanted = [OWN, *run.spec.parameters["densities"]]
    return frame[frame["density"].isin(wanted)].reset_index(drop=True)


def reading(run: Run) -> pd.DataFrame:
    """Share of questions answered: method, density, reading, reading_low, reading_high, passages; empty where it was not read."""
    frame: Any = run.table("reading").to_pandas()
    rows = []
    for (method, density), group in frame.groupby(["method", "density"], sort=False):
        found = t_interval(group.groupby("passage")["correct"].mean())
        rows.append((method, density, found.mean, max(found.low, 0.0), min(found.high, 1.0), found.n))
    return pd.DataFrame(rows, columns=["method", "density", "reading", "reading_low", "reading_high", "passages"])


def points(run: Run) -> pd.DataFrame:
    """The operating points with their titles, and `unseen`: True where a density was found that no interval could confirm."""
    frame = run.table("operating").to_pandas()
    frame["title"] = frame["method"].map(titles(run))
    return frame


def speeds(run: Run) -> pd.DataFrame:
    """The table `speeds` with tokens a second."""
    frame = run.table("speeds").to_pandas()
    frame["tokens_per_second"] = 1 / frame["seconds"]
    frame["dense_tokens_per_second"] = 1 / frame["dense_seconds"]
    return frame


def against_dense(low: Any, high: Any, noisy: Any) -> np.ndarray:
    """For each setting whether its decoding is SLOWER or FASTER than dense, or cannot be told (OPEN).

    Args:
        low, high: interval of the speed-up; one that reaches 1 tells nothing.
        noisy: whether the machine was too busy for the samples to tell anything.
    """
    low, high = np.asarray(low, float), np.asarray(high, float)
    told = np.select([high < 1, low > 1], [SLOWER, FASTER], OPEN)
    return np.where(np.asarray(noisy, bool), OPEN, told)


def trade_off(quality_run: Run, speed_run: Run | None) -> pd.DataFrame:
    """Quality at the densities of the curves, beside the measured speed at the same method and density where there is one."""
    frame = curves(quality_run)
    if speed_run is None:
        return frame.assign(speed=np.nan, speed_low=np.nan, speed_high=np.nan, bound=np.nan, noisy=False)
    columns = {"ratio": "speed", "ratio_low": "speed_low", "ratio_high": "speed_high"}
    timed = speeds(speed_run).rename(columns=columns)[["method", "density", *columns.values(), "bound", "ffn_bound", "noisy"]]
    return frame.merge(timed, on=["method", "density"], how="left")


def speed_at_point(quality_run: Run, speed_run: Run | None) -> pd.DataFrame:
    """The primary endpoint: for each method its operating point and the speed-up measured there (NaN where it was not)."""
    frame = points(quality_run)
    if speed_run is None:
        return frame.assign(ratio=np.nan, ratio_low=np.nan, ratio_high=np.nan, noisy=False)
    return frame.merge(
        speeds(speed_run)[["method", "density", "ratio", "ratio_low", "ratio_high", "noisy"]], on=["method", "density"], how="left"
    )


def matrix(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a (model, method) over runs of `trinity`: model, activation, method, title, status or why not, density.

    Of several runs of the same weights the first one counts.
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for run in runs:
        if run.spec.model.weights in seen:
            continue
        seen.add(run.spec.model.weights)
        found = points(run).set_index("method")
        for method in methods(run).to_dict("records"):
            point = found.loc[method["method"]] if method["method"] in found.index else None
            rows.append(
                {
                    "model": run.manifest["model"]["name"],
                    "activation": run.manifest["model"]["activation"],
                    "method": method["method"],
                    "title": method["title"],
                    "state": method["state"],
                    "reason": method["reason"],
                    "status": method["state"] if point is None else point["status"],
                    "density": float("nan") if point is None or point["density"] is None else float(point["density"]),
                }
            )
    return pd.DataFrame(rows)


def applicability(frame: Any, density: float) -> dict[str, tuple[int, int]]:
    """Method -> (models on which it stays within the budget at this density or below, models at hand), from a `matrix`.

    A method holds on a model where its confirmed operating point is at most the density; where a method cannot be applied or
    fitted the model counts against it, and is named in `matrix`.
    """
    if frame.empty:
        return {}
    confirmed = (frame["status"] == operating.CONFIRMED) & (frame["density"] <= density)
    counted = (
        pd.DataFrame({"method": frame["method"], "holds": confirmed}).groupby("method", sort=False)["holds"].agg(["sum", "size"])
    )
    return {str(row["method"]): (int(row["sum"]), int(row["size"])) for row in counted.reset_index().to_dict("records")}


def families(run: Run) -> pd.DataFrame:
    """The table `families`."""
    return run.table("families").to_pandas()


def matching(runs: Sequence[Run], weights: str, study: str) -> list[Run]:
    """The runs of a study on these weights, newest first."""
    found = [run for run in runs if run.spec.study == study and run.spec.model.weights == weights]
    return sorted(found, key=lambda run: run.manifest["created"], reverse=True)


def written(home: Home, request: ChatRequest, run: Run | None) -> dict[str, list[dict[str, Any]]]:
    """An answer so far: side -> tokens (step, token_id, token, seconds, same), from the stream or the finished run."""
    lines = run.table("chat").to_pylist() if run is not None else read_lines(stream_file(home, request.as_json()))
    found: dict[str, list[dict[str, Any]]] = {"dense": [], "sparse": []}
    agreement: Mapping[int, bool] = {line["step"]: line["same"] for line in lines if line["side"] == "agreement"}
    for line in lines:
        if line["side"] in found:
            found[line["side"]].append({**line, "same": agreement.get(line["step"], line.get("same"))})
    return found
