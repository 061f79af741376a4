"""A stretch of a capture: its files, and the sums that make several stretches one run.

A capture in one process is one part. A capture on a cluster is many: each shard writes and stores a part, and the driver
merges their sums in the order of the shards, so its memory does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from moyu_core import agreement, capture
from moyu_core.activation_table import ActivationWriter
from moyu_core.capture import CaptureOptions
from moyu_core.corpus_counts import CorpusCounts
from moyu_core.firing import FiringCounts
from moyu_core.models import LoadedModel
from moyu_core.progress import Reporter, silent
from moyu_core.spec import SetRule
from moyu_core.studies.capture_sums import About, Sums
from moyu_core.token_sequences import TokenSequence
from moyu_core.tokens import token_texts


@dataclass(frozen=True)
class Plan:
    """How a part is captured.

    Attributes:
        options: what is kept.
        keeps_values: whether the run stores values of at least one prompt, in this part or another.
        corpus: whether the tables of a corpus are counted.
        lanes: threads that write.
    """

    options: CaptureOptions
    keeps_values: bool
    corpus: bool = False
    lanes: int = 1


def write(
    folder: Path,
    model: LoadedModel,
    sequences: Sequence[TokenSequence],
    numbers: Sequence[int],
    plan: Plan,
    report: Reporter = silent,
) -> tuple[pa.Table, Sums]:
    """Capture the sequences into files of a folder; returns the index table and the sums.

    Args:
        folder: where `activations-NNN.parquet` go.
        model: a loaded model.
        sequences: from `tokenise`.
        numbers: place of each sequence's prompt in the request.
        plan: what is kept, and how.
        report: progress in tokens.
    """
    layers, rule = plan.options.layers, plan.options.rule
    n_neurons = next(site.n_neurons for site in model.sites if site.layer == layers[0])
    sums = Sums(FiringCounts(layers, n_neurons), agreement.Agreement(n_neurons, _mean_norms(model, layers)),
                CorpusCounts(layers, n_neurons) if plan.corpus else None)  # fmt: skip
    strongest = _strongest(model, layers) if plan.corpus else None
    order: list[TokenSequence] = []
    on_processor = model.device.type == "cpu"
    with ActivationWriter(folder, n_neurons, plan.keeps_values, plan.lanes, on_processor) as writer:
        with strongest.watching() if strongest else nullcontext():
            for captured in capture.capture(model, sequences, plan.options, report, sums.firing):
                sums.rows += writer.write(captured)
                _compare(sums, captured, rule)
                order.append(captured.sequence)
        report("writing", 0, 0)
        index = writer.close()
        sums.sealed = writer.sealed
    if strongest:
        place = {(s.prompt.id, s.prompt.condition): number for s, number in zip(sequences, numbers, strict=True)}
        sums.tops = strongest.tops(order, [place[s.prompt.id, s.prompt.condition] for s in order])
        known = np.unique(sums.tops.token[sums.tops.prompt >= 0]).tolist()
        sums.texts = dict(zip(known, token_texts(model.tokenizer, known), strict=True))
    return index, sums


def about(model: LoadedModel, layers: tuple[int, ...]) -> About:
    """What the run says of model, machine and neurons."""
    from moyu_core.studies import shared

    norms = _mean_norms(model, layers)
    sink = token_texts(model.tokenizer, [model.sink_token_id])[0]
    n_neurons = len(norms[layers[0]])
    facts = {**shared.model_facts(model), "n_neurons": n_neurons, "sink_token": sink}
    return About(layers, np.stack([norms[layer] for layer in layers]), facts, model.check_error, shared.provenance(model, 0))


def _strongest(model: LoadedModel, layers: tuple[int, ...]):
    from moyu_core.strongest import StrongestTokens

    return StrongestTokens(model, layers)


def _compare(sums: Sums, captured: capture.CapturedPrompt, rule: SetRule) -> None:
    """Add one prompt to the sums that the capture does not keep itself."""
    if "values" in captured.columns and rule.density is not None:
        sums.check.add(captured, rule)
    if sums.corpus is not None:
        sums.corpus.add(captured)


def _mean_norms(model: LoadedModel, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """Layer -> (F,) column norms; the mean over experts in mixture models."""
    found = {}
    for site in model.sites:
        if site.layer in layers:
            norms = site.column_norms().float().cpu().numpy()
            found[site.layer] = norms.mean(axis=0) if norms.ndim == 2 else norms
    return found
