"""The model cards: every figure in them recomputed from weights, corpus and results, none typed.

    python -m moyu_core.training.card            writes data/models/README.md and the card of each model
    python -m moyu_core.training.card --check    recomputes and compares; exit status 1 when a card says something else

Needs the corpus (built when it is not there) and a few minutes on two cores.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moyu_core.home import REPOSITORY, Home
from moyu_core.models import load_model
from moyu_core.progress import Reporter, silent
from moyu_core.training import cards, corpus, measures, tokenizer
from moyu_core.training.data import Data, spread, unigram_loss
from moyu_core.training.export import config_of
from moyu_core.training.log import read_results, tracked
from moyu_core.training.tiny_models import ACTIVATIONS, Parameters, parameters
from moyu_core.training.train import Config, Result

MODELS = REPOSITORY / "data" / "models"
PROMPTS = ("The king said", "Once upon a time there was", "My fellow citizens,", "And it came to pass", "She looked at him and")
NEW_TOKENS = 60
TEMPERATURE, TOP_K, SAMPLE_SEED = 0.7, 40, 0
SOURCE_WINDOWS = 64
"""Held-out windows a source is judged on, at most."""
TOLERANCE = 0.002
"""Largest relative difference of a number that `--check` accepts: kernels of other machines round differently."""


@dataclass(frozen=True)
class Figures:
    """What a card says about one model.

    Attributes:
        activation: relu, gelu or swiglu.
        config: of the run whose weights are tracked.
        sizes: numbers of weights.
        loss, error: nats a token on all held-out text, and standard error over sequences.
        losses: by seed, as the runs reported them.
        sources: loss by source of the held-out text.
        shares: measure -> one number a layer, on the batch that is measured along training.
        greedy, sampled: continuation by prompt.
    """

    activation: str
    config: Config
    sizes: Parameters
    loss: float
    error: float
    losses: dict[int, float]
    sources: dict[str, float]
    shares: dict[str, list[float]]
    greedy: dict[str, str]
    sampled: dict[str, str]


@dataclass(frozen=True)
class Ground:
    """What all models are judged on.

    Attributes:
        data: token ids.
        counts: of `corpus.json`, by source.
        bytes_a_token: of held-out text.
        unigram: nats a token of a model that knows only frequencies.
        parts: held-out ids by source.
    """

    data: Data
    counts: dict[str, dict[str, int]]
    bytes_a_token: float
    unigram: float
    parts: dict[str, np.ndarray]


def ground(home: Home, report: Reporter = silent) -> Ground:
    """Builds the corpus where it is missing and counts it."""
    from tokenizers import Tokenizer

    place = corpus.build(home, report)
    path = tokenizer.prepare(place, report)
    data, encoder = Data.load(place), Tokenizer.from_file(str(path))
    texts = list(corpus.read(place, "held_out"))
    parts = {source: tokenizer.encode(encoder, (t.text for t in texts if t.source == source))
             for source in dict.fromkeys(t.source for t in texts)}
    size = sum(len(text.text.encode()) for text in texts)
    counts = corpus.counts(place)
    return Ground(data, counts, size / len(data.held_out), unigram_loss(data, encoder.get_vocab_size()), parts)


def figures(activation: str, home: Home, common: Ground, results: list[Result], report: Reporter = silent) -> Figures:
    """Recomputes the figures of one tracked model from its weights."""
    loaded = load_model(str(MODELS / f"tiny-{activation}"), home, device="cpu")
    model = loaded.model
    own = [result for result in results if result.config["activation"] == activation]
    config = config_of(next(result for result in own if result.config["seed"] == 0))
    length = config.size.positions
    report(f"judging {activation}", 0, len(ACTIVATIONS))
    loss, error = measures.loss(model, *spread(common.data.held_out, length, None, loaded.device))
    by_source = {source: measures.loss(model, *spread(ids, min(length, len(ids)), SOURCE_WINDOWS, loaded.device))[0]
                 for source, ids in common.parts.items()}
    model.requires_grad_(True)
    batch = spread(common.data.held_out, length, config.measured, loaded.device)
    found = measures.measure(model, *batch)
    shares = {name: [v.value for v in found if v.measure == name] for name in ("zero_share", "cett_density", "effective_neurons")}
    shares["silent_share"] = [measures.silent_share(a[:, 1:]) for a, _ in measures.activations_and_gradients(model, *batch)]
    return Figures(activation, config, parameters(model), loss, error,
                   {result.config["seed"]: result.held_out_loss for result in own}, by_source, shares,
                   {prompt: continuation(loaded, prompt, 0.0) for prompt in PROMPTS},
                   {prompt: continuation(loaded, prompt, TEMPERATURE) for prompt in PROMPTS})


@torch.no_grad()
def continuation(loaded: Any, prompt: str, temperature: float) -> str:
    """What a model writes behind a prompt: greedily at temperature 0, else sampled from the top 40 with a fixed seed."""
    ids = [loaded.sink_token_id, *loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    start, generator = len(ids), torch.Generator().manual_seed(SAMPLE_SEED)
    while len(ids) < start + NEW_TOKENS:
        logits = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        if temperature:
            best = logits.topk(TOP_K)
            chosen = torch.multinomial((best.values / temperature).softmax(0), 1, generator=generator)
            following = int(best.indices[chosen])
        else:
            following = int(logits.argmax())
        if following == loaded.sink_token_id:
            break
        ids.append(following)
    return loaded.tokenizer.decode(ids[start:])


def write_all(home: Home, report: Reporter = silent) -> Iterator[tuple[Path, str]]:
    """Path and text of every card, recomputed."""
    common, results = ground(home, report), read_results(tracked())
    found = [figures(activation, home, common, results, report) for activation in ACTIVATIONS]
    for each in found:
        yield MODELS / f"tiny-{each.activation}" / "README.md", cards.model_card(each, common, found)
    yield MODELS / "README.md", cards.overview(found, common, results)


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def differences(path: Path, text: str) -> list[str]:
    """Lines in which a card on disk says something else; numbers may differ by TOLERANCE."""
    if not path.is_file():
        return [f"{path}: is not there"]
    old, new = path.read_text(encoding="utf-8").splitlines(), text.splitlines()
    words = [[_NUMBER.sub("#", line) for line in lines] for lines in (old, new)]
    return [line for _, *block in SequenceMatcher(None, *words, autojunk=False).get_opcodes()
            for line in _of_block(path, old, new, *block)]  # fmt: skip


def _of_block(path: Path, old: list[str], new: list[str], start: int, end: int, first: int, last: int) -> Iterator[str]:
    """Differences of the lines from `start` to `end` of a card and what stands in their place when it is recomputed."""
    for number, (says, wanted) in enumerate(zip_longest(old[start:end], new[first:last]), start + 1):
        if says is None:
            yield f"{path}:{end}: recomputed behind it {wanted!r}"
        elif wanted is None:
            yield f"{path}:{number}: says {says!r}, recomputed nothing"
        elif not _same(says, wanted):
            yield f"{path}:{number}: says {says!r}, recomputed {wanted!r}"


def _same(a: str, b: str) -> bool:
    if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
        return False
    pairs = zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=True)
    return all(x == y or _near(x.replace(",", ""), y.replace(",", "")) for x, y in pairs)


def _near(x: str, y: str) -> bool:
    """Within the tolerance, or one unit of the last digit that is shown."""
    unit = 10.0 ** -len(y.partition(".")[2])
    return math.isclose(float(x), float(y), rel_tol=TOLERANCE, abs_tol=1.01 * unit)


def main(arguments: list[str]) -> int:
    """Writes or checks the cards; 1 when a check fails."""
    def report(stage: str, done: int, total: int) -> None:
        sys.stderr.write(f"\r{stage} {done}/{total}\033[K" if total else f"\r{stage}\033[K")

    wrong = []
    for path, text in write_all(Home.default(), report):
        if "--check" in arguments:
            wrong += differences(path, text)
        else:
            path.write_text(text, encoding="utf-8")
    sys.stderr.write("\n")
    sys.stdout.write("".join(f"{line}\n" for line in wrong) or "The cards say what was recomputed.\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
