"""What runs in a worker process: holds the model, captures one shard after another, answers with one row for each."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from moyu_core import errors
from moyu_core.cluster import shards
from moyu_core.cluster.plan import Plan, open_plan
from moyu_core.errors import InputError, ModelError, MoyuError
from moyu_core.home import Home
from moyu_core.prompts import Prompt

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

Row = dict[str, Any]


class ShardWorker:
    """An actor. Everything is loaded at the first call, so that whatever fails is an answer and not a dead actor.

    Args:
        folder: of the plan, as this machine sees it.
        home: of this machine.
        device: as `load_model` takes it; None chooses.
        threads: of the processor, for work without a GPU.
    """

    def __init__(self, folder: str, home: Home, device: str | None, threads: int) -> None:
        self._folder, self._home, self._device, self._threads = Path(folder), home, device, threads
        self._held: tuple[Plan, LoadedModel] | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Capture the shards whose numbers are in the column `shard`; one row of the manifest for each."""
        rows = [self.answer(int(shard)) for shard in batch["shard"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def answer(self, shard: int) -> Row:
        """Make one shard, or find it made; an error that a user can mend is part of the answer."""
        said: Row = {"shard": shard, "tokens": 0, "attempt": 0, "worker": f"{socket.gethostname()}:{os.getpid()}",
                     "error": "", "message": ""}  # fmt: skip
        try:
            plan = self._plan()
            found = shards.finished(plan, shard)
            if found is None:
                said["attempt"] = shards.attempt(plan, shard)
                self._refuse_again(said["attempt"], shard, plan)
                self._capture(shard)
            said["tokens"] = plan.tokens[shard]
        except MoyuError as error:
            said |= {"error": type(error).__name__, "message": str(error)}
        return said

    def calibrate(self, prompts: Sequence[Prompt]) -> Row:
        """CETT thresholds from the request's first prompts: {"thresholds": (layer, eps, cett), ...}, or an error."""
        from moyu_core.progress import silent
        from moyu_core.studies.capture import find_thresholds, wanted_layers
        from moyu_core.token_sequences import tokenise

        try:
            plan, model = self._loaded()
            asked = plan.request_for(prompts)
            sequences = tokenise(model, prompts, asked.max_tokens)
            found = find_thresholds(model, asked, sequences, wanted_layers(model, asked), silent)
        except MoyuError as error:
            return {"thresholds": [], "error": type(error).__name__, "message": str(error)}
        return {"thresholds": [(t.layer, t.value, t.cett) for t in found], "error": "", "message": ""}

    def _plan(self) -> Plan:
        plan = self._held[0] if self._held else open_plan(self._folder)
        if plan is None:
            raise InputError(
                f"{self._folder} cannot be seen from {socket.gethostname()}; give --out a folder that all machines share."
            )
        return plan

    def _loaded(self) -> tuple[Plan, LoadedModel]:
        """Plan and model, which must be the one that the driver knows."""
        if self._held is None:
            import torch

            from moyu_core.models import load_model

            plan = self._plan()
            torch.set_num_threads(self._threads)
            name, dtype = plan.request["model"], plan.request["dtype"]
            model = load_model(name, self._home, dtype=dtype, device=self._device, sink_token_id=plan.sink_token_id)
            if model.identity.weights != plan.weights:
                found, wanted = model.identity.weights[:12], plan.weights[:12]
                raise ModelError(
                    f"{name} on {socket.gethostname()} has other weights than where the capture was started "
                    f"({found}, not {wanted}); copy the model's folder there."
                )
            self._held = plan, model
        return self._held

    def _refuse_again(self, attempt: int, shard: int, plan: Plan) -> None:
        """A shard that ends its worker every time would be tried for ever."""
        if attempt > shards.MAX_ATTEMPTS:
            name = plan.prompts(shard)[1][0].id
            raise ModelError(
                f"Shard {shard} (prompt {name!r} and others) lost its worker {shards.MAX_ATTEMPTS} times, "
                "most likely for want of memory; take fewer workers or a lower limit of tokens. What is finished is kept."
            )

    def _capture(self, shard: int) -> None:
        """Capture one shard into its folder."""
        from dataclasses import replace

        from moyu_core.activation_table import lanes
        from moyu_core.studies import capture_part
        from moyu_core.studies.capture import plan_of, prompt_row, wanted_layers
        from moyu_core.studies.capture_sums import prompt_table
        from moyu_core.token_sequences import tokenise

        started = time.perf_counter()
        plan, model = self._loaded()
        numbers, prompts = plan.prompts(shard)
        asked = plan.request_for(prompts)
        layers = wanted_layers(model, asked)
        sequences = tokenise(model, prompts, asked.max_tokens)
        own = plan_of(model, asked, layers, _thresholds(plan))
        options = replace(own.options, batch_tokens=plan.batch_tokens)
        own = replace(own, options=options, keeps_values=plan.keeps_values,
                      lanes=lanes(model.device.type, len(prompts), self._threads))  # fmt: skip
        shards.save_about(plan, capture_part.about(model, layers))
        facts: Row = {"shard": shard, "worker": f"{socket.gethostname()}:{os.getpid()}"}
        known: dict[str, Row] = {}
        with shards.writing(plan, shard, facts, known) as folder:
            index, sums = capture_part.write(folder, model, sequences, numbers, own)
            known |= sums.sealed
            pq.write_table(index, folder / "index.parquet")
            pq.write_table(prompt_table([prompt_row(sequence, own) for sequence in sequences]), folder / "prompts.parquet")
            sums.save(folder)
            facts["seconds"] = round(time.perf_counter() - started, 3)


def _thresholds(plan: Plan) -> dict[int, float]:
    """Thresholds by layer that were calibrated before; none for rules without."""
    path = plan.folder / "thresholds.parquet"
    if not path.is_file():
        return {}
    table = pq.read_table(path)
    return dict(zip(table["layer"].to_pylist(), table["threshold"].to_pylist(), strict=True))


def raise_error(row: Row) -> None:
    """Raise the error that a worker answered with, as what it was there."""
    if row["error"]:
        raise getattr(errors, row["error"], MoyuError)(row["message"])
