"""Page: every claim that was put to the test here, the paper's and our own apart, and what came out."""

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
PAPER, OWN = "the paper's", "our own"


def _sentence(found: list[Judged], whose: str) -> str:
    counts = {verdict: sum(item.claim.verdict == verdict for item in found) for verdict in claims.VERDICTS}
    said = ", ".join(f"<b>{count} {verdict}</b>" for verdict, count in counts.items() if count)
    models = len({item.claim.model for item in found})
    of = "of the paper" if whose == PAPER else "of our own, about the token table and what the theory leaves open,"
    return f"{len(found)} claim{'' if len(found) == 1 else 's'} {of} on {models} model{'' if models == 1 else 's'}: {said}."


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


def _choice(name: str, label: str, options: list[str]) -> str:
    """One of some options, the first unless the link says otherwise."""
    return linked(name, options[0], lambda: st.segmented_control(label, options, key=name, required=True,
                                                                 label_visibility="collapsed"), options=options)  # fmt: skip


def page() -> None:
    """Draw the page."""
    parts.header("Findings", "Which claims of the paper hold on the models that were measured here?", HOW_TO_READ)
    everything = judged(cached.runs()[0])
    if not everything:
        parts.empty("No study has judged a claim yet. Run one with `moyu study`, or fetch the demo runs.", "runs", "See the runs")
        return
    with st.container(horizontal=True):
        whose = _choice("whose", "Whose claims", [PAPER, OWN])
        theirs = [item for item in everything if item.claim.ours == (whose == OWN)]
        given = {item.claim.verdict for item in everything}
        chosen = _choice("verdict", "Verdict", [ALL, *(verdict for verdict in claims.VERDICTS if verdict in given)])
    found = [item for item in theirs if chosen in (ALL, item.claim.verdict)]
    if not found:
        st.info(f"None of {whose} claims is {chosen}." if theirs else f"No study has judged one of {whose} claims yet.")
        return
    parts.finding(_sentence(found, whose))
    for item in found:
        exports.shows_run(item.run.id)
    table = _table(found)
    parts.chart(
        forest([item.claim for item in found]),
        "Effects of the claims with their intervals, in units of the smallest effect that matters",
        "Filled: supported. Cross: not supported. Open: not resolved. Right of the dashed line an effect matters. An arrow: the "
        "effect lies beyond the border; its figure is in the table.",
        table=table,
        key="forest",
    )
    st.dataframe(table, hide_index=True, column_config={"page": st.column_config.LinkColumn("page", display_text="open")})


page()
