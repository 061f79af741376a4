"""The map in a real browser: what is drawn, said, selected and sent; and its wrapper without one."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.components.neuron_map import MapSelection, read_selection
from tests import browser
from tests.browser import answering, at_rest, free_port
from tests.waiting import ended, until

REPOSITORY = Path(__file__).parents[1]
PAGE = textwrap.dedent('''
    import numpy as np
    import streamlit as st
    from app.components import neuron_map as component
    from moyu_core import companding
    from moyu_core.figures.map_payload import Category, MapPicture, encode

    st.set_page_config(layout="wide")
    T, F = 8, 4096
    what = st.query_params.get("what", "spikes")

    def spikes(seed=0, **more):
        """All but zero; one large neuron in each row, between pixels that a sample would take."""
        a = np.full((T, F), 1e-6, dtype=np.float32)
        for row in range(T):
            a[row, 501 * row + 37 + seed] = (-1) ** row * (row + 1)
        a[3, 2000] = np.nan
        codes, scale = companding.encode(a)
        tokens = ["<s>", " the", "\\n", "<img src=x onerror=alert(1)>", "d", "e", "f", "g"]
        fields = {"kind": "values", "cells": codes, "scale": scale, "n_neurons": F, "tokens": tokens, "title": "Spikes",
                  "alt": "One spike a row.", "sink_rows": [0], "show": "signed", "unit": "mV", "caption": "run x",
                  "profile": np.linspace(0, 1, F), "bars": np.arange(T), "bar_label": "norm", "scope": "one"}
        return encode(MapPicture(**fields | more))

    def active(rows, neurons, **more):
        bits = np.random.default_rng(0).integers(0, 256, (rows, (neurons + 7) // 8), dtype=np.uint8) & 17
        return encode(MapPicture(kind="set", cells=bits, n_neurons=neurons, tokens=["t"] * rows, title="Set", alt="s",
                                 profile=np.full(neurons, 0.25), **more))

    def show(name, payload, **more):
        st.text(f"{name}: {component.neuron_map(payload, key=name, **more)}")

    if what == "spikes":
        seed = 1 if st.checkbox("other data") else 0
        scope = "two" if st.checkbox("other scope") else "one"
        pins = [(5, 99)] if st.checkbox("given pin") else []
        if not st.checkbox("gone"):
            show("map", spikes(seed, scope=scope, pins=pins, group="g"))
    elif what == "group":
        order = np.arange(F)[::-1]
        show("one", spikes(order=order, order_label="reversed", group="g"), height=420)
        show("two", active(8, F, group="g"), height=420)
    elif what == "large":
        show("map", active(512, 11008))
    elif what == "middle":
        a = np.random.default_rng(0).standard_normal((128, 1536)).astype(np.float32)
        codes, scale = companding.encode(a)
        show("map", encode(MapPicture(kind="values", cells=codes, scale=scale, n_neurons=1536, tokens=["t"] * 128,
                                      title="M", alt="m", show="contribution", norms=np.ones(1536))))
    elif what == "row":
        codes, scale = companding.encode(np.linspace(-1, 1, 300, dtype=np.float32)[None])
        show("map", encode(MapPicture(kind="values", cells=codes, scale=scale, n_neurons=300, tokens=["rate"], show="signed",
                                      title="A heading of some words", caption="one run and another, a rule of sets; " * 4,
                                      alt="r", value_label="difference of rates", profile=np.full(300, 0.5), bars=np.ones(1),
                                      bar_label="norm", bar_unit="activation")))
    elif what == "compare":
        names = (("miss", "miss", "hatch"), ("hit", "hit", "none"), ("neither", "neither", "none"))
        cells = np.full((4, 40), 2, dtype=np.uint8)
        cells[1, 3], cells[1, 4] = 0, 1
        show("map", encode(MapPicture(kind="compare", cells=cells, n_neurons=40, tokens=list("abcd"), title="C",
                                      alt="c", categories=[Category(*name) for name in names])))
    else:
        whole = spikes()
        broken = {"cut": whole[:-4000], "version": whole.replace(b'"version":1', b'"version":7'), "noise": b"x" * 99}
        component._COMPONENT(data=broken[what], key="map", height=300)
''')


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Streamlit server of its own on a free local port; gives its address."""
    page = tmp_path_factory.mktemp("map") / "page.py"
    page.write_text(PAGE, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(page), "--server.port", str(port), "--server.address",
               "127.0.0.1", "--server.headless", "true", "--browser.gatherUsageStats", "false",
               "--browser.serverAddress", "localhost", "--server.fileWatcherType", "none"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, cwd=page.parent,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield answering(f"http://127.0.0.1:{port}", process)
    finally:
        ended(process)


@pytest.fixture(scope="module")
def chromium():
    """One browser for all tests of the module."""
    with browser.chromium() as found:
        yield found


@pytest.fixture
def open_map(server, chromium):
    """A function that opens a page and waits for its maps; errors and requests to elsewhere fail the test."""
    contexts, wrong = [], []

    def open_page(what, maps=1, **options):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 1000}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: None if request.url.startswith((server, "data:", "blob:"))
                else wrong.append(request.url))
        page.goto(f"{server}/?what={what}")
        for index in range(maps):
            page.locator(".nm[data-state]").nth(index).wait_for(timeout=60_000)
        return at_rest(page)

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def inside(page, expression, index=0):
    """Evaluate `expression` of `m`, the state of a map."""
    return page.locator(".nm").nth(index).evaluate(f"root => {{ const m = root.neuronMap; return {expression}; }}")


def point(page, row, column, index=0):
    """Page coordinates of the middle of a cell (column of the shown order, may be fractional)."""
    box = page.locator(".nm-stage").nth(index).bounding_box()
    x, y = inside(page, f"""[m.geo.cells.x + ({column} + 0.5 - m.view.start) / (m.view.end - m.view.start) * m.geo.cells.w,
                            m.geo.cells.y + ({row} + 0.5) * m.geo.rowH - m.scroll]""", index)
    return box["x"] + x, box["y"] + y


def colour_at(page, row, column, index=0):
    """The drawn colour in the middle of a cell."""
    return inside(page, f"""Array.from(m.el.base.getContext("2d").getImageData(
        Math.floor((m.geo.cells.x + ({column} + 0.5 - m.view.start) / (m.view.end - m.view.start) * m.geo.cells.w) * m.dpr),
        Math.floor((m.geo.cells.y + ({row} + 0.5) * m.geo.rowH - m.scroll) * m.dpr), 1, 1).data.slice(0, 3))""", index)


def wait_text(page, text):
    page.get_by_text(text, exact=True).wait_for(timeout=60_000)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 864, 700])
def test_no_spike_is_lost_when_several_neurons_share_a_pixel(open_map, width):
    page = open_map("spikes", viewport={"width": width, "height": 900})
    assert inside(page, "m.cache.plan.ratio") > 3
    for row in range(1, 8):
        red, green, blue = colour_at(page, row, 501 * row + 37)
        assert (red > 2 * blue) if row % 2 == 0 else (blue > 1.2 * red), (row, red, green, blue)
    assert colour_at(page, 3, 2000) == [255, 47, 208], "a cell that is not finite is marked"
    assert min(colour_at(page, 4, 500)) > 235, "zero is the neutral middle"


@pytest.mark.browser
def test_hover_tells_token_neuron_value_rank_and_rate(open_map):
    page = open_map("spikes")
    page.mouse.move(*point(page, 3, 501 * 3 + 37))
    tip = page.locator(".nm-tip")
    tip.wait_for()
    told = tip.inner_text().replace("\n", " ")
    for part in ("<img·src=x·onerror=alert(1)>", "position 3", "neuron 1540", "≈ −4 mV", "1 of 4\u2009096", "37.6 %",
                 "strongest of", "norm 3"):
        assert part in told, (part, told)
    assert page.locator(".nm img").count() == 0
    page.mouse.move(*point(page, 3, 2000))
    until(tip.inner_text, lambda told: "not finite" in told)


@pytest.mark.browser
def test_clicks_pin_compare_and_reach_python(open_map):
    page = open_map("spikes")
    page.mouse.click(*point(page, 1, 538))
    wait_text(page, "map: MapSelection(pins=((1, 538),), brush=None)")
    page.mouse.click(*point(page, 4, 2041))
    wait_text(page, "map: MapSelection(pins=((1, 538), (4, 2041)), brush=None)")
    assert "B − A ≈ 7 mV" in page.locator(".nm-status").inner_text()
    assert "|B| / |A| ≈ 2.5" in page.locator(".nm-status").inner_text()
    page.locator(".nm-stage").press("Escape")
    wait_text(page, "map: MapSelection(pins=((1, 538),), brush=None)")
    page.get_by_label("Unpin A").click()
    wait_text(page, "map: MapSelection(pins=(), brush=None)")


@pytest.mark.browser
def test_wheel_zooms_at_the_pointer_and_double_click_resets_without_a_pin(open_map):
    page = open_map("spikes")
    x, y = point(page, 2, 1039)
    pixel = inside(page, "m.cache.plan.ratio")
    page.mouse.move(x, y)
    for _ in range(12):
        page.mouse.wheel(0, -200)
        page.wait_for_timeout(20)
    until(lambda: inside(page, "m.view.end - m.view.start"), lambda width: width < 100)
    at_rest(page)
    start, end = inside(page, "[m.view.start, m.view.end]")
    moved = (point(page, 2, 1039)[0] - x) * (end - start) / inside(page, "m.geo.cells.w")
    assert abs(moved) <= 1.5 * pixel, "the column under the pointer stays there"
    assert not inside(page, "m.cache.plan.pooled")
    page.mouse.down()
    page.mouse.move(x + 120, y, steps=4)
    page.mouse.up()
    until(lambda: inside(page, "m.view.start"), lambda now: now < start)
    page.mouse.dblclick(x, y)
    until(lambda: inside(page, "[m.view.start, m.view.end]"), lambda view: view == [0, 4096])
    page.wait_for_timeout(400)  # a pin would be set after the time in which a second click makes a double one
    assert inside(page, "[m.view.start, m.view.end, m.pins.length]") == [0, 4096, 0]


@pytest.mark.browser
def test_zoom_survives_new_data_and_pins_only_their_scope(open_map):
    page = open_map("spikes")
    page.locator(".nm-tool-zoomIn").click()
    before = inside(page, "[m.view.start, m.view.end]")
    inside(page, "root.sameNode = true")
    page.mouse.click(*point(page, 4, 2041))
    wait_text(page, "map: MapSelection(pins=((4, 2041),), brush=None)")
    stamp = inside(page, "m.model.stamp")
    page.get_by_text("other data").click()
    until(lambda: inside(page, "m.model.stamp"), lambda now: now > stamp)
    at_rest(page)
    assert inside(page, "[root.sameNode, m.view.start, m.view.end, m.pins.length]") == [True, *before, 1]
    page.get_by_text("other scope").click()
    wait_text(page, "map: MapSelection(pins=(), brush=None)")
    assert inside(page, "[m.pins.length, m.view.start]") == [0, before[0]]
    page.mouse.click(*point(page, 4, 2042))
    wait_text(page, "map: MapSelection(pins=((4, 2042),), brush=None)")
    page.get_by_text("given pin").click()
    wait_text(page, "map: MapSelection(pins=((5, 99),), brush=None)")
    assert inside(page, "m.pins") == [{"row": 5, "neuron": 99}]


@pytest.mark.browser
def test_keys_move_the_crosshair_and_the_live_region_reads_it(open_map):
    page = open_map("spikes")
    page.locator(".nm-tool-help").focus()
    page.keyboard.press("Tab")
    assert inside(page, "root.getRootNode().activeElement === m.el.stage")
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    said = page.locator(".nm [role=status]").text_content()
    assert "token ⏎, position 2" in said
    page.keyboard.press("ArrowLeft")
    assert inside(page, "m.hover.col") < 4095
    page.keyboard.press("Enter")
    assert page.locator(".nm [role=status]").text_content().startswith("pinned")
    stage = page.locator(".nm-stage")
    assert stage.get_attribute("aria-label") == "Spikes"
    assert stage.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    assert "One spike a row." in inside(page, 'root.querySelector("#nm-words").textContent')
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert inside(page, "m.hover") is None


@pytest.mark.browser
def test_a_brush_reaches_python_and_can_be_cleared(open_map):
    page = open_map("spikes")
    page.locator(".nm-tool-brush").click()
    page.mouse.move(*point(page, 2, 1000))
    page.mouse.down()
    page.mouse.move(*point(page, 2, 1999), steps=5)
    page.mouse.up()
    page.get_by_text("brush=(").wait_for(timeout=60_000)
    start, stop = inside(page, "m.brush")
    wait_text(page, f"map: MapSelection(pins=(), brush=({start}, {stop}))")
    assert abs(start - 1000) < 6
    assert abs(stop - 2000) < 6
    page.get_by_label("Clear the brush").click()
    wait_text(page, "map: MapSelection(pins=(), brush=None)")


@pytest.mark.browser
def test_maps_of_a_group_share_order_zoom_and_crosshair(open_map):
    page = open_map("group", maps=2)
    assert inside(page, "[m.model.order[0], m.model.orderId !== 0]", 1) == [4095, True]
    page.mouse.move(*point(page, 4, 2000))
    page.mouse.wheel(0, -240)
    second = until(lambda: inside(page, "[m.view.start, m.view.end]", 1), lambda view: view[1] - view[0] < 4096)
    assert inside(at_rest(page), "[m.view.start, m.view.end]", 0) == second
    assert inside(page, "m.remote.position", 1) == 4
    assert inside(page, "m.remote.neuron", 1) == inside(page, "m.model.order[m.hover.col]", 0)


@pytest.mark.browser
@pytest.mark.parametrize(("what", "message"), [("cut", "is cut off"), ("version", "version 7"), ("noise", "wrong start")])
def test_a_payload_that_cannot_be_drawn_gives_a_message(open_map, what, message):
    page = open_map(what)
    alert = page.locator(".nm-message")
    assert alert.is_visible()
    assert message in alert.inner_text()
    assert not page.locator(".nm-stage").is_visible()


@pytest.mark.browser
def test_comparison_draws_tone_and_pattern(open_map):
    page = open_map("compare")
    assert colour_at(page, 1, 4) == [10, 87, 69]
    assert colour_at(page, 1, 3) != [198, 90, 16], "the hatch runs through the middle"
    assert colour_at(page, 1, 3.3) == [198, 90, 16]
    page.mouse.move(*point(page, 1, 3))
    page.locator(".nm-tip").wait_for()
    assert "state miss" in page.locator(".nm-tip").inner_text().replace("\n", " ")


@pytest.mark.browser
def test_a_finger_looks_first_and_pins_with_the_second_tap(open_map):
    page = open_map("spikes", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    x, y = point(page, 4, 2041)
    page.touchscreen.tap(x, y)
    page.locator(".nm-tip").wait_for()
    assert inside(page, "[m.hover.row, m.pins.length]") == [4, 0]
    page.touchscreen.tap(x, y)
    wait_text(page, "map: MapSelection(pins=((4, 2041),), brush=None)")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "nothing sticks out sideways"


@pytest.mark.browser
def test_png_is_twice_the_size_and_named_after_the_title(open_map):
    page = open_map("spikes", accept_downloads=True)
    with page.expect_download() as download:
        page.get_by_label("Download as PNG").click()
    assert download.value.suggested_filename == "spikes.png"
    data = Path(download.value.path()).read_bytes()
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width == round(2 * (inside(page, "m.geo.width") + 32))
    assert height > 2 * inside(page, "m.geo.height")


@pytest.mark.browser
def test_dark_theme_changes_the_colours(open_map):
    light, dark = (open_map("spikes", color_scheme=scheme) for scheme in ("light", "dark"))
    assert not inside(light, "m.theme.dark")
    assert inside(dark, "m.theme.dark")
    assert max(colour_at(dark, 4, 500)) < 80


@pytest.mark.browser
@pytest.mark.parametrize(("what", "neurons"), [("middle", 1536), ("large", 11008)])
def test_maps_of_models_are_drawn_with_neurons_pooled_in_pixels(open_map, what, neurons):
    """How long a redraw takes is measured by `python -m benchmarks.page_shapes`."""
    page = open_map(what)
    root = page.locator(".nm")
    assert root.get_attribute("data-state") == "drawn" and float(root.get_attribute("data-paint")) > 0
    assert inside(page, "[m.model.cols, m.cache.plan.pooled]") == [neurons, True]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_the_parts_of_a_low_map_do_not_lie_on_each_other(open_map, width):
    page = open_map("row", viewport={"width": width, "height": 844})
    head, stage, status = (page.locator(f".nm-{name}").bounding_box() for name in ("head", "stage", "status"))
    caption, tools = (page.locator(f".nm-{name}").bounding_box() for name in ("caption", "tools"))
    for part in (caption, tools):
        assert part["y"] + part["height"] <= head["y"] + head["height"] <= stage["y"]
    assert stage["height"] >= inside(page, "m.geo.least") and stage["y"] + stage["height"] <= status["y"]
    box = page.locator(".stElementContainer:has(.nm)").bounding_box()
    assert status["y"] + status["height"] <= box["y"] + box["height"] + 1


@pytest.mark.browser
def test_a_scale_says_what_it_shows_and_its_unit_is_whole(open_map):
    page = open_map("row", viewport={"width": 390, "height": 844})
    page.evaluate("""() => { window.drawn = []; const { prototype } = CanvasRenderingContext2D; const fill = prototype.fillText;
        prototype.fillText = function (text, ...more) { window.drawn.push(text); fill.call(this, text, ...more); }; }""")
    page.set_viewport_size({"width": 380, "height": 844})
    until(lambda: {"1", "activation", "difference of rates"} <= set(page.evaluate("() => window.drawn")))


@pytest.mark.browser
def test_an_unmounted_map_stops_listening(open_map):
    page = open_map("spikes")
    inside(page, "(window.gone = m, 0)")
    page.get_by_text("gone", exact=True).click()
    page.locator(".nm").wait_for(state="detached", timeout=60_000)
    assert page.evaluate("window.gone.el.root.neuronMap === undefined && window.gone.group === ''")


def test_the_wrapper_runs_without_a_browser():
    def script():
        import numpy as np
        import streamlit as st

        from app.components.neuron_map import neuron_map
        from moyu_core.figures.map_payload import MapPicture, encode

        cells = np.zeros((2, 1), dtype=np.uint8)
        picture = MapPicture(kind="set", cells=cells, n_neurons=8, tokens=["a", "b"], title="t", alt="a", pins=[(1, 3)])
        st.text(str(neuron_map(encode(picture), key="map")))

    page = AppTest.from_function(script, default_timeout=30).run()
    assert not page.exception
    assert page.text[0].value == "MapSelection(pins=((1, 3),), brush=None)"
    assert page.get("bidi_component")


HEADER = {"rows": 4, "cols": 10, "scope": "s", "pins": [[0, 1]]}


@pytest.mark.parametrize(
    ("pins", "brush", "expected"),
    [
        (None, None, MapSelection(((0, 1),))),
        ({"scope": "s", "value": []}, None, MapSelection()),
        ({"scope": "old", "value": [[2, 2]]}, None, MapSelection(((0, 1),))),
        ({"scope": "s", "value": [[2, 2], [9, 0], "x", [1, True]]}, None, MapSelection(((2, 2),))),
        (None, {"scope": "s", "order": 0, "value": [2, 10]}, MapSelection(((0, 1),), (2, 10))),
        (None, {"scope": "s", "order": 5, "value": [2, 10]}, MapSelection(((0, 1),))),
        (None, {"scope": "s", "order": 0, "value": [4, 4]}, MapSelection(((0, 1),))),
        ("junk", 3, MapSelection(((0, 1),))),
    ],
)
def test_what_the_browser_sends_is_checked(pins, brush, expected):
    assert read_selection(HEADER, pins, brush) == expected


def test_level_table_of_the_browser_is_that_of_companding():
    """The browser rebuilds the table from the header's levels_per_octave; both must mean the same."""
    from moyu_core.companding import LEVELS_PER_OCTAVE, level_table

    levels = np.arange(1, 128)
    np.testing.assert_allclose(level_table()[1:128], 2.0 ** ((levels - 127) / LEVELS_PER_OCTAVE), rtol=1e-6)
