"""The request cut into shards, on disk: what is to be done, the same for every worker and after every restart.

Batches are those that one process would make of the whole request (`token_sequences.batches`), and a shard is some of them one
after the other, so every forward pass has the shape that it would have had there, and the results are equal to the last bit.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moyu_core.errors import InputError
from moyu_core.progress import Reporter, silent
from moyu_core.prompts import Prompt
from moyu_core.spec import RunSpec
from moyu_core.studies.requests import CaptureRequest
from moyu_core.tokens import count_tokens, encode

PLAN_VERSION = 1
BATCHES_PER_SHARD = 16
"""Of full batches; what is lost with a worker is one shard."""

_FACTS, _PROMPTS = "plan.json", "plan.parquet"
_FIELDS = ("id", "text", "domain", "condition")


@dataclass(frozen=True)
class Plan:
    """A plan that is on disk.

    Attributes:
        folder: where, with everything that the shards leave.
        run_id: of the run to be.
        weights: what the workers' model must be.
        sink_token_id: stands first in every sequence.
        batch_tokens: rows of one forward pass.
        tokens: of each shard, sink tokens included.
        request: what was asked, its prompts left out.
    """

    folder: Path
    run_id: str
    weights: str
    sink_token_id: int
    batch_tokens: int
    tokens: tuple[int, ...]
    request: dict[str, Any]

    def prompts(self, shard: int) -> tuple[list[int], list[Prompt]]:
        """(places in the request, prompts) of a shard, in the order of its batches."""
        with pq.ParquetFile(self.folder / _PROMPTS) as file:
            rows = file.read_row_group(shard).to_pylist()
        return [row["number"] for row in rows], [Prompt(**{name: row[name] for name in _FIELDS}) for row in rows]

    def numbers(self) -> np.ndarray:
        """Places in the request of all prompts, shard after shard."""
        return pq.read_table(self.folder / _PROMPTS, columns=["number"])["number"].to_numpy()

    def request_for(self, prompts: Sequence[Prompt]) -> CaptureRequest:
        """The request for some of its prompts."""
        values = self.request["values"]
        kept = None if values is None else [name for name in values if name in {prompt.id for prompt in prompts}]
        return CaptureRequest.from_json({**self.request, "values": kept, "prompts": [vars(prompt) for prompt in prompts]})

    @property
    def keeps_values(self) -> bool:
        """Whether the run stores values of at least one prompt."""
        return self.request["values"] is None or bool(self.request["values"])


class _Counted:
    """Stands for a sequence where only its length matters."""

    def __init__(self, number: int, tokens: int) -> None:
        self.number, self.tokens = number, tokens

    def __len__(self) -> int:
        return self.tokens


def open_plan(folder: Path) -> Plan | None:
    """The plan of a folder; None where there is none that is whole and of this version."""
    try:
        said = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        if said.pop("version") != PLAN_VERSION or pq.read_metadata(folder / _PROMPTS).num_row_groups != len(said["tokens"]):
            return None
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    return Plan(folder, **{**said, "tokens": tuple(said["tokens"])})


def make_plan(
    folder: Path,
    request: CaptureRequest,
    spec: RunSpec,
    lengths: Sequence[int],
    batch_tokens: int,
    shard_tokens: int | None = None,
) -> Plan:
    """Cut the request into shards and write that down.

    Args:
        folder: is made; what lies there of an older plan is not valid any more and must be gone.
        request: what is asked.
        spec: identity of the run.
        lengths: tokens of each prompt's sequence, from `lengths_of`.
        batch_tokens: rows of one forward pass.
        shard_tokens: a shard is closed when it holds as many; None = BATCHES_PER_SHARD batches.
    """
    shards = list(_shards(lengths, batch_tokens, shard_tokens or BATCHES_PER_SHARD * batch_tokens))
    folder.mkdir(parents=True, exist_ok=True)
    fields = pa.schema([("number", pa.int64()), *((name, pa.string()) for name in _FIELDS)])
    with pq.ParquetWriter(folder / _PROMPTS, fields, compression="zstd") as writer:
        for numbers in shards:
            chosen = [request.prompts[number] for number in numbers]
            columns = [numbers, *([getattr(prompt, name) for prompt in chosen] for name in _FIELDS)]
            writer.write_table(pa.table(columns, schema=fields), row_group_size=len(numbers))
    tokens = [sum(lengths[number] for number in numbers) for numbers in shards]
    asked = {**replace(request, prompts=request.prompts[:1], values=()).as_json(), "prompts": [], "values": request.values}
    said = {"version": PLAN_VERSION, "run_id": spec.run_id, "weights": spec.model.weights, "sink_token_id": spec.sink_token_id,
            "batch_tokens": batch_tokens, "tokens": tokens, "request": asked}  # fmt: skip
    write_json(folder / _FACTS, said)
    plan = open_plan(folder)
    assert plan is not None
    return plan


def _shards(lengths: Sequence[int], batch_tokens: int, shard_tokens: int) -> Iterator[list[int]]:
    """Numbers of prompts, shard after shard: whole batches, until there are enough tokens."""
    from moyu_core.token_sequences import batches

    shard: list[int] = []
    tokens = 0
    counted: Any = [_Counted(number, length) for number, length in enumerate(lengths)]
    for batch in batches(counted, batch_tokens):
        found: Any = batch
        shard += [stand_in.number for stand_in in found]
        tokens += sum(map(len, batch))
        if tokens >= shard_tokens:
            yield shard
            shard, tokens = [], 0
    if shard:
        yield shard


def lengths_of(request: CaptureRequest, model: Path, limit: int, report: Reporter = silent) -> list[int]:
    """Tokens of each prompt's sequence, sink token included, cut at the limit; from the model's tokenizer alone.

    Raises:
        InputError: a limit below two tokens, a prompt above it where that is refused.
    """
    from moyu_core.studies.capture import refuse_cut

    if limit < 2:
        raise InputError(f"A sequence holds the sink token and at least one more; the limit of {limit} tokens is too low.")
    count = _counter(model)
    lengths = []
    for number, prompt in enumerate(request.prompts):
        if number % 256 == 0:
            report("counting tokens", number, len(request.prompts))
        found = count(prompt.text) + 1
        refuse_cut(request, [(prompt.id, max(0, found - limit))])
        lengths.append(min(limit, found))
    return lengths


def _counter(model: Path):
    """Text -> tokens: with the light tokenizer where its file is there, else with that of transformers."""
    if (model / "tokenizer.json").is_file():
        return lambda text: count_tokens(model, text)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    return lambda text: len(encode(tokenizer, text))


def write_json(path: Path, data: Any) -> None:
    """A JSON file that appears whole or not at all, also where several workers write it at once."""
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}.partial")
    partial.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
