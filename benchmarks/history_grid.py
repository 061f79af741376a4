"""The grid probe x history against its bare forward passes, and against computing every cell as a sequence of its own.

    python -m benchmarks.history_grid [--draws 15] [--rounds 3]

The bare passes run the same batches on the same keys and values without watching anything. The grid keeps sets and log(1 + |a|)
of all layers and computes every measure with its intervals. A cell of its own runs sink, history and probe together; a few of
each length are timed, as there are many.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import numpy as np
import torch

from benchmarks.capture_cost import interleaved
from benchmarks.record import save
from moyu_core.branching import extended, history, together
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.prompts import read_prompts
from moyu_core.spec import SetRule
from moyu_core.studies.history.grid import Grid, items_of, sees
from moyu_core.studies.history.requests import HistoryRequest
from moyu_core.studies.history.tables import flips, measured, offset_groups
from moyu_core.studies.history.texts import Plan, plan
from moyu_core.tokens import encode

KINDS = ("none", "other_topics")
SAMPLED_CELLS = 3


def design(model: LoadedModel, draws: int) -> tuple[Plan, list]:
    """One kind of the shipped texts with all lengths, and the probe tokens."""
    texts = read_prompts(Home.default().prompts / "histories.jsonl").prompts
    request = HistoryRequest(("default",), texts, draws=draws)
    items = items_of([(probe, encode(model, probe)) for probe in request.probes])
    found = plan(request, partial(encode, model), model.sink_token_id, model.max_positions, 4)
    return Plan(found.lengths, {kind: found.kinds[kind] for kind in KINDS}, ()), items


@torch.inference_mode()
def bare(model: LoadedModel, plan_: Plan, items: list) -> None:
    """The forward passes of the grid and nothing else."""
    ids, offsets = torch.tensor([i.token_ids[-1] for i in items]), torch.tensor([i.offset for i in items])
    seen = sees(items)
    for kind, draws in plan_.kinds.items():
        tokens, before = torch.from_numpy(np.stack([draw.token_ids for draw in draws])), 0
        past = history(model, torch.full((len(draws), 1), model.sink_token_id))
        for length in plan_.lengths_of(kind) or [0]:
            past = extended(model, past, tokens[:, before:length]) if length else past
            together(model, past, ids, offsets, seen)
            before = length


def grid(model: LoadedModel, plan_: Plan, items: list) -> None:
    """The grid with everything that the study measures of it."""
    groups, none = offset_groups(items), None
    layers, n_neurons = [site.layer for site in model.sites], model.sites[0].n_neurons
    for cells in Grid(model, items, SetRule(), {}, groups[0]).run(plan_):
        none = cells.active[:, :, 0] if none is None else none
        flips(cells, none, layers, n_neurons)
        if cells.active.shape[2] > 1:
            for offset, chosen in groups.items():
                measured(cells, offset, chosen, n_neurons, 0)


@torch.inference_mode()
def alone(model: LoadedModel, plan_: Plan, items: list, length: int) -> None:
    """Some cells of one length, each as a sequence of its own."""
    for number in range(SAMPLED_CELLS):
        draw = plan_.kinds[KINDS[1]][number % len(plan_.kinds[KINDS[1]])]
        ids = [model.sink_token_id, *draw.token_ids[:length].tolist(), *items[number].token_ids]
        model.decoder(input_ids=torch.tensor([ids]), use_cache=False)


def main() -> None:
    """Run the benchmark and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model = load_model("default", Home.default(), device="cpu")
    plan_, items = design(model, given.draws)
    actions = {"bare": partial(bare, model, plan_, items), "grid": partial(grid, model, plan_, items)}
    actions |= {f"alone {length}": partial(alone, model, plan_, items, length) for length in plan_.lengths}
    times = interleaved(actions, given.rounds)
    ratios = [a / b for a, b in zip(times["grid"], times["bare"], strict=True)]
    cells = given.draws * len(items)
    seconds_alone = sum(statistics.median(times[f"alone {length}"]) / SAMPLED_CELLS * cells for length in plan_.lengths)
    record = {
        "model": model.identity.name, "draws": given.draws, "items": len(items), "lengths": list(plan_.lengths),
        "cells": cells * len(plan_.lengths), "rounds": given.rounds, "seconds_bare": statistics.median(times["bare"]),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "seconds_of_cells_alone": seconds_alone, "saved_factor": seconds_alone / statistics.median(times["grid"]),
    }
    print(f"grid / bare forward passes   median {record['ratio']['median']:.3f}  ({min(ratios):.3f} to {max(ratios):.3f})")
    print(f"every cell alone / grid      {record['saved_factor']:.1f} ({seconds_alone:.1f} s against "
          f"{statistics.median(times['grid']):.1f} s)")
    save("history_grid", record)


if __name__ == "__main__":
    main()
