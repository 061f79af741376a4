"""`moyu models`, `moyu fetch` and `moyu train`: which models there are, and how they come here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Device, Json
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.terminal import progress_bar, show_result


def models(as_json: Json = False) -> None:
    """List the models that are known or on this machine."""
    from moyu_core.methods import parts
    from moyu_core.registry import known_models

    home = Home.default()
    facts = known_models(home)
    fitted = parts.by_model([m.name for m in facts if m.installed], home)
    rows = [
        {
            "name": m.name,
            "title": m.title,
            "architecture": m.architecture,
            "activation": m.shape.activation,
            "gated": m.gated,
            "layers": m.shape.layers,
            "neurons": m.shape.n_neurons,
            "licence": m.licence,
            "fetched": m.installed,
            "bytes": m.size_bytes,
            "check": m.check,
            "fitted": ", ".join(fitted.get(m.name, ())),
            "note": m.note,
        }
        for m in facts
    ]
    show_result(rows, as_json)


def fetch(
    name: Annotated[str, typer.Argument(help="Name from `moyu models`, or a Hugging Face id.")] = "default",
    accept_terms: Annotated[bool, typer.Option(help="Accept the model's terms of use.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a model, check it against its pinned hash and convert it once."""
    from moyu_core import fetch as fetching
    from moyu_core.registry import locate

    home = Home.default()
    with progress_bar() as report:
        known = isinstance(locate(name, home), Path)
        folder = fetching.fetch(name, home, accept_terms, report) if known else fetching.fetch_hub(name, report)
    show_result({"name": name, "folder": str(folder)}, as_json)


def train(
    what: Annotated[str, typer.Argument(help="tiny: the matched ReLU, GELU and SwiGLU models of data/models.")],
    activation: Annotated[list[str] | None, typer.Option(help="relu, gelu or swiglu; may be repeated; all if left out.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="May be repeated; 0, 1 and 2 if left out.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Fewer are for trying it; the models' names then say so.")] = 4500,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Rebuild the tiny models from their sources; goes on where an earlier, stopped call ended."""
    if what != "tiny":
        raise InputError(f"There is no recipe {what!r}; use `moyu train tiny`.")
    from moyu_core.training import tiny, tiny_models

    unknown = set(activation or ()) - set(tiny_models.ACTIVATIONS)
    if unknown:
        raise InputError(f"Activation {sorted(unknown)[0]!r} is not trained here; use one of {', '.join(tiny_models.ACTIVATIONS)}.")
    with progress_bar() as report:
        chosen = activation or tiny_models.ACTIVATIONS, seed or tiny.SEEDS
        results = tiny.rebuild(Home.default(), report, device, *chosen, steps=steps)
    rows = [{**{key: r.config[key] for key in ("activation", "seed", "steps")}, "held_out_loss": r.held_out_loss} for r in results]
    show_result(rows, as_json)
