"""What each method does to a text that is read and to one that is written, against the dense model on the same tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from moyu_core.methods.protocol import Ready
from moyu_core.progress import Reporter, silent
from moyu_core.schema.trial import CONTINUATION, DENSE, PROMPT
from moyu_core.studies.trial import forward
from moyu_core.studies.trinity.quality import divergence, log_probabilities
from moyu_core.token_sequences import TokenSequence

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

STRETCH = 16
"""Steps of generation that a row of `written` is over."""
LOGIT_BYTES = 1 << 29
"""Logits that one batch may hold; several copies of them are alive at once."""
READ_TOGETHER, WRITTEN_TOGETHER = 4, 32

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A method at a size; `ready` is None for the dense model.

    Attributes:
        name: the method's.
        density: share to be kept.
        ready: prepared.
        asked: what it has to be asked for to keep that.
    """

    name: str
    density: float
    ready: Ready | None
    asked: float


WHOLE = Setting(DENSE, 1.0, None, 1.0)


@dataclass
class Trial:
    """Measures on texts of one length.

    Attributes:
        model: a loaded model.
        sequences: the texts, each cut to the same number of tokens.
        prompt: positions of the prompt.
        generated: tokens to write.
        seed: of what is drawn.
        read, written, answers: rows of the tables.
    """

    model: LoadedModel
    sequences: Sequence[TokenSequence]
    prompt: int
    generated: int
    seed: int
    read: list[Row] = field(default_factory=list)
    written: list[Row] = field(default_factory=list)
    answers: list[Row] = field(default_factory=list)

    def sized(self, ready: Sequence[Ready], densities: Sequence[float], report: Reporter = silent) -> list[Setting]:
        """Every method at every density, steered to its size."""
        prompts = [ids[:, : self.prompt] for _, ids in self._batches(WRITTEN_TOGETHER, self.prompt)]
        found = []
        for each in ready:
            for density in densities:
                report(f"steering {each.method.name} to {density:g}", len(found), len(ready) * len(densities))
                asked = forward.asked_of(self.model, each, density, prompts)
                found.append(Setting(each.method.name, density, each, asked))
        return found

    def reading(self, settings: Sequence[Setting], report: Reporter = silent) -> None:
        """Teacher-forced; a batch's dense distribution is computed once and dropped with the batch."""
        done, total = 0, len(settings) * len(self.sequences)
        for batch, ids in self._batches(READ_TOGETHER, len(self.sequences[0])):
            whole = forward.read(self.model, None, 1.0, ids, self.prompt)
            log_p = log_probabilities(whole.logits)
            self._take(WHOLE, batch, ids, log_p, log_p, whole.kept)
            del whole
            for setting in settings:
                found = forward.read(self.model, setting.ready, setting.asked, ids, self.prompt)
                self._take(setting, batch, ids, log_p, log_probabilities(found.logits), found.kept)
                done += len(batch)
                report(f"reading, {setting.name} at {setting.density:g}", done, total)

    def _take(
        self, setting: Setting, batch: Sequence[TokenSequence], ids: Tensor, log_p: Tensor, log_q: Tensor, kept: list[float]
    ) -> None:
        """Rows of one pass; position 0 runs dense and is left out."""
        kl, same = divergence(log_p, log_q), log_p.argmax(dim=-1) == log_q.argmax(dim=-1)
        loss = -log_q[:, :-1].gather(2, ids.to(log_q.device)[:, 1:, None])[:, :, 0]
        for place, sequence in enumerate(batch):
            for part, where in ((PROMPT, slice(1, self.prompt)), (CONTINUATION, slice(self.prompt, len(sequence) - 1))):
                measures = {"loss": loss, "kl": kl, "agreement": same}
                values = {name: _mean(value[place, where]) for name, value in measures.items()}
                self.read.append({**_key(setting, sequence), "part": part, **values, "kept": kept[place]})

    def writing(self, settings: Sequence[Setting], shown: frozenset[str] = frozenset(), report: Reporter = silent) -> None:
        """Each method, and first the dense model, continues the prompts; the dense model reads what was written."""
        done, total = 0, (len(settings) + 1) * len(self.sequences)
        for batch, ids in self._batches(WRITTEN_TOGETHER, self.generated + self.prompt):
            prompts, draws = ids[:, : self.prompt], torch.stack([self._draws(sequence) for sequence in batch])
            for setting in (WHOLE, *settings):
                report(f"writing, {setting.name} at {setting.density:g}", done, total)
                found = forward.write(self.model, setting.ready, setting.asked, prompts, draws)
                for place, sequence in enumerate(batch):
                    self._judge(setting, sequence, prompts[place], found, place, sequence.prompt.id in shown)
                done += len(batch)

    def _judge(
        self, setting: Setting, sequence: TokenSequence, prompt: Tensor, found: forward.Texts, place: int, shown: bool
    ) -> None:
        """Rows of one text that was written: the dense model's distributions along it against the method's."""
        tokens = found.tokens[place]
        whole = forward.read(self.model, None, 1.0, torch.cat([prompt, tokens])[None], len(prompt)).logits[0]
        log_p = log_probabilities(whole[len(prompt) - 1 : -1])
        log_q = log_probabilities(found.logits[place])
        kl, same = divergence(log_p, log_q), log_p.argmax(dim=-1) == log_q.argmax(dim=-1)
        surprise = -log_p.gather(1, tokens.to(log_p.device)[:, None])[:, 0]
        measures = {"kl": kl, "agreement": same, "surprise": surprise}
        for step in range(0, len(tokens), STRETCH):
            values = {name: _mean(value[step : step + STRETCH]) for name, value in measures.items()}
            self.written.append({**_key(setting, sequence), "step": step, **values})
        text = self._text(tokens) if shown else ""
        self.answers.append({**_key(setting, sequence), "kept": found.kept[place], "text": text})

    def _text(self, tokens: Tensor) -> str:
        return "" if self.model.tokenizer is None else str(self.model.tokenizer.decode(tokens.tolist()))

    def _draws(self, sequence: TokenSequence) -> Tensor:
        """(G,) uniform numbers, the same for every method; they follow the text's name and not its place."""
        random = np.random.default_rng([self.seed, *sequence.prompt.id.encode()])
        return torch.from_numpy(random.random(self.generated))

    def _batches(self, most: int, tokens: int) -> Iterator[tuple[Sequence[TokenSequence], Tensor]]:
        """Texts and their (B, T) ids, as many at once as logits of so many tokens leave room for."""
        size = max(1, min(most, LOGIT_BYTES // (4 * tokens * self.model.vocab_size)))
        for start in range(0, len(self.sequences), size):
            batch = self.sequences[start : start + size]
            yield batch, torch.from_numpy(np.stack([sequence.token_ids for sequence in batch]))


def _key(setting: Setting, sequence: TokenSequence) -> Row:
    return {"method": setting.name, "density": setting.density, "prompt_id": sequence.prompt.id}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
