"""Page Trinity, where it holds: methods by models at hand, and methods by every architecture of the table."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.ui import exports, parts
from app.ui import trinity_cached as reads
from app.ui import trinity_figures as figures
from app.ui.trinity_trade import columns
from moyu_core.figures.text import percent
from moyu_core.queries.trinity import OWN
from moyu_core.store import Run


def draw(run: Run, speed: Run | None) -> None:
    """Draw the part."""
    del speed
    _models(run)
    _families()


def _models(run: Run) -> None:
    st.subheader(f"Sparsest density within {percent(run.manifest['budget'])} perplexity, by model", divider="gray")
    found = [one for one in reads.runs() if one.manifest["budget"] == run.manifest["budget"]]
    frame: Any = reads.matrix(tuple(one.id for one in found))
    frame = frame.assign(cell=[_cell(row) for row in frame.to_dict("records")], column=frame["model"] + " · " + frame["activation"])
    order = list(dict.fromkeys(frame["title"]))
    table = frame.pivot(index="title", columns="column", values="cell").loc[order, list(dict.fromkeys(frame["column"]))]
    table = table.fillna("not asked").reset_index(names="method")
    exports.offer("Sparsest density within the budget, by model", table=frame)
    st.dataframe(table, hide_index=True, height="content", alt="Methods by models at hand", column_config=columns({}))
    st.caption(
        "How to read this: a density = shown on held-out documents to stay within the budget; ? = could not be resolved with "
        "these documents, with a density: chosen on one half and not confirmed on the other; none = no density of the grid "
        "below 1 was within the budget. Add a model with `moyu study trinity --model NAME`."
    )
    missing = frame[frame["state"] != "measured"].drop_duplicates(["model", "method"])
    for (title, reason), rows in missing.groupby(["title", "reason"], sort=False):
        st.caption(f"{title} on {', '.join(rows['model'])}: {reason}")


def _cell(row: dict[str, Any]) -> str:
    density = row["density"]
    size = "own size" if density == OWN else percent(density) if density == density else ""
    words = {"confirmed": size, "not confirmed": f"{size} ?", "not resolved": "?", "none below 1": "none", "unfit": "unfit"}
    return words.get(str(row["status"]), str(row["status"]))


def _families() -> None:
    st.subheader("Architectures of the table", divider="gray")
    run = reads.families_run()
    if run is None:
        parts.empty("The architectures have not been tried yet; `moyu study families` does it.", "runs", "See the runs")
        return
    frame: Any = reads.families(run.id)
    full = float(frame["gathered"].mean())
    st.markdown(f"In **{percent(full)}** of {len(frame)} pairs of family and method both quality and speed can be measured.")
    parts.chart(
        figures.families(run.id, tuple(one.id for one in reads.runs())),
        "Methods by architecture: what can be measured",
        "How to read this: ● = quality and speed can be measured, ◐ = quality alone, – = the method cannot be run there; the cell "
        "under the pointer says why. Tried on small random models, one a family: can the method be run, is density 1 the dense "
        "model, and do gathered weights give the masked logits? That says nothing about how well it does. "
        f"Run {run.id}.",
        table=frame,
        key="trinity-families",
    )
    reasons = frame[frame["reason"] != ""].groupby("reason")["family"].unique()
    with st.expander("What fails, and why"):
        for reason, names_of in _joined(reasons).items():
            st.markdown(f"- {reason} ({', '.join(names_of)})")


def _joined(reasons: Any) -> dict[str, list[str]]:
    """Reasons that differ in the model's name only, as one."""
    found: dict[str, list[str]] = {}
    for reason, names in reasons.items():
        text = str(reason)
        for word in text.split():
            if word.startswith("model.layers.") or word.startswith("transformer."):
                text = text.replace(word, "The FFN of a layer")
        if " does not apply to random " in text:
            head, _, tail = text.partition(" does not apply to random ")
            text = f"{head} does not apply:{tail.partition(':')[2]}"
        found.setdefault(text, []).extend(name for name in names if name not in found.get(text, []))
    return found
