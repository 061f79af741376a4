"""What is measured of an FFN along training, per layer, on a fixed batch of held-out text.

The gradient is that of the summed cross-entropy of a sequence, so it does not depend on how many sequences are measured; at
layers before the last it contains the effect on later tokens too. Position 0, the sink, is left out. Standard errors are over
sequences: tokens of one text are not independent. Everything is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moyu_core.cett import find_threshold
from moyu_core.schema import DEFAULT_CETT_TARGET
from moyu_core.training.tiny_models import down_projections


@dataclass(frozen=True)
class Value:
    """One measured number.

    Attributes:
        layer: decoder layer; -1 = the whole model.
        measure: a key of `schema.training.MEASURES`, `held_out_loss` or `train_loss`.
        value: mean over sequences.
        error: its standard error over sequences; NaN where there is none.
    """

    layer: int
    measure: str
    value: float
    error: float


@contextmanager
def captured(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects what enters the modules, with its graph, in the order in which they run."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def activations_and_gradients(model: Any, inputs: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(a, dL/da) of every layer, each (N, T, F), L = cross-entropy summed over all tokens. Leaves no gradients behind.

    Args:
        model: a causal language model whose weights require gradients.
        inputs, labels: (N, T) ids; labels[:, t] is the token that follows inputs[:, t].
    """
    with captured(down_projections(model)) as seen, torch.enable_grad():
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
        gradients = torch.autograd.grad(loss, seen)
    return [(a.detach().view(*inputs.shape, -1), g.view(*inputs.shape, -1)) for a, g in zip(seen, gradients, strict=True)]


def measure(model: Any, inputs: Tensor, labels: Tensor) -> list[Value]:
    """All of `schema.training.MEASURES` for every layer."""
    return of_layers(model, activations_and_gradients(model, inputs, labels))


def of_layers(model: Any, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Value]:
    """All of `schema.training.MEASURES` from the (a, dL/da) of every layer, as `activations_and_gradients` gives them."""
    found: list[Value] = []
    for layer, ((a, gradient), down) in enumerate(zip(pairs, down_projections(model), strict=True)):
        numbers = {**shares(a[:, 1:], down), **drift(a[:, 1:], gradient[:, 1:])}
        found += [Value(layer, name, *mean_and_error(by_sequence)) for name, by_sequence in numbers.items()]
    return found


def shares(a: Tensor, down: Any) -> dict[str, Tensor]:
    """Exact-zero share, CETT density, effective neurons and norm by sequence, each (N,).

    Args:
        a: (N, T, F) activations.
        down: the down projection, a Linear; its bias is left out as CETT wants it.
    """
    weight = down.weight.detach().float()
    rows = a.flatten(0, 1).float()
    contribution = rows.abs() * torch.linalg.vector_norm(weight, dim=0)
    eps, _ = find_threshold(contribution, rows, DEFAULT_CETT_TARGET, lambda x: x @ weight.T)
    active = (contribution >= eps) & (contribution > 0)
    return {
        "zero_share": (a == 0).float().mean(dim=(1, 2)),
        "cett_density": active.view_as(a).float().mean(dim=(1, 2)),
        "effective_neurons": effective_number(a).mean(dim=1),
        "l2_norm": torch.linalg.vector_norm(a.float(), dim=-1).mean(dim=1),
    }


def silent_share(a: Tensor) -> float:
    """Share of neurons that are exactly 0 at every position of (N, T, F): zeros that no token brings back on this text."""
    return (a == 0).all(dim=1).all(dim=0).float().mean().item()


def effective_number(a: Tensor) -> Tensor:
    """exp of the entropy of a^2 / sum a^2 over the last axis: 1 = one neuron does it all, F = all do the same; 0 for a = 0."""
    energy = a.double() ** 2
    total = energy.sum(dim=-1)
    share = energy / total.clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(-1)
    return torch.where(total > 0, torch.special.entr(share).sum(dim=-1).exp(), 0.0).float()


def drift(a: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Which way descent pushes activations that are not 0, by sequence, each (N,); 0 where a sequence has none.

    Args:
        a: (N, T, F) activations.
        gradient: dL/da, the same shape.
    """
    pushed = a.sign() * gradient
    alive = (a != 0).sum(dim=(1, 2)).clamp_min(1)
    return {
        "sign_gradient": pushed.double().sum(dim=(1, 2)) / alive,
        "gradient_size": pushed.double().abs().sum(dim=(1, 2)) / alive,
        "shrinking_share": (pushed > 0).double().sum(dim=(1, 2)) / alive,
    }


def mean_and_error(by_sequence: Tensor) -> tuple[float, float]:
    """Mean over sequences and its standard error; NaN with one sequence."""
    numbers = by_sequence.double()
    error = numbers.std().item() / len(numbers) ** 0.5 if len(numbers) > 1 else float("nan")
    return numbers.mean().item(), error


@torch.no_grad()
def loss(model: Any, inputs: Tensor, labels: Tensor, batch: int = 32,
         judged: Callable[[int], None] = lambda done: None) -> tuple[float, float]:
    """Mean cross-entropy in nats a token, and its standard error over sequences.

    Args:
        model: the model, on the device of the ids.
        inputs, labels: (N, T) ids.
        batch: sequences at once.
        judged: called before every batch with the number of sequences done.
    """
    found = []
    for start in range(0, len(inputs), batch):
        judged(start)
        logits = model(input_ids=inputs[start:start + batch], use_cache=False).logits.float()
        wanted = labels[start:start + batch]
        each = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        found.append(each.view_as(wanted).double().mean(dim=1).cpu())
    return mean_and_error(torch.cat(found))
