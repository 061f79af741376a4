"""Everything masked: prompt, continuation and generation of texts of one length, at a size that is the same for all methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moyu_core.decode import stays
from moyu_core.methods.protocol import MASKED, Choice, Ready, Rows, ThresholdChoice
from moyu_core.methods.running import Run, running

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

TOLERANCE = 0.02
"""How far the kept share may lie from the asked one, relative to it."""
LOOKS = 10


class Counted(Choice):
    """A choice that counts what it keeps; where one set serves the whole prompt it is worked out once a layer.

    Args:
        choice: the method's own, on one prompt that is seen in one piece.
        stays: whether its set depends on nothing after the prompt.
    """

    def __init__(self, choice: Choice, stays: bool) -> None:
        self._choice, self._stays = choice, stays
        self._known: dict[int, tuple[list[Tensor], Tensor]] = {}
        self._kept: Tensor | float = 0.0
        self._rows = 0

    @property
    def kept(self) -> float:
        """Mean share of the neurons that were kept so far."""
        return float(self._kept) / max(self._rows, 1)

    def see(self, rows: Rows) -> None:
        """As `Choice.see`."""
        self._choice.see(rows)

    def sets(self, rows: Rows, densities: Sequence[float]) -> list[Tensor]:
        """As `Choice.sets`."""
        masks, share = self._known.get(rows.layer) or self._sets(rows, densities)
        self._kept = self._kept + share * len(rows.a)
        self._rows += len(rows.a)
        return masks

    def _sets(self, rows: Rows, densities: Sequence[float]) -> tuple[list[Tensor], Tensor]:
        masks = self._choice.sets(rows, densities)
        found = masks, masks[0].float().mean()
        if self._stays:
            self._known[rows.layer] = found
        return found


@dataclass
class Texts:
    """What a pass over some texts gave.

    Attributes:
        logits: (B, T, V) of the continuation pass, (B, G, V) of generation.
        kept: (B,) mean share kept over layers and masked tokens, the prompt's among them; 1 for the dense model.
        tokens: (B, G) what was written; empty for a pass over given texts.
    """

    logits: Tensor
    kept: list[float]
    tokens: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


@contextmanager
def _steered(model: LoadedModel, ready: Ready | None, density: float, texts: int, prompt: int) -> Iterator[_Phases]:
    """The model under the method, every prompt begun; dense without a method."""
    if ready is None:
        yield _Phases(None, [1.0] * texts)
        return
    opened: list[Counted] = []

    def begin() -> Choice:
        opened.append(Counted(ready.begin(), stays(ready.method)))
        return opened[-1]

    with running(model, replace(ready, begin=begin), density, MASKED) as run:
        run.begin([prompt] * texts)
        phases = _Phases(run, [])
        yield phases
    phases.kept += [choice.kept for choice in opened]


@dataclass
class _Phases:
    """Prompt, then generation, of a masked run; nothing to say to the dense model."""

    run: Run | None
    kept: list[float]

    def generate(self) -> None:
        if self.run is not None:
            self.run.generate()


@torch.inference_mode()
def read(model: LoadedModel, ready: Ready | None, density: float, ids: Tensor, prompt: int) -> Texts:
    """Given texts: the prompt masked in one pass, the continuation behind its cache in another.

    A set that is frozen at the end of the prompt masks the prompt too, by all of it: its best case.

    Args:
        model: a loaded model.
        ready: the method, None for the dense model.
        density: share that it is asked to keep.
        ids: (B, T) token ids, sink token first, which stays dense.
        prompt: positions of the prompt.
    """
    ids = ids.to(model.device)
    with _steered(model, ready, density, len(ids), prompt) as phases:
        first = model.model(input_ids=ids[:, :prompt], use_cache=True)
        phases.generate()
        rest = model.model(input_ids=ids[:, prompt:], past_key_values=first.past_key_values, use_cache=True)
    return Texts(torch.cat([first.logits, rest.logits], dim=1), phases.kept)


@torch.inference_mode()
def write(model: LoadedModel, ready: Ready | None, density: float, ids: Tensor, draws: Tensor) -> Texts:
    """Each prompt continued by the model itself, one masked token after the other.

    Tokens are drawn, not the most probable ones: greedy texts of small models run into loops, where any two models agree.

    Args:
        model, ready, density: as in `read`.
        ids: (B, P) prompts.
        draws: (B, G) uniform numbers, which decide what is drawn.
    """
    logits, tokens = [], []
    with _steered(model, ready, density, len(ids), ids.shape[1]) as phases:
        found = model.model(input_ids=ids.to(model.device), use_cache=True)
        phases.generate()
        for step in range(draws.shape[1]):
            logits.append(found.logits[:, -1])
            tokens.append(drawn(logits[-1], draws[:, step]))
            if step + 1 < draws.shape[1]:
                found = model.model(
                    input_ids=tokens[-1][:, None].to(model.device), past_key_values=found.past_key_values, use_cache=True
                )
    return Texts(torch.stack(logits, dim=1), phases.kept, torch.stack(tokens, dim=1))


def drawn(logits: Tensor, draws: Tensor) -> Tensor:
    """(B,) token ids on the CPU: where the cumulative probabilities of (B, V) logits pass the (B,) uniform numbers."""
    cumulative = torch.softmax(logits.cpu().double(), dim=-1).cumsum(dim=-1)
    places = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return places.clamp_max(logits.shape[-1] - 1)


def asked_of(model: LoadedModel, ready: Ready, density: float, prompts: Sequence[Tensor]) -> float:
    """What the method has to be asked for so that it keeps `density` of the neurons on the masked prompts.

    Methods of a fixed size are asked for the density itself. Thresholds come from other texts, in a dense pass, and keep more or
    fewer here; they are steered by the size alone, never by how well they do.

    Args:
        model, ready: as in `read`.
        density: share to be kept.
        prompts: batches (B, P).
    """
    if density == 1 or not isinstance(ready.begin(), ThresholdChoice):
        return density

    def kept(asked: float) -> float:
        found = [_kept_of_prompts(model, ready, asked, ids) for ids in prompts]
        return sum(map(sum, found)) / sum(map(len, found))

    return steered(kept, density)


def steered(kept: Callable[[float], float], density: float, looks: int = LOOKS) -> float:
    """Bisection for the asked share at which `kept`, which grows with it, is `density` within TOLERANCE; the nearest one seen."""
    low, high, asked = 0.0, 1.0, density
    seen: dict[float, float] = {}
    for _ in range(looks):
        seen[asked] = kept(asked)
        if abs(seen[asked] - density) <= TOLERANCE * density:
            break
        low, high = (asked, high) if seen[asked] < density else (low, asked)
        asked = (low + high) / 2
    return min(seen, key=lambda asked: abs(seen[asked] - density))


@torch.inference_mode()
def _kept_of_prompts(model: LoadedModel, ready: Ready, asked: float, ids: Tensor) -> list[float]:
    with _steered(model, ready, asked, len(ids), ids.shape[1]) as phases:
        model.decoder(input_ids=ids.to(model.device), use_cache=False)
    return phases.kept
