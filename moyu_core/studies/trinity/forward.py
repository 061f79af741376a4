"""Teacher-forced: a method decides on every token of a text in one masked forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moyu_core.masking import masked
from moyu_core.methods.inputs import Observer
from moyu_core.methods.protocol import DENSE, MASKED, Choice, Ready
from moyu_core.methods.running import by_slot
from moyu_core.sites import Activation

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel


@dataclass(frozen=True)
class Forced:
    """What one pass gave.

    Attributes:
        logits: (B, T, V).
        kept: (B,) mean share of the neurons kept over layers and the positions behind the prompt.
    """

    logits: Tensor
    kept: Tensor


def method_logits(
    model: LoadedModel, ids: Tensor, lengths: Sequence[int], ready: Ready, density: float, prompt: int, run_prompt: str = DENSE
) -> Forced:
    """Next-token logits with only the chosen neurons behind the prompt.

    Args:
        model: a loaded model.
        ids: (B, T) token ids, sink token first, padded on the right.
        lengths: real length of each row, all above `prompt`.
        ready: the method.
        density: share that it keeps.
        prompt: positions 0 to prompt - 1 are the prompt, which a method that reads the prefix sees.
        run_prompt: `dense`, or `masked`: then a method that decides by token decides in the prompt too, the sink left dense.
    """
    steering = _Steering(model, ids, lengths, ready, density, prompt, run_prompt)
    with torch.inference_mode(), steering.hooks():
        logits = model.model(input_ids=ids.to(model.device), use_cache=False).logits
    return Forced(logits, steering.kept / len(model.sites))


class _Steering:
    """Prompt and continuation of every text in one pass: unlike `methods.running` nothing is cached, and the sets are counted."""

    def __init__(
        self, model: LoadedModel, ids: Tensor, lengths: Sequence[int], ready: Ready, density: float, prompt: int, run_prompt: str
    ) -> None:
        self._model, self._ready, self._density = model, ready, density
        self._width, self._lengths, self._prompt = ids.shape[1], lengths, prompt
        self._first = 1 if run_prompt == MASKED and not ready.method.frozen else prompt
        self._choices: list[Choice] = [ready.begin() for _ in lengths]
        self._observer = Observer(model, None, frozenset(ready.method.inputs), ready.method.needs_gate)
        self.kept = torch.zeros(len(lengths))

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """While it lasts the model runs on the chosen neurons."""
        with self._observer.hooks(), masked(self._model, self._choose):
            yield

    def _choose(self, activation: Activation) -> Tensor:
        rows = self._observer.rows(activation)
        mask = torch.ones(rows.a.shape, dtype=torch.bool, device=rows.a.device)
        for number, (choice, length) in enumerate(zip(self._choices, self._lengths, strict=True)):
            start = number * self._width
            choice.see(rows.part(slice(start, start + self._prompt)))
            where = slice(start + self._first, start + length)
            mask[where] = choice.choose(rows.part(where), self._density)
            self.kept[number] += float(mask[start + self._prompt : start + length].float().mean())
        return mask if activation.experts is None else by_slot(mask, activation)
