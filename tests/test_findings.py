"""The page Findings: the paper's claims and our own apart, and a plot that says verdict and direction of every effect."""

from __future__ import annotations

from collections import Counter

import pytest

from moyu_core import claims, store
from moyu_core.claims import Claim
from moyu_core.figures.claims import LIMIT, SYMBOLS, forest
from moyu_core.home import Home
from moyu_core.intervals import Interval
from moyu_core.queries.claims import judged
from tests.test_app import demo as demo
from tests.test_app import home as home
from tests.test_app import said
from tests.test_links import opened


def claim(mean: float, verdict: str, name: str = "inertia", source: str = "MOYU (2406.12569)") -> Claim:
    effect = Interval(mean, mean - 0.01, mean + 0.01, 0.005, 8)
    return Claim(name, "It holds.", source, "endpoint", 0.1, effect, "tiny-relu", "8 topics", verdict)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("verdict", [claims.SUPPORTED, claims.NOT_SUPPORTED, claims.NOT_RESOLVED])
def test_an_effect_beyond_the_border_keeps_its_verdict_and_an_arrow_says_where_it_lies(sign: int, verdict: str) -> None:
    beyond, inside = forest([claim(sign * 9.0, verdict), claim(sign * 0.3, verdict)]).data[::-1]
    assert beyond.x[0] == sign * LIMIT and beyond.marker.symbol == inside.marker.symbol == SYMBOLS[verdict]
    assert beyond.text[0] == ("\u2192" if sign > 0 else "\u2190") and inside.text[0] == ""


def test_a_name_says_the_model_once() -> None:
    figure = forest([claim(0.3, claims.SUPPORTED, "transplant, tiny-relu"), claim(0.3, claims.SUPPORTED)])
    assert [note.text for note in figure.layout.annotations] == ["inertia \u00b7 tiny-relu", "transplant, tiny-relu"]


def test_the_papers_claims_and_our_own_are_counted_apart() -> None:
    found = judged(store.list_runs(Home.default())[0])
    for whose, ours in (("the paper's", False), ("our own", True)):
        counts = Counter(item.claim.verdict for item in found if item.claim.ours == ours)
        text = said(opened(f"whose={whose}", "findings", ""))
        assert sum(counts.values()) > 20 and f"{sum(counts.values())} claims of {'our own' if ours else 'the paper'}" in text
        assert all(f"{count} {verdict}" in text for verdict, count in counts.items())
    text = said(opened("whose=the paper's&verdict=not applicable", "findings", ""))
    assert "None of the paper's claims is not applicable." in text
