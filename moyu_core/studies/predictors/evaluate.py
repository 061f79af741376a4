"""One dense pass, every method: sets, hits and energies of a sequence, layer by layer, while its activations pass by.

Captured energies come out of one product a set: of its own columns of W_down where all tokens share the set, else of the masked
rows, which are written into one buffer that stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moyu_core import sets
from moyu_core.methods.protocol import Choice, Ready, Rows
from moyu_core.spec import SetRule

Key = tuple[str, float]
"""Method and density."""


@dataclass(eq=False)
class Outcome:
    """One method at one density in one layer of one sequence, over N tokens (position 0 left out).

    Attributes:
        packed: (N, B) predicted sets, or (1, B) where all tokens share one.
        hits, kept: (N,) neurons in both sets, and in the predicted one.
        energy, squares: (N,) captured energy, and share of sum (|a|c)^2; NaN in the prompt part unless it was asked for.
    """

    packed: sets.Packed
    hits: NDArray[np.int64]
    kept: NDArray[np.int64]
    energy: NDArray[np.float32]
    squares: NDArray[np.float32]


@dataclass(eq=False)
class LayerOutcome:
    """All methods in one layer of one sequence.

    Attributes:
        layer: which.
        reference: (N, B) reference sets.
        needed: (N,) their sizes.
        outcomes: by method and density.
    """

    layer: int
    reference: sets.Packed
    needed: NDArray[np.int64]
    outcomes: dict[Key, Outcome]


class JudgedSequence:
    """The methods' choices on one sequence.

    Args:
        methods: bound to the model.
        densities: kept shares.
        prompt_tokens: tokens that the methods may take in, sink token included.
        rule: the reference set.
        thresholds: eps by layer, for the rule `cett`.
        weights: layer -> (F, d), W_down transposed.
        detail: whether energies are wanted in the prompt part too, where methods are shown and not judged.
    """

    def __init__(
        self,
        methods: Sequence[Ready],
        densities: Sequence[float],
        prompt_tokens: int,
        rule: SetRule,
        thresholds: Mapping[int, float],
        weights: Mapping[int, Tensor],
        detail: bool = False,
    ) -> None:
        self._choices: dict[str, Choice] = {ready.method.name: ready.begin() for ready in methods}
        self._steerable = {ready.method.name: ready.method.steerable for ready in methods}
        self._densities, self._prompt_tokens = densities, prompt_tokens
        self._rule, self._thresholds, self._weights = rule, thresholds, weights
        self._first = 0 if detail else prompt_tokens - 1

    def layer(self, rows: Rows) -> LayerOutcome:
        """Everything about one layer; `rows` holds the whole sequence, sink token first."""
        prompt, judged = rows.part(slice(0, self._prompt_tokens)), rows.part(slice(1, None))
        masks: dict[Key, Tensor] = {}
        for name, choice in self._choices.items():
            choice.see(prompt)
            densities = self._densities if self._steerable[name] else self._densities[:1]
            for density, mask in zip(densities, choice.sets(judged, densities), strict=True):
                masks[name, density] = mask
        reference = reference_sets(judged, self._rule, self._thresholds.get(rows.layer))
        later = {key: mask if mask.ndim == 1 else mask[self._first :] for key, mask in masks.items()}
        energies = captured(judged.part(slice(self._first, None)), later, self._weights[rows.layer])
        outcomes = {key: _outcome(mask, reference, *energies[key]) for key, mask in masks.items()}
        for name, steerable in self._steerable.items():
            if not steerable:
                outcomes |= {(name, density): outcomes[name, self._densities[0]] for density in self._densities[1:]}
        return LayerOutcome(rows.layer, reference, sets.sizes(reference), outcomes)


def reference_sets(rows: Rows, rule: SetRule, threshold: float | None) -> sets.Packed:
    """(N, B) packed sets that were needed: the largest |a| c, or those above the layer's CETT threshold."""
    score = rows.contribution.cpu().numpy()
    if threshold is not None:
        return sets.threshold_sets(score, threshold)
    return sets.top_sets(score, rule.count(score.shape[1]))


def captured(rows: Rows, masks: Mapping[Key, Tensor], weight: Tensor) -> dict[Key, tuple[Tensor, Tensor]]:
    """(energy, squares) of each mask, (N,) each; 1 for a token whose output is 0.

    Args:
        rows: N tokens.
        masks: (N, F) or (F,) bool.
        weight: (F, d), W_down transposed.
    """
    whole, square = rows.a @ weight, rows.contribution.square()
    length, total = whole.norm(dim=1), square.sum(dim=1)
    buffer, norms = torch.empty_like(rows.a), rows.norms.square()
    found = {}
    for key, mask in masks.items():
        kept, squares = _shared(rows.a, square, mask, weight) if mask.ndim == 1 else _own(rows.a, norms, mask, weight, buffer)
        energy = 1 - torch.sub(whole, kept, out=kept).norm(dim=1) / length
        found[key] = (_share(energy, length), _share(squares / total, total))
    return found


def _share(value: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, value, 1.0)


def _shared(a: Tensor, square: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Output and squares of a set that all tokens share: only its columns are multiplied."""
    columns = mask.nonzero()[:, 0]
    return a[:, columns] @ weight[columns], square @ mask.to(square.dtype)


def _own(a: Tensor, norms: Tensor, mask: Tensor, weight: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a set that differs by token; `norms` are the squared column norms, `buffer` is overwritten."""
    torch.mul(a, mask, out=buffer)
    output = buffer @ weight
    return output, buffer.square_() @ norms


def _outcome(mask: Tensor, reference: sets.Packed, energy: Tensor, squares: Tensor) -> Outcome:
    packed = sets.pack(np.atleast_2d(mask.cpu().numpy()))
    hits = sets.shared(packed, reference)
    kept = np.broadcast_to(sets.sizes(packed), hits.shape)
    return Outcome(packed, hits, kept, _whole(energy, len(hits)), _whole(squares, len(hits)))


def _whole(values: Tensor, tokens: int) -> NDArray[np.float32]:
    """(N,) with NaN in front for the tokens that were left out."""
    found = np.full(tokens, np.nan, np.float32)
    found[tokens - len(values) :] = values.cpu().numpy()
    return found
