"""Token table (ours): the current token alone decides, by a look-up; and the same mixed with the prompt's statistic.

    T_l(v)_i = mean over calibration occurrences of token v of |a_i| c_i / || |a| c ||; S_l the same over all tokens
    rare tokens back off: (n_v T(v) + kappa S) / (n_v + kappa); tokens never seen use S
    mixed: T(v) + lambda_l G, G = GRIFFIN's statistic of the prompt times c, of length 1; lambda by layer

The set is known before the forward pass starts. Our definition; it is judged like every other method.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moyu_core import companding
from moyu_core.errors import InputError
from moyu_core.methods.griffin import PromptStatistic
from moyu_core.methods.inputs import observe
from moyu_core.methods.parts import Part
from moyu_core.methods.protocol import Choice, Cost, Method, Rows, ScoreChoice, Shape
from moyu_core.methods.text import documents_hash, require
from moyu_core.progress import Reporter, silent
from moyu_core.token_sequences import batches, pad

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel
    from moyu_core.token_sequences import TokenSequence

TOKENS = 40_960
KAPPA = 4.0
"""Occurrences at which a token's own mean and the mean of all tokens weigh the same."""
LAMBDAS = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0)
DENSITY_OF_FIT = 0.1
MEMORY = 1 << 30
"""Bytes of the sums while fitting; the most frequent tokens get a row."""
BATCH_ROWS = 512
HELD_OUT = 0.15
"""Share of the documents that lambda is fitted on; the table never saw them."""


class Table:
    """Scores by token.

    Args:
        ids: (V,) token ids, sorted.
        counts: (V,) calibration occurrences.
        codes, scale: (V, L, F) and (V, L), companded T.
        mean: (L, F) S.
        layers: the layers of L.
    """

    def __init__(self, part: Part) -> None:
        tensors = part.tensors
        self._ids = tensors["ids"].numpy()
        self._counts = tensors["counts"].float()
        self._codes, self._scale = tensors["codes"], tensors["scale"].float()
        self._decode = torch.from_numpy(companding.level_table())
        self._mean = tensors["mean"].float()
        self._place = {layer: place for place, layer in enumerate(tensors["layers"].tolist())}

    def scores(self, tokens: Tensor, layer: int) -> Tensor:
        """(N, F) on the CPU, backed off for rare tokens."""
        place = self._place[layer]
        unique, back = np.unique(tokens.cpu().numpy(), return_inverse=True)
        rows = self._mean[place].repeat(len(unique), 1)
        found = np.minimum(np.searchsorted(self._ids, unique), len(self._ids) - 1)
        known = np.flatnonzero(self._ids[found] == unique)
        if len(known):
            which = torch.from_numpy(found[known])
            own = self._decode[self._codes[which, place].long()] * self._scale[which, place, None]
            n = self._counts[which, None]
            rows[torch.from_numpy(known)] = (n * own + KAPPA * self._mean[place]) / (n + KAPPA)
        return rows[torch.from_numpy(back)]


class _TableChoice(ScoreChoice):
    def __init__(self, table: Table) -> None:
        self._table = table

    def score(self, rows: Rows) -> Tensor:
        """By the token's id alone."""
        return self._table.scores(rows.tokens, rows.layer).to(rows.a.device)


class _MixedChoice(ScoreChoice):
    def __init__(self, table: Table, lambdas: dict[int, float]) -> None:
        self._table, self._lambdas, self._prompt = table, lambdas, PromptStatistic()

    def see(self, rows: Rows) -> None:
        """The prompt's statistic."""
        self._prompt.see(rows)

    def score(self, rows: Rows) -> Tensor:
        """The table's score plus lambda times the prompt's."""
        own = self._table.scores(rows.tokens, rows.layer).to(rows.a.device)
        return own + self._lambdas[rows.layer] * prefix(self._prompt, rows)


class TokenTable(Method):
    """A look-up by the current token."""

    name, title, rank, family = "token-table", "Token table (ours)", 3, "RODA"
    looks_at = "the id of the current token"
    part = "token_table"
    source = "our definition"

    def fit(self, model: LoadedModel, documents: Sequence[TokenSequence], seed: int = 0, report: Reporter = silent) -> Part:
        """Means by token on most documents, lambda by layer on the rest."""
        require(model, documents, 4, 512)
        started = time.perf_counter()
        kept = max(1, round(HELD_OUT * len(documents)))
        order = np.random.default_rng(seed).permutation(len(documents)).tolist()
        fitting, tuning = [documents[n] for n in order[kept:]], [documents[n] for n in order[:kept]]
        tensors = _Means(model, fitting).run(report)
        recipe = {"documents": len(documents), "tokens": sum(map(len, documents)), "types": len(tensors["ids"]), "kappa": KAPPA,
                  "lambdas": LAMBDAS, "seed": seed, "held_out_documents": kept}
        part = Part(self.part, model.identity.weights, model.identity.name, tensors, recipe, documents_hash(documents))
        tensors["lambda"], captured = fit_lambda(model, Table(part), tuning, report)
        shares = zip(LAMBDAS, captured.tolist(), strict=True)
        validation = {"energy_by_lambda": {str(value): round(share, 4) for value, share in shares}}
        return Part(part.name, part.weights, part.model, tensors, recipe, part.data_hash, validation,
                    round(time.perf_counter() - started, 1))

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """The table."""
        assert part is not None
        table = Table(part)
        return lambda: _TableChoice(table)

    def cost(self, shape: Shape, density: float) -> Cost:
        """No multiply-adds; F/8 bytes for a stored set, fetched before the pass starts."""
        return Cost.of(shape, shape.matrices * density, 0, shape.n_neurons / 8)


class Mixed(TokenTable):
    """The table plus the prompt's statistic."""

    name, title, rank, family = "token-table-prompt", "Token table + prompt (ours)", 3, "RODA + sRIDA"
    looks_at = "the id of the current token and the activations along the prompt"
    prefill = "dense"

    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """Table and lambdas."""
        assert part is not None
        table = Table(part)
        lambdas = dict(zip(part.tensors["layers"].tolist(), part.tensors["lambda"].tolist(), strict=True))
        return lambda: _MixedChoice(table, lambdas)

    def cost(self, shape: Shape, density: float) -> Cost:
        """One multiply-add a neuron for the mixture, one byte a neuron of stored scores."""
        return Cost.of(shape, shape.matrices * density, shape.n_neurons, shape.n_neurons)


def prefix(prompt: PromptStatistic, rows: Rows) -> Tensor:
    """(F,) GRIFFIN's statistic times c, of length 1."""
    return torch.nn.functional.normalize(prompt.statistic(rows.layer) * rows.norms, dim=0)


def relative_contribution(rows: Rows) -> Tensor:
    """(N, F) |a| c with rows of length 1."""
    return torch.nn.functional.normalize(rows.contribution, dim=1)


class _Means:
    """Sums by token over the documents, for the most frequent tokens; the mean over all tokens."""

    def __init__(self, model: LoadedModel, documents: Sequence[TokenSequence]) -> None:
        self._model, self._documents = model, documents
        width = model.sites[0].n_neurons * max(model.sites[0].experts, 1)
        counted = Counter(int(token) for document in documents for token in document.token_ids[1:])
        most = max(1, MEMORY // (4 * width * len(model.sites)))
        self._ids = np.sort([token for token, _ in counted.most_common(most)])
        self._counts = torch.tensor([counted[int(token)] for token in self._ids])
        self._sums = torch.zeros(len(model.sites), len(self._ids), width)
        self._all = torch.zeros(len(model.sites), width, dtype=torch.float64)
        self._place = {site.layer: place for place, site in enumerate(model.sites)}

    def run(self, report: Reporter) -> dict[str, Tensor]:
        """One pass; the tensors of the part but for lambda."""
        done, total = 0, sum(map(len, self._documents))
        for batch in batches(self._documents, BATCH_ROWS):
            width = max(map(len, batch))
            self._real = torch.zeros(len(batch), width, dtype=torch.bool)
            for row, document in enumerate(batch):
                self._real[row, 1 : len(document)] = True
            with torch.inference_mode(), observe(self._model, None, (), self._receive):
                self._model.decoder(input_ids=pad(batch, self._model.sink_token_id).to(self._model.device), use_cache=False)
            done += sum(map(len, batch))
            report("reading calibration text", done, total)
        return self._tensors(total - len(self._documents))

    def _receive(self, rows: Rows) -> None:
        real = self._real.flatten()
        relative, tokens = relative_contribution(rows)[real].cpu(), rows.tokens[real].cpu().numpy()
        place = self._place[rows.layer]
        self._all[place] += relative.sum(dim=0, dtype=torch.float64)
        found = np.minimum(np.searchsorted(self._ids, tokens), len(self._ids) - 1)
        known = self._ids[found] == tokens
        self._sums[place].index_add_(0, torch.from_numpy(found[known]), relative[torch.from_numpy(known)])

    def _tensors(self, tokens: int) -> dict[str, Tensor]:
        codes = torch.empty(len(self._ids), *self._all.shape, dtype=torch.uint8)
        scale = torch.empty(len(self._ids), len(self._all))
        for place, sums in enumerate(self._sums):
            coded, unit = companding.encode((sums / self._counts[:, None]).numpy())
            codes[:, place], scale[:, place] = torch.from_numpy(coded), torch.from_numpy(unit)
        return {"layers": torch.tensor(list(self._place)), "ids": torch.from_numpy(self._ids.astype(np.int64)),
                "counts": self._counts, "codes": codes, "scale": scale, "mean": (self._all / tokens).float()}


def fit_lambda(
    model: LoadedModel, table: Table, documents: Sequence[TokenSequence], report: Reporter = silent
) -> tuple[Tensor, NDArray[np.float64]]:
    """The lambda of each layer that keeps most of sum (|a| c)^2 at density 0.1, prompt = the first half of each document.

    Returns:
        (L,) lambdas, and the mean share kept by each of LAMBDAS.
    """
    kept: dict[int, list[NDArray[np.float64]]] = {}

    def receive(rows: Rows) -> None:
        half = len(rows.a) // 2
        prompt = PromptStatistic()
        prompt.see(rows.part(slice(0, half)))
        rest = rows.part(slice(half, None))
        own, shared = table.scores(rest.tokens, rows.layer).to(rows.a.device), prefix(prompt, rows)
        square = rest.contribution.square()
        share = [_share(square, own + value * shared) for value in LAMBDAS]
        kept.setdefault(rows.layer, []).append(np.asarray(share))

    for number, document in enumerate(documents):
        report("fitting lambda", number, len(documents))
        if len(document) < 4:
            continue
        ids = torch.from_numpy(document.token_ids)[None].to(model.device)
        with torch.inference_mode(), observe(model, None, (), receive):
            model.decoder(input_ids=ids, use_cache=False)
    if not kept:
        raise InputError("Every calibration document is shorter than 4 tokens; give longer texts.")
    shares = np.stack([np.mean(kept[site.layer], axis=0) for site in model.sites])
    return torch.tensor([LAMBDAS[best] for best in shares.argmax(axis=1)]), shares.mean(axis=0)


def _share(square: Tensor, score: Tensor) -> float:
    from moyu_core.methods.protocol import count
    from moyu_core.methods.selection import top_mask

    mask = top_mask(score, count(DENSITY_OF_FIT, score.shape[1]))
    return float(((square * mask).sum(dim=1) / square.sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)).mean())


METHODS = (TokenTable(), Mixed())
