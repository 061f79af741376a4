"""The tables of a corpus from what was counted: rates by half, pairs of sampled neurons, strongest tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from moyu_core import schema
from moyu_core.corpus_counts import CorpusCounts
from moyu_core.firing import FiringCounts
from moyu_core.schema import corpus as columns_of
from moyu_core.tops import Tops


def corpus_tables(
    firing: FiringCounts, counts: CorpusCounts, tops: Tops, prompts: pa.Table, texts: dict[int, str]
) -> Iterator[tuple[str, pa.Table, int]]:
    """(name, table, rows of a row group) of each table; a row group is about what a view of one layer or neuron reads."""
    pairs = len(counts.sample) * (len(counts.sample) - 1) // 2
    yield "corpus_rates", _rates(firing, counts), firing.n_neurons
    yield "corpus_pairs", _pairs(firing, counts), max(pairs, 1)
    yield "corpus_tokens", _tokens(firing.layers, tops, prompts, texts), 1024 * columns_of.TOP_TOKENS


def corpus_facts(firing: FiringCounts, counts: CorpusCounts) -> dict[str, Any]:
    """Manifest entry `corpus`: rows and prompts of each half, the sampled neurons, tokens kept for a neuron."""
    return {
        "rows": {"a": firing.rows - counts.rows_b, "b": counts.rows_b},
        "prompts": {"a": counts.prompts_a, "b": counts.prompts_b},
        "pair_neurons": counts.sample.tolist(),
        "top_tokens": columns_of.TOP_TOKENS,
    }


def _rates(firing: FiringCounts, counts: CorpusCounts) -> pa.Table:
    rows = {"rate_a": firing.rows - counts.rows_b, "rate_b": counts.rows_b}
    active = {"rate_a": firing.counts - counts.half_b, "rate_b": counts.half_b}
    cells = firing.counts.size
    shares = {
        name: pa.array((active[name] / rows[name]).ravel(), pa.float32()) if rows[name] else pa.nulls(cells, pa.float32())
        for name in rows
    }
    neurons = np.tile(np.arange(firing.n_neurons), len(firing.layers))
    return _table(columns_of.RATE_COLUMNS, layer=np.repeat(firing.layers, firing.n_neurons), neuron=neurons, **shares)


def _pairs(firing: FiringCounts, counts: CorpusCounts) -> pa.Table:
    first, second = np.triu_indices(len(counts.sample), 1)
    own = firing.counts[:, counts.sample].astype(float)
    expected = own[:, first] * own[:, second] / max(firing.rows, 1)
    layers = len(firing.layers)
    return _table(
        columns_of.PAIR_COLUMNS,
        layer=np.repeat(firing.layers, len(first)),
        neuron=np.tile(counts.sample[first], layers),
        other=np.tile(counts.sample[second], layers),
        together=counts.together[:, first, second].ravel(),
        expected=expected.ravel(),
    )


def _tokens(layers: tuple[int, ...], tops: Tops, prompts: pa.Table, texts: dict[int, str]) -> pa.Table:
    value, prompt, position, token = (array.transpose(0, 2, 1) for array in vars(tops).values())  # (L, F, K)
    found = prompt >= 0
    layer, neuron, rank = np.nonzero(found)
    chosen = pa.array(prompt[found])
    known = np.array(sorted(texts), np.int64)
    names = pa.array([texts[key] for key in known.tolist()], pa.string())
    return _table(
        columns_of.TOKEN_COLUMNS,
        layer=np.asarray(layers)[layer],
        neuron=neuron,
        rank=rank,
        value=value[found],
        prompt_id=prompts["prompt_id"].take(chosen),
        condition=prompts["condition"].take(chosen),
        position=position[found],
        token_id=token[found],
        token=names.take(pa.array(np.searchsorted(known, token[found]))),
    )


def _table(columns: list[schema.Column], **values: Any) -> pa.Table:
    """An Arrow table of the columns; numbers are narrowed to the column's type."""
    fields = schema.arrow_schema(columns)

    def narrowed(field: pa.Field, data: Any) -> pa.Array | pa.ChunkedArray:
        arrow = isinstance(data, pa.ChunkedArray | pa.Array)
        return data if arrow else pa.array(np.asarray(data).astype(field.type.to_pandas_dtype()))

    return pa.table([narrowed(field, values[field.name]) for field in fields], schema=fields)
