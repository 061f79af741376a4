"""`moyu capture` and `moyu vocabulary`: which neurons were active, and what their outputs promote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Device, Json, Model, carried_out, home_for, layer_list, perform
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.prompts import MAX_PROMPTS
from moyu_core.spec import SetRule
from moyu_core.terminal import say


def capture(
    prompts: Annotated[
        Path,
        typer.Option(help='JSONL file, one {"id", "text", "domain"} a line; Parquet; a folder of Parquet or `datasets` files.'),
    ],
    model: Model = "default",
    rule: Annotated[str, typer.Option("--set", help="top, magnitude, cett or positive.")] = "top",
    density: Annotated[float | None, typer.Option(help="Kept share, for top and magnitude (default 0.1).")] = None,
    target: Annotated[float | None, typer.Option(help="CETT target, for cett (default 0.2).")] = None,
    layers: Annotated[str | None, typer.Option(help="For instance 0,5,10-12; all if left out.")] = None,
    values: Annotated[str, typer.Option(help="none, all, or prompt ids parted by commas.")] = "none",
    cett: Annotated[bool, typer.Option(help="Compute the CETT of every token.")] = False,
    max_tokens: Annotated[int, typer.Option(min=2, help="Longest sequence, sink token included.")] = 1024,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    sink_token_id: Annotated[int | None, typer.Option(help="Overrides the model's own sink token.")] = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; the usual place if left out.")] = None,
    title: Annotated[str, typer.Option(help="Name shown for the run.")] = "",
    text_column: Annotated[str, typer.Option(help="Column of the texts, in Parquet and `datasets` folders.")] = "text",
    split: Annotated[str | None, typer.Option(help="Split of a `datasets` folder; train if left out.")] = None,
    limit: Annotated[int, typer.Option(help="The most prompts to take.")] = MAX_PROMPTS,
    refuse_long: Annotated[bool, typer.Option("--refuse-long", help="Refuse prompts above the limit, cut none.")] = False,
    corpus: Annotated[bool, typer.Option("--corpus", help="Keep rates by half, pairs and strongest tokens.")] = False,
    engine: Annotated[str, typer.Option(help="local (this process) or ray (many workers, see requirements-ray.txt).")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster; with --engine ray.")] = None,
    workers: Annotated[int | None, typer.Option(help="One for each GPU, or two, if left out; with --engine ray.")] = None,
    gpus_per_worker: Annotated[int, typer.Option(help="Above 1 for models that one GPU cannot hold; with --engine ray.")] = 1,
    as_json: Json = False,
) -> None:
    """Run prompts through a model and keep which neurons were active."""
    from moyu_core.datasets import Selection, read_dataset
    from moyu_core.studies.requests import CaptureRequest

    _check_engine(engine, address, workers, gpus_per_worker)
    found = read_dataset(prompts, Selection(text_column, limit, split, cut=not refuse_long))
    for note in found.notes:
        say(f"note: {note}")
    request = CaptureRequest(
        model,
        found.prompts,
        SetRule(rule, density, target),
        layer_list(layers),
        _values(values),
        cett,
        max_tokens,
        dtype,
        sink_token_id,
        title or found.name,
        corpus,
        refuse_long,
    )
    home = home_for(out)
    if engine == "local":
        perform("capture", request.as_json(), home, device, as_json)
        return
    from moyu_core.cluster.capture import capture_on_cluster
    from moyu_core.cluster.engine import Cluster

    cluster = Cluster(address, workers, gpus_per_worker, device)
    carried_out(lambda report: capture_on_cluster(request, home, cluster, report), home, as_json)


def vocabulary(
    model: Model = "default",
    tokens: Annotated[int, typer.Option(min=1, max=50)] = 8,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find the tokens that each neuron's output promotes and suppresses."""
    from moyu_core.studies.requests import VocabularyRequest

    perform("vocabulary", VocabularyRequest(model, tokens).as_json(), Home.default(), device, as_json)


def _check_engine(engine: str, address: str | None, workers: int | None, gpus_per_worker: int) -> None:
    if engine not in ("local", "ray"):
        raise InputError(f"Engine {engine!r} is not known; use local or ray.")
    if engine == "local" and (address is not None or workers is not None or gpus_per_worker != 1):
        raise InputError("--address, --workers and --gpus-per-worker belong to --engine ray; add it or leave them out.")


def _values(text: str) -> tuple[str, ...] | None:
    return () if text == "none" else None if text == "all" else tuple(part.strip() for part in text.split(","))
