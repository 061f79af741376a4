"""Page Trinity, trade-off: the three axes with their numbers, and quality against density and against measured speed."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.ui import parts
from app.ui import trinity_cached as reads
from app.ui import trinity_figures as figures
from app.ui.links import linked
from moyu_core.figures.text import number, percent
from moyu_core.figures.trinity import short
from moyu_core.queries.trinity import MEASURES
from moyu_core.store import Run

_WIDTHS = {"perplexity ×": 112, "speed ×": 120, "models": 54, "kept": 54, "KL": 54, "same": 54, "questions": 70}


def draw(run: Run, speed: Run | None) -> None:
    """Draw the part."""
    frame: Any = reads.trade_off(run.id, speed.id if speed else None)
    density = density_slider(run)
    _three_axes(run, speed, reads.at_density(frame, density), density)
    _curves(run, speed, frame, density)


def density_slider(run: Run) -> float:
    """The density that is looked at, one of those that were measured."""
    options = list(run.spec.parameters["densities"])
    return float(
        linked(
            "at",
            0.5 if 0.5 in options else options[len(options) // 2],
            lambda: st.select_slider(
                "Density",
                options,
                key="at",
                format_func=percent,
                help="Share of neurons kept. Only densities that were measured; nothing is interpolated.",
            ),
            options=options,
            decode=float,
        )
    )


def _three_axes(run: Run, speed: Run | None, at: Any, density: float) -> None:
    ids = tuple(one.id for one in reads.runs())
    left, right = st.columns([1, 2], gap="small")
    with left:
        parts.chart(
            figures.three_axes(run.id, speed.id if speed else None, ids, density),
            f"Performance, speed and applicability of each method at density {density:g}",
            "How to read this: one line a method; performance = dense / sparse perplexity, speed = decoding, sparse / dense (the "
            "short bar "
            "is dense), applicability = share of the models at hand on which the method was shown to stay within the budget at "
            "this "
            "density. High on all three axes is what the paper says cannot be had.",
            key="trinity-axes",
        )
    with right:
        numbers = _numbers(run, at, reads.applicability(ids, density))
        st.dataframe(
            numbers, hide_index=True, height="content", alt="Exact numbers of the picture", column_config=columns(_WIDTHS, 136)
        )
        model = run.manifest["model"]
        st.caption(
            f"[ ] = 95 % interval, over {run.manifest['scope']['documents']} documents for quality, over pairs of samples for "
            f"speed; "
            f"~ = noisy, the machine was busy. Same = tokens that stay the same. {_note(model)}Run {run.id}."
        )


def columns(widths: dict[str, int], name: int = 200) -> dict[str, Any]:
    """Column settings of a table of methods: `name` pixels for the name, which stays in sight, and those of others."""
    first = st.column_config.Column(width=name, pinned=True)
    return {"method": first, **{column: st.column_config.Column(width=width) for column, width in widths.items()}}


def _note(model: dict[str, Any]) -> str:
    return f"Note: {model['note']}. " if model.get("note") else ""


def _numbers(run: Run, at: Any, holds: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """The table beside the picture, as text with intervals."""
    titles, rows = reads.titles(run.id), []
    for row in at.to_dict("records"):
        timed = row["speed"] == row["speed"]
        good, whole = holds.get(row["method"], (0, 0))
        rows.append(
            {
                "method": short(titles[row["method"]]),
                "perplexity ×": _interval(row, "ratio"),
                "speed ×": f"{'~' if row['noisy'] is True else ''}{_interval(row, 'speed')}" if timed else "not measured",
                "models": f"{good} of {whole}",
                "kept": percent(row["kept"]),
                "KL": number(row["kl"]),
                "same": percent(row["agreement"]),
                "questions": percent(row["reading"]) if row["reading"] == row["reading"] else "not read",
            }
        )
    return pd.DataFrame(rows)


def _interval(row: dict[str, Any], name: str) -> str:
    return f"{number(row[name])} [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]"


def _curves(run: Run, speed: Run | None, frame: Any, density: float) -> None:
    st.subheader("Quality against density and against measured speed", divider="gray")
    options = [name for name in MEASURES if name != "reading" or frame["reading"].notna().any()]
    measure = str(
        linked(
            "measure",
            "ratio",
            lambda: st.segmented_control("Quality as", options, key="measure", required=True, format_func=MEASURES.__getitem__),
            options=options,
        )
    )
    left, right = st.columns(2, gap="large")
    with left:
        parts.chart(
            figures.against_density(run.id, speed.id if speed else None, measure, density),
            f"{MEASURES[measure]} by density",
            f"How to read this: further left = fewer neurons; bars are 95 % t intervals over "
            f"{'texts of the task' if measure == 'reading' else 'documents'}."
            f"{' The dashed line is the budget.' if measure == 'ratio' else ''}",
            key=f"trinity-density-{measure}",
        )
    with right:
        if speed is not None and frame["speed"].notna().any():
            parts.chart(
                figures.against_speed(run.id, speed.id, measure),
                f"{MEASURES[measure]} by measured speed",
                "How to read this: further right = faster, right of the line = faster than dense on this machine; hollow marks "
                "are noisy. "
                "Compare methods at equal quality by going along a level line.",
                key=f"trinity-speed-{measure}",
            )
        else:
            st.info("The speed of this model has not been measured here; `moyu study speed` does it.")
    _reading(run)


def _reading(run: Run) -> None:
    dense, passages = reads.dense_reading(run.id)
    if passages:
        st.caption(
            f"Questions: {run.manifest['scope']['questions']} short questions on {passages} short texts written for this project, "
            f"answered in generation with gathered weights; the dense model answers {percent(dense)} exactly."
        )
