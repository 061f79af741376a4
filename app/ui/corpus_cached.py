"""Cached reads of corpora: the baselines that a capture is held against, where someone has captured a corpus."""

from __future__ import annotations

import streamlit as st

from app.ui import cached
from moyu_core.queries import corpus
from moyu_core.store import Run


def baseline(run: Run, layer: int) -> tuple[float, int] | None:
    """(overlap to expect of two tokens by the neurons' rates alone, tokens of the corpus); None without a fitting corpus."""
    found = corpus.find(cached.runs()[0], run.spec.model, run.spec.set_rule)
    if found is None or layer not in found.manifest["layers"]:
        return None
    overlap = _overlap(found.id, layer)
    return (overlap, found.manifest["counts"]["tokens"]) if overlap == overlap else None  # NaN: one half holds no prompt


@st.cache_resource(show_spinner=False, max_entries=512)
def _overlap(run_id: str, layer: int) -> float:
    return corpus.rates(cached.find_run(run_id), layer).overlap


def source_of_tokens(run: Run, layer: int) -> Run:
    """Where a neuron's strongest tokens are best looked up: the largest corpus of the same weights, else the run itself."""
    fitting = [other for other in cached.runs()[0] if corpus.held(other) and layer in other.manifest["layers"]
               and other.spec.model.weights == run.spec.model.weights]  # fmt: skip
    return max(fitting, key=lambda other: other.manifest["counts"]["tokens"], default=run)
