"""Quality, teacher-forced: loss, KL(dense || sparse) and top-1 agreement of every method, density and text.

Texts are the outer loop, so that the dense distribution of a text, which is large, is computed once and then dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from moyu_core.methods.protocol import Ready
from moyu_core.progress import Reporter, silent
from moyu_core.studies.trinity.contenders import asked
from moyu_core.studies.trinity.forward import method_logits
from moyu_core.studies.trinity.texts import document_of
from moyu_core.token_sequences import TokenSequence, batches, pad

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

BATCH_TOKENS = 520
"""Rows of a forward pass: four texts of the usual length; its logits and log-probabilities are held at once."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """Measures on one set of texts.

    Attributes:
        model: a loaded model.
        sequences: tokenised texts, all longer than the prompt by two tokens.
        prompt: positions of the prompt.
        run_prompt: dense or masked.
        ready: prepared methods by name.
        rows: what was measured so far, rows of the table `quality`.
        dense: mean dense loss by text.
    """

    model: LoadedModel
    sequences: Sequence[TokenSequence]
    prompt: int
    run_prompt: str
    ready: Mapping[str, Ready]
    rows: list[Row] = field(default_factory=list)
    dense: dict[str, float] = field(default_factory=dict)

    def measure(self, settings: Sequence[tuple[str, float]], sequences: Sequence[TokenSequence], report: Reporter = silent) -> None:
        """Adds a row for every (method, density) and text; `report` after every pass."""
        done, total = 0, len(settings) * len(sequences)
        for batch in batches(sequences, BATCH_TOKENS):
            ids, lengths = pad(batch, self.model.sink_token_id), [len(sequence) for sequence in batch]
            with torch.inference_mode():
                logits = self.model.model(input_ids=ids.to(self.model.device), use_cache=False).logits
            truth = [_Truth(logits[place], sequence, self.prompt) for place, sequence in enumerate(batch)]
            del logits
            for known, sequence in zip(truth, batch, strict=True):
                self.dense[sequence.prompt.id] = known.loss
            for method, density in settings:
                found = method_logits(self.model, ids, lengths, self.ready[method], asked(density), self.prompt, self.run_prompt)
                for place, (known, sequence) in enumerate(zip(truth, batch, strict=True)):
                    self.rows.append(
                        {
                            "method": method,
                            "density": density,
                            "prompt_id": sequence.prompt.id,
                            "kept": float(found.kept[place]),
                            **known.compare(found.logits[place]),
                        }
                    )
                done += len(batch)
                report(f"judging, {method} at {density:g}", done, total)

    def differences(self, method: str, density: float, split: int) -> list[float]:
        """Paired loss differences by document of a split, in order; measured now where they are not there yet."""
        wanted = {sequence.prompt.id for sequence in self.of_split(split)}
        found: dict[str, list[float]] = {}
        for row in self.rows:
            if row["method"] == method and row["density"] == density and row["prompt_id"] in wanted:
                document = row["prompt_id"].rsplit("/", 1)[0]
                found.setdefault(document, []).append(row["loss"] - self.dense[row["prompt_id"]])
        return [float(np.mean(values)) for values in found.values()]

    def of_split(self, split: int) -> list[TokenSequence]:
        """The texts of one half; a document is never in both."""
        place = split_of(self.sequences)
        return [sequence for sequence in self.sequences if place[document_of(sequence.prompt)] == split]


def split_of(sequences: Sequence[TokenSequence]) -> dict[str, int]:
    """Document -> 0 (chooses) or 1 (confirms): every other document of a genre; genres take turns in who starts."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    for sequence in sequences:
        document, genre = document_of(sequence.prompt), sequence.prompt.domain
        if document not in found:
            counts[genre] = counts.get(genre, len(counts) - 1) + 1
            found[document] = counts[genre] % 2
    return found


class _Truth:
    """What the dense model says of one text behind its prompt."""

    def __init__(self, logits: Tensor, sequence: TokenSequence, prompt: int) -> None:
        self._where = slice(prompt, len(sequence) - 1)
        self._targets = torch.from_numpy(sequence.token_ids[prompt + 1 :]).to(logits.device)
        self._log_p = log_probabilities(logits[self._where])
        self._best = self._log_p.argmax(dim=-1)
        self.loss = self._loss(self._log_p)

    def _loss(self, log_p: Tensor) -> float:
        return float(-log_p.gather(1, self._targets[:, None]).double().mean())

    def compare(self, logits: Tensor) -> dict[str, float]:
        """loss, kl and agreement of (T, V) sparse logits."""
        log_q = log_probabilities(logits[self._where])
        same = (log_q.argmax(dim=-1) == self._best).double().mean()
        kl = divergence(self._log_p, log_q).double().mean()
        return {"loss": self._loss(log_q), "kl": float(kl), "agreement": float(same)}


def log_probabilities(logits: Tensor) -> Tensor:
    """(..., V) float32; exact to about 1e-6 nats, and four times faster than in float64."""
    return torch.log_softmax(logits.float(), dim=-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(...) KL of (..., V) log-probabilities, p the dense model's; at least 0."""
    return torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim=-1).clamp_min(0)
