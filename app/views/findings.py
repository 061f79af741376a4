"""Page: every claim of the paper that was put to the test here, and what came out."""

import urllib.parse

import pandas as pd
import streamlit as st

from app.ui import cached, exports, opening, parts
from app.ui.links import linked
from moyu_core import claims
from moyu_core.figures.claims import forest
from moyu_core.queries.claims import Judged, judged

HOW_TO_READ = """
A **claim** is judged by one endpoint and a smallest effect that matters, both fixed before the run. **Supported**: the interval
lies above that effect. **Not supported**: it lies below. **Not resolved**: it holds it, so these data cannot tell. **Not
applicable**: the theory does not speak here and the figure is shown as a description. Units are topics, documents or seeds,
never tokens; Holm's correction runs over the claims of one run.
"""
ALL = "all"


def _sentence(found: list[Judged]) -> str:
    counts = {verdict: sum(item.claim.verdict == verdict for item in found) for verdict in claims.VERDICTS}
    said = ", ".join(f"<b>{count} {verdict}</b>" for verdict, count in counts.items() if count)
    models = len({item.claim.model for item in found})
    return f"{len(found)} claims on {models} model{'' if models == 1 else 's'}: {said}."


def _table(found: list[Judged]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "claim": item.claim.statement,
                "verdict": item.claim.verdict,
                "effect": item.claim.effect.text(3),
                "smallest that matters": item.claim.smallest_effect if item.claim.smallest_effect > 1e-9 else 0.0,
                "endpoint": item.claim.endpoint,
                "model": item.claim.model,
                "units": item.claim.units,
                "source": item.claim.source,
                "page": _address(item),
            }
            for item in found
        ]
    )


def _address(item: Judged) -> str:
    """The page of the study, where there is one."""
    page, choices = opening.place(item.run) or ("runs", {"runs_run": item.run.id})
    return f"{page}?{urllib.parse.urlencode(choices)}"


def page() -> None:
    """Draw the page."""
    parts.header("Findings", "Which claims of the paper hold on the models that were measured here?", HOW_TO_READ)
    everything = judged(cached.runs()[0])
    if not everything:
        parts.empty("No study has judged a claim yet. Run one with `moyu study`, or fetch the demo runs.", "runs", "See the runs")
        return
    options = [ALL, *dict.fromkeys(item.claim.verdict for item in everything)]
    chosen = linked(
        "verdict",
        ALL,
        lambda: st.segmented_control("Verdict", options, key="verdict", required=True, label_visibility="collapsed"),
        options=options,
    )
    found = [item for item in everything if chosen in (ALL, item.claim.verdict)]
    parts.finding(_sentence(found))
    for item in found:
        exports.shows_run(item.run.id)
    table = _table(found)
    parts.chart(
        forest([item.claim for item in found]),
        "Effects of the claims with their intervals, in units of the smallest effect that matters",
        "Filled: supported. Cross: not supported. Open: not resolved. Right of the dashed line an effect matters; a triangle lies "
        "beyond the border.",
        table=table,
        key="forest",
    )
    st.dataframe(table, hide_index=True, column_config={"page": st.column_config.LinkColumn("page", display_text="open")})


page()
