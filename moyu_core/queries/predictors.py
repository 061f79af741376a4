"""What a run of `predictors` says: means with intervals over units, curves, staleness, and the sets of one layer. No torch.

The unit is the domain of the prompts where there are several domains with more prompts than domains, else the prompt: texts of one
kind are not independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moyu_core import sets
from moyu_core.errors import NotInRunError
from moyu_core.intervals import Interval, t_interval
from moyu_core.query import packed_matrix
from moyu_core.schema import PLAIN_CONDITION
from moyu_core.schema.predictors import EVERY_POSITION, REFERENCE
from moyu_core.store import READ_ERRORS, Run

STUDY = "predictors"
MEASURES = {
    "recall": "recall: share of the needed neurons that were kept",
    "precision": "precision: share of the kept neurons that were needed",
    "jaccard": "Jaccard: |both| / |either|",
    "energy": "captured energy: 1 - ||what is missing of the output|| / ||output||",
    "squares": "share of sum (|a|c)² kept",
}
_SLACK = 1e-6  # densities travel as float32


@dataclass(frozen=True)
class Overlay:
    """One method against the reference in one layer of one prompt, sink token left out.

    Attributes:
        tokens: (N,) texts; positions: (N,) places, from 1.
        needed, kept: (N, F) booleans. Where the set is shared by all tokens after the prompt, tokens of the prompt have
            no choice of their own: their rows of `kept` show the set that was chosen from them.
        prompt_tokens: length of the prompt part, sink token included.
    """

    tokens: list[str]
    positions: NDArray[np.int64]
    needed: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    prompt_tokens: int

    @property
    def cells(self) -> NDArray[np.uint8]:
        """(N, F) 0 hit, 1 miss, 2 false alarm, 3 neither."""
        return np.where(self.needed, np.where(self.kept, 0, 1), np.where(self.kept, 2, 3)).astype(np.uint8)


def methods(run: Run) -> dict[str, dict[str, Any]]:
    """What the run says about each method, by name, in their order."""
    return {facts["name"]: facts for facts in run.manifest["methods"]}


def densities(run: Run) -> list[float]:
    """The densities that were asked for."""
    return [float(value) for value in run.spec.parameters["densities"]]


def set_densities(run: Run) -> list[float]:
    """Those at which sets are stored."""
    return [float(value) for value in run.spec.parameters["set_densities"]]


def prompts(run: Run) -> pd.DataFrame:
    """The table `prompts`."""
    return run.table("prompts").to_pandas()


def units(table: pd.DataFrame) -> pd.Series:
    """The unit of each prompt, indexed by prompt id and condition: its domain, or the prompt itself."""
    domains = len(set(table["domain"]))
    names = table["domain"] if 3 <= domains < len(table) else table["prompt_id"]
    return pd.Series(names.to_numpy(), pd.MultiIndex.from_arrays([table["prompt_id"], table["condition"]]), name="unit")


def by_unit(run: Run, measure: str) -> Any:
    """Means over layers, prompts and tokens inside a unit: one row a (method, density, unit), columns `value` and `predicted`."""
    columns = ["prompt_id", "condition", "method", "density", *dict.fromkeys((measure, "predicted"))]
    frame = run.table("layers", columns).to_pandas()
    frame["value"] = frame[measure]
    prompt: Any = frame.groupby(columns[2:4] + columns[:2], sort=False)[["value", "predicted"]].mean().reset_index()
    prompt["unit"] = units(prompts(run)).loc[pd.MultiIndex.from_frame(prompt[["prompt_id", "condition"]])].to_numpy()
    return prompt.groupby(["method", "density", "unit"], sort=False)[["value", "predicted"]].mean().reset_index()


def curves(run: Run, measure: str) -> pd.DataFrame:
    """One row a (method, density): mean, low, high of the measure over units, n, and mean |predicted| / F."""
    rows = []
    for (method, density), group in by_unit(run, measure).groupby(["method", "density"], sort=False):
        found = t_interval(group["value"])
        rows.append({"method": method, "density": _clean(density), "mean": found.mean, "low": found.low, "high": found.high,
                     "n": found.n, "predicted": group["predicted"].mean()})
    return pd.DataFrame(rows)


def paired(run: Run, first: str, second: str, density: float, measure: str) -> Interval:
    """The measure of the first method minus that of the second, unit by unit, at one density."""
    frame: Any = by_unit(run, measure)
    frame = frame[(frame["density"] - density).abs() < _SLACK].pivot(index="unit", columns="method", values="value")
    return t_interval(frame[first] - frame[second])


def table(run: Run, density: float) -> pd.DataFrame:
    """Every metric of every method at one density, indexed by method: means over units, bounds, chance levels and cost.

    `of_routed`: in a mixture whose own router was judged too, kept neurons for each that the router took; NaN elsewhere.
    """
    found: dict[str, Any] = {}
    for measure in (*MEASURES, "recall_micro", "predicted"):
        frame = curves(run, measure)
        found[measure] = frame[(frame["density"] - density).abs() < _SLACK].set_index("method")
    chance: Any = run.table("chance").to_pandas()
    chance = chance[(chance["density"] - density).abs() < _SLACK].groupby("method")[["uniform", "marginal"]].mean()
    described, routed = methods(run), _routed(curves(run, "predicted"))
    rows = []
    for name, facts in described.items():
        row: dict[str, Any] = {measure: frame.at[name, "mean"] for measure, frame in found.items()}
        row |= {f"{measure}_{side}": found[measure].at[name, side] for measure in ("recall", "energy") for side in ("low", "high")}
        row |= {"method": name, "title": facts["title"], "family": facts["family"], "uniform": chance.at[name, "uniform"],
                "marginal": chance.at[name, "marginal"], "cost_share": _cost(facts, density, float(row["predicted"])),
                "units": found["recall"].at[name, "n"], "of_routed": float(row["predicted"]) / routed}
        rows.append(row)
    return pd.DataFrame(rows).set_index("method")


def _routed(kept: pd.DataFrame) -> float:
    """Share of all experts' neurons that the model's own router takes, from `curves` of `predicted`; NaN where none was judged."""
    own: Any = kept[kept["method"] == "native"]
    return float(own["mean"].min())  # at density 1 it is asked for everything


def _cost(facts: dict[str, Any], density: float, predicted: float) -> float:
    """Multiply-adds as a share of the dense FFN's, at the size that was really kept; experts come in blocks, counted already."""
    known = {float(asked): share for asked, share in facts["cost_by_density"].items()}
    if facts["part"].get("name") == "moefication" or len(known) < 2:
        return known[min(known, key=lambda asked: abs(asked - density))]
    (low, first), (high, last) = min(known.items()), max(known.items())
    return first + (last - first) * (predicted - low) / (high - low)


def staleness(run: Run, density: float, measure: str, longest: int = 10_000) -> pd.DataFrame:
    """One row a (method, offset) after the prompt: mean, low, high over units.

    Offsets that less than half of the units reach (or less than 3) are left out: the rest would be about the few long texts.
    """
    frame: Any = run.table("positions", ["prompt_id", "condition", "method", "density", "offset", measure]).to_pandas()
    frame = frame[((frame["density"] - density).abs() < _SLACK) & (frame["offset"] >= 0) & (frame["offset"] < longest)]
    frame["unit"] = units(prompts(run)).loc[pd.MultiIndex.from_frame(frame[["prompt_id", "condition"]])].to_numpy()
    unit: Any = frame.groupby(["method", "offset", "unit"], sort=False)[measure].mean().reset_index()
    least = max(3, -(-unit["unit"].nunique() // 2))
    rows = []
    for (method, offset), group in unit.groupby(["method", "offset"], sort=False):
        if len(group) >= least:
            found = t_interval(group[measure])
            rows.append({"method": method, "offset": offset, "mean": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows, columns=["method", "offset", "mean", "low", "high"])


def along(run: Run, prompt_id: str, density: float, measure: str, condition: str = PLAIN_CONDITION) -> pd.DataFrame:
    """The measure of one prompt by method (rows) and position (columns), mean over layers; the prompt part included."""
    frame = run.table("positions").to_pandas()
    chosen = (frame["prompt_id"] == prompt_id) & (frame["condition"] == condition) & ((frame["density"] - density).abs() < _SLACK)
    return frame[chosen].pivot(index="method", columns="position", values=measure)


def by_layer_and_token(run: Run, prompt_id: str, density: float, condition: str = PLAIN_CONDITION) -> pd.DataFrame:
    """Recall, captured energy and counts of one prompt: one row a (method, layer, position).

    Raises:
        NotInRunError: the run keeps no table by token for this prompt.
    """
    filters = [("prompt_id", "=", prompt_id), ("condition", "=", condition),
               ("density", ">=", density - _SLACK), ("density", "<=", density + _SLACK)]
    frame = _filtered(run, "tokens", filters).to_pandas()
    if frame.empty:
        raise NotInRunError(_without_sets(run, prompt_id, density))
    frame["recall"] = frame["hits"] / frame["needed"].clip(lower=1)
    return frame


def overlay(
    run: Run, prompt_id: str, method: str, density: float, layer: int, condition: str = PLAIN_CONDITION
) -> Overlay:
    """The sets of one method and the reference in one layer of one prompt.

    Raises:
        NotInRunError: the run keeps no sets for this prompt, density or layer.
    """
    filters = [("prompt_id", "=", prompt_id), ("condition", "=", condition), ("layer", "=", layer)]
    table = _filtered(run, "sets", filters)
    frame: Any = table.select(["method", "density", "position"]).to_pandas()
    packed = packed_matrix(table["active"])
    needed = np.flatnonzero(frame["method"] == REFERENCE)
    chosen = np.flatnonzero((frame["method"] == method) & ((frame["density"] - density).abs() < _SLACK))
    if not len(needed) or not len(chosen):
        raise NotInRunError(_without_sets(run, prompt_id, density))
    n_neurons = int(run.manifest["model"]["n_neurons"])
    kept = sets.unpack(packed[chosen], n_neurons)
    if frame["position"].iloc[chosen[0]] == EVERY_POSITION:
        kept = np.broadcast_to(kept[:1], (len(needed), n_neurons))
    texts = token_texts(run, prompt_id, condition)
    row: Any = prompts(run).set_index(["prompt_id", "condition"]).loc[(prompt_id, condition)]
    positions = frame["position"].to_numpy()[needed].astype(np.int64)
    return Overlay([texts[place] for place in positions], positions, sets.unpack(packed[needed], n_neurons), kept,
                   int(row["prompt_tokens"]))


def token_texts(run: Run, prompt_id: str, condition: str = PLAIN_CONDITION) -> list[str]:
    """Texts of a prompt's tokens by position, sink token first; kept for prompts with sets."""
    frame = run.table("token_texts").to_pandas()
    chosen = (frame["prompt_id"] == prompt_id) & (frame["condition"] == condition)
    return frame[chosen].sort_values("position")["token"].tolist()


def experts(run: Run, layer: int) -> NDArray[np.int64]:
    """(F,) expert of each neuron: MoEfication's, or the model's own; empty where there are none."""
    model = run.manifest["model"]
    if model.get("experts"):
        return np.repeat(np.arange(model["experts"]), model["n_neurons"] // model["experts"])
    frame = run.table("experts").to_pandas()
    return frame[frame["layer"] == layer].sort_values("neuron")["expert"].to_numpy(np.int64)


def _filtered(run: Run, name: str, filters: list[tuple[str, str, Any]]) -> Any:
    """Rows of a table that meet all conditions; page checksums are verified."""
    path = run.path(f"{name}.parquet")
    try:
        return pq.read_table(path, filters=filters, page_checksum_verification=True)
    except READ_ERRORS as error:
        raise run.damaged(path.name, error) from error


def _without_sets(run: Run, prompt_id: str, density: float) -> str:
    kept = ", ".join(f"{value:g}" for value in set_densities(run))
    return (f"Run {run.id} keeps no sets of prompt {prompt_id!r} at density {density:g}; it keeps those of the prompts marked "
            f"`has_sets`, at {kept}. Compare with details to see them.")


def _clean(density: Any) -> float:
    """0.1 instead of 0.10000000149."""
    return float(f"{float(density):.6g}")
