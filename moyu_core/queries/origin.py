"""Reading the runs of the studies `origin`, `training` and `live`, and a live training while it runs. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from moyu_core.claims import Claim
from moyu_core.errors import NotInRunError
from moyu_core.home import Home
from moyu_core.intervals import Interval, bands, t_interval
from moyu_core.store import Run
from moyu_core.streams import read_lines, stream_file
from moyu_core.studies.origin_requests import LiveRequest


def claims(run: Run) -> dict[str, Claim]:
    """The judged claims of a run by their names."""
    return {entry["name"]: Claim.from_json(entry) for entry in run.manifest.get("claims", [])}


def signs(run: Run, condition: str, scale: str) -> pd.DataFrame:
    """The table `signs` for one condition and scale, one row a (unit, layer), with `relative` = sign_gradient / gradient_size.

    Raises:
        NotInRunError: the run has no such rows.
    """
    frame = run.table("signs").to_pandas()
    chosen = frame[(frame["condition"] == condition) & (frame["scale"] == scale)].copy()
    if chosen.empty:
        raise NotInRunError(f"Run {run.id} has no rows for condition {condition!r} with the scale {scale!r}.")
    chosen["unit"] = chosen["seed"].astype(str) if condition == "initial" else chosen["prompt_id"]
    chosen["relative"] = chosen["sign_gradient"] / chosen["gradient_size"]
    return chosen


def sign_by_layer(run: Run, condition: str, scale: str, column: str = "relative") -> pd.DataFrame:
    """Mean over units with a simultaneous 95 % band over layers: layer, mean, low, high."""
    table = signs(run, condition, scale).pivot(index="unit", columns="layer", values=column)
    mean, low, high = bands(table.to_numpy())
    return pd.DataFrame({"layer": table.columns.to_numpy(), "mean": mean, "low": low, "high": high})


def last_layer(run: Run) -> dict[str, tuple[Interval, float]]:
    """scale -> (sign_gradient in the last layer at initialisation over seeds, the closed form's mean; NaN where it is silent)."""
    found = {}
    for scale in ("free", "fixed"):
        frame = signs(run, "initial", scale)
        rows = frame[frame["layer"] == frame["layer"].max()]
        found[scale] = (t_interval(np.asarray(rows["sign_gradient"])), float(np.mean(np.asarray(rows["expected"], np.float64))))
    return found


def measured_by(run: Run) -> list[str]:
    """Activations in a run of curves, in the order in which they were trained."""
    return run.table("curves", ["activation"])["activation"].unique().to_pylist()


def curves(run: Run, measure: str, layer: int | None = None) -> pd.DataFrame:
    """One measure along training: activation, seed, step, value; `layer` None = mean over the layers that have it.

    Raises:
        NotInRunError: the run has no such measure or layer.
    """
    frame = run.table("curves").to_pandas()
    chosen = frame[frame["measure"] == measure]
    chosen = chosen if layer is None else chosen[chosen["layer"] == layer]
    if chosen.empty:
        raise NotInRunError(f"Run {run.id} has no measure {measure!r}{'' if layer is None else f' in layer {layer}'}.")
    return chosen.groupby(["activation", "seed", "step"], as_index=False, sort=True)["value"].mean()


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with its 95 % t interval at each step: activation, step, mean, low, high, seeds (seeds are the units)."""
    rows = []
    for key, group in frame.groupby(["activation", "step"]):
        found = t_interval(group["value"].to_numpy())
        rows.append((*tuple(key), found.mean, found.low, found.high, found.n))  # pyright: ignore[reportArgumentType]
    return pd.DataFrame(rows, columns=["activation", "step", "mean", "low", "high", "seeds"])


def at_the_end(run: Run, measure: str, layer: int | None = None) -> dict[str, Interval]:
    """Activation -> the measure at the last step, over seeds."""
    frame = curves(run, measure, layer)
    last = frame[frame["step"] == frame["step"].max()]
    return {str(name): t_interval(np.asarray(group["value"])) for name, group in last.groupby("activation")}


def layers(run: Run) -> list[int]:
    """Layers that a run of curves has measures of."""
    found = run.table("curves", ["layer"])["layer"].unique().to_pylist()
    return sorted(layer for layer in found if layer >= 0)


def live_file(home: Home, request: LiveRequest) -> Path:
    """Where a live training writes what it measures while it runs."""
    return stream_file(home, request.as_json())


def live_curves(home: Home, request: LiveRequest) -> pd.DataFrame:
    """What a live training has measured so far, columns of `curves`; empty before it begins and when its run is there."""
    rows = [row for line in read_lines(live_file(home, request)) for row in line]
    columns = ["activation", "seed", "step", "tokens", "layer", "measure", "value", "error"]
    return pd.DataFrame([{"activation": request.activation, "seed": request.seed, **row} for row in rows], columns=columns)
