"""Heavy hitters: positions that later ones attend to most. Does blocking the attention to them change which neurons fire?

Blocking the three heaviest positions is compared with blocking other positions, chosen so that as much attention is lost and as far
back. The sink and the last quarter of a text are never blocked; the last quarter is where KL is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moyu_core.errors import ModelError
from moyu_core.masking import kl_divergence
from moyu_core.models import LoadedModel
from moyu_core.studies.inertia.conditions import Text, sequence_ids, unit_tokens
from moyu_core.studies.inertia.overlap import counts_of, topic_numbers
from moyu_core.studies.inertia.pairs import Pairs
from moyu_core.studies.inertia.spread import known
from moyu_core.studies.inertia.units import Mask, Reader, additive, causal
from moyu_core.tokens import token_texts

HEAVY = 3
"""Positions blocked in each text."""
CANDIDATES = 2000
"""Random sets of positions among which the best match is taken."""
RECENT = 1 / 4
"""Share of positions at the end that are never blocked."""


@dataclass(frozen=True)
class Choice:
    """What is blocked in one text.

    Attributes:
        heavy, matched: positions.
        received: (T,) mean attention that a position gets from each later one.
        lost: (T,) share of all attention that goes to the position from later ones.
        first_recent: first position that is never blocked.
    """

    heavy: np.ndarray
    matched: np.ndarray
    received: np.ndarray
    lost: np.ndarray
    first_recent: int

    def blocked(self, what: str) -> np.ndarray:
        """The positions blocked in the comparison `heavy`, `matched` or `none`."""
        return {"heavy": self.heavy, "matched": self.matched, "none": self.heavy[:0]}[what]


def measure(reader: Reader, texts: Sequence[Text], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables `attention`, `blocked` and `hitters`.

    Raises:
        ModelError: the model gives no attention weights, or cannot be given an attention mask of its own.
    """
    ids = [sequence_ids(text, [reader.model.sink_token_id])[0] for text in texts]
    random = np.random.default_rng([seed, 6])
    attention = [mean_attention(reader, each, number, len(ids)) for number, each in enumerate(ids)]
    choices = [choose(each, random) for each in attention]
    blocked = _blocked(reader, texts, ids, choices)
    rows = []
    pairs = Pairs(unit_tokens(texts), topic_numbers(texts))
    for what in ("none", "heavy", "matched"):
        units = reader.sequences(texts, f"attention blocked: {what}", mask=_mask(choices, what) if what != "none" else None)
        sums = counts_of(pairs, units)
        rows += [
            {"blocked": what, "layer": layer, "within": known(w), "across": known(x)}
            for layer, w, x in zip(reader.layers, sums.mean_within(), sums.mean_across(), strict=True)
        ]
    return {"attention": _attention_rows(reader.model, texts, ids, choices), "blocked": blocked, "hitters": rows}


@torch.inference_mode()
def mean_attention(reader: Reader, ids: np.ndarray, done: int, total: int) -> np.ndarray:
    """(T, T) attention weights (query, key), mean over layers and heads.

    Raises:
        ModelError: the architecture has no attention weights to give.
    """
    reader.report("attention weights", done, total)
    reader.tokens += len(ids)
    model = reader.model.model
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise ModelError(f"{reader.model.identity.name} gives no attention weights ({error}).") from error
    try:
        tokens = torch.from_numpy(ids)[None].to(reader.model.device)
        given = model(input_ids=tokens, output_attentions=True, use_cache=False).attentions
    except (ValueError, NotImplementedError, TypeError, AttributeError) as error:
        raise ModelError(f"{reader.model.identity.name} gives no attention weights ({error}).") from error
    finally:
        model.set_attn_implementation(before)
    weights = [each for each in given or () if each is not None]
    if not weights or weights[0].shape[-2:] != (len(ids), len(ids)):
        raise ModelError(f"{reader.model.identity.name} gives no attention weights; its layers return none.")
    return torch.stack([each[0].float().mean(0) for each in weights]).mean(0).cpu().numpy()


def choose(attention: np.ndarray, random: np.random.Generator) -> Choice:
    """Heavy positions, and others that lose as much attention at about the same place."""
    length = len(attention)
    later = np.tril(attention, -1)
    received = later.sum(0) / np.maximum(np.arange(length - 1, -1, -1), 1)
    lost = later.sum(0) / (length - 1)
    first_recent = max(2, length - max(1, int(RECENT * length)))
    open_ones = np.arange(1, first_recent)
    count = min(HEAVY, max(1, len(open_ones) // 4))
    heavy = np.sort(open_ones[np.argsort(-received[open_ones], kind="stable")[:count]])
    rest = np.setdiff1d(open_ones, heavy)
    return Choice(heavy, _matched(heavy, rest, lost, length, random), received, lost, first_recent)


def _matched(heavy: np.ndarray, rest: np.ndarray, lost: np.ndarray, length: int, random: np.random.Generator) -> np.ndarray:
    """Other positions whose lost attention and mean place come nearest to the heavy ones'; more of them, as each loses less."""
    best, nearest = rest[:1], np.inf
    if not len(rest):
        return rest
    for _ in range(CANDIDATES):
        chosen = random.choice(rest, int(random.integers(1, min(len(rest), 6 * len(heavy)) + 1)), replace=False)
        mass = abs(lost[chosen].sum() / lost[heavy].sum() - 1)
        place = abs(chosen.mean() - heavy.mean()) / length
        if mass + place < nearest:
            best, nearest = chosen, mass + place
    return np.sort(best)


def _mask(choices: Sequence[Choice], what: str) -> Mask:
    """The attention of each text with what is blocked taken out; a position always sees itself."""

    def allowed(number: int, length: int) -> Tensor:
        mask = causal(length)
        mask[:, torch.from_numpy(choices[number].blocked(what))] = False
        return mask | torch.eye(length, dtype=torch.bool)

    return allowed


@torch.inference_mode()
def _blocked(reader: Reader, texts: Sequence[Text], ids: Sequence[np.ndarray], choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """Rows of the table `blocked`."""
    rows = []
    masks = {what: _mask(choices, what) for what in ("none", "heavy", "matched")}
    for number, (text, each, choice) in enumerate(zip(texts, ids, choices, strict=True)):
        reader.report("blocking attention", number, len(texts))
        tokens = torch.from_numpy(each)[None].to(reader.model.device)
        logits = {}
        for what, mask in masks.items():
            allowed = additive(mask(number, len(each))[None], reader.model)
            given = reader.model.model(input_ids=tokens, attention_mask=allowed, use_cache=False).logits
            logits[what] = given[0, choice.first_recent :]
            reader.tokens += len(each)
        for what in ("heavy", "matched"):
            positions = choice.blocked(what)
            rows.append(
                {
                    "prompt_id": text.prompt.id,
                    "topic": text.topic,
                    "blocked": what,
                    "positions": len(positions),
                    "mass": float(choice.lost[positions].sum()),
                    "place": known(positions.mean() / len(each)),
                    "kl": float(kl_divergence(logits["none"], logits[what]).mean()),
                }
            )
    return rows


def _attention_rows(
    model: LoadedModel, texts: Sequence[Text], ids: Sequence[np.ndarray], choices: Sequence[Choice]
) -> list[dict[str, Any]]:
    rows = []
    for text, each, choice in zip(texts, ids, choices, strict=True):
        roles = np.full(len(each), "", object)
        roles[choice.first_recent :] = "recent"
        roles[choice.heavy], roles[choice.matched], roles[0] = "heavy", "matched", "sink"
        for position, token in enumerate(token_texts(model.tokenizer, each.tolist())):
            rows.append(
                {
                    "prompt_id": text.prompt.id,
                    "position": position,
                    "token": token,
                    "attention": known(choice.received[position]) if position < len(each) - 1 else None,
                    "role": roles[position],
                }
            )
    return rows
