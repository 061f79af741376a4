"""Page History, own probes and histories: a form, a prompt set or a file that queues the study as a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.ui import asking, cached, job_list, prompt_sets, visitors
from app.ui.links import kept, linked, linked_number, linked_several
from moyu_core import estimate, registry
from moyu_core.errors import InputError, MoyuError
from moyu_core.figures.history import kind_name
from moyu_core.figures.text import beginning
from moyu_core.prompts import Prompt, PromptSet, clean, make_prompt, parse_prompts, read_prompts
from moyu_core.schema.history import ENTROPY_HISTORIES, KINDS
from moyu_core.studies.history.requests import (
    DRAWS,
    KEPT_DRAWS,
    KEPT_OWN,
    LENGTHS,
    LOOK_AHEADS,
    MIN_HISTORIES,
    PARTS,
    PROBES,
    HistoryRequest,
    parse_probes,
)

EXAMPLE = """The river had burst its banks in the night, and by morning the lower fields were under water.

She walked past the bank twice before she dared to go in and ask for the money.

He sat on the bank with his rod across his knees and watched the float turn in the current."""
SHIPPED, WRITTEN, SET, FILE = "shipped", "written", "set", "file"
SOURCES = {SHIPPED: "shipped texts", WRITTEN: "written here", SET: "prompt set", FILE: "file"}
AHEAD = {
    "residual": "the same layer, before the FFN's norm",
    "ffn": "the FFN's own input",
    "block": "the layer's input: half a layer ahead",
    "previous": "the layer before: a whole layer ahead",
}
"""Names of LOOK_AHEADS."""
LONGER = (8, 32, 128, 512)
"""Lengths that are offered besides the study's own."""


def draw() -> None:
    """Draw the form and the jobs."""
    left, right = st.columns(2, gap="large")
    with left:
        probes = kept(
            "_history_probes",
            "\n".join(PROBES[:12]),
            lambda: st.text_area(
                "Probes, one a line",
                height=210,
                key="_history_probes",
                help="Words or phrases; a space in front belongs to the probe, as words inside a text have one. At least 3.",
            ),
        )
        upload = st.file_uploader("or a text file of probes", type=["txt"], key="_history_probe_file", max_upload_size=1)
    with right:
        source = linked(
            "history_source",
            SET if "history_set" in st.query_params else SHIPPED,  # a link to a set
            lambda: st.segmented_control(
                "Histories", list(SOURCES), key="history_source", required=True, format_func=SOURCES.__getitem__
            ),
            options=list(SOURCES),
        )
        text, file, found = "", None, None
        if source == SHIPPED:
            st.caption(f"Six kinds, made from texts that come with the program: {', '.join(map(kind_name, KINDS))}.")
        elif source == WRITTEN:
            text = kept(
                "_history_texts",
                EXAMPLE,
                lambda: st.text_area(
                    "Your histories, a blank line between them",
                    height=150,
                    key="_history_texts",
                    help="At least 3, each used as it is from its beginning; lengths that not all of them reach are left out.",
                ),
            )
        elif source == SET:
            found = prompt_sets.choose(
                "Prompt set", "history_set", "Every prompt is a history as it is; its domain is the kind. At least 3 of each kind."
            )
            _say_kinds(found)
        elif source == FILE:
            file = st.file_uploader(
                "JSON Lines: text, and as domain the kind", type=["jsonl"], key="_history_file", max_upload_size=2
            )
    models = prompt_sets.models()
    options = _options(models)
    chosen, lengths, draws = options["models"], options["lengths"], options["draws"]
    texts = [probes or "", text, *(prompt.text for prompt in (found.prompts if found else ()))]
    known = asking.known(chosen[0] if chosen else "", texts)
    if asking.button("Measure", "history", known, "measure probes of your own", ready=bool(chosen)):
        _submit(
            (probes or "", upload and upload.getvalue()),
            (str(source), text, file and file.getvalue(), found.prompts if found else None),
            options,
        )
    kinds = len(KINDS) if source == SHIPPED else _kinds(found)
    _need(models, chosen, lengths, draws, len(parse_probes(probes or "")), kinds, bool(options["parts"]))
    job_list.draw()


def _options(models: dict[str, registry.ModelFacts]) -> dict[str, Any]:
    """What is asked for beside probes and histories, by its name in the request."""
    one, two, three = st.columns([3, 3, 2])
    with one:
        chosen = linked_several(
            "history_models",
            list(models)[:1],
            lambda: st.multiselect("Models", list(models), key="history_models", format_func=lambda name: models[name].title),
            options=list(models),
        )
        wanted = linked_several(
            "history_parts",
            [],
            lambda: st.pills("Beside the grid", list(PARTS), selection_mode="multi", key="history_parts"),
            options=list(PARTS),
        )
    with two:
        offered = sorted({*LENGTHS, *LONGER})
        lengths = linked_several(
            "history_lengths",
            LENGTHS[:3],
            lambda: st.multiselect("History tokens", offered, key="history_lengths"),
            options=offered,
        )
    with three:
        said = f"At least {MIN_HISTORIES}; entropy is measured from {ENTROPY_HISTORIES}. Where there are fewer, those."
        draws = linked_number("history_draws", DRAWS, "Histories of each kind", MIN_HISTORIES, ENTROPY_HISTORIES, help=said)
        ahead = _look_ahead() if "predictor" in wanted else LOOK_AHEADS[0]
    return {
        "models": tuple(chosen),
        "lengths": tuple(lengths),
        "draws": int(draws),
        "parts": tuple(wanted),
        "look_ahead": ahead,
    }


def _look_ahead() -> str:
    return str(
        linked(
            "history_ahead",
            LOOK_AHEADS[0],
            lambda: st.selectbox(
                "Predictors read",
                list(LOOK_AHEADS),
                key="history_ahead",
                format_func=AHEAD.__getitem__,
                help="The further ahead, the earlier a set is known, and the less of the token's own way it can know.",
            ),
            options=list(LOOK_AHEADS),
        )
    )


def _need(
    models: dict[str, registry.ModelFacts],
    chosen: Sequence[str],
    lengths: Sequence[int],
    draws: int,
    probes: int,
    kinds: int,
    parts: bool,
) -> None:
    """Say what the grid will cost, before it is started: the tokens of the histories and one for each cell."""
    tokens = kinds * draws * (max(lengths, default=0) + probes * len(lengths))
    needs = [estimate.capture(models[name], tokens, False, cached.runs()[0]) for name in chosen]
    seconds = sum(need.seconds for need in needs if need is not None)
    if seconds:
        more = "; the parts beside it come on top" if parts else ""
        st.caption(f"Estimated for the grid: {seconds:.0f} s, about {tokens:,} tokens a model{more}.")


def _probes_of(text: str, file: bytes | None) -> str:
    """The probes of the file where one was chosen, else those of the field.

    Raises:
        InputError: the file is no text.
    """
    if file is None:
        return text
    try:
        return file.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("The file of probes is not text in UTF-8; save it as UTF-8, one probe a line, or take it away.") from None


def _kinds(found: PromptSet | None) -> int:
    return len({prompt.domain for prompt in found.prompts}) if found else 1


def _say_kinds(found: PromptSet | None) -> None:
    if found:
        kinds = _kinds(found)
        st.caption(f"{prompt_sets.count_of(len(found.prompts))} of {kinds} kind{'' if kinds == 1 else 's'} in {found.name}.")


def histories(
    source: str, text: str, data: bytes | None, chosen: tuple[Prompt, ...] | None = None
) -> tuple[tuple[Prompt, ...], bool]:
    """(texts, whether they are the histories themselves).

    Args:
        source: one of the four.
        text: what was written.
        data: the file.
        chosen: the prompts of the set.

    Raises:
        InputError: nothing that can be used.
    """
    if source == SHIPPED:
        return read_prompts(cached.home().prompts / "histories.jsonl").prompts, False
    if source == SET:
        if chosen is None:
            raise InputError("There is no prompt set to take histories from; import one on the Prompts page.")
        return chosen, True
    if source == FILE:
        if data is None:
            raise InputError("No file of histories was chosen; choose one, or use the shipped texts.")
        return parse_prompts(data, "histories.jsonl").prompts, True
    blocks = [block.strip() for block in text.split("\n\n") if block.strip()]
    return tuple(make_prompt(clean(block)[0], f"history {number}") for number, block in enumerate(blocks, 1)), True


def _submit(
    given: tuple[str, bytes | None],
    sources: tuple[str, str, bytes | None, tuple[Prompt, ...] | None],
    options: dict[str, Any],
) -> None:
    """Queue the study, or say what is wrong; what was written stays.

    Args:
        given: probes as written, and the file of probes.
        sources: where histories come from, what was written, the file, and the prompts of the set.
        options: what else the request holds, by name.
    """
    try:
        probes, text = _probes_of(*given), sources[1]
        limits = visitors.limits()
        if limits is not None and max(len(text), len(probes)) > limits.max_characters:
            raise InputError(f"A text here has at most {limits.max_characters:,} characters; shorten it.")
        texts, own = histories(*sources)
        chosen = parse_probes(probes)
        title = "Own probes: " + beginning(", ".join(probe.strip() for probe in chosen[:4]), 48)
        draws = KEPT_OWN if own else KEPT_DRAWS
        request = HistoryRequest(texts=texts, probes=chosen, own=own, title=title, kept_draws=draws, **options)
        job = cached.jobs().submit("history", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.error(str(error))
        return
    st.session_state["_watched"] = job.id
    st.toast("Queued. When it is done, press Open.")
