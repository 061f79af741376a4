"""`moyu study trinity`, `speed` and `families`: quality kept, real speed, and where it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Device, Json, Model, Out, home_for, perform, study_app
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.studies.trinity.requests import BUDGET, DENSITIES, METHODS

Methods = Annotated[str | None, typer.Option(help="Names of methods with commas between; the usual ones if left out.")]
Dtype = Annotated[str, typer.Option(help="Arithmetic: float32, bfloat16 or float16.")]
Densities = Annotated[str | None, typer.Option(help="Kept shares, ascending, with commas between.")]


@study_app.command()
def trinity(
    model: Model = "default",
    texts: Annotated[
        Path | None, typer.Option(help="JSONL of evaluation texts; data/prompts/evaluation.jsonl if left out.")
    ] = None,
    count: Annotated[int, typer.Option(help="How many of the texts.")] = 48,
    methods: Methods = None,
    densities: Densities = None,
    budget: Annotated[float, typer.Option(help="Perplexity that may be lost; 0.01 = 1 %.")] = BUDGET,
    prompt: Annotated[str, typer.Option(help="dense or masked.")] = "dense",
    reading: Annotated[str | None, typer.Option(help="Kept shares for the reading task, `none` to leave it out.")] = "0.5",
    dtype: Dtype = "float32",
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Quality of every method by density, the sparsest setting within the budget, and a reading task."""
    from moyu_core.studies.trinity.requests import TrinityRequest, evaluation_prompts

    home = home_for(out)
    request = TrinityRequest(
        model,
        evaluation_prompts(home, count, texts),
        names(methods),
        numbers(densities) or DENSITIES,
        budget,
        () if reading in (None, "none") else numbers(reading),
        prompt=prompt,
        dtype=dtype,
    )
    perform("trinity", request.as_json(), home, device, as_json)


@study_app.command()
def speed(
    model: Model = "default",
    methods: Methods = None,
    densities: Densities = None,
    at_points: Annotated[bool, typer.Option(help="Also at the operating points of the newest run of `trinity`.")] = True,
    repeats: Annotated[int, typer.Option(help="Pairs of samples, at least 20.")] = 21,
    tokens: Annotated[int, typer.Option(help="Decoded for a sample.")] = 2,
    dtype: Dtype = "float32",
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tokens per second with the weights really gathered, dense and sparse in turn."""
    from moyu_core.studies.trinity.plan import operating_points, speed_request

    home = home_for(out)
    chosen = numbers(densities) or DENSITIES
    homes = dict.fromkeys([home, Home.default()])  # a fresh folder holds no run of `trinity`
    points = operating_points(model, list(homes), dtype) if at_points else {}
    request = speed_request(model, home, names(methods), chosen, points, repeats, tokens, dtype)
    perform("speed", request.as_json(), home, device, as_json)


@study_app.command()
def families(out: Out = None, as_json: Json = False) -> None:
    """Which methods can be applied to which architectures, tried on small random models."""
    from moyu_core.studies.trinity.requests import FamiliesRequest

    perform("families", FamiliesRequest().as_json(), home_for(out), None, as_json)


def names(text: str | None) -> tuple[str, ...]:
    """Names with commas between."""
    return METHODS if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str | None) -> tuple[float, ...]:
    """Numbers with commas between; none for None.

    Raises:
        InputError: one of them is no number.
    """
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"Densities are numbers like 0.1,0.3,0.5; {text!r} cannot be read.") from None
