"""The whole way from a request to a run on many workers: plan, shards, one manifest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from moyu_core import fetch, registry, store
from moyu_core.cluster import engine, shards
from moyu_core.cluster.engine import Cluster, Share
from moyu_core.cluster.plan import Plan, lengths_of, make_plan, open_plan
from moyu_core.cluster.worker import raise_error
from moyu_core.errors import ModelError
from moyu_core.folders import writable
from moyu_core.home import Home
from moyu_core.progress import Reporter, silent
from moyu_core.run_writer import RunFolder
from moyu_core.spec import RunSpec
from moyu_core.studies import shared
from moyu_core.studies.requests import CaptureRequest
from moyu_core.tokens import sink_token


def capture_on_cluster(
    request: CaptureRequest, home: Home, cluster: Cluster | None = None, report: Reporter = silent, shard_tokens: int | None = None
) -> str:
    """Capture on many workers; returns the id of the run, which is the run that one process would have made.

    Args:
        request: what is asked.
        home: where runs and models are; all machines of the cluster must see both.
        cluster: where to work; None = this machine.
        report: progress in tokens, and cancel.
        shard_tokens: tokens after which a shard is closed; None = some batches.

    Raises:
        InputError: Ray is missing, the address does not answer, the request does not fit the model.
        MoyuError: a shard cannot be written, or loses its worker again and again.
        Cancelled: from `report`. Finished shards stay, and the next call goes on from them.
    """
    from moyu_core.studies.capture import refuse_cut_run, spec_of

    engine.require_ray()
    folder = _model_folder(request, home, report)
    sink = _sink(request, folder)
    identity = registry.identity(request.model, home, request.dtype)
    if identity is None:
        raise ModelError(f"The weights of {request.model} were there a moment ago and are gone.")
    spec = spec_of(request, identity, sink)
    home = replace(home, root=home.root.resolve(), runs_folder=home.runs.resolve())
    building = home.runs / f".shards-{spec.run_id}"
    write = partial(_write, spec=spec, model=folder, request=request, home=home, cluster=cluster or Cluster(), report=report,
                    building=building, shard_tokens=shard_tokens)  # fmt: skip
    shared.make(spec, home, write, report)
    shutil.rmtree(building, ignore_errors=True)
    refuse_cut_run(request, store.find_run(home, spec.run_id))
    return spec.run_id


def _model_folder(request: CaptureRequest, home: Home, report: Reporter) -> Path:
    """The model's folder; what is not on this machine is fetched, as `load_model` would."""
    folder = registry.on_disk(request.model, home)
    if folder is not None:
        return folder
    place = registry.locate(request.model, home)
    return fetch.fetch_hub(place, report) if isinstance(place, str) else fetch.fetch(request.model, home, report=report)


def _sink(request: CaptureRequest, folder: Path) -> int:
    """The sink token that the workers' model will have."""
    chosen = request.sink_token_id if request.sink_token_id is not None else registry.model_facts(folder).sink_token_id
    if chosen is not None:
        return chosen
    from transformers import AutoTokenizer

    return sink_token(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), request.model)


def _write(
    run: RunFolder,
    spec: RunSpec,
    model: Path,
    request: CaptureRequest,
    home: Home,
    cluster: Cluster,
    report: Reporter,
    building: Path,
    shard_tokens: int | None,
) -> None:
    """Have all shards made and put the run together."""
    plan = open_plan(building)
    share: Share | None = None
    if plan is None or _open_shards(plan):
        with engine.connected(cluster, report) as (ray, share):
            if plan is None:
                shutil.rmtree(building, ignore_errors=True)
                plan = _new_plan(building, spec, model, request, share, report, shard_tokens)
            shards.clear_unfinished(plan)
            arguments = {"folder": str(building), "home": home, "device": cluster.device, "threads": share.threads}
            _calibrate(ray, share, plan, request, arguments, report)
            _capture(ray, share, plan, arguments, report)
    report("putting the run together", 0, 0)
    _finish(run, plan, request, share)


def _open_shards(plan: Plan) -> list[int]:
    return [shard for shard in range(len(plan.tokens)) if shards.finished(plan, shard) is None]


def _new_plan(
    building: Path, spec: RunSpec, model: Path, request: CaptureRequest, share: Share, report: Reporter, shard_tokens: int | None
) -> Plan:
    import torch

    from moyu_core.capture import default_batch_tokens

    limit = min(request.max_tokens, registry.model_facts(model).shape.max_positions)
    lengths = lengths_of(request, model, limit, report)
    batch_tokens = default_batch_tokens(torch.device("cuda" if share.gpus else "cpu"))
    with writable(building.parent):
        return make_plan(building, request, spec, lengths, batch_tokens, shard_tokens)


def _calibrate(ray: Any, share: Share, plan: Plan, request: CaptureRequest, arguments: dict[str, Any], report: Reporter) -> None:
    """Find the thresholds of the rule `cett` once, before all shards."""
    from moyu_core.cett import CALIBRATION_TOKENS, Threshold
    from moyu_core.studies.capture import threshold_table

    path = plan.folder / "thresholds.parquet"
    if request.rule.name != "cett" or path.is_file():
        return
    ask = partial(engine.ask_one, ray, share, arguments, "calibrate", request.prompts[: CALIBRATION_TOKENS // 2])
    for answer in engine.watched(lambda: iter([ask()]), lambda: report("calibrating thresholds", 0, 0)):
        raise_error(answer)
        with writable(plan.folder):
            partial_file = path.with_suffix(".partial")
            pq.write_table(threshold_table([Threshold(*found) for found in answer["thresholds"]]), partial_file)
            partial_file.replace(path)


def _capture(ray: Any, share: Share, plan: Plan, arguments: dict[str, Any], report: Reporter) -> None:
    """Run the shards that are not finished through the workers."""
    missing = _open_shards(plan)
    total = sum(plan.tokens)
    done = total - sum(plan.tokens[shard] for shard in missing)
    stage = "capturing" if not done else "capturing, going on from what is finished"

    def tick() -> None:
        report(stage, done, total)

    tick()
    for row in engine.watched(lambda: engine.stream(ray, share, missing, arguments), tick):
        raise_error(row)
        done += row["tokens"]
        if row["attempt"] > 1:
            stage = "capturing, a worker was lost and replaced"
        tick()


def _finish(run: RunFolder, plan: Plan, request: CaptureRequest, share: Share | None) -> None:
    """One index, one set of tables, one manifest."""
    from moyu_core.studies.capture_sums import finish

    prompts, sums, seconds = shards.assemble(plan, run)
    thresholds = plan.folder / "thresholds.parquet"
    if thresholds.is_file():
        run.write("thresholds", store.read_parquet(thresholds))
    about = shards.load_about(plan)
    workers = share.workers if share else 1
    device = {**about.provenance["device"], "engine": "ray", "workers": workers, "shards": len(plan.tokens)}
    about = replace(about, provenance={**about.provenance, "device": device})
    finish(run, request, prompts, sums, about, seconds / workers)
