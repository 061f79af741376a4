"""The token table's trial: what came out on every model, and one model in detail, whichever way."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import parts, predictors_cached
from app.ui.choices import choose_run
from app.ui.links import linked, real
from moyu_core.claims import NOT_RESOLVED, NOT_SUPPORTED, SUPPORTED, Claim
from moyu_core.figures.text import percent
from moyu_core.queries import trial as queries
from moyu_core.queries.claims import judged
from moyu_core.schema.trial import DENSE
from moyu_core.store import Run
from moyu_core.studies.trial.verdicts import DENSITY, SMALLEST

SETTINGS = {queries.READING: "Text that is read", queries.WRITING: "Text that it writes"}
WORDS = {SUPPORTED: "closer than", NOT_SUPPORTED: "not closer than", NOT_RESOLVED: "not told apart from"}


def draw(weights: str) -> None:
    """The part of the page; the trial of the model with these weights opens first."""
    st.subheader("The token table on trial", divider="gray")
    found = predictors_cached.trials(weights)
    if not found:
        parts.empty("There is no trial yet. `moyu study trial` makes one; it takes some minutes.", "", "")
        return
    st.markdown(
        "The token table is our own predictor: which neurons a token needs is looked up by its id alone, so it costs no "
        "multiply-add and is known before the pass starts. Every token of prompt and text runs on the chosen neurons only, the "
        "sink token left out; every method keeps equally many; texts are held out."
    )
    if len(found) > 1:
        parts.finding(across(found))
    _models(found)
    chosen = choose_run("trial_run", found, _label, "Trial")
    parts.finding(sentence(chosen))
    _scope(chosen)
    _detail(chosen)


def _label(trial: Run) -> str:
    """How a trial is called in the list; most titles name the model."""
    name, title = trial.manifest["model"]["name"], trial.manifest["title"]
    return title if name in title else f"{name} · {title}"


def sentence(trial: Run) -> str:
    """What came out of one trial, from its claims."""
    said: dict[str, list[str]] = {}
    written = ""
    for item in judged([trial]):
        claim = item.claim
        numbers = f"{rival(claim)} ({claim.effect.text(2)})"
        if _doing(claim) == "writes":
            written = f" While it writes itself, it is {WORDS.get(claim.verdict, claim.verdict)} {numbers}: <b>{claim.verdict}</b>."
        else:
            said.setdefault(claim.verdict, []).append(numbers)
    if not said:
        return f"This trial holds no claim: claims are about the table against its rivals at {percent(DENSITY)}."
    parts_of = "; ".join(f"<b>{WORDS.get(verdict, verdict)}</b> {', '.join(rivals)}" for verdict, rivals in said.items())
    return (
        f"In {trial.manifest['model']['name']}, with every token masked and {percent(DENSITY)} of the neurons kept, the token "
        f"table is {parts_of}. Numbers: how many nats a token nearer to the dense model.{written}"
    )


def across(found: Sequence[Run]) -> str:
    """What came out of all trials together: in how many of them the table is closer to the dense model than each rival."""
    said: dict[str, dict[str, Counter[str]]] = {"reads": {}, "writes": {}}
    for item in judged(found):
        said[_doing(item.claim)].setdefault(rival(item.claim), Counter())[item.claim.verdict] += 1
    sentences = [
        f"{start} the token table is closer to the dense model than "
        + "; ".join(f"<b>{name}</b> {_times(counts)}" for name, counts in said[doing].items())
        + "."
        for doing, start in (("reads", "On text that is read"), ("writes", "On text that it writes"))
        if said[doing]
    ]
    return f"{len(found)} trials, {percent(DENSITY)} of the neurons kept. {' '.join(sentences)}"


def _times(counts: Counter[str]) -> str:
    """`in 2 of 5 (not closer in 2, not told apart in 1)`."""
    others = [(NOT_SUPPORTED, "not closer"), (NOT_RESOLVED, "not told apart")]
    rest = ", ".join(f"{words} in {counts[verdict]}" for verdict, words in others if counts[verdict])
    return f"in {counts[SUPPORTED]} of {counts.total()}" + (f" ({rest})" if rest else "")


def _doing(claim: Claim) -> str:
    return "writes" if "writes" in claim.name else "reads"


def rival(claim: Claim) -> str:
    """Name of the method that the table is compared with."""
    return claim.endpoint.removeprefix("KL of ").split(" - ")[0]


def _models(found: list[Run]) -> None:
    """Verdicts of every model side by side."""
    rows = []
    for trial in found:
        row = {"model": trial.manifest["model"]["name"]}
        for item in judged([trial]):
            name = rival(item.claim).split(" (")[0].split(",")[0]
            row[f"{_doing(item.claim)}, against {name}"] = f"{item.claim.verdict} ({item.claim.effect.mean:+.2f})"
        rows.append(row)
    st.dataframe(pd.DataFrame(rows).fillna("not measured"), hide_index=True, alt="Verdicts of the trial's claims by model")
    st.caption(
        f"How to read this: is the table closer to the dense model than the rival? The claims of every model's trial at "
        f"{percent(DENSITY)} kept, with the lead in nats a token. The "
        f"smallest lead that matters is {SMALLEST:.2f}, fixed before the runs; all of them are on the page Findings."
    )


def _scope(trial: Run) -> None:
    scope, known = trial.manifest["scope"], predictors_cached.trial_known(trial.id)
    met = "" if known != known else f" The table has met {percent(known)} of the continuations' tokens in its calibration text."
    short = f" {scope['too_short']} texts were too short and are left out." if scope["too_short"] else ""
    st.caption(
        f"{scope['documents']} documents of {scope['genres']} genres, {scope['prompt_tokens'] - 1} tokens of prompt, "
        f"{scope['continuation_tokens']} read, {scope['generated_tokens']} written.{met}{short} Run {trial.id}."
    )
    for title, reason in queries.left_out(trial).items():
        st.caption(f"~~{title}~~: {reason}")


def _detail(trial: Run) -> None:
    titles, tables, densities = queries.titles(trial), queries.ours(trial), queries.densities(trial)
    left, middle, right = st.columns([2, 3, 3])
    with left:
        middle_one = min(densities, key=lambda value: abs(value - DENSITY))
        density = _choose("trial_density", "Kept", densities, middle_one, lambda value: f"{100 * value:g} %", real(0, 1))
    with middle:
        setting = _choose("trial_setting", "Measured on", list(SETTINGS), queries.READING, SETTINGS.__getitem__)
    with right:
        table = _choose("trial_table", "Table", tables, tables[0], titles.__getitem__) if tables else ""
    if table and queries.rivals(trial):
        _lead(trial, table, density, setting, titles)
    parts.chart(
        predictors_cached.trial_curves(trial.id, setting),
        key="trial_curves",
        alt="KL between dense and sparse model against the share of neurons kept, by method",
        how_to_read="How to read this: lower is closer to the dense model; 95 % intervals over documents. The oracle knows each "
        "token's own activations and cannot be built. " + _about(setting) + f" {trial.id}.",
    )
    _table(trial, density)
    _texts(trial, density, titles)


def _choose(key: str, label: str, options: list[Any], default: Any, name: Any, decode: Any = str) -> Any:
    return linked(
        key,
        default,
        lambda: st.segmented_control(label, options, key=key, required=True, format_func=name),
        options=options,
        decode=decode,
    )


def _about(setting: str) -> str:
    if setting == queries.READING:
        return "Text that is read: the true continuation, the prompt masked as well."
    return "Text that it writes: each method draws its own tokens, and the dense model reads the same text, so texts differ."


def _lead(trial: Run, table: str, density: float, setting: str, titles: dict[str, str]) -> None:
    parts.chart(
        predictors_cached.trial_lead(trial.id, table, density, setting),
        key="trial_lead",
        alt=f"Lead of {titles[table]} over each rival, by genre, with intervals",
        how_to_read="How to read this: the lead is KL of the rival - KL of the table; right of 0 the table keeps closer to the "
        "dense model than the rival of the same size; the dashed line is the smallest lead that matters. Filled: all "
        "documents; open: one genre, with 95 % intervals over "
        f"its documents and none where there is one; intervals of genres with two documents may leave the panel. "
        f"{_about(setting)} {trial.id}.",
    )


def _table(trial: Run, density: float) -> None:
    table: Any = predictors_cached.trial_table(trial.id, density)
    shown = pd.DataFrame(
        {
            "method": table["title"],
            "kept": [percent(value) for value in table["kept"]],
            "perplexity, × dense": _with_bounds(table, "perplexity"),
            "KL, read": _with_bounds(table, "reading_kl"),
            "same top token, read": [percent(value) for value in table["reading_agreement"]],
            "KL, written": _with_bounds(table, "writing_kl"),
            "same top token, written": [percent(value) for value in table["writing_agreement"]],
            "surprise": [f"{value:.2f}" for value in table["surprise"]],
        }
    )
    st.dataframe(shown, hide_index=True, alt="Every measure of the trial by method", height="content")
    st.caption(
        f"How to read this: at {percent(density)}, means over {int(table['documents'].iloc[0])} documents with 95 % intervals. "
        "Surprise: nats a token that the dense model is surprised by what was written; by its own texts "
        f"{predictors_cached.trial_dense(trial.id):.2f}."
    )


def _with_bounds(table: Any, name: str) -> list[str]:
    columns = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in columns]


def _texts(trial: Run, density: float, titles: dict[str, str]) -> None:
    """What was written, so that the numbers have a face."""
    table: Any = predictors_cached.trial_answers(trial.id, density)
    with st.expander(f"What each method wrote, at {percent(density)}"):
        genre = _choose("trial_genre", "Genre", list(table.columns), table.columns[0], str)
        for method, text in table[genre].dropna().items():
            name = "The dense model" if method == DENSE else titles[str(method)]
            st.html(f"<b>{html.escape(name)}</b><div style='white-space:pre-wrap'>{html.escape(str(text))}</div>")
