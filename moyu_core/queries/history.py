"""Reading runs of the study `history`. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import and_
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moyu_core import sets
from moyu_core.claims import Claim
from moyu_core.errors import NotInRunError
from moyu_core.intervals import t_interval
from moyu_core.schema.history import CONTROLS, MEASURES, NONE, SOURCES
from moyu_core.store import READ_ERRORS, Run
from moyu_core.two_way import mean_interval

Made = TypeVar("Made")
STAY, OUT, IN, NEITHER = range(4)
"""Codes of `flip_map`: in both sets, only in the first, only in the second, in neither."""

CELL = ("kind", "length", "draw")
"""Columns that name a history."""


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
    return _cached(run, name, model, _frame) if f"{name}.parquet" in run.manifest["files"] else pd.DataFrame()


def _cached(run: Run, name: str, what: Any, read: Callable[[Path, int, Any], Made]) -> Made:
    """What `read` makes of one table's file, its time of change and `what`; by the time a rewritten file is read anew."""
    path = run.path(f"{name}.parquet")
    try:
        return read(path, path.stat().st_mtime_ns, what)
    except READ_ERRORS as error:
        raise run.damaged(path.name, error) from error


@lru_cache(maxsize=48)
def _frame(path: Path, changed: int, model: str) -> pd.DataFrame:
    return _table(path, changed).filter(pc.field("model") == model).to_pandas()


@lru_cache(maxsize=8)
def _table(path: Path, changed: int) -> pa.Table:
    """All models' rows; a page shows one column a model, so they are read together."""
    return pq.read_table(path, page_checksum_verification=True)


def _sets(run: Run, where: pc.Expression) -> pa.Table:
    """The rows of the table `sets` that meet a condition."""
    return _cached(run, "sets", where, lambda path, changed, where: _table(path, changed).filter(where))


def cells(run: Run, model: str) -> list[Cell]:
    """The histories whose sets are stored, the one without history first."""
    found = _sets(run, pc.field("model") == model).group_by(list(CELL), use_threads=False).aggregate([]).to_pylist()
    return [Cell(*(row[name] for name in CELL)) for row in found]


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
    asked = {"model": model, "layer": layer, "kind": cell.kind, "length": cell.length, "draw": cell.draw}
    rows = _sets(run, reduce(and_, (pc.field(name) == value for name, value in asked.items()))).sort_by("item")
    if not len(rows):
        raise NotInRunError(
            f"Run {run.id} keeps no sets of {cell.kind} history {cell.draw} of {cell.length} tokens in layer {layer}."
        )
    return rows["item"].to_pylist(), np.stack([np.frombuffer(row, np.uint8) for row in rows["active"].to_pylist()])


def flip_map(run: Run, model: str, layer: int, first: Cell, second: Cell) -> tuple[list[int], np.ndarray]:
    """(items, (T, F) uint8) what each neuron does from the first history to the second: STAY, OUT, IN or NEITHER."""
    n_neurons = int(facts(run, model)["n_neurons"])
    items, before = stored_sets(run, model, layer, first)
    _, after = stored_sets(run, model, layer, second)
    a, b = sets.unpack(before, n_neurons), sets.unpack(after, n_neurons)
    return items, np.select([a & b, a & ~b, ~a & b], [STAY, OUT, IN], NEITHER).astype(np.uint8)


def by_layer(run: Run, model: str, measure: str, kind: str, length: int, offset: int = 0) -> pd.DataFrame:
    """layer, value, low, high (bounds hold for all layers at once)."""
    held = _cached(run, "measures", model, _measures)
    rows = held.layers.iloc[held.places.get((measure, kind, length, offset), [])]
    return rows[["layer", "value", "low", "high"]].sort_values("layer").astype(float)


def over_layers(run: Run, model: str, measure: str, offset: int = 0) -> pd.DataFrame:
    """Mean over layers by kind and length: kind, length, value, low, high."""
    means = _cached(run, "measures", model, _measures).means
    keep = (means["measure"] == measure) & (means["offset"] == offset)
    return means.loc[keep, ["kind", "length", "value", "low", "high"]].reset_index(drop=True)


def measures(run: Run, model: str) -> list[str]:
    """The measures that the run holds for the model, in the order of schema.history.MEASURES."""
    stored = set(_cached(run, "measures", model, _measures).means["measure"])
    return [name for name in MEASURES if name in stored]


@dataclass(frozen=True)
class _Measures:
    """The table `measures` of one model, sorted out once, as a page asks for one curve after the other.

    Attributes:
        layers: the rows of layers.
        places: (measure, kind, length, offset) -> places in `layers`.
        means: the rows that are means over layers.
    """

    layers: pd.DataFrame
    places: dict[tuple[Any, ...], np.ndarray]
    means: pd.DataFrame


@lru_cache(maxsize=16)
def _measures(path: Path, changed: int, model: str) -> _Measures:
    table = _frame(path, changed, model)
    over = table["layer"].isna()
    layers = table.loc[~over]
    return _Measures(layers, layers.groupby(["measure", "kind", "length", "offset"]).indices, table.loc[over])


def histories_of(run: Run, model: str, kind: str) -> int:
    """How many histories the kind has; 0 where the model has none of it."""
    means = _cached(run, "measures", model, _measures).means
    return int(means.loc[means["kind"] == kind, "histories"].to_numpy().max(initial=0))


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
    table = _sets(run, pc.field("model") == model).sort_by([(key, "ascending") for key in ("layer", *CELL, "item")])
    table = table.filter(pc.field("item").isin(first))
    packed = np.frombuffer(b"".join(table["active"].to_pylist()), np.uint8).reshape(len(table), -1)
    by_cell = packed.reshape(-1, len(first), packed.shape[1])
    heads = slice(None, None, len(first))
    layer, none = table["layer"].to_numpy()[heads], table["kind"].to_numpy()[heads] == NONE
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
    by_layer = pd.DataFrame(table.loc[table["kind"] != NONE].groupby(["kind", "length", "layer"])[["stay"]].mean())
    found = pd.DataFrame(by_layer.groupby(["kind", "length"])["stay"].agg(["mean", "min", "max"])).reset_index()
    place = {kind: number for number, kind in enumerate(CONTROLS)}
    order = np.argsort([place.get(kind, len(place)) for kind in found["kind"]], kind="stable")
    return found.iloc[order].rename(columns={"mean": "value", "min": "low", "max": "high"}).reset_index(drop=True)


def ladder(run: Run, model: str) -> pd.DataFrame:
    """density, source, mean, low, high in nats; intervals over probes and histories. Sources in the order of SOURCES."""
    table = frame(run, "transplant", model)
    if table.empty:
        return pd.DataFrame()
    wide = table.pivot(index=["density", "source", "item"], columns="draw", values="kl")
    places = wide.groupby(level=["density", "source"]).indices
    rows = []
    for density in sorted(table["density"].unique()):
        for source in SOURCES:
            found = mean_interval(wide.to_numpy()[places[density, source]])
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
    table = _cached(run, "predictor", model, _over_domains) if "predictor.parquet" in run.manifest["files"] else pd.DataFrame()
    if table.empty:
        return table
    table = table if layer is None else table.loc[table["layer"] == layer]
    seeds = pd.DataFrame(table.groupby(["trained_on", "seen", "seed"], as_index=False)[[column]].mean())
    rows = []
    for (trained_on, seen), group in seeds.groupby(["trained_on", "seen"]):  # pyright: ignore[reportGeneralTypeIssues]
        found = t_interval(group[column].to_numpy())
        rows.append({"trained_on": int(trained_on), "seen": seen, "value": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


@lru_cache(maxsize=16)
def _over_domains(path: Path, changed: int, model: str) -> pd.DataFrame:
    """Every measure, mean over test domains, by number of training domains, seen, seed and layer."""
    table = _frame(path, changed, model)
    by = table.drop(columns=["model", "domain"]).groupby(["trained_on", "seen", "seed", "layer"], as_index=False)
    return pd.DataFrame(by.mean())
