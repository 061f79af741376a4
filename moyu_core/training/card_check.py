"""Compares the model cards on disk with what was recomputed, line by line and number by number. Strings only.

Measured figures, the rows of the tables below MEASURED, may differ by TOLERANCE or by one unit of the last digit shown. All
else - counts, sizes, constants of the recipe, continuations, words - must be the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path

from moyu_core.training.cards import ACTIVATION_ROWS

TOLERANCE = 0.002
"""Largest relative difference of a measured figure: kernels of other machines round differently."""
MEASURED = ("## Quality on held-out text", "## Activations after training", "## Runs")
_ROUNDED = tuple(f"| {label} |" for _, label, form in ACTIVATION_ROWS if form == "{:.0f}")
"""Rows whose measured figures are shown as whole numbers; any other whole number is a count."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Line:
    """One line of a card beside what was recomputed.

    Attributes:
        where: file and line number, 1 = the first.
        says: the line on disk; None = it is missing there.
        recomputed: the line that should stand there; None = none should. Both None: the file is not there.
        measured: whether its numbers are measured, so that the tolerance holds.
    """

    where: str
    says: str | None
    recomputed: str | None
    measured: bool

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(says, recomputed) of every number; empty where the words differ already."""
        says, recomputed = self.says or "", self.recomputed or ""
        if self.says is None or self.recomputed is None or _words(says) != _words(recomputed):
            return []
        return list(zip(_NUMBER.findall(says), _NUMBER.findall(recomputed), strict=True))

    @property
    def wrong(self) -> list[str]:
        """A sentence on everything that differs by more than is allowed; empty = the card is right here."""
        if self.says is None and self.recomputed is None:
            return [f"{self.where}: is not there"]
        if self.says is None:
            return [f"{self.where}: recomputed behind it {self.recomputed!r}"]
        if self.recomputed is None:
            return [f"{self.where}: says {self.says!r}, recomputed nothing"]
        if _words(self.says) != _words(self.recomputed):
            return [f"{self.where}: says {self.says!r}, recomputed {self.recomputed!r}"]
        allowed = f"{TOLERANCE:.1%} or a last digit" if self.measured else "nothing"
        return [f"{self.where}: says {x} where {y} was recomputed ({allowed} is allowed between them), in {self.says!r}"
                for x, y in self.pairs if not self._near(x, y)]

    @property
    def apart(self) -> float:
        """Largest relative difference of its measured numbers; 0 where all are equal."""
        return max((abs(_value(x) / _value(y) - 1) for x, y in self.pairs if x != y and _value(y)), default=0.0)

    def _near(self, x: str, y: str) -> bool:
        whole = "." not in y and not (self.says or "").startswith(_ROUNDED)
        if x == y or not self.measured or whole:
            return x == y
        return math.isclose(_value(x), _value(y), rel_tol=TOLERANCE, abs_tol=1.01 * 10.0 ** -len(y.partition(".")[2]))


def _words(line: str) -> str:
    """A line without its numbers."""
    return _NUMBER.sub("#", line)


def _value(text: str) -> float:
    """Of a number as a table shows it, 4,449,984 or 3.013."""
    return float(text.replace(",", ""))


def compare(path: Path, text: str) -> list[Line]:
    """Every line of a card and what was recomputed for it, blank ones left out.

    Args:
        path: the card; its folder and name stand in the sentences.
        text: the whole card as recomputed.
    """
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        return [Line(name, None, None, False)]
    old, new = path.read_text(encoding="utf-8").splitlines(), text.splitlines()
    words = [[_words(line) for line in lines] for lines in (old, new)]
    measured = _measured(new)
    return [line for _, start, end, first, last in SequenceMatcher(None, *words, autojunk=False).get_opcodes()
            for line in _of_block(name, (old, start, end), (new, first, last), measured) if line.says or line.recomputed]


def _of_block(name: str, old: tuple[list[str], int, int], new: tuple[list[str], int, int], measured: list[bool]) -> Iterator[Line]:
    """Lines of a card beside those that stand in their place when it is recomputed; each as (lines, first, behind the last)."""
    (there, start, end), (wanted, first, last) = old, new
    for at, (says, recomputed) in enumerate(zip_longest(there[start:end], wanted[first:last])):
        number = end if says is None else start + at + 1
        yield Line(f"{name}:{number}", says, recomputed, recomputed is not None and measured[first + at])


def _measured(lines: list[str]) -> list[bool]:
    """Which lines of a card are rows of measured figures."""
    found, heading = [], ""
    for line in lines:
        heading = line if line.startswith("#") else heading
        found.append(heading in MEASURED and line.startswith("|"))
    return found


def told(lines: list[Line]) -> Iterator[str]:
    """What was compared, for the eye: a line for each that holds numbers, then how many others were compared word for word."""
    counted = [line for line in lines if line.pairs]
    for line in counted:
        state = "DIFFERS" if line.wrong else f"{line.apart:.3%} apart" if line.measured else "equal"
        yield f"{line.where}: {_plural(len(line.pairs), 'number')}, {state}: {(line.says or '')[:70]}"
    others = sum(line.says is not None for line in lines) - len(counted)
    yield f"{lines[0].where.partition(':')[0]}: {_plural(others, 'line')} without numbers, word for word"


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
