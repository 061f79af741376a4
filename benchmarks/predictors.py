"""Every method with every measure against the bare forward pass of the same prompt.

    python -m benchmarks.predictors [--rounds 5]

One prompt of 256 tokens, default model, all layers, fitted parts ready, one density: sets and hits of all tokens, captured energies
of the judged half, chance levels, tables. The bare forward runs the decoder without LM head on the same ids. One thread, in turn.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks.capture_cost import interleaved, prompts
from benchmarks.record import save
from moyu_core.home import Home
from moyu_core.models import load_model
from moyu_core.studies.predictors import Request, study
from moyu_core.studies.predictors.collect import Collector
from moyu_core.token_sequences import tokenise

DENSITY = 0.1


def main() -> None:
    """Run the benchmark and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    home = Home.default()
    model = load_model("default", home)
    prompt = prompts(model)[0]
    request = Request("default", (prompt,), densities=(DENSITY,), set_densities=(DENSITY,))
    chosen, _ = study.applicable(model, ())
    fitted = study.fitted_parts(model, chosen, home)
    ready = [method.prepare(model, fitted.get(method.part)) for method in chosen]
    sequences = tokenise(model, [prompt], 256)
    ids = torch.from_numpy(sequences[0].token_ids)[None]

    def compared() -> None:
        collector = Collector(model.sites[0].n_neurons, request.set_densities)
        study.evaluate(model, request, ready, sequences, {}, collector)
        collector.tables()

    def bare() -> None:
        with torch.inference_mode():
            model.decoder(input_ids=ids, use_cache=False)

    times = interleaved({"forward": bare, "all methods": compared}, rounds)
    ratios = [whole / alone for whole, alone in zip(times["all methods"], times["forward"], strict=True)]
    record = {"model": model.identity.name, "tokens": ids.shape[1], "density": DENSITY,
              "methods": [each.method.name for each in ready],
              "seconds": {name: statistics.median(values) for name, values in times.items()},
              "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}}
    save("predictors", record)
    print(f"{len(ready)} methods, {ids.shape[1]} tokens: {record['ratio']['median']:.2f} of a bare forward pass "
          f"({record['ratio']['min']:.2f} to {record['ratio']['max']:.2f}), {record['seconds']['all methods']:.2f} s")


if __name__ == "__main__":
    main()
