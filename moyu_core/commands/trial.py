"""`moyu study trial`: the token table against its rivals on held-out texts, every token masked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands.common import Device, Json, Model, Out, Seed, home_for, perform, study_app
from moyu_core.commands.predictors import number_list
from moyu_core.studies.trial.request import GENERATED, MAX_TOKENS, PER_GENRE, PROMPT_TOKENS


@study_app.command("trial")
def trial(
    model: Model = "default",
    texts: Annotated[Path | None, typer.Option(help="JSONL of held-out texts; data/prompts/evaluation.jsonl if left out.")] = None,
    per_genre: Annotated[int, typer.Option(help="Documents of each genre, at most; one text of each.")] = PER_GENRE,
    method: Annotated[list[str] | None, typer.Option(help="May be repeated; the table and its rivals if left out.")] = None,
    densities: Annotated[str, typer.Option(help="Kept shares; the claims are about 0.3.")] = "0.1,0.3,0.5",
    max_tokens: Annotated[int, typer.Option(help="Tokens of a text, sink token included.")] = MAX_TOKENS,
    prompt_tokens: Annotated[int, typer.Option(help="Of them the prompt, sink token included.")] = PROMPT_TOKENS,
    generated: Annotated[int, typer.Option(help="Tokens that each method writes behind the prompt.")] = GENERATED,
    seed: Seed = 0,
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Does a look-up by the current token keep closer to the dense model than methods of the same size?"""
    from moyu_core.studies.trial.request import METHODS, TrialRequest, trial_prompts

    home = home_for(out)
    request = TrialRequest(
        model,
        trial_prompts(home, per_genre, texts),
        tuple(method or METHODS),
        number_list(densities),
        max_tokens,
        prompt_tokens,
        generated,
        seed,
    )
    perform("trial", request.as_json(), home, device, as_json)
