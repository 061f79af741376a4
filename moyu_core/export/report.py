"""A view as one HTML file that opens without a network: findings, figures that still zoom, their numbers' origin."""

from __future__ import annotations

import base64
import html
import re

import plotly.io as pio
from plotly.offline import get_plotlyjs

from moyu_core.export.view import Item, View, plain_text, portable
from moyu_core.figures.map_svg import map_svg

MAX_ROWS = 500
"""Rows of a table without a figure that a report shows; the rest is counted."""
CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False, "plotlyServerURL": ""}

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1c2530;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2rem 0 .3rem}.quiet{color:#5a6675}
.finding{border-left:3px solid #2a6592;background:#f3f5f8;padding:.4rem .9rem;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem}td,th{border-bottom:1px solid #d5dbe3;padding:.15rem .6rem;text-align:left}
.scroll{overflow-x:auto}img{max-width:none}footer{margin-top:3rem;border-top:1px solid #d5dbe3;padding-top:.6rem;font-size:.85rem}
code{word-break:break-all}
"""


def report(view: View) -> str:
    """The report of a view. Every text is escaped; the only script is Plotly's."""
    drawn = [item for item in view.items if item.figure is not None]
    script = f"<script>{get_plotlyjs()}</script>" if drawn else ""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{html.escape(view.title)} - MOYU Explorer</title><style>{_STYLE}</style>{script}<body>",
        f"<h1>{html.escape(view.title)}</h1><p class=quiet>{html.escape(view.sentence)}</p>",
        *(f"<div class=finding>{html.escape(plain_text(finding))}</div>" for finding in view.findings),
        *(_section(item) for item in view.items),
        _footer(view),
        "</body></html>",
    ]
    return "\n".join(parts)


def _section(item: Item) -> str:
    how = f"<p class=quiet>{html.escape(plain_text(item.how_to_read))}</p>" if item.how_to_read else ""
    return f"<h2>{html.escape(item.name)}</h2>{_map(item)}{_figure(item)}{how}"


def _map(item: Item) -> str:
    """A map as a picture, in which nothing can run."""
    if item.canvas is None:
        return ""
    picture = base64.b64encode(map_svg(item.canvas.payload).encode()).decode()
    return f'<div class=scroll><img src="data:image/svg+xml;base64,{picture}" alt="{html.escape(item.name)}"></div>'


def _figure(item: Item) -> str:
    figure = item.chart()
    if figure is None and item.table is None and item.canvas is not None:
        return ""
    if figure is None:
        table = item.numbers()
        shown = table.head(MAX_ROWS).to_html(index=False, escape=True, border=0, na_rep="")
        more = f"<p class=quiet>and {len(table) - MAX_ROWS:,} more rows</p>" if len(table) > MAX_ROWS else ""
        return f"<div class=scroll>{shown}</div>{more}"
    made = pio.to_html(portable(figure), config=CONFIG, include_plotlyjs=False, full_html=False)
    return re.sub(r"https://cdn[^\"']*|https://chart-studio[^\"']*", "", made)


def _footer(view: View) -> str:
    lines = {"Runs": ", ".join(view.runs), "Link": view.link, **view.facts}
    rows = "".join(f"{html.escape(key)}: <code>{html.escape(value)}</code><br>" for key, value in lines.items() if value)
    return f"<footer>{rows}Made with MOYU Explorer. Every number comes from the runs named here.</footer>"
