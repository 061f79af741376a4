"""`moyu study inertia`: do the same neurons keep firing within a sequence, whatever the meaning?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Density, Device, Json, Model, Out, Rule, Seed, Target, home_for, perform, study_app


@study_app.command()
def inertia(
    model: Model = "default",
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL file; the domain is the topic. Default: data/prompts/topics.jsonl.")
    ] = None,
    rule: Rule = "top",
    density: Density = None,
    target: Target = None,
    words: Annotated[int, typer.Option(min=2, max=64, help="Words of each text that are used.")] = 32,
    parts: Annotated[str, typer.Option(help="all, none, or some of lag,carrier,switch,regression,hitters.")] = "all",
    seed: Seed = 0,
    device: Device = None,
    out: Out = None,
    title: Annotated[str, typer.Option(help="Name shown for the run.")] = "",
    as_json: Json = False,
) -> None:
    """Compare sets within and across sequences of sentences, shuffled words, random words and random tokens."""
    from moyu_core.prompts import read_prompts
    from moyu_core.spec import SetRule
    from moyu_core.studies.inertia.request import PARTS, InertiaRequest

    found = read_prompts(prompts or home_for(out).prompts / "topics.jsonl")
    chosen = PARTS if parts == "all" else () if parts == "none" else tuple(part.strip() for part in parts.split(","))
    request = InertiaRequest(model, found.prompts, SetRule(rule, density, target), seed, words, chosen, title=title or found.name)
    perform("inertia", request.as_json(), home_for(out), device, as_json)
