"""Reading the tables of a corpus: rates as a baseline of overlaps, and pairs that fire together.

The tokens that drive a neuron are read by `query.top_tokens`, which takes them from these tables where a run has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moyu_core import query, sets
from moyu_core.errors import NotInRunError
from moyu_core.spec import ModelIdentity, SetRule
from moyu_core.store import Run


def held(run: Run) -> bool:
    """Whether a run has the tables of a corpus."""
    return "corpus" in run.manifest


def find(runs: Iterable[Run], model: ModelIdentity, rule: SetRule) -> Run | None:
    """The largest corpus of these weights, in this dtype, under this set rule; None where there is none.

    Args:
        runs: to choose from.
        model: of the run that is looked at.
        rule: its set rule; rates of another rule are no baseline for it.
    """
    fitting = [run for run in runs if held(run) and run.spec.set_rule == rule
               and (run.spec.model.weights, run.spec.model.dtype) == (model.weights, model.dtype)]  # fmt: skip
    return max(fitting, key=lambda run: run.manifest["counts"]["tokens"], default=None)


@dataclass(frozen=True)
class Rates:
    """How often each neuron of a layer is active, in two halves of the corpus's prompts.

    Attributes:
        p, q: (F,) share of the rows of half a and of half b.
        rows: rows of both halves.
    """

    p: np.ndarray
    q: np.ndarray
    rows: int

    @property
    def overlap(self) -> float:
        """Overlap to expect of two tokens of different documents by the neurons' rates alone: sum p q / sqrt(sum p sum q).

        The marginal level. NaN where a half is empty or nothing is ever active.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.p @ self.q / np.sqrt(self.p.sum() * self.q.sum()))

    @property
    def recall(self) -> float:
        """Recall to expect by rates alone: sum p q / sum p."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.p @ self.q / self.p.sum())


def corrected(observed: float, baseline: float) -> float:
    """(observed - baseline) / (1 - baseline): 0 = what the rates explain, 1 = full overlap. NaN for a baseline of 1."""
    return (observed - baseline) / (1 - baseline) if baseline != 1 else float("nan")


def rates(run: Run, layer: int) -> Rates:
    """The rates of a layer.

    Raises:
        NotInRunError: no tables of a corpus, or no such layer.
    """
    table = _of_layer(run, "corpus_rates", layer)
    p, q = (table[name].to_numpy(float) for name in ("rate_a", "rate_b"))
    return Rates(p, q, sum(run.manifest["corpus"]["rows"].values()))


def sampled_neurons(run: Run) -> list[int]:
    """The neurons whose pairs were counted."""
    _require(run)
    return list(run.manifest["corpus"]["pair_neurons"])


def pairs(run: Run, layer: int) -> pd.DataFrame:
    """Pairs of the sampled neurons of a layer, the most surprising first: neuron, other, together, expected, lift, phi.

    lift = together / expected (1 = independent). phi = correlation of the two indicators, from -1 to 1; NaN where a neuron is
    always or never active. Two neurons that never fire together have lift 0.
    """
    table = _of_layer(run, "corpus_pairs", layer)
    rows = sum(run.manifest["corpus"]["rows"].values())
    rate = _rates_of_all(run, layer)
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = rate[table["neuron"]], rate[table["other"]]
        spread = np.sqrt(first * (1 - first) * second * (1 - second))
        together = table["together"].to_numpy(float)
        table["lift"] = together / table["expected"].to_numpy(float)
        table["phi"] = np.where(spread > 0, (together / rows - first * second) / spread, np.nan)
    order = np.argsort(-np.abs(np.nan_to_num(table["phi"].to_numpy())), kind="stable")
    return table.drop(columns="layer").iloc[order].reset_index(drop=True)


def partners(run: Run, layer: int, neuron: int, prompts: int = 32) -> pd.DataFrame:
    """With which of all neurons of the layer one neuron fires, exactly, over the first prompts: neuron, together, lift; lift first.

    For neurons outside of the sample: read from the stored sets, one row group a prompt, so its time is bounded. The frame's
    `attrs["rows"]` says over how many rows.
    """
    query.check_neuron(run, neuron)
    n_neurons = query.n_neurons(run)
    together, own, rows = np.zeros(n_neurons, np.int64), np.zeros(n_neurons, np.int64), 0
    for row in query.prompts(run, texts=False).head(prompts).to_dict("records"):
        active = query.read_active(run, row["prompt_id"], layer, row["condition"])
        fires = sets.unpack(active[:, [neuron >> 3]], 8)[:, neuron & 7]
        together += sets.counts(active[fires], n_neurons)
        own += sets.counts(active, n_neurons)
        rows += len(active)
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = together * rows / (own[neuron] * own)
    frame = pd.DataFrame({"neuron": np.arange(n_neurons), "together": together, "lift": lift})
    kept = (frame["together"] > 0) & (frame["neuron"] != neuron)
    frame = frame.loc[kept].sort_values(by="lift", ascending=False, kind="stable")
    frame.attrs["rows"] = rows
    return frame.reset_index(drop=True)


def _rates_of_all(run: Run, layer: int) -> np.ndarray:
    """(F,) float64 rates over both halves, from the table `neurons`."""
    return run.select("neurons", [("layer", "=", layer)], ["rate"])["rate"].to_numpy().astype(float)


def _of_layer(run: Run, name: str, layer: int) -> pd.DataFrame:
    _require(run)
    table = run.select(name, [("layer", "=", layer)]).to_pandas()
    if table.empty and layer not in run.manifest["layers"]:
        raise NotInRunError(f"Run {run.id} holds no layer {layer}; it has {', '.join(map(str, run.manifest['layers'][:40]))}.")
    return table


def _require(run: Run) -> None:
    if not held(run):
        raise NotInRunError(f"Run {run.id} holds no tables of a corpus; capture it with --corpus to have them.")
