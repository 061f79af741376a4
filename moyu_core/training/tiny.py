"""`moyu train tiny`: the three matched models from packages to folders, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moyu_core.devices import choose_device
from moyu_core.progress import Reporter, silent
from moyu_core.schema.training import ACTIVATIONS
from moyu_core.studies.training import training_run
from moyu_core.training import log
from moyu_core.training.data import Data, corpus_data
from moyu_core.training.export import export_run
from moyu_core.training.train import Config, Result, train

if TYPE_CHECKING:
    from moyu_core.home import Home

SEEDS = (0, 1, 2)
KEPT_SEED = 0
"""The seed whose weights become a model folder; the others are trained for the spread of the curves."""


def folder_name(result: Result) -> str:
    """`tiny-<activation>`; a training that is shorter or longer than the recipe says so, lest it stand in for the real one."""
    name, steps = f"tiny-{result.config['activation']}", result.config["steps"]
    return name if steps == Config.steps else f"{name}-{steps}-steps"


def rebuild(home: Home, report: Reporter = silent, device: str | None = None, activations: Sequence[str] = ACTIVATIONS,
            seeds: Sequence[int] = SEEDS, target: Path | None = None, data: Data | None = None, **changes: Any) -> list[Result]:
    """Trains every activation with every seed, exports the kept seed, writes a run of the study `training`.

    Args:
        home: where corpus, checkpoints and runs are kept.
        report: called after every step; `Cancelled` passes through, and the next call goes on where this one stopped.
        device: as `devices.choose_device` takes it.
        activations, seeds: what to train.
        target: folder of the model folders, named by `folder_name`; None = `home.models`.
        data: token ids; None builds the corpus from its packages.
        changes: fields of `Config` that differ from the recipe.
    """
    choose_device(device)  # a device that is not there is refused before the text is fetched
    data = data or corpus_data(home, report)
    target = target or home.models
    target.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in seeds:
        for activation in activations:
            result = train(Config(activation=activation, seed=seed, **changes), home, report, device, data)
            results.append(result)
            if seed == KEPT_SEED:
                export_run(result, home, target / folder_name(result))
    made = {result.identity for result in results}
    training_run([each for each in log.finished(home) if each[0].identity in made], home, report=report)
    return results
