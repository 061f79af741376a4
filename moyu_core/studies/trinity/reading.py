"""The reading task: short questions on short texts, answered in generation with the weights really gathered.

Both were written for this project (data/tasks/reading.jsonl). One example shows the form. Right = what stands before the first
line break equals an accepted answer after normalisation: lower case, no punctuation, no articles. The unit is the text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moyu_core.decode import Lane
from moyu_core.errors import InputError
from moyu_core.methods.protocol import Ready
from moyu_core.studies.trinity.contenders import asked
from moyu_core.tokens import encode

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel

LONGEST_ANSWER = 10
FEWEST_RIGHT = 4
"""A dense model with fewer right answers has nothing to lose; methods are not asked then."""
EXAMPLE = "Text: The dog is called Bruno. He sleeps under the table.\nQuestion: Where does Bruno sleep?\nAnswer: under the table"


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: `<text>/<number>`.
        text: the passage.
        question: about it.
        answers: accepted ones.
    """

    id: str
    text: str
    question: str
    answers: tuple[str, ...]

    @property
    def passage(self) -> str:
        """The text's name: the unit of intervals."""
        return self.id.rsplit("/", 1)[0]

    @property
    def prompt(self) -> str:
        """What the model reads; no chat marks, since most models have none."""
        return f"{EXAMPLE}\n\nText: {self.text}\nQuestion: {self.question}\nAnswer:"


def read_items(path: Path) -> list[Item]:
    """The items of a file.

    Raises:
        InputError: a line is not an item.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            data = json.loads(line)
            found.append(Item(data["id"], data["text"], data["question"], tuple(data["answers"])))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number} needs id, text, question and answers ({error}); mend or remove it.") from error
    return found


def normalised(text: str) -> str:
    """Lower case without punctuation and articles; accents stay."""
    plain = re.sub(r"[^\w\s]", " ", unicodedata.normalize("NFC", text).lower())
    return " ".join(word for word in plain.split() if word not in ("a", "an", "the"))


def is_right(answer: str, item: Item) -> bool:
    """Whether the answer equals an accepted one, both normalised."""
    return normalised(answer) in {normalised(accepted) for accepted in item.answers}


def answer(lane: Lane, item: Item) -> str:
    """What the model writes before the first line break, greedily."""
    model = lane.model
    ids = torch.tensor([model.sink_token_id, *encode(model.tokenizer, item.prompt)])
    written: list[int] = []
    with lane.prompted(ids, LONGEST_ANSWER):
        token = lane.first
        for _ in range(LONGEST_ANSWER):
            written.append(token)
            if "\n" in model.tokenizer.decode(written):
                break
            token = lane.step(token)
    return model.tokenizer.decode(written).split("\n")[0].strip()


def read(model: LoadedModel, ready: Ready | None, density: float, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Rows of the table `reading` for one method (None = dense) and density; `model` may be a twin."""
    lane = Lane(model, ready, asked(density))
    name = "dense" if ready is None else ready.method.name
    rows = []
    for item in items:
        text = answer(lane, item)
        rows.append(
            {
                "method": name,
                "density": density,
                "item": item.id,
                "passage": item.passage,
                "answer": text,
                "correct": is_right(text, item),
            }
        )
    return rows
