"""MoEfication (RIDA): a dense FFN's neurons are clustered into experts of equal size, and a router picks experts for each token.

Source: arXiv 2110.01786 and its public code: balanced k-means on normalised weight rows, about 32 neurons an expert; router
Linear(d, E) - tanh - Linear(E, E) without bias on x / ||x||, first matrix at the centroids, second at the identity; soft target =
the expert's mass / the largest of the batch, binary cross-entropy, Adam 0.01, 30 epochs. Its mass is sum relu(w x), which needs
exact zeros. Derived here for gated FFNs: rows of gate and up side by side, mass = sum |a| c, labels from x itself,
since only ReLU is homogeneous. The best epoch is kept (the public code deploys the second best). Outputs are not reweighted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from moyu_core.methods import dejavu, spool
from moyu_core.methods.inputs import Front, fronts
from moyu_core.methods.parts import Part
from moyu_core.methods.protocol import Choice, Cost, Method, Rows, Shape, dense_only
from moyu_core.methods.selection import top_mask
from moyu_core.methods.text import documents_hash, require
from moyu_core.progress import Reporter, silent
from moyu_core.spec import SetRule

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel
    from moyu_core.token_sequences import TokenSequence

TOKENS = 16_384
EXPERT_SIZE = 32
EPOCHS, BATCH, LEARNING_RATE = 30, 512, 0.01
ROUNDS = 3
"""Rounds of balanced assignment after the unbalanced start."""
TOP_SHARE = 0.2
"""The validation metric is the mass captured by this share of the experts, as in the public code."""


@dataclass(frozen=True, eq=False)
class Router:
    """One layer's experts and router.

    Attributes:
        expert: (F,) the expert of each neuron.
        first: (E, d).
        second: (E, E).
        captured: mass captured by the top 20 % of the experts on held-out documents.
    """

    expert: Tensor
    first: Tensor
    second: Tensor
    captured: float = float("nan")

    def scores(self, x: Tensor) -> Tensor:
        """(N, d) FFN inputs -> (N, E)."""
        unit = torch.nn.functional.normalize(x.float(), dim=1)
        return torch.tanh(unit @ self.first.T) @ self.second.T


class _Choice(Choice):
    def __init__(self, routers: dict[int, Router]) -> None:
        self._routers = routers

    def sets(self, rows: Rows, densities: Sequence[float]) -> list[Tensor]:
        """The neurons of the k best experts, k = max(1, floor(density * E)): |A| is k F / E for every token."""
        router = self._routers[rows.layer]
        scores = router.scores(rows.inputs["ffn"])
        experts = scores.shape[1]
        return [top_mask(scores, SetRule("top", density=density).count(experts))[:, router.expert] for density in densities]


class MoEfication(Method):
    """Experts of about 32 neurons, chosen by a router for every token."""

    name, title, rank, family = "moefication", "MoEfication", 9, "RIDA"
    looks_at = "the FFN's own input, after its norm"
    inputs, part = ("ffn",), "moefication"
    source = "arXiv 2110.01786; for gated FFNs as derived in this project"

    def applies(self, model: LoadedModel) -> str:
        """A model that has experts needs none made."""
        return dense_only(model) and "it is a mixture of experts already; its own router is shown as `native`."

    def fit(self, model: LoadedModel, documents: Sequence[TokenSequence], seed: int = 0, report: Reporter = silent) -> Part:
        """Cluster each layer's neurons and train its router."""
        require(model, documents, 4, 512)
        reason = self.applies(model)
        if reason:
            return super().fit(model, documents, seed, report)
        started = time.perf_counter()
        found, routers = fronts(model), []
        experts = {}
        for number, site in enumerate(model.sites):
            report("clustering neurons", number, len(model.sites))
            experts[site.layer] = cluster(features(found[site.layer], site.n_neurons), expert_size(site.n_neurons), seed)
        with spool.spooled(model, documents, self.inputs, lambda rows: _kept(rows, experts[rows.layer]), report) as rows:
            for number, site in enumerate(model.sites):
                report("training routers", number, len(model.sites))
                data = rows.documents(site.layer, ("x", "mass"))
                centroids = _centroids(_rows_in(found[site.layer])[: site.n_neurons], experts[site.layer])
                routers.append(train_router(data, centroids, experts[site.layer], seed))
        recipe = {"seed": seed, "expert_size": expert_size(model.sites[0].n_neurons), "epochs": EPOCHS, "batch": BATCH,
                  "learning_rate": LEARNING_RATE, "documents": len(documents), "tokens": sum(map(len, documents))}
        captured = [round(router.captured, 4) for router in routers]
        validation = {"captured_mass_top20": round(float(np.mean(captured)), 4), "by_layer": captured}
        return Part(self.part, model.identity.weights, model.identity.name, _tensors(model, routers), recipe,
                    documents_hash(documents), validation, round(time.perf_counter() - started, 1))

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """The routers by layer."""
        assert part is not None
        tensors = {name: value.to(model.device) for name, value in part.tensors.items()}
        routers = {
            layer: Router(tensors["expert"][place].long(), tensors["first"][place].float(), tensors["second"][place].float())
            for place, layer in enumerate(part.tensors["layers"].tolist())
        }
        return lambda: _Choice(routers)

    def cost(self, shape: Shape, density: float) -> Cost:
        """d E + E^2 for the router; all matrices of the FFN shrink, in blocks."""
        experts = shape.n_neurons // expert_size(shape.n_neurons)
        kept = SetRule("top", density=density).count(experts) / experts
        return Cost.of(shape, shape.matrices * kept, shape.d * experts + experts**2)


def expert_size(n_neurons: int) -> int:
    """The divisor of F nearest to 32, so that the experts are equal."""
    divisors = [size for size in range(1, n_neurons + 1) if n_neurons % size == 0]
    return min(divisors, key=lambda size: (abs(size - EXPERT_SIZE), size))


def features(front: Front, n_neurons: int) -> NDArray[np.float32]:
    """(F, d) or, gated, (F, 2d): each neuron's rows of the first matrices, each of length 1, side by side."""
    parts = _rows_in(front).split(n_neurons)
    return torch.cat([torch.nn.functional.normalize(rows, dim=1) for rows in parts], dim=1).cpu().numpy()


def _rows_in(front: Front) -> Tensor:
    """The first matrices below each other, (F or 2F, d) float32, gate first."""
    weights: list[Any] = [module.weight for module in front.first]
    matrices = [weight.T if isinstance(module, Conv1D) else weight for module, weight in zip(front.first, weights, strict=True)]
    return torch.cat([matrix.detach().float() for matrix in matrices])


def cluster(points: NDArray[np.float32], size: int, seed: int = 0) -> NDArray[np.int64]:
    """(F,) cluster of each point, all clusters of exactly `size`: k-means, then rounds of optimal assignment to equal clusters."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    count = len(points) // size
    centres = KMeans(count, n_init="auto", max_iter=30, random_state=seed).fit(points).cluster_centers_
    labels = np.zeros(len(points), np.int64)
    for _ in range(ROUNDS):
        distance = np.square(points).sum(1)[:, None] - 2 * points @ centres.T + np.square(centres).sum(1)
        seats = linear_sum_assignment(np.repeat(distance, size, axis=1))[1]
        labels = seats // size
        centres = np.stack([points[labels == expert].mean(axis=0) for expert in range(count)])
    return labels


def _centroids(rows: Tensor, expert: NDArray[np.int64]) -> Tensor:
    """(E, d) mean normalised row of each expert."""
    unit = torch.nn.functional.normalize(rows, dim=1)
    which = torch.from_numpy(expert).to(rows.device)
    return torch.stack([unit[which == number].mean(dim=0) for number in range(int(which.max()) + 1)])


def mass(contribution: Tensor, expert: NDArray[np.int64]) -> Tensor:
    """(N, E) sum of |a| c over each expert's neurons."""
    which = torch.from_numpy(expert).to(contribution.device)
    return contribution.new_zeros(len(contribution), int(which.max()) + 1).index_add_(1, which, contribution)


def _kept(rows: Rows, expert: NDArray[np.int64]) -> spool.Kept:
    return {"x": spool.half(rows.inputs["ffn"]), "mass": spool.half(mass(rows.contribution, expert))}


def train_router(documents: dejavu.Documents, centroids: Tensor, expert: NDArray[np.int64], seed: int = 0) -> Router:
    """Train one layer's router on (x, mass) documents; whole documents are held out."""
    training, held_out = dejavu.split(len(documents), 0.1, seed)
    x, y = _together(documents, training)
    x_test, y_test = _together(documents, held_out)
    first, second = centroids.cpu().clone().requires_grad_(), torch.eye(len(centroids)).requires_grad_()
    optimizer = torch.optim.Adam([first, second], lr=LEARNING_RATE)
    random = torch.Generator().manual_seed(seed)
    which = torch.from_numpy(expert)
    best = Router(which, first.detach().clone(), second.detach().clone())
    best = Router(which, best.first, best.second, captured(best.scores(x_test), y_test))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=random).split(BATCH):
            _step(Router(which, first, second), optimizer, x[rows], y[rows])
        now = Router(which, first.detach(), second.detach())
        reached = captured(now.scores(x_test), y_test)
        if reached > best.captured:
            best = Router(which, first.detach().clone(), second.detach().clone(), reached)
    return best


def _together(documents: dejavu.Documents, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One layer's rows of some documents; a router's inputs are small enough to be held."""
    parts = [documents[number] for number in numbers]
    x, y = (torch.from_numpy(np.concatenate([part[place] for part in parts]).astype(np.float32)) for place in (0, 1))
    return x, y


def _step(router: Router, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    with torch.enable_grad():
        target = y / y.max().clamp_min(torch.finfo(torch.float32).tiny)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(router.scores(x), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    optimizer.step()


def captured(scores: Tensor, mass_of: Tensor) -> float:
    """Share of the experts' mass that lies in the 20 % with the largest scores; rows without mass are left out."""
    chosen = top_mask(scores.detach(), SetRule("top", density=TOP_SHARE).count(scores.shape[1]))
    total = mass_of.sum(dim=1)
    share = (mass_of * chosen).sum(dim=1)[total > 0] / total[total > 0]
    return float(share.mean()) if len(share) else 0.0


def _tensors(model: LoadedModel, routers: list[Router]) -> dict[str, Tensor]:
    return {
        "layers": torch.tensor([site.layer for site in model.sites]),
        "expert": torch.stack([router.expert for router in routers]).to(torch.int16),
        "first": torch.stack([router.first for router in routers]).half(),
        "second": torch.stack([router.second for router in routers]).half(),
    }


METHODS = (MoEfication(),)
