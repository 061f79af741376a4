"""`moyu study predictors`: every dynamic-activation method on the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Device, Json, Model, Out, Rule, Seed, Target, home_for, perform, study_app
from moyu_core.errors import InputError


@study_app.command("predictors")
def predictors(
    model: Model = "default",
    prompts: Annotated[Path | None, typer.Option(help="JSONL file; data/prompts/demo.jsonl if left out.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="May be repeated; all that apply if left out.")] = None,
    rule: Rule = "top",
    reference: Annotated[float | None, typer.Option(help="Density of the reference set, for top (default 0.1).")] = None,
    target: Target = None,
    densities: Annotated[str, typer.Option(help="Kept shares of the methods.")] = "0.05,0.1,0.2,0.3,0.5",
    detail: Annotated[str, typer.Option(help="Ids of prompts whose sets are kept, parted by commas, or all, or none.")] = "none",
    set_densities: Annotated[str, typer.Option(help="Densities at which sets are kept.")] = "0.1,0.3",
    prompt_share: Annotated[float, typer.Option(help="Share of each text that is the prompt.")] = 0.5,
    max_tokens: Annotated[int, typer.Option(help="Longest sequence, sink token included.")] = 256,
    seed: Seed = 0,
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which neurons would each method have kept, and which were needed?"""
    from moyu_core.prompts import read_prompts
    from moyu_core.spec import SetRule
    from moyu_core.studies.predictors import Request

    home = home_for(out)
    found = read_prompts(prompts or home.prompts / "demo.jsonl").prompts
    ids = tuple(prompt.id for prompt in found) if detail == "all" else () if detail == "none" else tuple(detail.split(","))
    kept = number_list(densities)
    sets_at = tuple(density for density in number_list(set_densities) if density in kept)
    request = Request(model, found, tuple(method or ()), SetRule(rule, reference, target), kept, ids, sets_at, prompt_share,
                      max_tokens, seed)
    perform("predictors", request.as_json(), home, device, as_json)


def number_list(text: str) -> tuple[float, ...]:
    """`0.1,0.3` as ascending numbers."""
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise InputError(f"Densities are written like 0.1,0.3; {text!r} cannot be read.") from None
