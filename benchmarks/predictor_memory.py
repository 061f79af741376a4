"""Peak memory of predictor training with N, 4 N and 16 N calibration tokens: the ratio that says whether training streams.

    python -m benchmarks.predictor_memory [--model tiny-relu] [--tokens 32768]

Two ways to a trained predictor: the method's fit (`moyu fit dejavu`) and the study's (`moyu study history --part predictor`). Each
runs in a process of its own on random tokens, one pass over the training rows. The rows of a layer alone are given beside it:
what would have to be held if training did not stream.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.record import save

TIMES = (1, 4, 16)
CHILD = """
import dataclasses, json, resource, sys
import numpy as np
from moyu_core.token_sequences import TokenSequence
from moyu_core.home import Home
from moyu_core.methods import dejavu, roda
from moyu_core.models import load_model
from moyu_core.prompts import Prompt
from moyu_core.spec import SetRule
from moyu_core.studies.history import predictor

way, name, tokens, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), 192
EPOCHS = 1
model = load_model(name, Home.default(), device="cpu")
random = np.random.default_rng(0)
sequences = [
    TokenSequence(Prompt(f"p{i}", f"text {i}", f"domain {i % 4}"),
                  np.append(model.sink_token_id, random.integers(0, 4096, length)).astype(np.int64))
    for i in range(tokens // length)
]
if way == "fit":
    settings = dejavu.Settings
    dejavu.Settings = lambda: settings(epochs=EPOCHS)
    roda.DejaVu().fit(model, sequences)
else:
    predictor.SETTINGS = dataclasses.replace(predictor.SETTINGS, epochs=EPOCHS)
    predictor.tokenise = lambda model, texts, most: sequences
    list(predictor.predictors(model, [sequence.prompt for sequence in sequences], SetRule(), {}, 1))
rows = sum(len(sequence) - 1 for sequence in sequences)
held = rows * (2 * model.d_model + model.sites[0].n_neurons // 8)
print(json.dumps({"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "rows": rows,
                  "megabytes_of_a_layer": held / 2**20, "layers": len(model.sites)}))
"""


def peak(way: str, model: str, tokens: int) -> dict[str, Any]:
    """Peak resident megabytes of one training, and the size of the rows that it reads."""
    command = [sys.executable, "-c", CHILD, way, model, str(tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure all sizes and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-relu")
    parser.add_argument("--tokens", type=int, default=32768)
    given = parser.parse_args()
    record: dict[str, Any] = {"model": given.model}
    for way in ("fit", "study"):
        found = [peak(way, given.model, times * given.tokens) for times in TIMES]
        first, last = found[0], found[-1]
        sizes = ", ".join(f"{one['megabytes']:.0f}" for one in found)
        ratio = last["megabytes"] / first["megabytes"]
        record[way] = {"ratio": ratio, "sizes": found}
        print(f"{way}: peak memory, {last['rows']:,} tokens / {first['rows']:,} tokens: {ratio:.3f}  "
              f"({sizes} MB; the rows of a layer alone: "
              f"{last['megabytes_of_a_layer']:.0f} MB)")
    save("predictor_memory", record)


if __name__ == "__main__":
    main()
