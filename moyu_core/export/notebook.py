"""A view as a Jupyter notebook that rebuilds its figures: from the run where the page said how, else from the figure's numbers."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import plotly.io as pio

from moyu_core.export.view import Item, View, plain_text, portable

_SETUP = """# Needs the project (pip install -e .) and the run: made on this machine, shipped, or taken out of a bundle with
# `moyu import {run}.moyu.zip`.
from moyu_core import query, store
from moyu_core.home import Home

run = store.find_run(Home.default(), {run!r})
run.verify()  # sizes and SHA-256 of every file
run.manifest["model"], sorted(run.manifest["files"])"""

_MAP = """import base64

from moyu_core.figures.map_svg import map_svg


class Map:
    def _repr_svg_(self):  # what a notebook draws
        return map_svg(payload)


# The map with the cells that it showed.
payload = base64.b64decode({payload!r})
picture = Map()
picture"""


def notebook(view: View) -> str:
    """The notebook as JSON, format 4.5: a cell that opens the run, then one a figure or table."""
    about = [f"# {plain_text(view.title)}", view.sentence, *(f"> {plain_text(finding)}" for finding in view.findings)]
    about += [
        f"Runs: {', '.join(f'`{run}`' for run in view.runs)}" if view.runs else "",
        f"Link: <{view.link}>" if view.link else "",
    ]
    about += [f"{key}: {value}" for key, value in view.facts.items()]
    cells = [_text("\n\n".join(part for part in about if part))]
    if view.runs:
        cells.append(_code(_SETUP.format(run=view.runs[0])))
    for item in view.items:
        cells.append(_text(f"## {item.name}\n\n{plain_text(item.how_to_read)}".rstrip()))
        cells.append(_code(_source(item)))
    for number, cell in enumerate(cells):
        cell["id"] = hashlib.sha256(f"{number}".encode()).hexdigest()[:8]
    about_kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": about_kernel, "cells": cells}, indent=1, ensure_ascii=False)


def _source(item: Item) -> str:
    if item.notebook:
        return item.notebook.strip()
    figure = item.chart()
    if figure is not None:
        made = pio.to_json(portable(figure))
        return f"import plotly.io as pio\n\n# The figure with the numbers that it showed.\nfigure = pio.from_json({made!r})\nfigure"
    if item.canvas is not None and item.table is None:
        return _MAP.format(payload=base64.b64encode(item.canvas.payload).decode())
    made = item.numbers().to_json(orient="split", index=False)
    return f"import io\n\nimport pandas as pd\n\ntable = pd.read_json(io.StringIO({made!r}), orient='split')\ntable"


def _text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _code(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
