"""Reading runs of the study `history`. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moyu_core import sets
from moyu_core.claims import Claim
from moyu_core.errors import NotInRunError
from moyu_core.intervals import t_interval
from moyu_core.schema.history import CONTROLS, MEASURES, NONE, SOURCES
from moyu_core.store import READ_ERRORS, Run
from moyu_core.two_way import mean_interval

STAY, OUT, IN, NEITHER = range(4)
"""Codes of `flip_map`: in both sets, only in the first, only in the second, in neither."""


@dataclass(frozen=True)
class Cell:
    """One history of the grid: kind, number of tokens, and which draw."""

    kind: str
    length: int
    draw: int = 0


def models(run: Run) -> list[str]:
    """Names of the run's models, in order."""
    return [model["name"] for model in run.manifest["models"]]


def facts(run: Run, model: str) -> dict[str, Any]:
    """What the manifest says of one model."""
    found = next((entry for entry in run.manifest["models"] if entry["name"] == model), None)
    if found is None:
        raise NotInRunError(f"Run {run.id} holds no model {model!r}; it has {', '.join(models(run))}.")
    return found


def claims(run: Run) -> dict[str, Claim]:
    """The judged claims by name."""
    return {entry["name"]: Claim.from_json(entry) for entry in run.manifest.get("claims", [])}


def frame(run: Run, name: str, model: str) -> pd.DataFrame:
    """The rows of one table that belong to a model, not to be changed; empty where the run was not asked for the table.

    Raises:
        DamagedRunError: the file is missing, truncated or altered.
    """
    file = f"{name}.parquet"
    if file not in run.manifest["files"]:
        return pd.DataFrame()
    path = run.path(file)
    try:
        return _frame(path, path.stat().st_mtime_ns, model)
    except READ_ERRORS as error:
        raise run.damaged(file, error) from error


@lru_cache(maxsize=48)
def _frame(path: Path, changed: int, model: str) -> pd.DataFrame:
    """The time is in the key so that a rewritten file is read anew."""
    return pq.read_table(path, filters=[("model", "=", model)], page_checksum_verification=True).to_pandas()


def _filtered(run: Run, file: str, filters: list[tuple[str, str, Any]]) -> pd.DataFrame:
    path = run.path(file)
    try:
        return pq.read_table(path, filters=filters, page_checksum_verification=True).to_pandas()
    except READ_ERRORS as error:
        raise run.damaged(file, error) from error


def cells(run: Run, model: str) -> list[Cell]:
    """The histories whose sets are stored, the one without history first."""
    table = run.table("sets", ["model", "kind", "length", "draw"])
    found = (
        table.filter(pc.field("model") == model).group_by(["kind", "length", "draw"], use_threads=False).aggregate([]).to_pylist()
    )
    return [Cell(row["kind"], row["length"], row["draw"]) for row in found]


def history_tokens(run: Run, model: str, cell: Cell) -> tuple[str, list[str]]:
    """(source, token texts) of a history; the sink token is not in it."""
    table = frame(run, "histories", model)
    rows = table.loc[(table["kind"] == cell.kind) & (table["draw"] == cell.draw)]
    if rows.empty:
        raise NotInRunError(f"Run {run.id} holds no history {cell.draw} of kind {cell.kind!r}.")
    return str(rows["source"].iloc[0]), list(rows["tokens"].iloc[0])[: cell.length]


def stored_sets(run: Run, model: str, layer: int, cell: Cell) -> tuple[list[int], sets.Packed]:
    """(items, (T, bytes) packed sets) of all probe tokens behind one history in one layer.

    Raises:
        NotInRunError: the run keeps no sets of this history or layer.
    """
    rows = _filtered(
        run,
        "sets.parquet",
        [
            ("model", "=", model),
            ("layer", "=", layer),
            ("kind", "=", cell.kind),
            ("length", "=", cell.length),
            ("draw", "=", cell.draw),
        ],
    )
    if rows.empty:
        raise NotInRunError(
            f"Run {run.id} keeps no sets of {cell.kind} history {cell.draw} of {cell.length} tokens in layer {layer}."
        )
    rows = rows.sort_values("item")
    return rows["item"].tolist(), np.stack([np.frombuffer(row, np.uint8) for row in rows["active"]])


def flip_map(run: Run, model: str, layer: int, first: Cell, second: Cell) -> tuple[list[int], np.ndarray]:
    """(items, (T, F) uint8) what each neuron does from the first history to the second: STAY, OUT, IN or NEITHER."""
    n_neurons = int(facts(run, model)["n_neurons"])
    items, before = stored_sets(run, model, layer, first)
    _, after = stored_sets(run, model, layer, second)
    a, b = sets.unpack(before, n_neurons), sets.unpack(after, n_neurons)
    return items, np.select([a & b, a & ~b, ~a & b], [STAY, OUT, IN], NEITHER).astype(np.uint8)


def by_layer(run: Run, model: str, measure: str, kind: str, length: int, offset: int = 0) -> pd.DataFrame:
    """layer, value, low, high (bounds hold for all layers at once)."""
    table = frame(run, "measures", model)
    keep = (table["measure"] == measure) & (table["kind"] == kind) & (table["length"] == length) & (table["offset"] == offset)
    return table.loc[keep & table["layer"].notna(), ["layer", "value", "low", "high"]].sort_values("layer").astype(float)


def over_layers(run: Run, model: str, measure: str, offset: int = 0) -> pd.DataFrame:
    """Mean over layers by kind and length: kind, length, value, low, high."""
    table = frame(run, "measures", model)
    keep = (table["measure"] == measure) & (table["offset"] == offset) & table["layer"].isna()
    return table.loc[keep, ["kind", "length", "value", "low", "high"]].reset_index(drop=True)


def measures(run: Run, model: str) -> list[str]:
    """The measures that the run holds for the model, in the order of schema.history.MEASURES."""
    stored = set(frame(run, "measures", model)["measure"])
    return [name for name in MEASURES if name in stored]


def histories_of(run: Run, model: str, kind: str) -> int:
    """How many histories the kind has; 0 where the model has none of it."""
    table = frame(run, "measures", model)
    return int(table.loc[table["kind"] == kind, "histories"].to_numpy().max(initial=0))


def sink_artefact(run: Run, model: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Overlap of different tokens (at position 0, behind the sink token): layer, value, low, high; None where not measured."""
    found = facts(run, model).get("sink_artefact")
    if not found or found["bare"] is None or found["behind_sink"] is None:
        return None
    layers, none = facts(run, model)["layers"], float("nan")
    bare, behind = (
        pd.DataFrame({"layer": layers, "value": found[f"by_layer_{name}"], "low": none, "high": none}).astype(float)
        for name in ("bare", "behind_sink")
    )
    return bare, behind


def stays_of_others(run: Run, model: str) -> float:
    """The level that `stays` is to be compared with: of a token's set without history, what another token's set holds.

    Mean over pairs of different first tokens, and over the stored layers and histories.
    """
    probes = frame(run, "probes", model)
    first = probes.loc[probes["offset"] == 0, "item"].tolist()
    table = frame(run, "sets", model)
    table = table.loc[table["item"].isin(first)].sort_values(["layer", "kind", "length", "draw", "item"])
    packed = np.frombuffer(b"".join(table["active"]), np.uint8).reshape(len(table), -1)
    by_cell = packed.reshape(-1, len(first), packed.shape[1])
    heads = table.iloc[:: len(first)]
    layer, none = heads["layer"].to_numpy(), heads["kind"].to_numpy() == NONE
    others = ~np.eye(len(first), dtype=bool)
    found = []
    for number in np.unique(layer):
        base = by_cell[(layer == number) & none][0]
        behind = by_cell[(layer == number) & ~none].reshape(-1, packed.shape[1])
        shared = np.stack([sets.shared(row, behind) for row in base]).reshape(len(first), -1, len(first))
        shares = shared / np.maximum(sets.sizes(base), 1)[:, None, None]
        found.append(shares.transpose(0, 2, 1)[others].mean())
    return float(np.mean(found))


def flips(run: Run, model: str, item: int) -> pd.DataFrame:
    """The table `flips` of one probe token: kind, length, layer, stay, come_in, stay_resampled."""
    table = frame(run, "flips", model)
    return table.loc[(table["item"] == item) & (table["kind"] != NONE)].drop(columns=["model", "item"])


def stays(run: Run, model: str) -> pd.DataFrame:
    """kind, length, value: of the set without history, the share that is there with one; mean over probe tokens and layers.

    `low` and `high` go from the least to the most changed layer. Controls (position alone) stand first.
    """
    table = frame(run, "flips", model)
    by_layer = pd.DataFrame(table.loc[table["kind"] != NONE].groupby(["kind", "length", "layer"], as_index=False)[["stay"]].mean())
    rows = []
    for kind in [*CONTROLS, *by_layer["kind"].unique()]:
        for length in sorted(by_layer["length"].unique()):
            values = by_layer.loc[(by_layer["kind"] == kind) & (by_layer["length"] == length), "stay"].to_numpy(float)
            if len(values) and not any((row["kind"], row["length"]) == (kind, length) for row in rows):
                rows.append(
                    {"kind": kind, "length": int(length), "value": values.mean(), "low": values.min(), "high": values.max()}
                )
    return pd.DataFrame(rows)


def ladder(run: Run, model: str) -> pd.DataFrame:
    """density, source, mean, low, high in nats; intervals over probes and histories. Sources in the order of SOURCES."""
    table = frame(run, "transplant", model)
    rows = []
    if not table.empty:
        for density in sorted(table["density"].unique()):
            for source in SOURCES:
                group = table.loc[(table["density"] == density) & (table["source"] == source)]
                found = mean_interval(group.pivot(index="item", columns="draw", values="kl").to_numpy())
                entry = {"density": round(float(density), 3), "source": source, "mean": found.mean}
                rows.append({**entry, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def drift(run: Run, model: str, measure: str, layer: int | None = None) -> pd.DataFrame:
    """quantity, layer, position, value, low, high of one measure; `layer` None = all layers."""
    table = frame(run, "drift", model)
    if table.empty:
        return table
    keep = table["measure"] == measure
    return table.loc[keep if layer is None else keep & (table["layer"] == layer)].drop(columns=["model", "measure"])


def predictor(run: Run, model: str, column: str, layer: int | None = None) -> pd.DataFrame:
    """trained_on, seen, value, low, high: mean over layers and test domains with a t interval over seeds."""
    table = frame(run, "predictor", model)
    if table.empty:
        return table
    table = table if layer is None else table.loc[table["layer"] == layer]
    table = pd.DataFrame(table.groupby(["trained_on", "seen", "seed", "layer"], as_index=False)[[column]].mean())
    table = pd.DataFrame(table.groupby(["trained_on", "seen", "seed"], as_index=False)[[column]].mean())
    rows = []
    for trained_on in sorted(table["trained_on"].unique()):
        for seen in (False, True):
            chosen = (table["trained_on"] == trained_on) & (table["seen"] == seen)
            found = t_interval(table.loc[chosen, column].to_numpy())
            rows.append({"trained_on": int(trained_on), "seen": seen, "value": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)
