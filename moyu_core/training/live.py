"""A network that is trained while one watches: the one of the theorem, f = V a, on the next character of English text.

    twelve characters -> embedding -> hidden layer a = act(p) of F neurons -> V -> logits over characters

No norm, no residual stream, nothing between a and the logits, so that the closed form speaks of it at step 0; Adam without weight
decay afterwards. The text is the language reference that comes with Python (`pydoc_data`, PSF licence), so nothing is fetched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moyu_core.errors import InputError
from moyu_core.studies.origin_requests import LIVE_STEPS, LiveRequest
from moyu_core.training import measures
from moyu_core.training.measures import Value

CONTEXT, EMBEDDING, BATCH, RATE = 12, 16, 256, 3e-3
HELD_OUT, GROUPS, GROUP = 0.05, 32, 16
"""Share of the text at its end that is not trained on; it is measured in 32 stretches of 16 characters."""
POINTS = 40
"""Measurements along LIVE_STEPS steps, log-spaced, step 0 and the last among them."""
ACTS = {"relu": functional.relu, "gelu": functional.gelu, "swiglu": functional.silu}
Entry = dict[str, Any]


@lru_cache(maxsize=1)
def text() -> str:
    """The text, ASCII only.

    Raises:
        InputError: this Python came without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError("This Python lacks pydoc_data.topics, the text of live training; install all of it.") from None
    return "\n\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore").decode()


def text_sha256() -> str:
    """What makes two texts the same; they differ between versions of Python."""
    return hashlib.sha256(text().encode()).hexdigest()


@lru_cache(maxsize=1)
def encoded() -> tuple[Tensor, int]:
    """The text as (n,) ids of its characters, and how many characters there are."""
    letters, ids = np.unique(np.frombuffer(text().encode(), np.uint8), return_inverse=True)
    return torch.from_numpy(ids.astype(np.int64)), len(letters)


class Network(nn.Module):
    """f = V a with a = act(p), gated for swiglu.

    Args:
        activation: relu, gelu or swiglu.
        width: F; the gated layer has 2/3 of it.
        characters: K, inputs and classes.
        seed: of all weights; entries of V are independent N(0, 1/F).
    """

    def __init__(self, activation: str, width: int, characters: int, seed: int) -> None:
        super().__init__()
        self.act, gated = ACTS[activation], activation == "swiglu"
        neurons = width * 2 // 3 if gated else width
        self.embedding = nn.Embedding(characters, EMBEDDING)
        self.up = nn.Linear(CONTEXT * EMBEDDING, neurons)
        self.gate = nn.Linear(CONTEXT * EMBEDDING, neurons) if gated else None
        self.down = nn.Linear(neurons, characters, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            scale = 1.0 if name.startswith("embedding") else weight.shape[-1] ** -0.5
            weight.data = scale * torch.randn(weight.shape, generator=generator) if weight.ndim > 1 else torch.zeros_like(weight)

    def activation(self, contexts: Tensor) -> Tensor:
        """(N, CONTEXT) ids -> (N, F) activations."""
        x = self.embedding(contexts).flatten(1)
        return self.act(self.up(x)) if self.gate is None else self.act(self.gate(x)) * self.up(x)

    def forward(self, contexts: Tensor) -> Tensor:
        """(N, CONTEXT) ids -> (N, K) logits."""
        return self.down(self.activation(contexts))


def contexts(ids: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """The characters from each start on, (N, CONTEXT), and the one behind them, (N,)."""
    window = ids[starts[:, None] + torch.arange(CONTEXT + 1)]
    return window[:, :-1], window[:, -1]


def measure(model: Network, inputs: Tensor, labels: Tensor) -> list[Value]:
    """`schema.training.MEASURES` of the hidden layer (layer 0) and the held-out loss; errors are over stretches of text."""
    with torch.enable_grad():
        a = model.activation(inputs).detach().requires_grad_(True)
        each = functional.cross_entropy(model.down(a), labels, reduction="none")
        (gradient,) = torch.autograd.grad(each.sum(), a)
    a = a.detach()
    by_group = (a.view(GROUPS, GROUP, -1), gradient.view(GROUPS, GROUP, -1))
    numbers = {**measures.shares(by_group[0], model.down), **measures.drift(*by_group)}
    found = [Value(0, name, *measures.mean_and_error(values)) for name, values in numbers.items()]
    return [*found, Value(-1, "held_out_loss", *measures.mean_and_error(each.detach().view(GROUPS, GROUP).mean(dim=1)))]


def steps_measured(steps: int) -> set[int]:
    """After which steps everything is measured: the last, and of one log-spaced row those before it, whatever the last is.

    So a training that ends early measures what a shorter one does.
    """
    row = (LIVE_STEPS ** (np.arange(2 * POINTS) / (POINTS - 2))).round().astype(int)  # from 1 on, beyond LIVE_STEPS too
    return {0, steps, *row[row <= steps].tolist()}


def training(request: LiveRequest, over: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, list[Entry]]]:
    """Trains; yields (step, what was measured after it, empty for most steps), from step 0 on. The same request, the same bits.

    Args:
        request: what to train.
        over: asked after every step; True ends it there, and what was yielded is that of a request of so many steps.
    """
    ids, characters = encoded()
    split = int(len(ids) * (1 - HELD_OUT))
    first = np.linspace(split, len(ids) - GROUP - CONTEXT - 1, GROUPS).astype(np.int64)
    judged = contexts(ids, torch.from_numpy((first[:, None] + np.arange(GROUP)).ravel()))
    model = Network(request.activation, request.width, characters, request.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    order, wanted = torch.Generator().manual_seed(request.seed), steps_measured(request.steps)
    for step in range(request.steps + 1):
        last = step == request.steps or (step > 0 and over())
        yield step, _entries(step, measure(model, *judged)) if last or step in wanted else []
        if last:
            return
        inputs, labels = contexts(ids, torch.randint(split - CONTEXT - 1, (BATCH,), generator=order))
        loss = functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _entries(step: int, values: list[Value]) -> list[Entry]:
    """Rows of the table `curves`, without activation and seed."""
    return [{"step": step, "tokens": step * BATCH, **asdict(value)} for value in values]
