"""Prompts as token ids, sink token first, and the batches in which they go through a model.

Every sequence starts with the model's sink token (position 0), without which the first word of a prompt would look
like no other. Sequences are padded on the right: in a causal model nothing at the end
can reach what stands before it, so padding changes no number and needs no mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt
from moyu_core.tokens import encode, token_texts

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

MAX_TOKENS = 1024
"""The longest sequence that is captured unless another limit is asked for; what is cut is counted and shown."""


@dataclass(frozen=True)
class TokenSequence:
    """One tokenised prompt.

    Attributes:
        prompt: where it comes from.
        token_ids: (T,) int64, sink token first.
        vocabulary: text by token id, of these ids at least; one for all sequences, as lists of texts grow with a corpus.
        cut_tokens: tokens left out at the end.
    """

    prompt: Prompt
    token_ids: np.ndarray
    vocabulary: Mapping[int, str] = field(default_factory=dict, repr=False)
    cut_tokens: int = 0

    @property
    def texts(self) -> list[str]:
        """T token texts."""
        return [self.vocabulary[token] for token in self.token_ids.tolist()]

    def __len__(self) -> int:
        return len(self.token_ids)


def tokenise(model: LoadedModel, prompts: Sequence[Prompt], max_tokens: int = MAX_TOKENS) -> list[TokenSequence]:
    """Sink token + the prompt's tokens, cut after `max_tokens` and after what the model can take."""
    limit = min(max_tokens, model.max_positions)
    if limit < 2:
        raise InputError(
            f"A sequence holds the sink token and at least one more; the limit of {limit} tokens is too low."
        )
    sequences, vocabulary = [], {}
    for prompt in prompts:
        ids = [model.sink_token_id, *encode(model.tokenizer, prompt.text)]
        if len(ids) < 2:
            raise InputError(f"Prompt {prompt.id!r} has no token in the vocabulary of {model.identity.name}; reword it.")
        kept = np.asarray(ids[:limit], np.int64)
        new = sorted(set(kept.tolist()) - vocabulary.keys())
        vocabulary |= zip(new, token_texts(model.tokenizer, new), strict=True) if new else {}
        sequences.append(TokenSequence(prompt, kept, vocabulary, len(ids) - len(kept)))
    return sequences


def batches(sequences: Sequence[TokenSequence], batch_tokens: int) -> Iterator[list[TokenSequence]]:
    """Sequences of similar length together, longest first, at most `batch_tokens` rows with padding (but at least one)."""
    batch: list[TokenSequence] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def pad(batch: Sequence[TokenSequence], fill: int) -> torch.Tensor:
    """(B, T) token ids, padded on the right."""
    ids = torch.full((len(batch), max(map(len, batch))), fill, dtype=torch.long)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = torch.from_numpy(sequence.token_ids)
    return ids
