"""A trained predictor against the diversity of its history: recall on domains it has seen and has not, at equal total tokens.

DejaVu predictors (moyu_core.methods.dejavu) are trained on texts of k = 1, 2, 4, 8 domains. Texts are split by document: the last
ones of every domain are for testing. The seed draws the domains, the first weights and the order; seeds are the units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from moyu_core import sets
from moyu_core.device_reducers import reduce_anywhere
from moyu_core.errors import InputError
from moyu_core.methods import dejavu
from moyu_core.methods.protocol import Rows
from moyu_core.methods.spool import Kept, LayerDocuments, Spool, half, spooled
from moyu_core.models import LoadedModel
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import Prompt
from moyu_core.reducers import RowReducer
from moyu_core.sites import Site
from moyu_core.spec import SetRule
from moyu_core.studies.history.requests import LOOK_AHEADS
from moyu_core.token_sequences import TokenSequence, tokenise

TRAINED_ON = (1, 2, 4, 8)
TEXT_TOKENS = 192
"""Tokens taken of each text."""
TEST_SHARE = 0.25
"""Of the texts of each domain; at least one."""
LAYERS = 4
"""Layers that get predictors, evenly spaced: training is the dear part."""
SETTINGS = dejavu.Settings(epochs=40, patience=4, batch=128, held_out=0.15)
"""Few tokens, so smaller steps and more passes than DejaVu's; it stops where recall on held-out documents does."""
MIN_TOKENS = 1024
"""Two batches of training rows; with fewer a predictor learns the rates and nothing else."""

Row = dict[str, object]


@dataclass(frozen=True)
class Split:
    """The texts of each domain, for training and for testing."""

    training: dict[str, list[TokenSequence]]
    testing: dict[str, list[TokenSequence]]

    @property
    def tokens(self) -> int:
        """Training tokens that every domain has: what a predictor of one domain can be given, so what all get."""
        return min(sum(len(text) - 1 for text in texts) for texts in self.training.values())


def split(model: LoadedModel, texts: Sequence[Prompt]) -> Split:
    """Texts by domain, split by document. The request has seen to it that there are domains and texts enough.

    Raises:
        InputError: too few tokens.
    """
    domains: dict[str, list[TokenSequence]] = {}
    for sequence in tokenise(model, texts, TEXT_TOKENS + 1):
        domains.setdefault(sequence.prompt.domain, []).append(sequence)
    testing = {name: max(1, round(TEST_SHARE * len(found))) for name, found in domains.items()}
    found = Split(
        {name: texts[: -testing[name]] for name, texts in domains.items()},
        {name: texts[-testing[name] :] for name, texts in domains.items()},
    )
    if found.tokens < MIN_TOKENS:
        raise InputError(
            f"A predictor needs at least {MIN_TOKENS} training tokens in every domain and the smallest has "
            f"{found.tokens}; give longer texts or leave the predictor out."
        )
    return found


def predictors(
    model: LoadedModel,
    texts: Sequence[Prompt],
    rule: SetRule,
    thresholds: dict[int, float],
    seeds: int,
    report: Reporter = silent,
    look_ahead: str = LOOK_AHEADS[0],
) -> Iterator[Row]:
    """Rows of the table `predictor` (without model), one for each seed, number of domains, test domain and layer."""
    parts = split(model, texts)
    sites = spaced(model.sites, LAYERS)
    reducers = {site.layer: RowReducer(rule, thresholds.get(site.layer)) for site in sites}
    training, testing = ([text for found in part.values() for text in found] for part in (parts.training, parts.testing))
    with (
        spooled(model, training, [look_ahead], lambda rows: _kept(rows, reducers, look_ahead, False), report) as train,
        spooled(model, testing, [look_ahead], lambda rows: _kept(rows, reducers, look_ahead, True), report) as test,
    ):
        number, total = 0, seeds * len(TRAINED_ON) * len(sites)
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(sorted(parts.training)).tolist()
            for k in [k for k in TRAINED_ON if k < len(order)]:
                for site in sites:
                    report("training predictors", number, total)
                    number += 1
                    documents = _documents(train, site.layer, parts, order[:k])
                    found = dejavu.train(documents, site.n_neurons, seed=seed, settings=SETTINGS, device=model.device)
                    size = float(np.mean([sets.sizes(documents[place][1]).mean() for place in range(len(documents))]))
                    for domain, scores in _tested(found, test, site, parts, size):
                        yield {
                            "seed": seed,
                            "trained_on": k,
                            "domain": domain,
                            "seen": domain in order[:k],
                            "layer": site.layer,
                            "tokens": documents.tokens,
                            **scores,
                        }


def spaced(sites: Sequence[Site], count: int) -> list[Site]:
    """At most so many sites, evenly spaced, first and last among them."""
    return [sites[place] for place in sorted({round(place) for place in np.linspace(0, len(sites) - 1, count)})]


def _kept(rows: Rows, reducers: dict[int, RowReducer], look_ahead: str, values: bool) -> Kept:
    """What a layer's rows leave: nothing where no predictor is trained."""
    if rows.layer not in reducers:
        return {}
    active = reduce_anywhere(reducers[rows.layer], rows.a, rows.norms).active
    kept = {"x": half(rows.inputs[look_ahead]), "active": active}
    return {**kept, "a": rows.a.cpu().numpy()} if values else kept


class Beginnings:
    """The first rows of some documents, read when they are asked for.

    Args:
        documents: a layer's.
        taken: (number, rows) of each that is used.
    """

    def __init__(self, documents: LayerDocuments, taken: Sequence[tuple[int, int]]) -> None:
        self._documents, self._taken = documents, taken
        self.tokens = sum(rows for _, rows in taken)

    def __len__(self) -> int:
        return len(self._taken)

    def __getitem__(self, index: int, /) -> dejavu.Document:
        number, rows = self._taken[index]
        states, active = self._documents[number]
        return states[:rows], active[:rows]


def _documents(spool: Spool, layer: int, parts: Split, domains: Sequence[str]) -> Beginnings:
    """Training documents of these domains, the same number of tokens of each, the same in total for every choice."""
    numbers = _numbers(parts.training)
    taken = []
    for domain in domains:
        left = parts.tokens // len(domains)
        for number, text in zip(numbers[domain], parts.training[domain], strict=True):
            rows = min(left, len(text) - 1)
            if rows:
                taken.append((number, rows))
                left -= rows
    return Beginnings(spool.documents(layer, ["x", "active"]), taken)


def _numbers(texts: dict[str, list[TokenSequence]]) -> dict[str, range]:
    """Document numbers of each domain in the order in which they were spooled."""
    starts = np.concatenate([[0], np.cumsum([len(found) for found in texts.values()])]).tolist()
    return {name: range(first, last) for name, first, last in zip(texts, starts, starts[1:], strict=False)}


def _tested(found: dejavu.Predictor, spool: Spool, site: Site, parts: Split, size: float) -> Iterator[tuple[str, dict[str, float]]]:
    """Measures on the test texts of every domain, sets of the mean size of the training rows' sets."""
    read = spool.documents(site.layer, ["x", "active", "a"])
    k = max(1, round(size))
    for domain, numbers in _numbers(parts.testing).items():
        texts = (read[number] for number in numbers)
        rows = ((found.choose(states, k).cpu().numpy(), sets.unpack(active, site.n_neurons), a) for states, active, a in texts)
        yield domain, scores(rows, site)


def scores(texts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], site: Site) -> dict[str, float]:
    """Recall, precision, Jaccard (ratios of sums), captured energy (mean over rows), |A^|/F and marginal chance recall.

    Args:
        texts: (predicted, wanted, a) of one text after the other: (N, F) bool, bool and float32 activations.
        site: whose down projection they enter.
    """
    hits = kept = needed = captured = 0.0
    rows, predicted_rate, wanted_rate = 0, np.zeros(site.n_neurons), np.zeros(site.n_neurons)
    for predicted, wanted, a in texts:
        hits, kept, needed = hits + float((predicted & wanted).sum()), kept + float(predicted.sum()), needed + float(wanted.sum())
        captured += _captured(predicted, a, site)
        rows += len(a)
        predicted_rate += predicted.sum(axis=0)
        wanted_rate += wanted.sum(axis=0)
    p, q = wanted_rate / max(rows, 1), predicted_rate / max(rows, 1)
    return {
        "recall": hits / max(needed, 1),
        "precision": hits / max(kept, 1),
        "jaccard": hits / max(kept + needed - hits, 1),
        "captured": captured / max(rows, 1),
        "density": kept / max(rows * site.n_neurons, 1),
        "chance": float((p * q).sum() / max(p.sum(), 1e-12)),
    }


def _captured(predicted: np.ndarray, a: np.ndarray, site: Site) -> float:
    """Sum over rows of 1 - ||what is missing of the output|| / ||output||."""
    device = site.weight().device
    with torch.inference_mode():
        values = torch.from_numpy(a).to(device)
        missed = site.down(values.masked_fill(torch.from_numpy(predicted).to(device), 0)).norm(dim=1)
        whole = site.down(values).norm(dim=1)
        return float((1 - torch.where(whole > 0, missed / whole, 0)).sum())
