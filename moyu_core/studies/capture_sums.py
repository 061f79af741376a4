"""Sums over a part of a capture, stored and merged without torch, and the tables and facts that a run makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moyu_core import schema
from moyu_core.agreement import Agreement
from moyu_core.corpus_counts import CorpusCounts
from moyu_core.corpus_tables import corpus_facts, corpus_tables
from moyu_core.firing import FiringCounts
from moyu_core.run_writer import RunFolder
from moyu_core.studies.requests import CaptureRequest
from moyu_core.tops import Tops


@dataclass(frozen=True)
class About:
    """What is told of the model once, whoever captured with it.

    Attributes:
        layers: that were captured.
        norms: (L, F) column norms.
        facts: manifest entry `model`.
        check_error: of activation x down projection = output.
        provenance: manifest entries `seconds`, `device` and `versions`.
    """

    layers: tuple[int, ...]
    norms: np.ndarray
    facts: dict[str, Any]
    check_error: float
    provenance: dict[str, Any]


@dataclass
class Sums:
    """What adds up over the prompts of a part.

    Attributes:
        firing: firing counts.
        check: agreement of stored values.
        corpus: counts over a corpus, where asked for.
        tops: largest activations, where asked for.
        texts: token texts by id, of the tokens in `tops`.
        rows: rows of `activations`.
        sealed: manifest entries of files that were hashed while others were made (ActivationWriter.sealed).
    """

    firing: FiringCounts
    check: Agreement
    corpus: CorpusCounts | None = None
    tops: Tops | None = None
    texts: dict[int, str] = field(default_factory=dict)
    rows: int = 0
    sealed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def merge(self, later: Sums) -> None:
        """Add a part that was captured after this one."""
        self.firing.counts += later.firing.counts
        self.firing.rows += later.firing.rows
        self.firing.nonfinite += later.firing.nonfinite
        self.check.add_sums(*later.check.sums())
        self.rows += later.rows
        self.texts |= later.texts
        if self.corpus is not None and later.corpus is not None:
            self.corpus.merge(later.corpus)
        self.tops = later.tops if self.tops is None else self.tops.merged(later.tops) if later.tops else self.tops

    def save(self, folder: Path) -> None:
        """Store as sums.npz and sums.json."""
        overlaps, rows = self.check.sums()
        arrays = {"counts": self.firing.counts, "overlaps": overlaps, "compared": rows}
        arrays |= self.corpus.arrays() if self.corpus else {}
        arrays |= self.tops.arrays() if self.tops else {}
        np.savez(folder / "sums.npz", **arrays)  # pyright: ignore[reportArgumentType]
        said = {"layers": self.firing.layers, "n_neurons": self.firing.n_neurons, "counted": self.firing.rows,
                "nonfinite": self.firing.nonfinite, "rows": self.rows, "texts": self.texts}  # fmt: skip
        (folder / "sums.json").write_text(json.dumps(said), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Sums:
        """What `save` stored."""
        said = json.loads((folder / "sums.json").read_text(encoding="utf-8"))
        with np.load(folder / "sums.npz", allow_pickle=False) as stored:
            arrays = dict(stored)
        layers = tuple(said["layers"])
        firing = FiringCounts(layers, said["n_neurons"])
        firing.counts, firing.rows, firing.nonfinite = arrays["counts"], said["counted"], said["nonfinite"]
        check = Agreement(said["n_neurons"], {layer: np.empty(0) for layer in layers})
        check.add_sums(arrays["overlaps"], arrays["compared"])
        corpus = CorpusCounts(layers, said["n_neurons"]).restore(arrays) if "together" in arrays else None
        tops = Tops.restored(arrays) if "top_value" in arrays else None
        return Sums(firing, check, corpus, tops, {int(key): text for key, text in said["texts"].items()}, said["rows"])


def finish(folder: RunFolder, request: CaptureRequest, prompts: pa.Table, sums: Sums, about: About, seconds: float) -> None:
    """Write the tables that stand beside `activations` and `index`, and fill the manifest.

    Args:
        folder: of the run.
        request: what was asked.
        prompts: the table `prompts`, in the order of the request.
        sums: over the whole run.
        about: the model.
        seconds: what the capture took.
    """
    folder.write("prompts", prompts)
    folder.write("neurons", _neuron_table(sums.firing, about.norms), row_group_size=sums.firing.n_neurons)
    count = {name: int(np.sum(prompts[name].to_numpy())) for name in ("n_tokens", "cut_tokens")}
    nonfinite = sums.firing.nonfinite
    folder.facts = {
        "title": request.title,
        "model": about.facts,
        "layers": list(about.layers),
        "counts": {"prompts": len(prompts), "tokens": count["n_tokens"], "rows": sums.rows,
                   "cut_tokens": count["cut_tokens"], "nonfinite": nonfinite},
        "checks": {"identity_error": about.check_error, "nonfinite": nonfinite == 0},
        "values_agreement": sums.check.summary(),
        **about.provenance,
        "seconds": round(seconds, 3),
    }  # fmt: skip
    if sums.corpus is not None and sums.tops is not None:
        for name, table, rows in corpus_tables(sums.firing, sums.corpus, sums.tops, prompts, sums.texts):
            folder.write(name, table, rows)
        folder.facts["corpus"] = corpus_facts(sums.firing, sums.corpus)


def prompt_table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """The table `prompts` from its rows."""
    table_schema = schema.arrow_schema(schema.PROMPT_COLUMNS)
    columns = zip(zip(*rows, strict=True), table_schema, strict=True)
    return pa.table([pa.array(list(column), field.type) for column, field in columns], schema=table_schema)


def _neuron_table(firing: FiringCounts, norms: np.ndarray) -> pa.Table:
    """The table `neurons`."""
    n_layers = len(firing.layers)
    return pa.table(
        [
            np.repeat(np.asarray(firing.layers, np.int16), firing.n_neurons),
            np.tile(np.arange(firing.n_neurons, dtype=np.int32), n_layers),
            norms.astype(np.float32).ravel(),
            firing.rates().ravel(),
        ],
        schema=schema.arrow_schema(schema.NEURON_COLUMNS),
    )
