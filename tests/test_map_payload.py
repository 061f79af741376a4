"""The bytes of a map: round trip, size, layout, and messages for what does not fit."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from moyu_core import companding
from moyu_core.errors import InputError
from moyu_core.figures.map_payload import Category, MapPicture, decode, encode, read_header

ROWS, NEURONS = 5, 37
TOKENS = ["<s>", " the", "\n", 'a"<b>', "\U0001f600é"]


def values_picture(**changes):
    rng = np.random.default_rng(0)
    codes, scale = companding.encode(rng.standard_normal((ROWS, NEURONS)))
    fitting = {
        "kind": "values", "cells": codes, "n_neurons": NEURONS, "tokens": TOKENS, "scale": scale, "title": "Map",
        "alt": "What it shows", "show": "contribution", "norms": rng.random(NEURONS), "profile": rng.random(NEURONS),
        "order": rng.permutation(NEURONS), "rates": rng.random(NEURONS), "bars": np.array([1, 2, np.nan, 4, 5]),
        "positions": [0, 3, 4, 5, 9], "token_ids": [7, 8, 9, 10, 11], "sink_rows": [0], "unit": "activation",
        "value_label": "difference",
        "caption": "run x", "order_label": "by rate", "profile_label": "rate", "rates_label": "run rate",
        "bar_label": "norm", "bar_unit": "u", "marks": [(3, "dog")], "pins": [(1, 4)], "scope": "run/3",
        "group": "page",
    }
    return MapPicture(**fitting | changes)


def set_picture(rows=ROWS, neurons=NEURONS, **changes):
    rng = np.random.default_rng(1)
    active = rng.random((rows, neurons)) < 0.1
    fitting = {
        "kind": "set", "cells": np.packbits(active, axis=1, bitorder="little"), "n_neurons": neurons, "title": "Sets",
        "alt": "x", "tokens": [f" tok{row}" for row in range(rows)], "token_ids": list(range(10000, 10000 + rows)),
        "sink_rows": [0], "order": rng.permutation(neurons), "profile": active.mean(0), "bars": active.mean(1),
        "caption": "run x, top 10 %",
    }
    return MapPicture(**fitting | changes)


def compare_picture(**changes):
    categories = (Category("miss", "miss", "hatch"), Category("hit", "hit"), Category("neither", "neither"))
    cells = np.random.default_rng(2).integers(0, 3, (ROWS, NEURONS)).astype(np.uint8)
    fitting = {"kind": "compare", "cells": cells, "n_neurons": NEURONS, "tokens": TOKENS, "title": "C", "alt": "x",
               "categories": categories}
    return MapPicture(**fitting | changes)


@pytest.mark.parametrize("picture", [values_picture(), set_picture(), compare_picture()], ids=lambda p: p.kind)
def test_round_trip_keeps_every_field(picture):
    back = decode(encode(picture))
    for field in fields(MapPicture):
        sent, received = getattr(picture, field.name), getattr(back, field.name)
        if field.name == "positions" and sent is None:
            sent = range(picture.n_rows)
        if sent is None or isinstance(sent, str):
            assert received == sent, field.name
        elif isinstance(sent, np.ndarray) and sent.dtype.kind == "f":
            np.testing.assert_allclose(received, sent, rtol=1e-3, err_msg=field.name)
        elif field.name == "categories":
            assert received == tuple(sent)
        else:
            np.testing.assert_array_equal(received, sent, err_msg=field.name)


def test_a_set_of_128_tokens_stays_within_a_fifth_of_a_byte_a_cell():
    payload = encode(set_picture(rows=128, neurons=1536))
    assert len(payload) <= 0.2 * 128 * 1536
    assert len(encode(set_picture(rows=128, neurons=1536, order=None))) <= len(payload) - 2 * 1536


def test_blocks_start_at_multiples_of_four_and_say_where_they_are():
    payload = encode(values_picture())
    header = read_header(payload)
    start = 8 + int.from_bytes(payload[4:8], "little")
    assert start % 4 == 0
    assert payload[:4] == b"MOYU"
    assert json.loads(payload[8:start]) == header
    for block in header["blocks"].values():
        assert block["offset"] % 4 == 0
    cells = header["blocks"]["cells"]
    raw = payload[start + cells["offset"] :][: cells["length"]]
    assert raw == np.asarray(values_picture().cells).tobytes()


def test_identity_order_is_left_out_and_orders_are_told_apart():
    assert "order" not in read_header(encode(values_picture(order=np.arange(NEURONS))))["blocks"]
    assert read_header(encode(values_picture()))["blocks"]["order"]["dtype"] == "u16"
    one, two = (read_header(encode(values_picture(order=np.roll(np.arange(NEURONS), by)))) for by in (1, 2))
    assert one["order_id"] != two["order_id"]
    assert one["order_id"] == read_header(encode(values_picture(order=np.roll(np.arange(NEURONS), 1))))["order_id"]


def test_shares_that_half_precision_would_spoil_stay_single():
    small = np.full(NEURONS, 3e-7)
    blocks = read_header(encode(values_picture(profile=small)))["blocks"]
    assert (blocks["profile"]["dtype"], blocks["rates"]["dtype"]) == ("f32", "f16")
    np.testing.assert_allclose(decode(encode(values_picture(profile=small))).profile, small, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "grid"}, "kind to be one of values, set, compare, received 'grid'"),
        ({"show": "loud"}, "show of values .* received 'loud'"),
        ({"scale": None}, "a scale for kind values"),
        ({"norms": None}, "norms for show contribution"),
        ({"cells": np.zeros((ROWS, 38), np.uint8)}, r"uint8 cells of shape \(5, 37\), received uint8 \(5, 38\)"),
        ({"cells": np.zeros((ROWS, NEURONS))}, "received float64"),
        ({"bars": np.zeros(3)}, r"bars of shape \(5,\), received \(3,\)"),
        ({"order": np.zeros(NEURONS, int)}, r"order to be a permutation of 0\.\.36"),
        ({"profile": np.full(NEURONS, np.nan)}, "profile finite"),
        ({"pins": [(ROWS, 0)]}, r"pins inside 5 rows and 37 neurons, received \[\(5, 0\)\]"),
        ({"marks": [(NEURONS, "x")]}, "marks inside"),
        ({"sink_rows": [-1]}, "sink rows inside 5 rows"),
        ({"tokens": []}, "at least one token"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        values_picture(**changes)


def test_comparisons_are_checked_against_their_categories():
    with pytest.raises(InputError, match="cells below 2, the categories, received 2"):
        compare_picture(categories=compare_picture().categories[:2])
    with pytest.raises(InputError, match=r"colour key .* received 'mauve'"):
        compare_picture(categories=(Category("a", "mauve"), Category("b", "neither")))
    with pytest.raises(InputError, match=r"pattern .* received 'waves'"):
        compare_picture(categories=(Category("a", "hit", "waves"), Category("b", "neither")))


def test_damaged_payloads_are_refused_with_a_reason():
    payload = encode(values_picture())
    with pytest.raises(InputError, match="start with b'MOYU', received b'OYU"):
        decode(payload[1:])
    with pytest.raises(InputError, match="expected a header of"):
        decode(payload[:40])
    with pytest.raises(InputError, match="expected block bars to end"):
        decode(payload[:-8])
    with pytest.raises(InputError, match="expected version 1, received 2"):
        decode(payload.replace(b'"version":1', b'"version":2'))
    with pytest.raises(InputError, match="damaged text"):
        decode(payload.replace(b'{"version"', b'["version"'))


def test_same_picture_same_bytes_and_a_changed_one_differs():
    picture = values_picture()
    assert encode(picture) == encode(values_picture())
    assert encode(picture) != encode(replace(picture, title="Other"))
