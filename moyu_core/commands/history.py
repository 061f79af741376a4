"""`moyu study history`: the same tokens behind many histories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Density, Device, Json, Out, Rule, Seed, Target, home_for, perform, study_app
from moyu_core.errors import InputError


@study_app.command()
def history(
    model: Annotated[list[str] | None, typer.Option(help="Registry name, folder or Hugging Face id; may be repeated.")] = None,
    texts: Annotated[Path | None, typer.Option(help="JSONL file to take histories from; the shipped one if left out.")] = None,
    own: Annotated[bool, typer.Option(help="Use these texts as the histories, one kind for each domain.")] = False,
    probe: Annotated[list[str] | None, typer.Option(help="Word or phrase with its leading space; may be repeated.")] = None,
    probes: Annotated[Path | None, typer.Option(help="Text file, one probe a line.")] = None,
    lengths: Annotated[str, typer.Option(help="Numbers of history tokens.")] = "4,16,64,256",
    draws: Annotated[int, typer.Option(help="Histories of each kind.")] = 15,
    part: Annotated[list[str] | None, typer.Option(help="transplant, drift, predictor or none; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(help="Predictors for each number of domains.")] = 3,
    look_ahead: Annotated[str, typer.Option(help="What predictors read: residual, ffn, block, previous.")] = "residual",
    rule: Rule = "top",
    density: Density = None,
    target: Target = None,
    seed: Seed = 0,
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which neurons a token activates, depending on what came before it: uncertainty, flips, transplants, drift, predictors."""
    from moyu_core.prompts import read_prompts
    from moyu_core.spec import SetRule
    from moyu_core.studies.history.requests import KEPT_DRAWS, KEPT_OWN, PROBES, HistoryRequest, read_probes

    home = home_for(out)
    given = (*(probe or ()), *(read_probes(probes) if probes else ()))
    chosen = given if probe or probes else PROBES
    parts = tuple(name for name in (("transplant", "drift") if part is None else part) if name != "none")
    found = read_prompts(texts or home.prompts / "histories.jsonl").prompts
    request = HistoryRequest(
        tuple(model or ("default",)),
        found,
        chosen,
        own,
        SetRule(rule, density, target),
        _lengths(lengths),
        draws,
        parts,
        seeds,
        seed,
        kept_draws=KEPT_OWN if own else KEPT_DRAWS,
        look_ahead=look_ahead,
    )
    perform("history", request.as_json(), home, device, as_json)


def _lengths(text: str) -> tuple[int, ...]:
    """`4,16` as numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"Lengths are written like 4,16,64; {text!r} cannot be read.") from None
