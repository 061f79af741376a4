"""From outcomes to tables: sums by prompt, layer and position, rates for the chance level, and details where asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moyu_core import sets
from moyu_core.schema import Column
from moyu_core.schema import predictors as schema
from moyu_core.studies import shared
from moyu_core.studies.predictors.evaluate import Key, LayerOutcome, Outcome

Columns = dict[str, list[Any]]


class Collector:
    """Takes one layer of one prompt after the other and keeps no sets but those that are stored."""

    def __init__(self, n_neurons: int, set_densities: Sequence[float]) -> None:
        self._n_neurons, self._set_densities = n_neurons, set_densities
        self._layers: Columns = defaultdict(list)
        self._positions: Columns = defaultdict(list)
        self._tokens: Columns = defaultdict(list)
        self._sets: Columns = defaultdict(list)
        self._rates: dict[tuple[str, float, int], _Rates] = {}
        self._needs: dict[int, list[NDArray[np.int64]]] = {}
        self._along: dict[Key, list[tuple[Any, Any, Any]]] = {}

    def begin(self, name: Mapping[str, str], number: int, prompt_tokens: int, detail: bool) -> None:
        """The next prompt.

        Args:
            name: `prompt_id` and `condition`.
            number: of the prompt; its parity decides the half that it counts for.
            prompt_tokens: length of the prompt part, sink token included.
            detail: whether sets and the table by token are kept.
        """
        self._name, self._half, self._after, self._detail = name, number % 2, prompt_tokens - 1, detail
        self._along = {}

    def add(self, layer: LayerOutcome) -> None:
        """One layer of the prompt."""
        judged = slice(self._after, None)
        self._count(layer, judged)
        for key, outcome in layer.outcomes.items():
            self._add_layer(key, layer, outcome, judged)
            if key[1] in self._set_densities:
                recall = outcome.hits / np.maximum(layer.needed, 1)
                self._along.setdefault(key, []).append((recall, outcome.energy, outcome.kept / self._n_neurons))
                if self._detail:
                    self._add_tokens(key, layer, outcome)
                    self._add_sets(key, layer.layer, outcome.packed)
        if self._detail:
            self._add_sets((schema.REFERENCE, 0.0), layer.layer, layer.reference)

    def end(self) -> None:
        """The prompt is complete: means over layers by position."""
        for (method, density), layers in self._along.items():
            recall, energy, predicted = (np.mean(np.stack(values), axis=0) for values in zip(*layers, strict=True))
            count = len(recall)
            position = np.arange(1, count + 1)
            self._append(self._positions, count, method=method, density=density, position=position,
                         offset=position - self._after - 1, recall=recall, energy=energy, predicted=predicted)

    def tables(self) -> dict[str, pa.Table]:
        """The finished tables but for prompts and texts."""
        made = {"layers": (schema.LAYERS, self._layers), "positions": (schema.POSITIONS, self._positions),
                "tokens": (schema.TOKENS, self._tokens), "sets": (schema.set_columns(self._n_neurons), self._sets),
                "chance": (schema.CHANCE, self._chance())}
        return {name: _table(columns, values) for name, (columns, values) in made.items()}

    def _append(self, columns: Columns, count: int, **values: Any) -> None:
        """Rows of this prompt; a single value stands for all of them."""
        for name, value in (dict(self._name) | values).items():
            columns[name].extend(value.tolist() if isinstance(value, np.ndarray) else [value] * count)

    def _add_layer(self, key: Key, layer: LayerOutcome, outcome: Outcome, judged: slice) -> None:
        hits, kept, needed = outcome.hits[judged], outcome.kept[judged], layer.needed[judged]
        self._append(
            self._layers, 1, method=key[0], density=key[1], layer=layer.layer, tokens=len(hits),
            recall=float((hits / np.maximum(needed, 1)).mean()), recall_micro=float(hits.sum() / max(needed.sum(), 1)),
            precision=float(hits.sum() / max(kept.sum(), 1)),
            jaccard=float((hits / np.maximum(kept + needed - hits, 1)).mean()), energy=float(outcome.energy[judged].mean()),
            squares=float(outcome.squares[judged].mean()), predicted=float(kept.mean() / self._n_neurons),
            reference=float(needed.mean() / self._n_neurons))

    def _add_tokens(self, key: Key, layer: LayerOutcome, outcome: Outcome) -> None:
        self._append(self._tokens, len(outcome.hits), method=key[0], density=key[1], layer=layer.layer,
                     position=np.arange(1, len(outcome.hits) + 1), hits=outcome.hits, kept=outcome.kept, needed=layer.needed,
                     energy=outcome.energy, squares=outcome.squares)

    def _add_sets(self, key: Key, layer: int, packed: sets.Packed) -> None:
        count = len(packed)
        position = np.arange(1, count + 1) if count > 1 else np.array([schema.EVERY_POSITION])
        self._append(self._sets, count, method=key[0], density=key[1], layer=layer, position=position)
        self._sets["active"].extend(row.tobytes() for row in packed)

    def _count(self, layer: LayerOutcome, judged: slice) -> None:
        """How often each neuron was needed and predicted, by half of the prompts."""
        needs = self._needs.setdefault(layer.layer, [np.zeros(self._n_neurons, np.int64) for _ in range(2)])
        needs[self._half] += sets.counts(layer.reference[judged], self._n_neurons)
        for (method, density), outcome in layer.outcomes.items():
            rates = self._rates.setdefault((method, density, layer.layer), _Rates(self._n_neurons))
            rates.add(outcome, layer.needed, judged, self._half)

    def _chance(self) -> Columns:
        found: Columns = defaultdict(list)
        for (method, density, layer), rates in self._rates.items():
            row = {"method": method, "density": density, "layer": layer, "uniform": rates.uniform, "recall": rates.recall,
                   "marginal": rates.marginal(self._needs[layer])}
            for name, value in row.items():
                found[name].append(value)
        return found


class _Rates:
    """One method, density and layer over all prompts."""

    def __init__(self, n_neurons: int) -> None:
        self._counts = [np.zeros(n_neurons, np.int64) for _ in range(2)]
        self._tokens = [0, 0]
        self._hits = self._needed = self._kept = 0

    def add(self, outcome: Outcome, needed: NDArray[np.int64], judged: slice, half: int) -> None:
        """The continuation of one prompt."""
        tokens = len(outcome.hits[judged])
        if len(outcome.packed) == 1:
            self._counts[half] += tokens * sets.counts(outcome.packed, len(self._counts[half]))
        else:
            self._counts[half] += sets.counts(outcome.packed[judged], len(self._counts[half]))
        self._tokens[half] += tokens
        self._hits += int(outcome.hits[judged].sum())
        self._needed += int(needed[judged].sum())
        self._kept += int(outcome.kept[judged].sum())

    @property
    def uniform(self) -> float:
        """|predicted| / F."""
        return self._kept / max(sum(self._tokens) * len(self._counts[0]), 1)

    @property
    def recall(self) -> float:
        """Ratio of sums."""
        return self._hits / max(self._needed, 1)

    def marginal(self, needs: Sequence[NDArray[np.int64]]) -> float | None:
        """sum p_i q_i / sum p_i with p and q from different halves; None where one half is empty."""
        if not all(self._tokens) or not all(need.sum() for need in needs):
            return None
        ways = [(needs[half] * self._counts[1 - half]).sum() / (needs[half].sum() * self._tokens[1 - half]) for half in (0, 1)]
        return float(np.mean(ways))


def _table(columns: list[Column], values: Columns) -> pa.Table:
    stored = {column.name: _short(values[column.name], column) for column in columns}
    return shared.table(columns, stored)


def _short(values: list[Any], column: Column) -> Any:
    """Measures with 12 binary digits (to 0.02 %), which compress to half: nobody reads more of a mean over some tokens."""
    if column.type != pa.float32() or column.name == "density" or column.nullable:
        return values
    return (np.asarray(values, np.float32).view(np.uint32) + np.uint32(0x800) & np.uint32(0xFFFFF000)).view(np.float32)
