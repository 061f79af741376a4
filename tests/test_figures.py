"""Figures of numbers and token texts: whatever a token is made of, it is shown and does nothing."""

from __future__ import annotations

import json
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moyu_core import query
from moyu_core.figures import style, sweep
from moyu_core.figures.neuron import along_prompt
from moyu_core.figures.sweep import layer_sweep
from moyu_core.figures.text import beginning, escaped, number, percent, visible
from moyu_core.figures.token_strip import token_strip

NASTY = ["<script>alert(1)</script>", "\" onmouseover='x", "&amp;", "<br>", "\u202eabc", "\ud800", "\x00\x1b[31m", "\u05d0\u05d1",
         "\n", "\r\n", " ", "", "\U0001f468\u200d\U0001f469", "%{y}", "\u2028", "\u200b\ufeff", "<b>bold</b>", "\\xf0\\x9f"]
texts = st.text(st.characters(codec=None), max_size=12)  # lone surrogates included


class Page(HTMLParser):
    """Collects tags, attributes and text as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def strip(tokens: list[str], values: list[float] | None = None, sink: int | None = 0, selected: int | None = None) -> str:
    numbers = np.arange(len(tokens), dtype=np.float32) if values is None else np.asarray(values, np.float32)
    return token_strip(tokens, numbers, "largest |a|", np.arange(len(tokens)) == sink, selected)


@pytest.mark.parametrize(("token", "shown"), [
    (" a", "·a"), ("a\n", "a⏎"), ("\t", "⇥"), ("\r", "␍"), ("", "∅"), ("\u00a0", "\u237d"),
    ("\u3000", "\\u3000"), ("\x00", "\\u0000"), ("\x1b", "\\u001b"),
    ("\u202e", "\\u202e"), ("\ud800", "\\ud800"), ("\u200b", "\\u200b"), ("\ufeff", "\\ufeff"), ("\u2028", "\\u2028"),
    ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"), ("\u05d0", "\u05d0"), ("é", "é"), ("\\x9f", "\\x9f"),
    ("\U000e0001", "\\ue0001"),
])
def test_what_cannot_be_seen_is_made_visible(token: str, shown: str) -> None:
    assert visible(token) == shown


@given(texts)
def test_any_text_can_be_shown_and_is_only_text(token: str) -> None:
    escaped(token).encode("utf-8")
    page = Page(escaped(token))
    assert page.tags == []
    assert "".join(page.text) == "\u2068" + visible(token) + "\u2069"
    assert not set(escaped(token)) & set("<>\"'")
    assert not {unicodedata.category(c) for c in visible(token) if c != "\u200d"} & {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}


@given(st.lists(texts, min_size=1, max_size=6))
def test_a_strip_holds_a_span_a_token_and_nothing_else(tokens: list[str]) -> None:
    page = Page(strip(tokens))
    assert [tag for tag, _ in page.tags if tag not in ("div", "br")] == ["span"] * len(tokens)
    assert sum(tag == "br" for tag, _ in page.tags) == sum("\n" in token for token in tokens)
    assert all(set(attributes) <= {"style", "title", "role", "class"} for _, attributes in page.tags)
    assert "".join(page.text) == "".join(f"\u2068{visible(token)}\u2069" for token in tokens)


def test_a_strip_of_nasty_tokens_runs_nothing() -> None:
    html = strip(NASTY)
    html.encode("utf-8")
    assert "<script" not in html
    assert "onmouseover='" not in html
    assert "&lt;script&gt;" in html
    assert Page(token_strip(["a"], np.ones(1), '"><script>', np.array([False]))).tags[1][1]["title"] == '0 · "><script> 1'


def tints(html: str) -> list[str]:
    return [(attributes["style"] or "").rsplit("background:", 1)[1] for tag, attributes in Page(html).tags if tag == "span"]


def opacity(tint: str) -> float:
    return float(tint.rstrip(")").rsplit(",", 1)[1])


def test_the_scale_of_a_strip_leaves_the_sink_and_nan_out() -> None:
    found = tints(strip(["<s>", "a", "b", "c", "d"], [500, 1, np.nan, 3, 2]))
    assert found[0].startswith("repeating-linear-gradient")
    assert [opacity(tint) for tint in found[1:]] == [0, 0, 0.75, 0.38]
    titles = [attributes["title"] or "" for tag, attributes in Page(strip(["<s>", "a"], [500, np.nan])).tags if tag == "span"]
    assert titles[0] == "0 · largest |a| 500 · sink token, left out of every statistic"
    assert titles[1] == "1 · largest |a| not finite"


@pytest.mark.parametrize("values", [[1, 2, 2], [np.nan] * 3, [np.inf, np.nan, 1], [0, 0, 0]])
def test_strips_without_a_range(values: list[float]) -> None:
    assert [opacity(tint) for tint in tints(strip(["<s>", "a", "b"], values))[1:]] == [0, 0]


def test_the_selected_token_is_underlined() -> None:
    page = Page(strip(["<s>", "a", "b"], selected=1))
    lines = ["currentColor" in (attributes["style"] or "") for tag, attributes in page.tags if tag == "span"]
    assert lines == [False, True, False]


@pytest.mark.parametrize(("value", "shown"), [
    (0, "0"), (-0.0, "0"), (0.12345, "0.123"), (12.3456, "12.3"), (999.4, "999"), (999.6, "1\u2009000"), (-999.7, "-1\u2009000"),
    (1234.5, "1\u2009234"), (9_999_999, "9\u2009999\u2009999"), (1e7, "1.00e+07"), (0.001, "0.001"), (0.00099, "9.90e-04"),
    (float("nan"), "not finite"), (float("inf"), "not finite"), (float("-inf"), "not finite"), (np.float32(0.1), "0.1"),
])
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a short  one\n", "a short one"),
        ("exactly twenty chars", "exactly twenty chars"),
        ("the tide came in over the flats", "the tide came in\u2026"),
        ("the tide came incomprehensibly", "the tide came\u2026"),
        ("incomprehensibilities", "incomprehensibiliti\u2026"),
        ("a incomprehensibilities", "a incomprehensibili\u2026"),
        ("", ""),
    ],
)
def test_a_beginning_ends_between_words(text: str, shown: str) -> None:
    assert beginning(text, 20) == shown


@given(st.floats(0.001, 9.9e6))
def test_numbers_of_daily_life_have_no_exponent_and_keep_three_digits(value: float) -> None:
    assert "e" not in number(value)
    assert float(number(value).replace("\u2009", "")) == pytest.approx(value, rel=5.1e-3)


def test_percent() -> None:
    assert percent(0.0996) == "9.96\u202f%"


def table(values: list[list[float]], layers: list[int] | None = None) -> pd.DataFrame:
    return pd.DataFrame(values, index=layers or range(len(values)))


def test_every_statistic_of_a_run_can_be_drawn() -> None:
    assert sweep.STATISTICS.keys() == set(query.STATISTICS)
    for name in sweep.STATISTICS:
        assert len(layer_sweep(table([[1, 2, 3]]), name, ["<s>", "a", "b"]).data) == 2


def test_a_sweep_has_a_cell_and_a_target_for_every_layer_and_token() -> None:
    figure = layer_sweep(table([[900, 1, 2, 3], [800, 4, 5, 6]], [3, 7]), "l2_norm", ["<s>", *NASTY[:3]])
    heat, targets = figure.data
    assert np.shape(heat.z) == (2, 4)
    assert list(heat.y) == [3, 7]
    assert (heat.zmin, heat.zmax) == (1, pytest.approx(6, abs=0.05)), "the sink's norm does not set the scale"
    assert len(targets.x) == len(targets.customdata) == len(targets.text) == 8
    assert [tuple(row) for row in targets.customdata[[0, 4, 7]]] == [(3, 900), (7, 800), (7, 6)]
    assert list(targets.text[:4]) == [escaped(token) for token in ["<s>", *NASTY[:3]]]
    assert "<script" not in figure.to_json()
    assert figure.layout.xaxis.title.text == "position (token)"
    assert heat.colorbar.title.text == "L2 norm (activation)"


def test_the_frame_lies_on_the_row_of_its_layer() -> None:
    figure = layer_sweep(table([[1, 2]] * 30), "density", ["<s>", "a"])
    plot = figure.layout.height - sweep.MARGIN["t"] - sweep.MARGIN["b"]
    for layer, top in ((29, 0), (0, plot * 29 / 30)):
        style_rule = sweep.frame_style(list(range(30)), layer, ".here")
        assert f"top:{sweep.MARGIN['t'] + top:.1f}px;height:{plot / 30:.1f}px" in style_rule
    assert (figure.layout.margin.l, figure.layout.margin.autoexpand) == (sweep.MARGIN["l"], False)
    assert figure.layout.yaxis.range == (-0.5, 29.5)


@pytest.mark.parametrize("values", [[[1.0, np.nan, np.inf]], [[np.nan] * 3], [[5.0]], [[5.0, 2.0, 2.0]], [[0.0, 0, 0]]])
def test_sweeps_of_odd_numbers_have_a_scale(values: list[list[float]]) -> None:
    figure = layer_sweep(table(values), "cett", ["<s>", "a", "b"])
    assert np.isfinite([figure.data[0].zmin, figure.data[0].zmax]).all()
    assert figure.data[0].zmin < figure.data[0].zmax
    json.loads(figure.to_json())


def test_a_long_prompt_has_few_labels() -> None:
    figure = layer_sweep(table([list(range(500))]), "density", ["a"] * 500)
    assert 10 <= len(figure.layout.xaxis.ticktext) <= 33
    assert list(figure.layout.xaxis.tickvals[:2]) == [0, 31]


def test_a_neuron_along_a_prompt() -> None:
    values, active = np.array([3.0, -1, np.nan, 0.5]), np.array([True, False, False, True])
    figure = along_prompt(values, active, ["<s>", *NASTY[:3]], selected=2)
    [bars] = figure.data
    np.testing.assert_array_equal(bars.y, values)
    assert list(bars.customdata) == ["active", "not active", "not active", "active"]
    assert [colour == style.ACTIVE for colour in bars.marker.color] == active.tolist()
    assert list(bars.text) == [escaped(token) for token in ["<s>", *NASTY[:3]]]
    assert figure.layout.yaxis.title.text == "a"
    assert figure.layout.shapes[0].x0 == 2
    assert "<script" not in figure.to_json()
    json.loads(figure.to_json())


def test_a_neuron_without_values_shows_membership() -> None:
    figure = along_prompt(None, np.array([True, False]), ["<s>", "a"], None)
    assert list(figure.data[0].y) == [1, 0]
    assert list(figure.layout.yaxis.ticktext) == ["no", "yes"]
    assert not figure.layout.shapes


@pytest.mark.parametrize("token", NASTY)
def test_nasty_tokens_survive_the_way_to_the_browser(token: str) -> None:
    figure = along_prompt(np.ones(1), np.array([True]), [token], None)
    assert json.loads(figure.to_json())["data"][0]["text"] == [escaped(token)]
    figure.to_json().encode("utf-8")
