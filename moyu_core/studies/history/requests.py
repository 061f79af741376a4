"""What can be asked of the study `history`. No torch here: pages and the command line build these."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError
from moyu_core.prompts import Prompt, PromptSet
from moyu_core.schema.history import OWN_KIND
from moyu_core.spec import SetRule

PROBES = (
    " bank",
    " light",
    " water",
    " time",
    " head",
    " play",
    " market",
    " cell",
    " table",
    " record",
    " plant",
    " current",
    " lead",
    " law",
    " house",
    " river",
    " work",
    " not",
    " the",
    " of",
    " and",
    " is",
    " she",
    " because",
    ",",
    ".",
    " in the bank",
    " the law of",
    " not a river",
    " she is not",
)
"""Nouns and verbs of several senses, function words, marks, and phrases; in the default model each word is one token."""
LENGTHS = (4, 16, 64, 256)
DRAWS = 15
MIN_HISTORIES = 3
MIN_PROBES = 3
MIN_DOMAINS, MIN_DOMAIN_TEXTS = 3, 3
"""What the predictor part needs: domains to train on beside one held out, and texts in each to train on and to test on."""
KEPT_DRAWS, KEPT_OWN = 2, 8
"""Histories of each kind whose sets are stored; more of one's own, which are there to be looked at one by one."""
PARTS = ("transplant", "drift", "predictor")
LOOK_AHEADS = ("residual", "ffn", "block", "previous")
"""What a predictor may read (`methods.inputs.INPUTS`); the first is what DejaVu's training takes."""
MAX_PROBES, MAX_PROBE_CHARACTERS, MAX_DRAWS, MAX_LENGTH = 200, 200, 200, 8192


@dataclass(frozen=True)
class HistoryRequest:
    """A grid of probes and histories, and what is measured beside it.

    Attributes:
        models: registry names, folders or Hugging Face ids; one after the other, the same texts for each.
        texts: what histories are taken from, by `domain`; with `own`, the histories themselves.
        probes: words or phrases as they are written, leading space included; no two alike.
        own: whether `texts` are histories to be used as they are, one kind for each domain; else they are the material of
            the six kinds (schema.history.KINDS).
        rule: the active-set rule.
        lengths: numbers of history tokens, sink token not counted.
        draws: histories of each kind; with `own`, at most so many.
        parts: what is measured beside the grid: transplant, drift, predictor.
        seeds: predictors trained for each number of domains.
        look_ahead: what the predictors read, one of LOOK_AHEADS: the further ahead, the earlier a set is known.
        seed: of every random choice.
        kept_draws: draws of each kind whose sets are stored.
        kept_layers: layers whose sets are stored, evenly spaced.
        title: name shown for the run; changes no number.
    """

    models: tuple[str, ...]
    texts: tuple[Prompt, ...]
    probes: tuple[str, ...] = PROBES
    own: bool = False
    rule: SetRule = field(default_factory=SetRule)
    lengths: tuple[int, ...] = LENGTHS
    draws: int = DRAWS
    parts: tuple[str, ...] = ("transplant", "drift")
    seeds: int = 3
    seed: int = 0
    kept_draws: int = KEPT_DRAWS
    kept_layers: int = 6
    title: str = ""
    look_ahead: str = LOOK_AHEADS[0]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(sorted(set(self.lengths))))
        if not self.models or len(set(self.models)) < len(self.models):
            given = ", ".join(self.models) or "none"
            raise InputError(f"The history study needs at least one model and none twice; received {given}.")
        if not self.texts:
            raise InputError("The history study needs texts to take histories from; received none.")
        PromptSet("request", self.texts)
        _check_probes(self.probes)
        _check_numbers(self)
        unknown = set(self.parts) - set(PARTS)
        if unknown:
            raise InputError(f"The parts of the history study are {', '.join(PARTS)}; {', '.join(sorted(unknown))} is not one.")
        if self.look_ahead not in LOOK_AHEADS:
            raise InputError(f"Predictors read one of {', '.join(LOOK_AHEADS)}; {self.look_ahead!r} is not one.")
        if self.own:
            _check_own(self.texts)
        if "predictor" in self.parts:
            _check_domains(self.texts)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> HistoryRequest:
        """The request that `as_json` wrote."""
        lists = {name: tuple(data[name]) for name in ("models", "probes", "lengths", "parts")}
        return HistoryRequest(
            **{**data, **lists, "texts": tuple(Prompt(**text) for text in data["texts"]), "rule": SetRule(**data["rule"])}
        )


def _check_probes(probes: tuple[str, ...]) -> None:
    """Enough of them, none twice, none empty."""
    if not MIN_PROBES <= len(probes) <= MAX_PROBES:
        raise InputError(f"Between {MIN_PROBES} and {MAX_PROBES} probes are needed to tell token from history, not {len(probes)}.")
    name, count = Counter(probes).most_common(1)[0]
    if count > 1:
        raise InputError(f"The probe {name!r} stands {count} times in the list; probes must differ, remove one.")
    for probe in probes:
        if not probe.strip() or len(probe) > MAX_PROBE_CHARACTERS:
            raise InputError(f"A probe has 1 to {MAX_PROBE_CHARACTERS} characters, one of them visible; {probe[:40]!r} does not.")


def _check_numbers(request: HistoryRequest) -> None:
    """Lengths and draws within bounds."""
    if not request.lengths or not 1 <= request.lengths[0] <= request.lengths[-1] <= MAX_LENGTH:
        given = ", ".join(map(str, request.lengths)) or "none"
        raise InputError(f"History lengths go from 1 to {MAX_LENGTH} tokens; received {given}.")
    if not MIN_HISTORIES <= request.draws <= MAX_DRAWS:
        raise InputError(f"Between {MIN_HISTORIES} and {MAX_DRAWS} histories of each kind are needed, not {request.draws}.")
    if request.seeds < 1 or request.kept_draws < 1 or request.kept_layers < 1:
        raise InputError("Seeds, kept draws and kept layers must each be at least 1.")


def _check_own(texts: tuple[Prompt, ...]) -> None:
    """A kind needs three histories: with two, one pair would stand for all."""
    for domain, count in Counter(text.domain or OWN_KIND for text in texts).items():
        if count < MIN_HISTORIES:
            raise InputError(f"At least {MIN_HISTORIES} histories are needed in each kind and {domain!r} has {count}; add some.")


def _check_domains(texts: tuple[Prompt, ...]) -> None:
    """Enough for the predictor part; whether they have enough tokens only the model's tokenizer can tell."""
    found = Counter(text.domain for text in texts)
    short = [name for name, count in found.items() if count < MIN_DOMAIN_TEXTS]
    if len(found) < MIN_DOMAINS or short:
        many = "is 1 domain" if len(found) == 1 else f"are {len(found)} domains"
        reason = f"{short[0] or 'no domain'!r} has {found[short[0]]}" if short else f"there {many}"
        raise InputError(
            f"The predictor part needs at least {MIN_DOMAINS} domains of at least {MIN_DOMAIN_TEXTS} texts each; {reason}. "
            "Add texts, or leave the predictor out."
        )


def parse_probes(text: str) -> tuple[str, ...]:
    """Probes from text, one a line; leading spaces belong to the probe, empty lines and a space at the end do not."""
    return tuple(line.rstrip() for line in text.splitlines() if line.strip())


def read_probes(path: Path) -> tuple[str, ...]:
    """The probes of a text file in UTF-8, with or without a byte order mark, one a line.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return parse_probes(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The probes in {path} cannot be read ({error}); give a text file in UTF-8, one probe a line.") from error
