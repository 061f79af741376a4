"""`moyu fit METHOD`: learn what a dynamic-activation method needs from calibration text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moyu_core.commands.common import Device, Json, Model, Seed
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.terminal import progress_bar, show_result

if TYPE_CHECKING:
    from moyu_core.methods.protocol import Method
    from moyu_core.models import LoadedModel


def fit(
    method: Annotated[str, typer.Argument(help="A method, such as dejavu or moefication, or the part that it needs.")],
    model: Model = "default",
    prompts: Annotated[Path | None, typer.Option(help="JSONL of calibration text; the project's corpus if left out.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Calibration tokens, about; the method's own if left out.")] = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the part; below MOYU_HOME if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a method on calibration text and keep the result for later runs."""
    from moyu_core.methods import parts
    from moyu_core.methods.text import calibration_documents
    from moyu_core.models import load_model
    from moyu_core.studies.predictors.study import FIT_TOKENS

    named = methods_of(method)
    home = Home.default()
    with progress_bar() as report:
        loaded = load_model(model, home, device=device, report=report)
        chosen = applicable(named, loaded)
        wanted = tokens or FIT_TOKENS.get(chosen.part.split("-")[0], FIT_TOKENS["dejavu"])
        documents = calibration_documents(loaded, home, wanted, prompts, seed=seed, report=report)
        part = chosen.fit(loaded, documents, seed, report)
    path = parts.save(part, out or home.root / "fitted")
    facts = {name: value for name, value in part.validation.items() if "by_layer" not in name}
    show_result({"part": part.name, "model": part.model, "seconds": part.seconds, **facts, "file": str(path),
                 "bytes": path.stat().st_size}, as_json)


def methods_of(name: str) -> list[Method]:
    """The method of this name, or all that need the part of this name.

    Raises:
        InputError: there is neither, or the method needs no part.
    """
    from moyu_core import methods

    every = methods.every()
    found = [every[name]] if name in every else [method for method in every.values() if method.part == name]
    if not found:
        raise InputError(f"There is no method or part {name!r}; those that are fitted are "
                         f"{', '.join(method.name for method in every.values() if method.part)}.")
    if not found[0].part:
        raise InputError(f"{found[0].title} has nothing to be fitted; it can be used at once.")
    return found


def applicable(named: Sequence[Method], model: LoadedModel) -> Method:
    """The first of the methods that can be applied to the model; nothing is fitted that nobody could use.

    Raises:
        InputError: none can, with the reason.
    """
    reasons = [method.applies(model) for method in named]
    if all(reasons):
        raise InputError(f"{named[0].title} does not apply to {model.identity.name}: {reasons[0]} "
                         "`moyu study families` shows what applies where.")
    return named[reasons.index("")]
