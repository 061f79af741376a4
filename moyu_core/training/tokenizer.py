"""The tokenizer of the matched models: byte-level BPE trained on the training part only, and the corpus as token ids.

`<|endoftext|>` is id 0, ends nothing and begins every document: it is BOS, and so the sink token of every sequence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moyu_core.progress import Reporter, silent
from moyu_core.training import corpus

END_OF_TEXT = "<|endoftext|>"
SINK_ID = 0
VOCABULARY = 4096
Ids = NDArray[np.uint16]
BATCH = 512


def train(texts: Iterator[str], vocabulary: int = VOCABULARY) -> Any:
    """A `tokenizers.Tokenizer` with at most `vocabulary` tokens; the same texts in the same order give the same one.

    Numerals stand alone, spaces belong to the word behind them, any byte can be written. With special tokens the encoding
    begins with the sink token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    steps: Any = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END_OF_TEXT], show_progress=False,  # type: ignore[call-arg]
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{END_OF_TEXT} $A", pair=f"{END_OF_TEXT} $A $B", special_tokens=[(END_OF_TEXT, SINK_ID)])
    return tokenizer


def encode(tokenizer: Any, texts: Iterator[str]) -> Ids:
    """All texts in one row of ids, the sink token in front of each."""
    rows: list[Ids] = []
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            rows += _encoded(tokenizer, batch)
            batch = []
    return np.concatenate([*rows, *_encoded(tokenizer, batch)]) if rows or batch else np.zeros(0, np.uint16)


def _encoded(tokenizer: Any, batch: list[str]) -> list[Ids]:
    return [np.asarray(row.ids, np.uint16) for row in tokenizer.encode_batch(batch)]


def prepare(place: Path, report: Reporter = silent) -> Path:
    """`tokenizer.json`, `train.npy` and `held_out.npy` in a corpus folder; what is there already is kept."""
    from tokenizers import Tokenizer

    path = place / "tokenizer.json"
    if not path.is_file():
        report("training the tokenizer", 0, 0)
        _replace(path, lambda temporary: train(text.text for text in corpus.read(place, "train")).save(str(temporary)))
    tokenizer = Tokenizer.from_file(str(path))
    for number, part in enumerate(("held_out", "train")):
        report("turning the corpus into tokens", number, 2)
        target = place / f"{part}.npy"
        if not target.is_file():
            ids = encode(tokenizer, (text.text for text in corpus.read(place, part)))
            _replace(target, lambda temporary, ids=ids: _save(temporary, ids))
    return path


def _save(path: Path, ids: Ids) -> None:
    with path.open("wb") as file:
        np.save(file, ids, allow_pickle=False)


def _replace(path: Path, make: Any) -> None:
    """Writes beside the target, then renames: a file that has the name is whole."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    make(temporary)
    temporary.replace(path)


def hugging_face(path: Path, positions: int) -> Any:
    """The transformers tokenizer of a `tokenizer.json`."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token=END_OF_TEXT, eos_token=END_OF_TEXT,
                                   model_max_length=positions)
