"""Reading runs: one small answer for each question a page or notebook asks. No torch, no Streamlit.

A slice touches one row group of one file, however many prompts the run holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core import agreement, companding, sets
from moyu_core.errors import InputError, NotInRunError
from moyu_core.schema import PLAIN_CONDITION, PROMPT_COLUMNS
from moyu_core.slices import SliceIndex
from moyu_core.spec import SetRule
from moyu_core.store import READ_ERRORS, Run

PROMPT_NAMES = [column.name for column in PROMPT_COLUMNS]
STATISTICS = ("density", "l2_norm", "abs_max", "effective_neurons", "zero_share", "cett")
"""Columns of `activations` that hold one number a token."""
OPEN_FILES = 32
"""Files that stay open at most: a parsed footer takes 0.5 MiB for 30 layers of one prompt, and more with every prompt."""


@dataclass(frozen=True)
class Slice:
    """One prompt in one layer.

    Attributes:
        prompt_id, condition, layer: which.
        frame: one row a token (or token and slot), all columns but the packed ones.
        active: (T, ceil(F/8)) packed exact sets.
        n_neurons: F.
        codes: (T, F) stored 8-bit values, or None.
        scale: (T,) unit of the codes, or None.
    """

    prompt_id: str
    condition: str
    layer: int
    frame: pd.DataFrame
    active: sets.Packed
    n_neurons: int
    codes: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """(T, F) decoded activations, to about 3 %; raises NotInRunError where none are stored."""
        if self.codes is None or self.scale is None:
            raise NotInRunError(_without_values(self.prompt_id))
        return companding.decode(self.codes, self.scale)

    @property
    def mask(self) -> np.ndarray:
        """(T, F) booleans of the exact sets."""
        return sets.unpack(self.active, self.n_neurons)


class _OpenFile:
    """An opened file whose footer is parsed once, to be read by many threads.

    Two threads that read one ParquetFile crash the process when it buffers ahead (pyarrow's default), so it does not, and
    a lock lets one in at a time.
    """

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, memory_map=True, pre_buffer=False, page_checksum_verification=True)
        self._lock = Lock()

    def row_group(self, number: int, columns: list[str] | None) -> pa.Table:
        """One row group, its page checksums verified."""
        with self._lock:
            return self._file.read_row_group(number, columns=columns, use_threads=False)


@lru_cache(maxsize=OPEN_FILES)
def _open(path: Path, size: int, changed: int) -> _OpenFile:
    """Size and time are in the key so that a rewritten file is opened anew."""
    return _OpenFile(path)


@lru_cache(maxsize=64)
def _index(path: Path, changed: int) -> SliceIndex:
    return SliceIndex.read(path)


def index(run: Run) -> SliceIndex:
    """(prompt_id, condition, layer) -> (file, row group)."""
    path = run.path("index.parquet")
    try:
        return _index(path, path.stat().st_mtime_ns)
    except READ_ERRORS as error:
        raise run.damaged("index.parquet", error) from error


def _read_groups(run: Run, keys: list[tuple[str, str, int]], columns: list[str] | None) -> list[pa.Table]:
    known = index(run)
    tables = []
    for key in keys:
        if key not in known:
            raise NotInRunError(_missing(run, key))
        name, group = known[key]
        path = run.path(name)
        try:
            stat = path.stat()
            tables.append(_open(path, stat.st_size, stat.st_mtime_ns).row_group(group, columns))
        except READ_ERRORS as error:
            raise run.damaged(name, error) from error
    return tables


def _without_values(prompt_id: str) -> str:
    return f"Prompt {prompt_id!r} was captured without values; capture it with values to see them."


def _missing(run: Run, key: tuple[str, str, int]) -> str:
    prompt, condition, layer = key
    held = _layers(run)
    if layer not in held:
        return f"Run {run.id} holds no layer {layer}; it has {len(held)} layers from {held[0]} to {held[-1]}."
    return f"Run {run.id} holds no prompt {prompt!r} ({condition}); choose one from its list of prompts."


def _layers(run: Run) -> list[int]:
    """Layers of the run; NotInRunError where it is a run without activations."""
    if "layers" not in run.manifest:
        raise NotInRunError(f"Run {run.id} holds no activations; choose a run of the study `capture`.")
    return run.manifest["layers"]


def packed_matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A fixed-size binary column as (rows, width) bytes."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    width = array.type.byte_width
    return np.frombuffer(array.buffers()[1], np.uint8, len(array) * width, array.offset * width).reshape(len(array), width)


def n_neurons(run: Run) -> int:
    """F of the run."""
    _layers(run)
    return int(run.manifest["model"]["n_neurons"])


def prompts(run: Run, texts: bool = True) -> pd.DataFrame:
    """The table `prompts`, in the order of the request; without `texts` that column, which is nearly all of it, is not read."""
    return run.table("prompts", None if texts else [name for name in PROMPT_NAMES if name != "text"]).to_pandas()


def neurons(run: Run, layer: int) -> pd.DataFrame:
    """Column norm and rate of each neuron of a layer, indexed by neuron."""
    frame = run.select("neurons", [("layer", "=", layer)]).to_pandas()
    if frame.empty:
        raise NotInRunError(_missing(run, ("", "", layer)))
    return frame.set_index("neuron")


def read_slice(run: Run, prompt_id: str, layer: int, condition: str = PLAIN_CONDITION) -> Slice:
    """One prompt in one layer; touches one row group.

    Raises:
        NotInRunError: prompt or layer not in the run.
        DamagedRunError: a file is missing, truncated or altered.
    """
    table = _read_groups(run, [(prompt_id, condition, layer)], None)[0]
    codes = scale = None
    if "values" in table.column_names and table["values"].null_count == 0:
        codes, scale = packed_matrix(table["values"]), table["scale"].to_numpy()
    frame = table.drop_columns([n for n in ("active", "values") if n in table.column_names]).to_pandas()
    return Slice(prompt_id, condition, layer, frame, packed_matrix(table["active"]), n_neurons(run), codes, scale)


def read_active(run: Run, prompt_id: str, layer: int, condition: str = PLAIN_CONDITION) -> sets.Packed:
    """(T, ceil(F/8)) packed sets of one prompt in one layer, sink left out; reads two columns of one row group."""
    table = _read_groups(run, [(prompt_id, condition, layer)], ["active", "is_sink"])[0]
    return packed_matrix(table["active"])[~table["is_sink"].to_numpy()]


def sweep(run: Run, prompt_id: str, statistic: str, condition: str = PLAIN_CONDITION) -> pd.DataFrame:
    """One statistic of a prompt over all layers: rows = layers, columns = positions (mean over slots)."""
    if statistic not in STATISTICS:
        raise InputError(f"Statistic {statistic!r} is not known; use one of {', '.join(STATISTICS)}.")
    tables = _read_groups(run, [(prompt_id, condition, layer) for layer in _layers(run)], ["layer", "position", statistic])
    if len(np.unique(position := tables[0]["position"].to_numpy())) == len(position):  # one row a token: nothing to average
        rows = np.stack([table[statistic].to_numpy() for table in tables])
        return pd.DataFrame(rows, pd.Index(np.asarray(_layers(run), np.int16), name="layer"), pd.Index(position, name="position"))
    frame = pa.concat_tables(tables).to_pandas()
    return frame.pivot_table(index="layer", columns="position", values=statistic, aggfunc="mean", dropna=False)


def rethreshold(piece: Slice, rule: SetRule, norms: np.ndarray) -> sets.Packed:
    """Sets of another rule or density from the stored values; approximate, see the run's `values_agreement`."""
    if piece.codes is None or piece.scale is None:
        raise NotInRunError(_without_values(piece.prompt_id))
    return agreement.rethreshold(piece.codes, piece.scale, norms, rule)


@dataclass(frozen=True)
class NeuronHit:
    """A place where a neuron is strong: which prompt, where, which token, and its value."""

    prompt_id: str
    position: int
    token: str
    value: float


def layer_values(run: Run, layer: int) -> list[Slice]:
    """The slices of a layer over all prompts that have values stored."""
    table = prompts(run)
    chosen = table.loc[table["has_values"]]
    return [read_slice(run, row["prompt_id"], layer, row["condition"]) for row in chosen.to_dict("records")]


def top_tokens(run: Run, layer: int, neuron: int, count: int = 10) -> list[NeuronHit]:
    """The tokens of the run on which a neuron is largest by |a|, sink left out.

    Of a run with a corpus's tables over all its tokens, exactly; else from the stored, finite values.
    """
    check_neuron(run, neuron)
    if "corpus" in run.manifest:
        of_neuron = [("layer", "=", layer), ("neuron", "=", neuron), ("rank", "<", count)]
        table = run.select("corpus_tokens", of_neuron, ["prompt_id", "position", "token", "value"])
        return [NeuronHit(*hit) for hit in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    hits = []
    for piece in layer_values(run, layer):
        assert piece.codes is not None and piece.scale is not None
        column = companding.decode(piece.codes[:, [neuron]], piece.scale)[:, 0]
        rows = np.flatnonzero(~piece.frame["is_sink"].to_numpy())
        rows = rows[np.isfinite(column[rows])]
        for row in rows[np.argsort(-np.abs(column[rows]), kind="stable")[:count]]:
            token = piece.frame.iloc[row]
            hits.append(NeuronHit(piece.prompt_id, int(token["position"]), token["token"], float(column[row])))
    return sorted(hits, key=lambda hit: -abs(hit.value))[:count]


def check_neuron(run: Run, neuron: int) -> None:
    """Raise NotInRunError unless 0 <= neuron < F."""
    if not 0 <= neuron < n_neurons(run):
        raise NotInRunError(f"Run {run.id} has neurons 0 to {n_neurons(run) - 1}; there is no neuron {neuron}.")


def vocabulary(run: Run, layer: int, neuron: int) -> pd.DataFrame:
    """Tokens that a neuron promotes (sign 1) and suppresses (sign -1), strongest first, from a `vocabulary` run."""
    table = run.select("vocabulary", [("layer", "=", layer), ("neuron", "=", neuron)])
    if not table.num_rows:
        raise NotInRunError(f"Run {run.id} holds no neuron {neuron} of layer {layer}.")
    return table.to_pandas()


def order_by_similarity(weights: np.ndarray) -> np.ndarray:
    """A neuron order that puts neurons together that are strong on the same tokens.

    The angle in the plane of the first two principal components of the (T, F) matrix, whose columns are scaled to length 1;
    silent neurons come last. A two-dimensional reading of a large space: neighbours are alike, far ones need not differ.
    """
    weights = np.nan_to_num(np.asarray(weights, np.float32))
    length = np.linalg.norm(weights, axis=0)
    columns = weights / np.where(length > 0, length, 1)
    columns = columns - columns.mean(axis=1, keepdims=True)
    _, _, components = np.linalg.svd(columns, full_matrices=False)
    plane = components[: min(2, len(components))]
    angle = np.arctan2(plane[-1], plane[0])
    return np.lexsort((angle, length == 0))
