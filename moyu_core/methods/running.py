"""A method applied to a model while it runs: prompt, then generation, as an explicit state machine.

    with running(model, ready, density=0.3) as run:
        run.begin([len(prompt)])                 # forgets every prompt before this one
        out = model.model(input_ids=prompt, use_cache=True)
        run.generate()
        out = model.model(input_ids=next_token, past_key_values=out.past_key_values, use_cache=True)

The phase is what the caller says and never guessed from the number of tokens: a one-token prompt is a prompt, several passes
before `generate` are one chunked prompt, several tokens after it are generation. Keys and values of all heads are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.masking import masked
from moyu_core.methods.inputs import Observer
from moyu_core.methods.protocol import DENSE, MASKED, Choice, Ready, Rows
from moyu_core.sites import Activation

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

PROMPT, GENERATION = "prompt", "generation"


@contextmanager
def running(
    model: LoadedModel,
    ready: Ready,
    density: float,
    prompt: str = DENSE,
    layers: Sequence[int] | None = None,
    first_dense: int = 1,
) -> Iterator[Run]:
    """Masks the chosen layers by the method while the block runs the model.

    Args:
        model: a loaded model.
        ready: a method bound to it.
        density: kept share, in (0, 1].
        prompt: `dense` (the prompt runs whole and is only looked at) or `masked`. A method that is frozen at the end of the
            prompt masks a pass of the prompt by what it has seen up to and including that pass.
        layers: layers that are masked, None = all.
        first_dense: positions at the start that always run dense: the sink token.

    Raises:
        InputError: an unknown value of `prompt`, or a layer that does not exist.
    """
    if prompt not in (DENSE, MASKED):
        raise InputError(f"A prompt runs {DENSE!r} or {MASKED!r}, not {prompt!r}.")
    observer = Observer(model, layers, frozenset(ready.method.inputs), ready.method.needs_gate)
    run = Run(ready, density, prompt == MASKED, first_dense, observer)
    with observer.hooks(), masked(model, run.choose, layers):
        yield run


class Run:
    """The state of one batch of prompts. Created by `running`."""

    def __init__(self, ready: Ready, density: float, mask_prompt: bool, first_dense: int, observer: Observer) -> None:
        self._ready, self._density, self._mask_prompt, self._first = ready, density, mask_prompt, first_dense
        self._observer = observer
        self._choices: list[Choice] = []
        self._lengths: list[int] = []
        self._passed: dict[int, int] = {}
        self.phase = ""

    def begin(self, lengths: Sequence[int]) -> None:
        """New prompts, padded on the right to one width; whatever was known of earlier ones is gone."""
        self.phase, self._lengths, self._passed = PROMPT, list(lengths), {}
        self._choices = [self._ready.begin() for _ in lengths]

    def generate(self) -> None:
        """The prompt is over: from the next pass on every token is masked.

        Raises:
            InputError: no prompt was begun.
        """
        if not self.phase:
            raise InputError("Generation cannot start before a prompt; call begin and run the prompt first.")
        self.phase = GENERATION

    def choose(self, activation: Activation) -> Tensor | None:
        """What `masking.masked` asks for each layer and pass."""
        if not self.phase:
            raise InputError("A pass was run before a prompt was begun; call begin first.")
        rows = self._observer.rows(activation)
        width = len(rows.a) // len(self._choices)
        start = self._passed.get(rows.layer, 0)
        self._passed[rows.layer] = start + width
        keep = torch.ones_like(rows.a, dtype=torch.bool)
        for place, (choice, length) in enumerate(zip(self._choices, self._lengths, strict=True)):
            own = slice(place * width, place * width + self._width(length, start, width))
            if own.stop > own.start:
                keep[own] = self._sequence(choice, rows.part(own), start)
        if self.phase == PROMPT and not self._mask_prompt:
            return None
        return keep if activation.experts is None else by_slot(keep, activation)

    def _width(self, length: int, start: int, width: int) -> int:
        """Tokens of this pass that are no padding."""
        return width if self.phase == GENERATION else max(0, min(length - start, width))

    def _sequence(self, choice: Choice, rows: Rows, start: int) -> Tensor:
        """One sequence's mask, (n, F)."""
        keep = torch.ones_like(rows.a, dtype=torch.bool)
        if self.phase == PROMPT:
            choice.see(rows)
            if not self._mask_prompt:
                return keep
        keep[:] = choice.choose(rows, self._density)
        keep[: max(0, self._first - start)] = True
        return keep


def by_slot(keep: Tensor, activation: Activation) -> Tensor:
    """(N, E*F) of all experts -> (N, K, F) of the routed ones."""
    assert activation.experts is not None
    site = activation.site
    whole = keep.view(len(keep), site.experts, site.n_neurons)
    return whole.gather(1, activation.experts.unsqueeze(-1).expand(-1, -1, site.n_neurons))
