"""`moyu study origin`: the sign of dL/da at initialisation and as trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Device, Json, Model, Out, home_for, perform, study_app


@study_app.command()
def origin(
    model: Model = "default",
    prompts: Annotated[Path | None, typer.Option(help="JSONL file; data/prompts/topics.jsonl if left out.")] = None,
    texts: Annotated[int, typer.Option(min=1, help="How many of the prompts, evenly spread.")] = 10,
    seeds: Annotated[int, typer.Option(help="Initialisations; they are the units.")] = 36,
    max_tokens: Annotated[int, typer.Option(help="Longest sequence, sink token included.")] = 128,
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Where over-activation comes from: does descent shrink active neurons at initialisation?"""
    from moyu_core.prompts import read_prompts
    from moyu_core.studies.origin_requests import OriginRequest

    home = home_for(out)
    found = read_prompts(prompts or home.prompts / "topics.jsonl").prompts
    count = min(texts, len(found))
    chosen = tuple(found[number * len(found) // count] for number in range(count))
    perform("origin", OriginRequest(model, chosen, seeds, max_tokens).as_json(), home, device, as_json)
