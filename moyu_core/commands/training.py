"""`moyu study training` and `moyu study live`: curves along training, of the tiny models and of a network trained now."""

from __future__ import annotations

from typing import Annotated

import typer

from moyu_core.commands.common import Device, Json, Out, home_for, perform, study_app


@study_app.command()
def training(out: Out = None, as_json: Json = False) -> None:
    """Collect what `moyu train tiny` saw along training into a run."""
    from moyu_core.studies.origin_requests import TrainingRequest

    perform("training", TrainingRequest().as_json(), home_for(out), None, as_json)


@study_app.command()
def live(
    activation: Annotated[str, typer.Option(help="relu, gelu or swiglu.")] = "relu",
    width: Annotated[int, typer.Option(help="F: 96, 192, 384 or 768.")] = 384,
    seed: Annotated[int, typer.Option(help="Of weights and order of data.")] = 0,
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train a small network for some seconds and keep what happens to its neurons."""
    from moyu_core.studies.origin_requests import LiveRequest

    perform("live", LiveRequest(activation, width, seed).as_json(), home_for(out), device, as_json)
