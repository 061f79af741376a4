"""What a capture counts over a corpus, in memory that does not depend on its size: rates by half, pairs of neurons.

Two halves, because the chance level of an overlap needs each neuron's rate p_i from some documents and q_i from others: p_i
squared from the same tokens would count a token's overlap with itself. A prompt's half is the lowest bit of the CRC-32 of its
condition and id, so it depends on nothing else in the corpus. Counting all F^2 pairs of 11,008 neurons in 32 layers takes 31 GB;
counted are the pairs of a random sample of neurons, whose distribution is that of all pairs.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moyu_core import sets
from moyu_core.schema.corpus import PAIR_NEURONS, PAIR_SEED

if TYPE_CHECKING:
    from moyu_core.capture import CapturedPrompt
    from moyu_core.prompts import Prompt


def pair_sample(n_neurons: int) -> NDArray[np.int64]:
    """The neurons whose pairs are counted: min(F, PAIR_NEURONS) of them, ascending, drawn without replacement."""
    order = np.random.default_rng([PAIR_SEED, n_neurons]).permutation(n_neurons)
    return np.sort(order[:PAIR_NEURONS])


def in_half_b(prompt: Prompt) -> bool:
    """Which half of the corpus a prompt belongs to."""
    return bool(zlib.crc32(f"{prompt.condition}\n{prompt.id}".encode()) & 1)


class CorpusCounts:
    """Counts over the rows of a capture; the sink token's rows are left out.

    Attributes:
        layers: in the order of the arrays.
        n_neurons: F.
        sample: (S,) neurons whose pairs are counted.
        half_b: (L, F) int64, rows of half b in which each neuron is active.
        together: (L, S, S) int64, rows in which both neurons are active.
        rows_b, prompts_a, prompts_b: rows of one layer in half b, prompts in each half.
    """

    def __init__(self, layers: tuple[int, ...], n_neurons: int) -> None:
        self.layers = layers
        self.n_neurons = n_neurons
        self.sample = pair_sample(n_neurons)
        self.half_b = np.zeros((len(layers), n_neurons), np.int64)
        self.together = np.zeros((len(layers), len(self.sample), len(self.sample)), np.int64)
        self.rows_b = self.prompts_a = self.prompts_b = 0

    def add(self, captured: CapturedPrompt) -> None:
        """Add one prompt."""
        active = captured.columns["active"].reshape(len(self.layers), captured.rows_per_layer, -1)[:, 1:]
        second = in_half_b(captured.sequence.prompt)
        for index, rows in enumerate(active):
            members = self._sampled(rows)
            self.together[index] += (members.T @ members).astype(np.int64)
            if second:
                self.half_b[index] += sets.counts(rows, self.n_neurons)
        self.rows_b += active.shape[1] if second else 0
        self.prompts_b += second
        self.prompts_a += not second

    def _sampled(self, rows: sets.Packed) -> NDArray[np.float32]:
        """(N, S) zeros and ones: whether each sampled neuron is active. float32 sums them exactly up to 2^24 rows a prompt."""
        return ((rows[:, self.sample >> 3] >> (self.sample & 7).astype(np.uint8)) & 1).astype(np.float32)

    def merge(self, other: CorpusCounts) -> None:
        """Add what was counted over other prompts."""
        for name in ("half_b", "together", "rows_b", "prompts_a", "prompts_b"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Everything counted, to be stored; `restore` is the inverse."""
        return {"half_b": self.half_b, "together": self.together,
                "corpus_rows": np.array([self.rows_b, self.prompts_a, self.prompts_b], np.int64)}  # fmt: skip

    def restore(self, arrays: dict[str, NDArray[np.int64]]) -> CorpusCounts:
        """Take over what `arrays` gave; returns itself."""
        self.half_b, self.together = arrays["half_b"], arrays["together"]
        self.rows_b, self.prompts_a, self.prompts_b = map(int, arrays["corpus_rows"])
        return self
