"""Prompt sets made by rule: grids of histories before probes, pairs that switch the topic or stay, and chats.

A grid's prompts share the probe's text and differ in what stands before it, so what differs in their neurons is the history's
doing. The probe's id is the prompt's id, the history is its condition; the bare probe is the condition `plain`.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError, ModelError
from moyu_core.prompts import MAX_LABEL, MAX_PROMPTS, Prompt, PromptSet, make_prompt
from moyu_core.schema import PLAIN_CONDITION

ROLES = ("system", "user", "assistant")


def history_grid(
    probes: Sequence[Prompt], histories: Sequence[Prompt], joint: str = "\n\n", bare: bool = True
) -> tuple[Prompt, ...]:
    """Every probe behind every history, and with `bare` the probe alone.

    Args:
        probes: texts whose neurons are looked at; ids must differ.
        histories: texts that stand before; ids must differ.
        joint: between the two.
        bare: whether each probe is also given alone, as the condition `plain`.

    Raises:
        InputError: nothing to combine, or more than MAX_PROMPTS prompts.
    """
    _check_grid(probes, histories, bare)
    found = []
    for probe in probes:
        if bare:
            found.append(make_prompt(probe.text, probe.id, probe.domain))
        for history in histories:
            text = f"{history.text}{joint}{probe.text}"
            found.append(make_prompt(text, probe.id, probe.domain, _condition("after", history.id)))
    return PromptSet("grid", tuple(found)).prompts


def topic_switches(prompts: Sequence[Prompt], pairs: int = 40, seed: int = 0, joint: str = "\n\n") -> tuple[Prompt, ...]:
    """Each chosen text behind one of its own topic (`stay`) and behind one of another topic (`switch`).

    Topics are the prompts' domains; the first text of both kinds of pair is drawn anew for every second text.

    Args:
        prompts: texts of at least two domains, two of them at least in each domain that is used.
        pairs: how many second texts; each gives two prompts.
        seed: of the draw.
        joint: between the two texts.

    Raises:
        InputError: fewer than two domains with two texts each.
    """
    topics: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if prompt.domain and prompt.condition == PLAIN_CONDITION:
            topics[prompt.domain].append(prompt)
    topics = {name: texts for name, texts in topics.items() if len(texts) > 1}
    if len(topics) < 2:
        raise InputError("Topic switches need at least two domains with two prompts each; give the prompts domains first.")
    draw = random.Random(seed)
    seconds = [prompt for texts in topics.values() for prompt in texts]
    draw.shuffle(seconds)
    found = []
    for second in seconds[:pairs]:
        stay = draw.choice([prompt for prompt in topics[second.domain] if prompt.id != second.id])
        other = draw.choice([prompt for name, texts in topics.items() if name != second.domain for prompt in texts])
        for first, condition in ((stay, "stay"), (other, "switch")):
            found.append(make_prompt(f"{first.text}{joint}{second.text}", second.id, second.domain, condition))
    return tuple(found)


def chat(folder: Path, messages: Sequence[Mapping[str, str]], answer: bool = True, sink: str = "") -> str:
    """A conversation written out by the model's own chat template, ready to be tokenised behind the sink token.

    The template is a program that came with the model: it runs in Jinja's sandbox, without access to files or Python.

    Args:
        folder: of the model.
        messages: `role` (one of ROLES) and `content` of each turn.
        answer: whether the opening of the assistant's next turn is added.
        sink: text of the model's sink token; a template that writes it at the start too would double it.

    Raises:
        ModelError: the model has no chat template, or it refuses these messages.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    source, settings = _template(folder)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = _refuse
    environment.globals["range"] = lambda *numbers: range(*numbers)[:10_000]
    marks = {name: _mark(settings.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    try:
        text = environment.from_string(source).render(messages=list(messages), add_generation_prompt=answer, **marks)
    except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"The chat template of {folder.name} refuses these messages: {str(error)[:200]}") from None
    return text.removeprefix(sink)


def has_chat(folder: Path) -> bool:
    """Whether the model came with a chat template."""
    try:
        return bool(_template(folder)[0])
    except ModelError:
        return False


def _template(folder: Path) -> tuple[str, dict[str, Any]]:
    file, settings_file = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.is_file() else {}
        source = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    except (OSError, ValueError) as error:
        raise ModelError(f"The chat template of {folder.name} cannot be read ({type(error).__name__}).") from None
    if isinstance(source, list):  # several named ones
        source = next((entry.get("template") for entry in source if entry.get("name") == "default"), None)
    if not isinstance(source, str) or not source:
        raise ModelError(f"{folder.name} has no chat template; write its marks yourself, or use a model that was tuned for chats.")
    return source, settings


def _mark(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""


def _refuse(message: str) -> None:
    raise ValueError(message)


def _condition(word: str, name: str) -> str:
    return f"{word} {name}"[:MAX_LABEL].strip()


def _check_grid(probes: Sequence[Prompt], histories: Sequence[Prompt], bare: bool) -> None:
    if not probes or not histories:
        raise InputError("A grid needs at least one probe and one history.")
    count = len(probes) * (len(histories) + bare)
    if count > MAX_PROMPTS:
        raise InputError(
            f"{len(probes):,} probes behind {len(histories):,} histories make {count:,} prompts and a set holds at most "
            f"{MAX_PROMPTS:,}; choose fewer."
        )
    for what, prompts in (("probe", probes), ("history", histories)):
        twice = next((a.id for a, b in itertools.pairwise(sorted(prompts, key=lambda p: p.id)) if a.id == b.id), None)
        if twice:
            raise InputError(f"The {what} id {twice!r} occurs twice; ids must differ.")
