"""What is downloaded holds the numbers that were shown, opens alone, and a notebook rebuilds the figure from the run."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from moyu_core import query, sets, store
from moyu_core.export.notebook import notebook
from moyu_core.export.report import report
from moyu_core.export.tables import active_table, as_csv, as_parquet, overlay_table, panel_table
from moyu_core.export.view import Item, View, figure_table, file_name, plain_text, portable
from moyu_core.figures.set_map import set_map
from moyu_core.figures.sweep import layer_sweep
from moyu_core.home import REPOSITORY, Home
from moyu_core.queries.inertia import Panel
from moyu_core.queries.predictors import Overlay
from tests.tracked import capture_of

DEMO = capture_of().name


@pytest.fixture(scope="module")
def piece() -> query.Slice:
    return query.read_slice(store.find_run(Home.default(), DEMO), "prose-lighthouse", 15)


def view(*items: Item) -> View:
    return View(
        "Activation map", "Which neurons fire?", "http://here/?layer=15", (DEMO,), ["Layer 15: <b>153</b> of 1 < 2"], list(items)
    )


def bars() -> go.Figure:
    return go.Figure(go.Bar(name="rate", x=["a", "b"], y=[0.25, 0.5], error_y={"type": "data", "array": [0.1, 0.2]}))


def test_a_figures_own_numbers_become_a_table() -> None:
    assert figure_table(bars()).to_dict("records") == [
        {"trace": "rate", "x": "a", "y": 0.25, "error_y": 0.1},
        {"trace": "rate", "x": "b", "y": 0.5, "error_y": 0.2},
    ]
    cells = figure_table(go.Figure(go.Heatmap(z=[[1, 2, 3], [4, 5, 6]], x=[7, 8, 9], y=["p", "q"])))
    assert cells.loc[(cells["x"] == 8) & (cells["y"] == "q"), "z"].tolist() == [5] and len(cells) == 6
    assert len(figure_table(go.Figure())) == 0


def test_a_drawn_sweep_gives_the_runs_own_numbers(piece: query.Slice) -> None:
    run = store.find_run(Home.default(), DEMO)
    frame = query.sweep(run, "prose-lighthouse", "l2_norm")
    table = figure_table(layer_sweep(frame, "l2_norm", piece.frame["token"].tolist()))
    heat = table[table["z"].notna()]
    expected = frame.to_numpy(np.float32)
    assert heat["z"].to_numpy(np.float32).reshape(expected.shape) == pytest.approx(expected, nan_ok=True)


def test_the_active_neurons_of_a_slice_are_all_there_and_no_others(piece: query.Slice) -> None:
    table = active_table(piece, piece.active)
    mask = np.zeros((len(piece.frame), piece.n_neurons), bool)
    mask[table["position"], table["neuron"]] = True
    assert np.array_equal(mask, sets.unpack(piece.active, piece.n_neurons))
    row = table.iloc[200]
    assert row["activation (to about 3 %)"] == pytest.approx(piece.values[row["position"], row["neuron"]])


def test_csv_is_read_back_and_nothing_in_it_is_run() -> None:
    item = Item("numbers", table=pd.DataFrame({"token": ["=cmd()", "-x", "ok"], "=rate": [-0.5, 1.5, 2.0]}))
    text = as_csv(item).decode()
    assert text.splitlines() == ["token,'=rate", "'=cmd(),-0.5", "'-x,1.5", "ok,2.0"]
    assert pd.read_csv(io.StringIO(text)).iloc[:, 1].tolist() == [-0.5, 1.5, 2.0]


def test_parquet_says_where_it_comes_from() -> None:
    item = Item("numbers", table=pd.DataFrame({"mixed": ["a", 1, None], "x": [1.0, 2.0, 3.0]}))
    table = pq.read_table(io.BytesIO(as_parquet(item, view(item))))
    assert table["x"].to_pylist() == [1.0, 2.0, 3.0]
    assert table.schema.metadata[b"runs"] == DEMO.encode() and table.schema.metadata[b"link"] == b"http://here/?layer=15"


def test_a_report_stands_alone_and_runs_no_text() -> None:
    item = Item("Rates <script>alert(1)</script>", bars(), how_to_read="read <img src=x onerror=alert(2)>")
    made = report(view(item, Item("table", table=pd.DataFrame({"t": ["<script>alert(3)</script>"]}))))
    assert "<script>alert" not in made and "<img" not in made.split("</script>")[-1]
    assert "Layer 15: 153 of 1 &lt; 2" in made and DEMO in made
    assert '"y":[0.25,0.5]' in made.replace(" ", "")
    outside = [part for part in made.split("<script>")[0].split('"') if part.startswith("http")]
    assert not outside and 'src="http' not in made and "<link" not in made


def test_a_portable_figure_has_no_colours_of_the_app() -> None:
    figure = bars()
    figure.update_layout(template={"layout": {"colorway": ["#000001"]}})
    assert "#000001" not in portable(figure).to_json()
    assert figure.layout.template.layout.colorway == ("#000001",)  # the shown one is left alone


def run_cells(made: str) -> dict[str, object]:
    cells = [cell["source"] for cell in json.loads(made)["cells"] if cell["cell_type"] == "code"]
    space: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell, "cell", "exec"), space)
    return space


def test_a_notebook_is_valid_and_rebuilds_the_figure_from_the_run(piece: query.Slice) -> None:
    code = (
        "from moyu_core.figures.set_map import set_map\npiece = query.read_slice(run, 'prose-lighthouse', 15, 'plain')\n"
        "figure = set_map(piece.mask, piece.frame['token'].tolist())\nfigure"
    )
    made = notebook(view(Item("Map", lambda: pytest.fail("not asked for"), notebook=code)))
    nbformat.validate(nbformat.reads(made, as_version=4))
    space = run_cells(made)
    assert space["run"].id == DEMO
    assert space["figure"].to_json() == set_map(piece.mask, piece.frame["token"].tolist()).to_json()


@pytest.mark.parametrize("page,part", [("inertia", "panels"), ("predictors", "tokens")])
def test_a_map_of_a_study_page_is_rebuilt_by_its_notebook(page: str, part: str) -> None:
    app = AppTest.from_file(str(REPOSITORY / "app" / "main.py"), default_timeout=60).run()
    app.switch_page(f"views/{page}.py")
    app.query_params["part"] = part
    app.run()
    shown: View = app.session_state["_view"]
    shown.runs = shown.runs or tuple(run for run in app.session_state["_link"].values() if run.startswith(page))
    space = run_cells(notebook(shown))
    table = shown.items[0].numbers()
    assert len(table) > 1000 and isinstance(space["table"], pd.DataFrame)
    pd.testing.assert_frame_equal(space["table"][table.columns].reset_index(drop=True).head(0), table.head(0))
    columns = [name for name in table.columns if name not in ("content", "history")]
    assert len(space["table"]) >= len(table) and set(map(tuple, table[columns].values)) <= set(
        map(tuple, space["table"][columns].values)
    )


def test_the_tables_of_words_and_of_overlays_hold_every_cell_and_no_other() -> None:
    draw = np.random.default_rng(0)
    mask, needed, kept = (draw.random((3, 20)) < 0.3 for _ in range(3))
    words = ["a", "b", "a"]
    made = panel_table({("sentence", "sequence"): Panel(words, np.arange(3), sets.pack(mask))}, 20)
    assert [(row.place, row.word, row.neuron) for row in made.itertuples()] == [
        (place, words[place], neuron) for place in range(3) for neuron in range(20) if mask[place, neuron]
    ]
    found = overlay_table(Overlay(words, np.arange(1, 4), needed, kept, 2))
    assert [(row.position, row.token, row.neuron, row.needed, row.kept) for row in found.itertuples()] == [
        (place + 1, words[place], neuron, needed[place, neuron], kept[place, neuron])
        for place in range(3)
        for neuron in range(20)
        if needed[place, neuron] or kept[place, neuron]
    ]


def test_a_notebook_without_a_recipe_carries_figure_and_table() -> None:
    made = notebook(
        view(Item("Rates 'quoted' \\ \"twice\"", bars()), Item("table", table=pd.DataFrame({"a": [1, 2], "b": ["x", "'"]})))
    )
    nbformat.validate(nbformat.reads(made, as_version=4))
    space = run_cells(made)
    assert space["figure"].data[0].y == (0.25, 0.5)
    assert space["table"].to_dict("list") == {"a": [1, 2], "b": ["x", "'"]}


def test_a_table_is_made_only_when_it_is_asked_for() -> None:
    calls = []
    item = Item("late", table=lambda: calls.append(1) or pd.DataFrame({"a": [1]}))
    assert calls == []
    assert len(item.numbers()) == 1 and len(item.numbers()) == 1 and calls == [1]


def test_names_and_texts() -> None:
    assert file_name("Activation map: |a|·c, layer 15!") == "activation-map-a-c-layer-15"
    assert file_name("\u6c34") == "view"
    assert plain_text("A <b>bold</b> **word** `code` and 1 < 2, 3 > 2") == "A bold word code and 1 < 2, 3 > 2"


def test_exporting_needs_no_streamlit_and_no_torch() -> None:
    code = (
        "import sys, moyu_core.export.report, moyu_core.export.notebook, moyu_core.export.tables, moyu_core.archive_import,"
        " moyu_core.prompt_library, moyu_core.prompt_import, moyu_core.prompt_templates, moyu_core.public, moyu_core.retention;"
        "print({'streamlit', 'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert pio.templates.default  # this test's own process may have both
