"""Calibration text: documents that predictors are fitted on, many kinds of text in turn, and never those they are judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moyu_core.errors import InputError
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import Prompt, clean, read_prompts
from moyu_core.token_sequences import TokenSequence, tokenise

if TYPE_CHECKING:
    from moyu_core.home import Home
    from moyu_core.models import LoadedModel

DOCUMENT_TOKENS = 256
_CHARACTERS = 3000
"""Cut out of a longer document; enough for 256 tokens in any script that the corpus holds."""


def calibration_documents(
    model: LoadedModel, home: Home, tokens: int, file: Path | None = None, part: str = "train", seed: int = 0,
    report: Reporter = silent,
) -> list[TokenSequence]:
    """Tokenised documents of at most 256 tokens, sink token first, about `tokens` in all.

    Args:
        model: its tokenizer decides.
        home: where the project's corpus is, or is built (37 MB of packages) if it is not there.
        tokens: how many are wanted.
        file: prompts of one's own instead of the corpus.
        part: `train`, or `held_out` for text that nothing was fitted on.
        seed: of the order of documents and of the cut.
        report: progress.

    Raises:
        InputError: the file holds less than two documents.
    """
    prompts = list(read_prompts(file, cut=True).prompts) if file else None
    found: list[TokenSequence] = []
    for prompt in prompts or _corpus(home, part, seed, report):
        if sum(map(len, found)) >= tokens:
            break
        sequence = tokenise(model, [prompt], DOCUMENT_TOKENS)[0]
        if len(sequence) > 2:
            found.append(sequence)
    return found


def _corpus(home: Home, part: str, seed: int, report: Reporter) -> Iterator[Prompt]:
    """Documents of the training corpus, one source after the other in turn, from a random place of each document."""
    from moyu_core.training import corpus

    random = np.random.default_rng(seed)
    sources: dict[str, list[corpus.Text]] = {}
    for text in corpus.read(corpus.build(home, report), part):
        sources.setdefault(text.source, []).append(text)
    for texts in sources.values():
        random.shuffle(texts)  # type: ignore[arg-type]
    queues = {source: iter(texts) for source, texts in sorted(sources.items())}
    for source in cycle(list(queues)):
        text = next(queues.get(source, iter(())), None)
        if text is None:
            queues.pop(source, None)
            if not queues:
                return
            continue
        start = int(random.integers(max(1, len(text.text) - _CHARACTERS)))
        piece = text.text[start : start + _CHARACTERS].strip()
        yield Prompt(f"{source}-{hashlib.sha256(text.name.encode()).hexdigest()[:10]}", clean(piece)[0], source)


def documents_hash(documents: Sequence[TokenSequence]) -> str:
    """SHA-256 over the token ids of the documents, in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(np.asarray(document.token_ids, "<i8").tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def require(model: LoadedModel, documents: Sequence[TokenSequence], least_documents: int, least_tokens: int) -> None:
    """Refuse to fit a part on calibration text that is too short, or for layers that no part can hold together.

    Raises:
        InputError: what there is and what is needed.
    """
    tokens = sum(map(len, documents))
    if len(documents) < least_documents or tokens < least_tokens:
        raise InputError(f"Calibration text of {len(documents)} document(s) and {tokens} tokens is too short; at least "
                         f"{least_documents} documents and {least_tokens} tokens are needed.")
    widths = {site.layer: site.n_neurons * max(site.experts, 1) for site in model.sites}
    if len(set(widths.values())) > 1:
        first = {width: layer for layer, width in reversed(widths.items())}
        said = ", ".join(f"layer {layer}: {width} neurons" for width, layer in reversed(first.items()))
        raise InputError(f"A fitted part holds layers of one width, but {model.identity.name} mixes dense layers and mixtures "
                         f"({said}); use methods that need no part there, such as griffin and oracle "
                         "(`moyu study trial --method griffin`).")
