"""DejaVu as a method (RODA): a predictor reads an earlier hidden state and decides before the FFN starts.

The published code holds three alignments of input and layer; each is a method of its own here and is trained
with the alignment it is used with. `dejavu-threshold` reads the same part as `dejavu` and keeps logits above a threshold
instead of the k largest: the question that users ask about top-k can be answered by looking.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from moyu_core import sets
from moyu_core.methods import calibration, dejavu, spool
from moyu_core.methods.parts import Part
from moyu_core.methods.protocol import Choice, Cost, Method, Rows, ScoreChoice, Shape, ThresholdChoice
from moyu_core.methods.text import documents_hash, require
from moyu_core.progress import Reporter, silent
from moyu_core.spec import SetRule

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel
    from moyu_core.token_sequences import TokenSequence

TOKENS = 40_960
SAMPLED_DOCUMENTS = 8
"""Held-out documents whose rows, all together, are as many as thresholds are taken from; a few give every fourth row."""
LABELS = SetRule("top", density=0.1)
"""What "active" means to the predictor: for ReLU the published label is a > 0, for the others DejaVu defines none."""


class _Choice(ScoreChoice):
    def __init__(self, layers: Mapping[int, dejavu.Predictor], source: str) -> None:
        self._layers, self._source = layers, source

    def score(self, rows: Rows) -> Tensor:
        """Logits from the hidden state."""
        return self._layers[rows.layer].scores(rows.inputs[self._source])


class _ThresholdChoice(ThresholdChoice):
    def __init__(self, layers: Mapping[int, dejavu.Predictor], source: str, threshold: Callable[[int, float], float]) -> None:
        self._scores, self._threshold = _Choice(layers, source), threshold

    def score(self, rows: Rows) -> Tensor:
        """Logits from the hidden state."""
        return self._scores.score(rows)

    def threshold(self, layer: int, density: float) -> float:
        """The logit that keeps this share of the neurons of held-out documents."""
        return self._threshold(layer, density)


class DejaVu(Method):
    """The k largest logits."""

    name, title, rank, family = "dejavu", "DejaVu", 6, "RODA"
    looks_at = "the residual stream before the FFN's norm, same layer"
    inputs, part = ("residual",), "dejavu"
    source = "arXiv 2310.17157; rank d/8, since rank 1000 would cost as much as a small model's FFN"

    def fit(self, model: LoadedModel, documents: Sequence[TokenSequence], seed: int = 0, report: Reporter = silent) -> Part:
        """Train one predictor a layer; labels are the 10 % largest |a| c, for ReLU models the neurons that fire."""
        require(model, documents, 4, 512)
        started = time.perf_counter()
        rule = labels_of(model)
        settings = dejavu.Settings()
        rank = dejavu.default_rank(model.d_model)
        with spool.spooled(model, documents, self.inputs, lambda rows: self._kept(rows, rule), report) as rows:
            layers = [site.layer for site in model.sites]
            fitted = []
            for number, site in enumerate(model.sites):
                fitted.append(_fit_layer(rows.documents(site.layer, ("x", "active")), _width(site), rank, seed, settings,
                                         lambda stage, done, total, n=number: report("training predictors", n, len(layers))))
        recipe = {**asdict(settings), "rank": rank, "seed": seed, "input": self.inputs[0], "labels": asdict(rule),
                  "documents": len(documents), "tokens": sum(map(len, documents)), "stored": "8 bits a weight, a scale a row"}
        return Part(self.part, model.identity.weights, model.identity.name, _tensors(layers, fitted), recipe,
                    documents_hash(documents), _validation(fitted), round(time.perf_counter() - started, 1))

    def _kept(self, rows: Rows, rule: SetRule) -> spool.Kept:
        """Half-precision inputs and packed labels of one document."""
        if rule.name == "positive":
            active = sets.positive_sets(rows.a.cpu().numpy())
        else:
            active = sets.top_sets(rows.contribution.cpu().numpy(), rule.count(rows.a.shape[1]))
        return {"x": spool.half(rows.inputs[self.inputs[0]]), "active": active}

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """The predictors by layer."""
        assert part is not None
        layers = predictors(part, model.device)
        return lambda: _Choice(layers, self.inputs[0])

    def cost(self, shape: Shape, density: float) -> Cost:
        """r (d + F) for the predictor; all matrices of the FFN shrink."""
        return Cost.of(shape, shape.matrices * density, dejavu.default_rank(shape.d) * (shape.d + shape.n_neurons))


class DejaVuThreshold(DejaVu):
    """Logits above the threshold that keeps the asked share on held-out documents."""

    name, title, rank = "dejavu-threshold", "DejaVu by threshold", 6

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """The predictors and the thresholds."""
        assert part is not None
        layers, threshold = predictors(part, model.device), calibration.threshold_of(part, "logit")
        return lambda: _ThresholdChoice(layers, self.inputs[0], threshold)


class DejaVuBlock(DejaVu):
    """The same from the layer's input: the attention can run meanwhile."""

    name, title, rank = "dejavu-block", "DejaVu, half a layer ahead", 7
    looks_at = "the input of the layer, before its attention"
    inputs, part = ("block",), "dejavu-block"


class DejaVuPrevious(DejaVu):
    """The same from the layer before: the whole layer can be prepared meanwhile."""

    name, title, rank = "dejavu-previous", "DejaVu, a layer ahead", 7
    looks_at = "the residual stream before the previous layer's FFN"
    inputs, part = ("previous",), "dejavu-previous"


def labels_of(model: LoadedModel) -> SetRule:
    """a > 0 where the activation function makes exact zeros, else the largest 10 % by |a| c."""
    from moyu_core.architectures import shape

    activation = shape(model.model.config.to_dict()).activation
    gated = any(site.gated for site in model.sites)
    return SetRule("positive") if activation.startswith("relu") and not gated else LABELS


def predictors(part: Part, device: torch.device) -> dict[int, dejavu.Predictor]:
    """The predictors of a part by layer."""
    layers = part.tensors["layers"].tolist()
    down, up = (wide(part, name).to(device) for name in ("down", "up"))
    return {layer: dejavu.Predictor(down[place], up[place]) for place, layer in enumerate(layers)}


def narrow(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., rows, columns) as signed bytes and one scale a row, float32."""
    scale = weight.abs().amax(dim=-1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (weight / scale.unsqueeze(-1)).round().to(torch.int8), scale


def wide(part: Part, name: str) -> Tensor:
    """The inverse of `narrow`, float32."""
    return part.tensors[name].float() * part.tensors[f"{name}_scale"].float().unsqueeze(-1)


def _width(site: Any) -> int:
    """F, of all experts together in a mixture layer."""
    return site.n_neurons * max(site.experts, 1)


def _fit_layer(
    documents: Any, n_neurons: int, rank: int, seed: int, settings: dejavu.Settings, report: Reporter
) -> tuple[dejavu.Predictor, Tensor]:
    """The predictor with its weights as they will be stored, judged again, and its quantiles of logits on held-out documents."""
    trained = dejavu.train(documents, n_neurons, rank, seed, settings, report)
    down, up = ((stored.float() * scale.unsqueeze(-1)) for stored, scale in (narrow(trained.down), narrow(trained.up)))
    predictor = dejavu.Predictor(down, up, recipe=trained.recipe)
    held_out = dejavu.split(len(documents), settings.held_out, seed)[1]
    predictor.validation = dejavu.evaluate(predictor, documents, held_out, n_neurons)
    step = max(4, len(held_out) // SAMPLED_DOCUMENTS)
    logits = torch.cat([predictor.scores(documents[number][0])[::step].clone() for number in held_out])  # a view keeps all
    return predictor, calibration.quantiles(logits)


def _tensors(layers: list[int], fitted: list[tuple[dejavu.Predictor, Tensor]]) -> dict[str, Tensor]:
    down, down_scale = narrow(torch.stack([predictor.down for predictor, _ in fitted]))
    up, up_scale = narrow(torch.stack([predictor.up for predictor, _ in fitted]))
    return {"layers": torch.tensor(layers), "down": down, "down_scale": down_scale, "up": up, "up_scale": up_scale,
            "logit_quantiles": torch.stack([quantiles for _, quantiles in fitted])}


def _validation(fitted: list[tuple[dejavu.Predictor, Tensor]]) -> dict[str, Any]:
    """Means over layers, and recall at equal size of each layer."""
    records = [predictor.validation for predictor, _ in fitted]
    means = {name: round(float(np.mean([record[name] for record in records])), 4) for name in records[0]}
    means["rows"] = int(records[0]["rows"])
    return {**means, "recall_by_layer": [round(record["recall"], 4) for record in records]}


METHODS = (DejaVu(), DejaVuThreshold(), DejaVuBlock(), DejaVuPrevious())
