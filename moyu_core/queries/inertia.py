"""Reading runs of the study `inertia`: panels, curves, the index, neurons, what it found in one sentence's numbers. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moyu_core import sets
from moyu_core.claims import Claim
from moyu_core.errors import NotInRunError
from moyu_core.intervals import Interval, t_interval
from moyu_core.query import packed_matrix
from moyu_core.store import READ_ERRORS, Run

ALWAYS = 0.99
"""Rate, alone and in sequence, from which a neuron counts as always on."""


@dataclass(frozen=True)
class Panel:
    """The sets of one text's words under one condition in one layer.

    Attributes:
        words: n words.
        token_ids: (n,) id of each word's last token, whose set it is.
        active: (n, ceil(F/8)) packed sets.
    """

    words: list[str]
    token_ids: np.ndarray
    active: sets.Packed


def claims(run: Run) -> dict[str, Claim]:
    """The judged claims of a run by their names."""
    return {entry["name"]: Claim.from_json(entry) for entry in run.manifest.get("claims", [])}


def has(run: Run, table: str) -> bool:
    """Whether the run holds a table: parts can be left out or impossible, `run.manifest["parts"]` says why."""
    return f"{table}.parquet" in run.manifest["files"]


def frame(run: Run, table: str) -> pd.DataFrame:
    """One of the study's small tables, whole."""
    return run.table(table).to_pandas()


def of_layer(rows: pd.DataFrame, layer: int | None) -> pd.DataFrame:
    """The rows of one layer, or (None) those of the mean over layers."""
    return rows.loc[rows["layer"].isna() if layer is None else rows["layer"] == layer]


def texts(run: Run, shown: bool = False) -> pd.DataFrame:
    """prompt_id, topic, text of the sentences; with `shown` those whose panels are stored."""
    rows = frame(run, "texts")
    chosen = (rows["content"] == "sentence") & (rows["shown"] | (not shown))
    return rows.loc[chosen, ["prompt_id", "topic", "text"]].reset_index(drop=True)


def panels(run: Run, prompt_id: str, layer: int) -> dict[tuple[str, str], Panel]:
    """(content, history) -> panel, of one text in one layer; touches one row group.

    Raises:
        NotInRunError: no panels of this text or layer.
    """
    path = run.path("panels.parquet")
    try:
        table = pq.read_table(path, filters=[("prompt_id", "=", prompt_id), ("layer", "=", layer)], page_checksum_verification=True)
    except READ_ERRORS as error:
        raise run.damaged(path.name, error) from error
    if not table.num_rows:
        raise NotInRunError(
            f"Run {run.id} holds no panels of {prompt_id!r} in layer {layer}; choose one of its stored texts and layers."
        )
    found = {}
    pairs = zip(table["content"].to_pylist(), table["history"].to_pylist(), strict=True)
    for content, history in dict.fromkeys(pairs):
        part = table.filter((pc.field("content") == content) & (pc.field("history") == history))
        found[content, history] = Panel(part["text"].to_pylist(), part["token_id"].to_numpy(), packed_matrix(part["active"]))
    return found


def overlap_matrix(panel: Panel) -> np.ndarray:
    """(n, n) overlaps of the words' sets; NaN on the diagonal and where two words have the same token, as in every mean."""
    matrix = sets.overlap_matrix(panel.active, panel.active)
    return np.where(panel.token_ids[:, None] == panel.token_ids[None, :], np.nan, matrix)


def joined(first: Panel, second: Panel) -> Panel:
    """Two texts one after the other, so that pairs within and across texts stand in one picture."""
    return Panel(
        [*first.words, *second.words],
        np.concatenate([first.token_ids, second.token_ids]),
        np.concatenate([first.active, second.active]),
    )


def places(panel: Panel, sentence: Panel) -> list[int]:
    """The place in the sentence of each word of a panel of the same text: where it stands there, or what it stands for.

    A shuffled word has the place that it came from; of a word that occurs several times the first goes with the first. Other
    words (random ones) have their own place, which is that of the word they replace.
    """
    left: dict[tuple[str, int], list[int]] = {}
    for place, word in enumerate(zip(sentence.words, sentence.token_ids.tolist(), strict=True)):
        left.setdefault(word, []).append(place)
    wanted = list(zip(panel.words, panel.token_ids.tolist(), strict=True))
    if sorted(wanted) != sorted(zip(sentence.words, sentence.token_ids.tolist(), strict=True)):
        return list(range(len(wanted)))
    return [left[word].pop(0) for word in wanted]


def always_on(run: Run, layer: int | None = None) -> pd.DataFrame:
    """Neurons that fire on nearly every word whatever stands before it: layer, neuron, rates, strongest first."""
    rows = _rates(run, layer)
    lowest = np.minimum(rows["rate_parallel"].to_numpy(), rows["rate_sequence"].to_numpy())
    chosen = rows.assign(lowest=lowest).loc[lowest >= ALWAYS]
    return chosen.sort_values(["lowest", "layer", "neuron"], ascending=[False, True, True])


def sequence_bound(run: Run, layer: int | None = None, count: int = 200) -> pd.DataFrame:
    """Neurons whose firing belongs most to the sequence: layer, neuron, rates, binding, strongest first."""
    return _rates(run, layer).sort_values(["binding", "layer", "neuron"], ascending=[False, True, True]).head(count)


def _rates(run: Run, layer: int | None) -> pd.DataFrame:
    rows = frame(run, "rates").astype(dict.fromkeys(("rate_parallel", "rate_sequence", "rate_random", "binding"), "float32"))
    return rows if layer is None else rows.loc[rows["layer"] == layer]


def kl_by_source(run: Run) -> pd.DataFrame:
    """Mean KL of the set transplants over topics: continuation, source, density, mean, low, high."""
    units: dict[tuple[str, str, float], dict[str, list[float]]] = {}
    for row in frame(run, "transplants").to_dict("records"):
        by_topic = units.setdefault((row["continuation"], row["source"], row["density"]), {})
        by_topic.setdefault(row["topic"], []).append(row["kl"])
    found = []
    for (continuation, source, density), by_topic in units.items():
        interval = t_interval([np.mean(values) for values in by_topic.values()])
        found.append(
            {
                "continuation": continuation,
                "source": source,
                "density": round(float(density), 4),
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
            }
        )
    return pd.DataFrame(found)


def blocked(run: Run) -> dict[str, Interval]:
    """What blocking attention does, over topics: KL in nats `heavy`, `matched` and `difference`; `mass heavy`, `mass matched`."""
    rows = frame(run, "blocked")
    means = {
        (name, what): np.asarray([part[name].to_numpy().mean() for _, part in rows.loc[rows["blocked"] == what].groupby("topic")])
        for name in ("kl", "mass")
        for what in ("heavy", "matched")
    }
    return {
        "heavy": t_interval(means["kl", "heavy"]),
        "matched": t_interval(means["kl", "matched"]),
        "difference": t_interval(means["kl", "heavy"] - means["kl", "matched"]),
        "mass heavy": t_interval(means["mass", "heavy"]),
        "mass matched": t_interval(means["mass", "matched"]),
    }


def index_of(run: Run, content: str, measure: str = "overlap") -> Interval:
    """The inertia index of a content, mean over layers; error and number of units are not stored, so they are NaN and 0."""
    rows = frame(run, "indices")
    row = of_layer(rows.loc[(rows["content"] == content) & (rows["measure"] == measure)], None).iloc[0]
    mean, low, high = (float(row[name]) for name in ("index", "low", "high"))
    return Interval(mean, low, high, float("nan"), 0)
