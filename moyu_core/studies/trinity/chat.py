"""The run `chat`: one message answered by the dense model and with a method, in turn, each token visible as soon as it is there.

Both write greedily, so that a difference is the method's doing. When both are done, the method reads the dense answer: at each
of its tokens, would it have written the same? That is agreement on the same text, which two diverged answers cannot give.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from moyu_core.decode import Lane, check_length, twin
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.methods.protocol import Ready
from moyu_core.models import LoadedModel, load_model
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import clean, make_prompt, prompts_hash
from moyu_core.run_writer import RunFolder
from moyu_core.schema.trinity import CHAT_COLUMNS
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.streams import stream_file
from moyu_core.studies import shared
from moyu_core.studies.predictors.study import part_hashes
from moyu_core.studies.trinity.contenders import Contender, asked, contenders
from moyu_core.studies.trinity.forward import method_logits
from moyu_core.studies.trinity.requests import ChatRequest as Request
from moyu_core.tokens import encode, token_texts

NAME = "chat"
_KEPT: list[LoadedModel] = []
"""The model of the last message: a conversation does not load it anew for every message."""

Line = dict[str, Any]


def spec_of(request: Request, home: Home, identity: ModelIdentity, sink_token_id: int) -> RunSpec:
    """The identity of the run."""
    parameters = {name: getattr(request, name) for name in ("method", "density", "tokens", "turn")}
    parameters["parts"] = part_hashes(request.model, [request.method], identity, home)
    return RunSpec(
        NAME, identity, prompts_hash([make_prompt(clean(request.text)[0])]), SetRule("positive"), sink_token_id, parameters
    )


def run(request: Request, home: Home, report: Reporter = silent, device: str | None = None) -> str:
    """Load the model unless it is the last one used, and answer; returns the run id."""
    known = shared.finished(lambda identity, sink: spec_of(request, home, identity, sink), request.model, home)
    if known is not None:
        return known
    report("loading the model", 0, 0)
    if not _KEPT or _KEPT[0].identity.name != request.model:
        _KEPT[:] = [load_model(request.model, home, device=device, report=report)]
    return chat_run(_KEPT[0], request, home, report)


def chat_run(model: LoadedModel, request: Request, home: Home, report: Reporter = silent) -> str:
    """Answer with a loaded model; the method's part is fitted first where it is missing. Returns the run id."""
    ids = prompt_ids(model, request.text)
    check_length(model, len(ids), request.tokens)  # before a part is fitted for minutes
    one = contenders(model, [request.method], home, report)[0]
    spec = spec_of(request, home, model.identity, model.sink_token_id)
    return shared.make(spec, home, lambda folder: _write(folder, model, request, ids, one, home, report), report)


def _write(
    folder: RunFolder, model: LoadedModel, request: Request, ids: Tensor, one: Contender, home: Home, report: Reporter
) -> None:
    started, stream, lines = time.perf_counter(), stream_file(home, request.as_json()), []
    stream.parent.mkdir(parents=True, exist_ok=True)
    with stream.open("w", encoding="utf-8") as file:

        def say(line: Line) -> None:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            lines.append(line)

        answer(model, request, ids, one, say, report)
    same = {line["step"]: line["same"] for line in lines if line["side"] == "agreement"}
    rows = [
        {**line, "same": same.get(line["step"]) if line["side"] == "dense" else None}
        for line in lines
        if line["side"] != "agreement"
    ]
    folder.write("chat", shared.table(CHAT_COLUMNS, {c.name: [row[c.name] for row in rows] for c in CHAT_COLUMNS}))
    folder.facts = {
        "title": " ".join(request.text.split())[:48],
        "model": shared.model_facts(model),
        "scope": {"tokens": len(rows)},
        "headline": {"agreement": sum(map(bool, same.values())) / max(len(same), 1)},
        **shared.provenance(model, time.perf_counter() - started),
    }
    stream.unlink()


def answer(
    model: LoadedModel, request: Request, ids: Tensor, one: Contender, say: Callable[[Line], None], report: Reporter = silent
) -> None:
    """Both answers to the message `ids`, a token of each in turn, then the agreement along the dense one; `say` gets every line.

    Raises:
        InputError: the method cannot be used on this model, or message and answer are longer than the context.
    """
    if one.ready is None:
        raise InputError(f"{one.method.title} cannot be used with {model.identity.name}: {one.reason}")
    density = asked(request.density if one.method.steerable else 0.0)
    lanes = {"dense": Lane(model), "sparse": Lane(twin(model), one.ready, density)}
    with lanes["dense"].prompted(ids, request.tokens), lanes["sparse"].prompted(ids, request.tokens):
        for step, side, seconds in _in_turn(lanes, request.tokens, _ends(model)):
            token = lanes[side].written[step]
            say(
                {
                    "side": side,
                    "step": step,
                    "token_id": token,
                    "token": token_texts(model.tokenizer, [token])[0],
                    "seconds": seconds,
                }
            )
            report("answering", step, request.tokens)
    written = torch.tensor(lanes["dense"].written[: request.tokens])
    for step, same in enumerate(agreement(model, ids, written, one.ready, density)):
        say({"side": "agreement", "step": step, "same": same})


def _in_turn(lanes: dict[str, Lane], tokens: int, ends: set[int]) -> Iterator[tuple[int, str, float]]:
    """(step, side, seconds) of each token; a side that has ended is left out."""
    seconds = {side: lane.seconds["prompt"] for side, lane in lanes.items()}
    for step in range(tokens):
        for side, lane in lanes.items():
            if len(lane.written) <= step:
                continue
            yield step, side, seconds[side]
            if lane.first not in ends and step + 1 < tokens:
                began = lane.now()
                lane.step(lane.first)
                seconds[side] = lane.now() - began


def _ends(model: LoadedModel) -> set[int]:
    """Tokens that end an answer."""
    found = model.model.generation_config.eos_token_id if model.model.generation_config else None
    own = getattr(model.tokenizer, "eos_token_id", None)
    listed = found if isinstance(found, list) else [found]
    return {int(token) for token in (*listed, own) if token is not None}


def prompt_ids(model: LoadedModel, text: str) -> Tensor:
    """The message behind the sink token: in the model's chat form where its tokenizer has one, else as it is, to be continued."""
    text = clean(text)[0]
    if getattr(model.tokenizer, "chat_template", None):
        text = model.tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = encode(model.tokenizer, text)
    return torch.tensor([model.sink_token_id, *ids])


def agreement(model: LoadedModel, prompt: Tensor, written: Tensor, ready: Ready, density: float) -> list[bool]:
    """For each written token: is it what the method would have written at this place, given the same text so far?"""
    whole = torch.cat([prompt, written])
    logits = method_logits(model, whole[None], [len(whole)], ready, density, len(prompt)).logits[0]
    return (logits[len(prompt) - 1 : -1].argmax(dim=-1).cpu() == written).tolist()
