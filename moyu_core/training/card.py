"""The model cards: every figure in them recomputed from weights, corpus and results, none typed.

    python -m moyu_core.training.card            writes data/models/README.md and the card of each model
    python -m moyu_core.training.card --check    recomputes and compares, figure by figure; exit status 1 when a card says
                                                 something else or cannot be recomputed

Needs the corpus (built when it is not there). Most of the time is arithmetic that cannot be left out: the loss in float32 on
all held-out text and on that of each source, about 1,600 windows a model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moyu_core.errors import MoyuError
from moyu_core.home import REPOSITORY, Home
from moyu_core.models import load_model
from moyu_core.progress import Reporter, silent
from moyu_core.training import card_check, cards, corpus, measures, tokenizer
from moyu_core.training.data import Batch, Data, spread, unigram_loss
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
WINDOWS_AT_ONCE = 4
"""Few: the logits of 32 windows are memory that is asked for and given back with every batch, a fifth of the whole time."""


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
    own = [result for result in results if result.config["activation"] == activation]
    config = config_of(next(result for result in own if result.config["seed"] == 0))
    length = config.size.positions
    judged = {"": spread(common.data.held_out, length, None, loaded.device)}
    judged |= {source: spread(ids, min(length, len(ids)), SOURCE_WINDOWS, loaded.device) for source, ids in common.parts.items()}
    losses = _losses(loaded.model, judged, f"judging tiny-{activation}, windows of held-out text", report)
    report(f"measuring the activations of tiny-{activation}", 0, 0)
    shares = _shares(loaded.model, spread(common.data.held_out, length, config.measured, loaded.device))
    report(f"writing with tiny-{activation}", 0, 0)
    greedy, sampled = ({prompt: continuation(loaded, prompt, heat) for prompt in PROMPTS} for heat in (0.0, TEMPERATURE))
    (loss, error), by_source = losses.pop(""), {source: each for source, (each, _) in losses.items()}
    return Figures(activation, config, parameters(loaded.model), loss, error,
                   {result.config["seed"]: result.held_out_loss for result in own}, by_source, shares, greedy, sampled)


def _losses(model: Any, judged: dict[str, Batch], stage: str, report: Reporter) -> dict[str, tuple[float, float]]:
    """`measures.loss` of every part, the windows of all parts counted together."""
    total, before = sum(len(inputs) for inputs, _ in judged.values()), 0
    found = {}
    for name, (inputs, labels) in judged.items():
        found[name] = measures.loss(model, inputs, labels, WINDOWS_AT_ONCE,
                                    lambda done, before=before: report(stage, before + done, total))
        before += len(inputs)
    return found


def _shares(model: Any, batch: Batch) -> dict[str, list[float]]:
    """The rows of the table of activations, one number a layer."""
    model.requires_grad_(True)
    pairs = measures.activations_and_gradients(model, *batch)
    found = measures.of_layers(model, pairs)
    shares = {name: [v.value for v in found if v.measure == name] for name in ("zero_share", "cett_density", "effective_neurons")}
    return {**shares, "silent_share": [measures.silent_share(a[:, 1:]) for a, _ in pairs]}


@torch.no_grad()
def continuation(loaded: Any, prompt: str, temperature: float) -> str:
    """What a model writes behind a prompt: greedily at temperature 0, else sampled from the top 40 with a fixed seed."""
    fresh, past = [loaded.sink_token_id, *loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]], None
    written, generator = [], torch.Generator().manual_seed(SAMPLE_SEED)
    while len(written) < NEW_TOKENS:
        out = loaded.model(input_ids=torch.tensor([fresh]), past_key_values=past, use_cache=True)
        past, following = out.past_key_values, _following(out.logits[0, -1].float(), temperature, generator)
        if following == loaded.sink_token_id:
            break
        written, fresh = [*written, following], [following]
    return loaded.tokenizer.decode(written)


def _following(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    """The next token, from (V,) logits."""
    if not temperature:
        return int(logits.argmax())
    best = logits.topk(TOP_K)
    chosen = torch.multinomial((best.values / temperature).softmax(0), 1, generator=generator)
    return int(best.indices[chosen])


def write_all(home: Home, report: Reporter = silent) -> Iterator[tuple[Path, str]]:
    """Path and text of every card, recomputed."""
    common, results = ground(home, report), read_results(tracked())
    found = [figures(activation, home, common, results, report) for activation in ACTIVATIONS]
    for each in found:
        yield MODELS / f"tiny-{each.activation}" / "README.md", cards.model_card(each, common, found)
    yield MODELS / "README.md", cards.overview(found, common, results)


def _report(stage: str, done: int, total: int) -> None:
    """One line that is written over on a terminal, a line a stage in a file."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{stage} {done}/{total}\033[K" if total else f"\r{stage}\033[K")
    elif not done:
        sys.stderr.write(f"{stage}\n")


def main(arguments: Sequence[str]) -> int:
    """Writes or checks the cards; 1 when a check fails or nothing can be recomputed."""
    parser = argparse.ArgumentParser("python -m moyu_core.training.card", description="Recomputes the cards of the tiny models.")
    parser.add_argument("--check", action="store_true", help="compare with the cards that are there and write nothing")
    check = parser.parse_args(arguments).check
    try:
        recomputed = list(write_all(Home.default(), _report))
    except MoyuError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    if not check:
        for path, text in recomputed:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write("".join(f"{path}\n" for path, _ in recomputed))
        return 0
    return _check(recomputed)


def _check(recomputed: list[tuple[Path, str]]) -> int:
    """Says what was compared and what is wrong; 1 when anything is."""
    compared = [card_check.compare(path, text) for path, text in recomputed]
    wrong = [sentence for lines in compared for line in lines for sentence in line.wrong]
    for lines in compared:
        sys.stdout.write("".join(f"{line}\n" for line in card_check.told(lines)))
    sys.stdout.write("".join(f"{line}\n" for line in wrong) or "The cards say what was recomputed.\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
