"""The map as a file: well-formed, harmless whatever the tokens are, and its pixels are the payload's cells."""

from __future__ import annotations

import base64
import io
import json
import re
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest
from PIL import Image

from moyu_core import companding
from moyu_core.errors import InputError
from moyu_core.export.map_table import map_table
from moyu_core.export.notebook import notebook
from moyu_core.export.report import report
from moyu_core.export.view import Canvas, Item, View
from moyu_core.figures.indexed_png import indexed_png
from moyu_core.figures.map_colours import category_colour, inks, stops
from moyu_core.figures.map_payload import Category, MapPicture, encode
from moyu_core.figures.map_svg import MAX_COLUMNS, MAX_ROWS, map_svg
from moyu_core.figures.text import visible
from moyu_core.home import REPOSITORY

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ['<script>alert("x")</script>', "&amp;&", "]]>", "\x00\x0b\ufffe", "\ud800", " \n", "\u202eright", '"\'']
OVERLAY = (Category("hit", "hit"), Category("miss", "miss", "cross"), Category("false alarm", "false_alarm", "hatch"),
           Category("neither", "neither"))
RNG = np.random.default_rng(0)


def values_map(values: np.ndarray, **more) -> MapPicture:
    codes, scale = companding.encode(values)
    tokens = [f" t{row}" for row in range(len(values))]
    fitting = {"kind": "values", "cells": codes, "scale": scale, "n_neurons": values.shape[1], "tokens": tokens,
               "title": "Map", "alt": "Alternative"}
    return MapPicture(**fitting | more)


def set_map(active: np.ndarray, **more) -> MapPicture:
    cells = np.packbits(active, axis=1, bitorder="little")
    tokens = [f" t{row}" for row in range(len(active))]
    return MapPicture(kind="set", cells=cells, n_neurons=active.shape[1], tokens=tokens, title="Sets", alt="x", **more)


def compare_map(cells: np.ndarray, **more) -> MapPicture:
    fitting = {"categories": OVERLAY, "tokens": [f" t{row}" for row in range(len(cells))], "title": "Overlay", "alt": "x"}
    return MapPicture(kind="compare", cells=cells, n_neurons=cells.shape[1], **fitting | more)


def drawn(picture: MapPicture, dark: bool = False) -> tuple[Element, np.ndarray]:
    """The parsed file and the (R, W, 3) colours of its raster, read by another program's decoder."""
    root = fromstring(map_svg(encode(picture), dark))
    (image,) = root.findall(f"{SVG}image")
    data = image.get("{http://www.w3.org/1999/xlink}href")
    assert data.startswith("data:image/png;base64,") and image.get("style") == "image-rendering:pixelated"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB"))
    assert int(image.get("width")) % pixels.shape[1] == 0 and int(image.get("height")) % pixels.shape[0] == 0
    return root, pixels


def rgb(*colours: str) -> np.ndarray:
    return np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours], dtype=np.uint8)


def words(root: Element) -> str:
    return " ".join(element.text or "" for element in root.iter(f"{SVG}text"))


def value_colours(shown: np.ndarray, counted: np.ndarray, show: str, dark: bool) -> np.ndarray:
    """Colours of (T, F) values on the square-root scale that ends where 99.5 % of the non-zero `counted` ones end."""
    level = np.sort(np.rint(11 * np.log2(np.abs(counted[counted != 0]))))
    clip = level[int(np.ceil(0.995 * len(level))) - 1]
    clip = 2 ** ((level[-1] if level[-1] - clip < 4 else clip) / 11)
    place = np.sqrt(np.minimum(np.abs(shown) / clip, 1))
    place = 0.5 + 0.5 * np.sign(shown) * place if show == "signed" else place
    table = rgb(*stops(show, dark)).astype(float)
    at = place * (len(table) - 1)
    return np.stack([np.interp(at, np.arange(len(table)), table[:, part]) for part in range(3)], axis=-1)


@pytest.mark.parametrize("picture", [
    values_map(RNG.standard_normal((8, 9))), set_map(RNG.random((8, 9)) < 0.3), compare_map(RNG.integers(0, 4, (8, 9), np.uint8)),
], ids=lambda picture: picture.kind)
def test_no_text_breaks_out(picture: MapPicture) -> None:
    hostile = {"tokens": HOSTILE, "title": "T <script>&", "caption": "rule <b>&", "alt": "a <&>", "marks": [(3, "<m&")],
               "profile": np.ones(9, np.float32), "profile_label": "<p&",
               "bars": np.arange(8.0), "bar_label": "<q&", "bar_unit": "<u&"}
    fields = {name: getattr(picture, name) for name in picture.__dataclass_fields__}
    text = map_svg(encode(MapPicture(**fields | hostile)))
    root = fromstring(text)
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds <= {"svg", "title", "desc", "rect", "text", "image", "path", "linearGradient", "stop"}
    assert root.find(f"{SVG}title").text == "T <script>&" and root.find(f"{SVG}desc").text == "a <&>"
    shown = [element.text for element in root.iter(f"{SVG}text")]
    for token in HOSTILE:
        assert visible(token).replace("\ufffe", "\ufffd") in shown
    for told in ("T <script>&", "rule <b>&", "<m&", "<p&", "<q&"):
        assert told in shown
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("show", ["signed", "abs", "contribution", "relative"])
def test_the_pixels_are_the_values(show: str, dark: bool) -> None:
    norms, order = RNG.random(700) + 0.5, RNG.permutation(700)
    picture = values_map(RNG.standard_normal((6, 700)), show=show, norms=norms, order=order, sink_rows=[0])
    stored = companding.decode(picture.cells, picture.scale)
    shown = {"signed": stored, "abs": np.abs(stored), "contribution": np.abs(stored) * norms,
             "relative": np.abs(stored) / np.linalg.norm(stored, axis=1, keepdims=True)}[show]
    expected = value_colours(shown, shown[1:], show, dark)[:, order]
    pixels = drawn(picture, dark)[1]
    # A level, an eleventh of an octave, is 3 % of the way along the scale; cells and its end are rounded to whole ones.
    np.testing.assert_allclose(pixels, expected, atol=25)
    assert np.abs(pixels - expected).mean() < 4


def test_values_that_are_no_numbers_have_a_colour_and_a_mark_of_their_own() -> None:
    values = RNG.standard_normal((3, 12))
    values[1, 4], values[2, 5] = np.nan, 0
    root, pixels = drawn(values_map(values))
    assert (pixels[1, 4] == rgb("#ff2fd0")).all() and (pixels[2, 5] == rgb("#440154")).all()
    assert "not finite (1)" in words(root)


@pytest.mark.parametrize("dark", [False, True])
def test_the_pixels_are_the_sets_and_the_states(dark: bool) -> None:
    order = RNG.permutation(37)
    active, states = RNG.random((5, 37)) < 0.3, RNG.integers(0, 4, (5, 37), np.uint8)
    tones = rgb(inks(dark).panel, "#8cb8ff" if dark else "#1b4f9c")
    assert np.array_equal(drawn(set_map(active, order=order), dark)[1], tones[active[:, order].astype(int)])
    tones = rgb(*(category_colour(each.colour, dark) for each in OVERLAY))
    assert np.array_equal(drawn(compare_map(states, order=order), dark)[1], tones[states[:, order]])


@pytest.mark.parametrize("dark", [False, True])
def test_hit_miss_and_false_alarm_are_told_apart_without_colour(dark: bool) -> None:
    states = RNG.integers(0, 4, (4, 30), np.uint8)
    root, _ = drawn(compare_map(states), dark)
    lines = [path.get("d") for path in root.iter(f"{SVG}path") if path.get("stroke-linecap")]
    assert [line.count("M") for line in lines] == [(states == 1).sum(), (states == 2).sum(), 1, 1], "cells, then the legend"
    grey = rgb(*(category_colour(each.colour, dark) for each in OVERLAY)) @ [0.2126, 0.7152, 0.0722]
    assert np.abs(np.diff(np.sort(grey))).min() > 18 and "differ in lightness" in words(root)


def test_no_maximum_is_lost_where_cells_share_a_pixel() -> None:
    rows, neurons = 2 * MAX_ROWS, 2 * MAX_COLUMNS + 100
    values = np.full((3, neurons), 0.01)
    peaks = RNG.choice(neurons, 200, replace=False)
    values[1, peaks] = 1
    root, pixels = drawn(values_map(values))
    edges = np.arange(MAX_COLUMNS + 1) * neurons // MAX_COLUMNS
    hot = np.unique(np.searchsorted(edges, peaks, side="right") - 1)
    assert pixels.shape == (3, MAX_COLUMNS, 3)
    strong = (pixels == rgb("#fde725")).all(axis=2)
    assert np.array_equal(np.flatnonzero(strong[1]), hot)
    assert "up to 1 x 3 cells" in words(root) and "strongest of them is shown; none is left out" in words(root)

    active = np.zeros((rows, neurons), bool)
    active[1501, 4000] = True
    root, pixels = drawn(set_map(active))
    seen = np.argwhere((pixels != rgb(inks(False).panel)).any(axis=2))
    assert seen.tolist() == [[750, np.searchsorted(edges, 4000, side="right") - 1]]
    assert "up to 2 x 3 cells" in words(root)
    states = np.full((2, neurons), 3, np.uint8)
    states[0, 10:13], states[0, 11] = 2, 1
    assert (drawn(compare_map(states))[1][0] == rgb(category_colour("miss", False))).all(axis=1).sum() == 1


def test_a_file_of_noise_stays_below_four_megabytes() -> None:
    values = RNG.standard_normal((1100, 4200)).astype(np.float32)
    picture = values_map(values, profile=RNG.random(4200), bars=RNG.random(1100))
    assert len(map_svg(encode(picture))) < 4_000_000


def test_axes_say_what_is_shown() -> None:
    active, reverse = np.eye(6, 300, dtype=bool), np.arange(300)[::-1]
    plain = set_map(active)
    ordered = set_map(active, order=reverse, order_label="neurons by rate", caption="run r, top 10 %", sink_rows=[0])
    assert "neuron, 0 to 299" in words(drawn(plain)[0])
    said = words(drawn(ordered)[0])
    for part in ("place in order (neurons by rate), 0 to 299", "run r, top 10 %", "\u25c7 \u00b7t0", "Every cell has a pixel"):
        assert part in said


def test_a_difference_is_called_one_in_the_legend() -> None:
    values = np.eye(6, 300, dtype=np.float32)
    plain, named = (words(drawn(values_map(values, show="signed", unit="u", **more))[0]) for more in ({}, {"value_label": "gain"}))
    assert "a (u)" in plain and "gain (u)" in named and "a (u)" not in named


def test_the_colours_are_those_of_the_page() -> None:
    script = (REPOSITORY / "app/components/neuron_map/colour.js").read_text()
    theme = (REPOSITORY / ".streamlit/config.toml").read_text()
    for dark in (False, True):
        found = {*stops("abs", dark), *stops("signed", dark)}
        found |= {category_colour(key, dark) for key in ("hit", "miss", "false_alarm", "stay", "out", "in")}
        assert not [colour for colour in found if f'"{colour}"' not in script]
        assert all(f'"{colour}"' in theme for colour in (inks(dark).text, inks(dark).back, inks(dark).accent))


def test_a_picture_that_its_palette_does_not_cover_is_refused() -> None:
    with pytest.raises(InputError, match="palette of 4 to 256"):
        indexed_png(np.full((2, 2), 3, np.uint8), np.zeros((3, 3), np.uint8))
    with pytest.raises(InputError, match="uint8 pixels"):
        indexed_png(np.zeros((0, 2), np.uint8), np.zeros((3, 3), np.uint8))


def test_the_numbers_of_a_map_are_its_cells() -> None:
    states = RNG.integers(0, 4, (3, 8), np.uint8)
    table = map_table(encode(compare_map(states, positions=[5, 6, 7])))
    back = np.full((3, 8), 3)
    back[table["position"] - 5, table["neuron"]] = table["state"].map([each.label for each in OVERLAY].index)
    assert np.array_equal(back, states)
    values, norms = RNG.standard_normal((3, 8)), RNG.random(8)
    table = map_table(encode(values_map(values, show="contribution", norms=norms)))
    assert table.iloc[:, -1].to_numpy() == pytest.approx((np.abs(values) * norms)[table["position"], table["neuron"]], rel=0.04)
    assert len(map_table(encode(set_map(np.eye(4, dtype=bool))))) == 4


def test_report_and_notebook_hold_the_map() -> None:
    payload = encode(compare_map(RNG.integers(0, 4, (3, 8), np.uint8), tokens=["<script>", "b", "c"]))
    view = View("Overlay", items=[Item("A <map>", canvas=Canvas("map", payload))])
    made = report(view)
    (picture,) = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]*)" alt="A &lt;map&gt;">', made)
    assert base64.b64decode(picture).decode() == map_svg(payload) and "<script" not in made
    space: dict = {}
    exec(json.loads(notebook(view))["cells"][-1]["source"], space)
    assert space["picture"]._repr_svg_() == map_svg(payload)
