"""Page Trinity, speed: measured bars with their bounds, operating points, and what a speed is made of."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.ui import parts
from app.ui import trinity_cached as reads
from app.ui import trinity_figures as figures
from app.ui.trinity_trade import columns, density_slider
from moyu_core.figures.text import number, percent
from moyu_core.figures.trinity import short
from moyu_core.queries.trinity import OPEN, OWN, SLOWER, against_dense
from moyu_core.store import Run
from moyu_core.studies.trinity import operating

_WIDTHS = {
    "kept": 54, "weights read": 112, "tokens/s": 64, "dense then": 78, "choosing": 66, "first token": 78, "set up": 64,
    "memory +": 74, "bound ×": 62, "FFN bound ×": 84, "spread": 58, "like dense": 76,
}  # fmt: skip
PATHS = {
    "frozen": "compacted copy",
    "before": "gathered",
    "gate": "behind the gate",
    "activation": "W_down only",
}


def draw(run: Run, speed: Run | None) -> None:
    """Draw the part."""
    _points(run, speed)
    if speed is None:
        st.info("The speed of this model has not been measured on this machine; `moyu study speed` does it in some minutes.")
        return
    density = density_slider(run)
    at = reads.at_density(reads.speeds(speed.id), density)
    if at.empty:
        st.info(f"Speed was not measured at density {density:g}.")
        return
    _bars(run, speed, at, density)
    _details(run, speed, at)


def _points(run: Run, speed: Run | None) -> None:
    budget = percent(run.manifest["budget"])
    st.subheader(f"The sparsest setting that costs at most {budget} perplexity", divider="gray")
    frame: Any = reads.points(run.id, speed.id if speed else None)
    rows = []
    for row in frame.to_dict("records"):
        found = row["density"] == row["density"] and row["density"] is not None
        rows.append(
            {
                "method": row["title"],
                "density": "" if not found else "own size" if row["density"] == OWN else percent(row["density"]),
                "speed there": _speed(row) if found and row["ratio"] == row["ratio"] else "",
                "verdict": row["status"],
                "loss, half that chose": _bound(row["chosen"], row["chosen_bound"]),
                "loss, other half": _bound(row["confirmed"], row["confirmed_bound"]),
                "open from": percent(row["unresolved_from"]) if row["unresolved_from"] == row["unresolved_from"] else "",
            }
        )
    settings = columns({"speed there": 160, "density": 74})
    alt = "Operating points of the methods"
    st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", alt=alt, column_config=settings)
    st.caption(
        f"Loss = mean paired difference to dense in nats a token, behind < its one-sided upper 95 % bound; within the budget = "
        f"bound "
        f"below ln(1 + {run.manifest['budget']:g}). Grid of densities from {percent(operating.GRID[0])} in steps of 5. Open from "
        f"= the "
        "smallest density looked at that these documents cannot tell apart from the budget. Speed there: sparse / dense with its "
        "95 % interval; ~ = noisy. "
        + " ".join(f"*{status}*: {meaning}." for status, meaning in operating.MEANINGS.items() if status in set(frame["status"]))
    )


def _speed(row: dict[str, Any]) -> str:
    """Measured speed at the operating point with its interval; ~ = noisy."""
    noisy = "~" if row["noisy"] is True else ""
    return f"{noisy}{number(row['ratio'])} × [{number(row['ratio_low'])}, {number(row['ratio_high'])}]"


def _bound(mean: Any, upper: Any) -> str:
    return "" if mean is None or mean != mean else f"{mean:.4f} < {upper:.4f}"


def _bars(run: Run, speed: Run, at: Any, density: float) -> None:
    titles = reads.titles(run.id)
    st.subheader("Measured, and what the bytes would allow", divider="gray")
    st.markdown(told(at, titles))
    left, right = st.columns([3, 2], gap="large")
    with left:
        parts.chart(
            figures.bars(run.id, speed.id, density),
            "Measured decoding speed of each method beside its bound",
            "How to read this: bars are medians of paired samples with their 95 % interval, hatched where noisy; the upright mark "
            "is "
            "the speed-up if a token took as long as reading its weights does (a bound, not a measurement). The line is dense.",
            key="trinity-bars",
        )
    with right:
        machine, scope = speed.manifest["machine"], speed.manifest["scope"]
        noisy = int(at["noisy"].sum())
        if noisy:
            st.warning(noise(noisy, len(at), speed.manifest["spread_limit"]))
        st.markdown(
            f"**Machine**: {reads.machine(speed)} of {machine['cores']} cores, torch {machine['torch']}, "
            f"{speed.spec.model.dtype}; load {number(machine['load_before'])} before, {number(machine['load_after'])} after."
        )
        st.markdown(
            f"**Protocol**: batch 1, prompt of {scope['prompt_tokens']} tokens run dense, KV cache, weights loaded, warm-up, then "
            f"{scope['pairs']} pairs of {scope['tokens_a_sample']} dense and as many sparse tokens in turn in one process. "
            f"Dense: {number(at['dense_tokens_per_second'].median())} tokens/s. Run {speed.id}."
        )


def told(at: Any, titles: dict[str, str]) -> str:
    """Which methods are slower than dense, and of which that cannot be told, by their intervals and not by a bare median."""
    found = against_dense(at["ratio_low"], at["ratio_high"], at["noisy"])
    sentences = []
    for state, words in ((SLOWER, "Slower than dense"), (OPEN, "Not to be told from dense (noisy, or the interval reaches 1)")):
        names = [titles[name] for name in at["method"][found == state]]
        if names:
            sentences.append(f"{words}: **{', '.join(names)}**.")
    return " ".join(sentences) or "Every method is faster than dense here."


def noise(noisy: int, settings: int, limit: float) -> str:
    """How many settings were timed on a busy machine, and how that is told; `limit` is a share of the median."""
    subject = "The only setting" if settings == 1 else f"{noisy} of {settings} settings"
    verb = "is noisy: its" if noisy == 1 else "are noisy: their"
    return (
        f"{subject} {verb} quartiles lie more than {percent(limit)} of the median apart, because the machine was busy. Measure "
        "again on a quiet one."
    )


def _details(run: Run, speed: Run, at: Any) -> None:
    titles = reads.titles(run.id)
    shown = pd.DataFrame(
        {
            "method": at["method"].map(titles).map(short),
            "kept": at["kept"].map(percent),
            "weights read": at["path"].map(PATHS),
            "tokens/s": at["tokens_per_second"].map(number),
            "dense then": at["dense_tokens_per_second"].map(number),
            "choosing": at["router_share"].map(percent),
            "first token": at["first_token_seconds"].map(lambda s: f"{number(1000 * s)} ms"),
            "set up": at["choose_seconds"].map(lambda s: f"{number(1000 * s)} ms"),
            "memory +": at["extra_bytes"].map(lambda b: f"{number(b / 2**20)} MiB"),
            "bound ×": at["bound"].map(number),
            "FFN bound ×": at["ffn_bound"].map(number),
            "spread": at["spread"].map(percent),
            "like dense": [f"{a} of {n}" for a, n in zip(at["agreeing"], at["decoded"], strict=True)],
        }
    )
    alt = "What the measured speeds are made of"
    st.dataframe(shown, hide_index=True, height="content", alt=alt, column_config=columns(_WIDTHS, 136))
    weights = speed.manifest["weights"]
    st.caption(
        f"Weights read: *compacted copy* = of the chosen neurons, made once a prompt; *gathered* = their rows and columns of all "
        f"matrices, anew for every token; *behind the gate* = the gate whole, the rest gathered; *W_down only* = all else whole. "
        f"Dense then = tokens a second of the dense loop in the same moments. Choosing = share of a token's time that the router "
        f"or predictor takes. First token = prompt, with what the method reads of it; set up = choosing and copying for a prompt. "
        f"Memory + = weights held beside the model's own. Bound = the mark in the picture: the speed-up if a token took as long as "
        f"reading its weights does, and the same of the FFNs alone. "
        f"Like dense = tokens of greedy decoding before the first that differs. A dense token reads "
        f"{number(weights['all'] / 2**20)} MiB of "
        f"weights, {percent(weights['ffn'] / weights['all'])} of them in FFNs."
    )
