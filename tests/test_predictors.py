"""The study `predictors`: its numbers against plain recomputation, its identity, its reading functions, its drawings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from moyu_core import methods, store
from moyu_core.errors import Cancelled, InputError, NotInRunError
from moyu_core.figures import predictors as figures
from moyu_core.figures import predictors_schemes as schemes
from moyu_core.figures import scheme_drawing
from moyu_core.home import Home
from moyu_core.methods import catalog, parts
from moyu_core.queries import predictors as queries
from moyu_core.spec import SetRule
from moyu_core.studies.predictors import Request, predictors_run, study
from moyu_core.token_sequences import tokenise
from tests import plain, tiny

PROMPTS = tuple(replace(prompt, domain=f"kind{i % 4}") for i, prompt in enumerate(plain.prompts(20, 31, 14, 25, 18, 40)))
NAMES = ("oracle", "cett", "griffin", "dejavu", "cats", "moefication", "static", "random", "token-table")
REQUEST = Request("plain", PROMPTS, NAMES, densities=(0.1, 0.25, 1.0), detail=("p0", "p1"), set_densities=(0.1, 0.25))


def model() -> Any:
    return plain.model("llama")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose parts are fitted on random words."""
    home = Home(tmp_path_factory.mktemp("home"), tracked=())
    loaded = model()
    documents = tokenise(loaded, plain.prompts(*[58] * 10, seed=7))
    for name in ("static", "dejavu", "moefication", "token-table"):
        parts.save(methods.find(name).fit(loaded, documents), home.root / "fitted")
    return home


@pytest.fixture(scope="module")
def run(home: Home) -> store.Run:
    return store.find_run(home, predictors_run(model(), REQUEST, home))


def by_hand(home: Home, name: str, density: float, prompt: int, layer: int) -> dict[str, np.ndarray]:
    """Sets, energies and counts of one prompt from plain forward passes and float64 sums."""
    loaded = model()
    sequence = tokenise(loaded, [PROMPTS[prompt]])[0]
    length = study.prompt_length(sequence, 0.5)
    method = methods.find(name)
    choice = method.prepare(loaded, parts.find(method.part, loaded.identity, home) if method.part else None).begin()
    from moyu_core.methods.inputs import observe

    rows: list[Any] = []
    with torch.inference_mode(), observe(loaded, [layer], method.inputs, rows.append, True):
        loaded.decoder(input_ids=plain.token_ids(PROMPTS[prompt]), use_cache=False)
    choice.see(rows[0].part(slice(0, length)))
    judged = rows[0].part(slice(1, None))
    a, c = plain.activation(loaded, "llama", layer, plain.token_ids(PROMPTS[prompt]))
    needed = plain.members(a[1:], c, SetRule("top"))
    kept = np.broadcast_to(choice.choose(judged, density).numpy(), needed.shape)
    weight = loaded.sites[layer].weight().numpy().astype(float)
    out, missing = a[1:] @ weight.T, (a[1:] * ~kept) @ weight.T
    square = (a[1:].astype(float) * c) ** 2
    return {"needed": needed, "kept": kept, "energy": 1 - np.linalg.norm(missing, axis=1) / np.linalg.norm(out, axis=1),
            "squares": (square * kept).sum(1) / square.sum(1), "after": np.arange(1, len(needed) + 1) >= length}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("density", [0.1, 0.25])
def test_the_numbers_are_those_of_a_plain_recomputation(run: store.Run, home: Home, name: str, density: float) -> None:
    found = by_hand(home, name, density, 0, 1)
    hits = (found["needed"] & found["kept"]).sum(1)
    tokens = queries.by_layer_and_token(run, "p0", density)
    tokens = tokens[(tokens["method"] == name) & (tokens["layer"] == 1)].sort_values("position")
    assert tokens["hits"].tolist() == hits.tolist()
    assert tokens["kept"].tolist() == found["kept"].sum(1).tolist() and tokens["needed"].tolist() == found["needed"].sum(1).tolist()
    np.testing.assert_allclose(tokens["energy"], found["energy"], atol=1e-3)
    np.testing.assert_allclose(tokens["squares"], found["squares"], atol=1e-3)
    layers = run.table("layers").to_pandas()
    row = layers[(layers["prompt_id"] == "p0") & (layers["method"] == name) & (layers["layer"] == 1)
                 & np.isclose(layers["density"], density)].iloc[0]
    after = found["after"]
    needed, kept = found["needed"][after].sum(1), found["kept"][after].sum(1)
    assert row["tokens"] == after.sum()
    assert row["recall"] == pytest.approx((hits[after] / needed).mean(), abs=5e-4)
    assert row["recall_micro"] == pytest.approx(hits[after].sum() / needed.sum(), abs=5e-4)
    assert row["precision"] == pytest.approx(hits[after].sum() / kept.sum(), abs=5e-4)
    assert row["jaccard"] == pytest.approx((hits[after] / (needed + kept - hits[after])).mean(), abs=5e-4)
    assert row["energy"] == pytest.approx(found["energy"][after].mean(), abs=1e-3)
    assert row["predicted"] == pytest.approx(kept.mean() / tiny.F, abs=5e-4)
    overlay = queries.overlay(run, "p0", name, density, 1)
    assert np.array_equal(overlay.needed, found["needed"]) and np.array_equal(overlay.kept, found["kept"])
    assert (overlay.cells == np.select([overlay.needed & overlay.kept, overlay.needed, overlay.kept], [0, 1, 2], 3)).all()


def test_density_one_keeps_everything(run: store.Run) -> None:
    layers = run.table("layers").to_pandas()
    whole = layers[np.isclose(layers["density"], 1) & (layers["method"] != "cett")]
    assert (whole["recall"] == 1).all() and (whole["predicted"] == 1).all()
    np.testing.assert_allclose(whole["energy"], 1, atol=1e-5)


def test_the_oracle_is_the_reference_at_its_density_and_nobody_keeps_more_squares(run: store.Run) -> None:
    layers = run.table("layers").to_pandas()
    same = layers[np.isclose(layers["density"], 0.1)].pivot(index=["prompt_id", "layer"], columns="method", values="squares")
    equal = [name for name in NAMES if name not in ("cett", "cats", "moefication")]
    assert (same[equal].le(same["oracle"] + 1e-3, axis=0)).all(axis=None)
    oracle = layers[np.isclose(layers["density"], 0.1) & (layers["method"] == "oracle")]
    assert (oracle["recall"] == 1).all() and (oracle["jaccard"] == 1).all()


def test_chance_levels_are_those_of_their_definitions(run: store.Run, home: Home) -> None:
    """A random set's recall is |A^| / F; the marginal level pairs rates of different halves of the prompts only."""
    chance = run.table("chance").to_pandas()
    griffin = chance[(chance["method"] == "griffin") & (chance["layer"] == 1) & np.isclose(chance["density"], 0.25)].iloc[0]
    assert griffin["uniform"] == pytest.approx(16 / tiny.F)
    halves: list[list[Any]] = [[[], []], [[], []]]
    for number in range(len(PROMPTS)):
        found = by_hand(home, "griffin", 0.25, number, 1)
        for kind, name in enumerate(("needed", "kept")):
            halves[number % 2][kind].append(found[name][found["after"]])
    p, q = ([np.concatenate(half[kind]).mean(0) for half in halves] for kind in (0, 1))
    expected = np.mean([(p[h] * q[1 - h]).sum() / p[h].sum() for h in (0, 1)])
    assert griffin["marginal"] == pytest.approx(expected, abs=1e-4)
    needed = np.concatenate([*halves[0][0], *halves[1][0]])
    kept = np.concatenate([*halves[0][1], *halves[1][1]])
    assert griffin["recall"] == pytest.approx((needed & kept).sum() / needed.sum(), abs=5e-4)


def test_intervals_go_over_kinds_of_text(run: store.Run) -> None:
    frame = queries.by_unit(run, "recall")
    assert set(frame["unit"]) == {"kind0", "kind1", "kind2", "kind3"}
    layers = run.table("layers").to_pandas()
    chosen = layers[(layers["method"] == "griffin") & np.isclose(layers["density"], 0.1)].copy()
    chosen["unit"] = chosen["prompt_id"].map({prompt.id: prompt.domain for prompt in PROMPTS})
    units = chosen.groupby(["unit", "prompt_id"])["recall"].mean().groupby("unit").mean()
    table = queries.table(run, 0.1)
    assert table.loc["griffin", "recall"] == pytest.approx(units.mean()) and table.loc["griffin", "units"] == 4
    half = 3.1824 * units.std() / 2
    assert table.loc["griffin", "recall_high"] == pytest.approx(units.mean() + half, rel=1e-3)
    gap = queries.paired(run, "dejavu", "griffin", 0.1, "energy")
    assert gap.n == 4 and gap.mean == pytest.approx(table.loc["dejavu", "energy"] - table.loc["griffin", "energy"], abs=1e-6)


def test_positions_are_means_over_layers(run: store.Run) -> None:
    tokens = queries.by_layer_and_token(run, "p1", 0.1)
    expected = tokens[tokens["method"] == "dejavu"].groupby("position")["recall"].mean()
    found = queries.along(run, "p1", 0.1, "recall").loc["dejavu"]
    np.testing.assert_allclose(found, expected, atol=5e-4)
    stale = queries.staleness(run, 0.1, "recall")
    assert stale["offset"].min() == 0 and {"mean", "low", "high"} <= set(stale.columns)


def test_asking_twice_computes_once_and_parts_are_part_of_the_identity(run: store.Run, home: Home) -> None:
    before = run.manifest["created"]
    again = store.find_run(home, predictors_run(model(), replace(REQUEST, title="another title"), home))
    assert again.id == run.id and again.manifest["created"] == before
    spec = study.spec_of(REQUEST, run.spec.model, run.spec.sink_token_id, {"dejavu": "other"})
    assert spec.run_id != run.id
    known = study.part_hashes(REQUEST.model, REQUEST.methods, run.spec.model, home)
    assert known == run.spec.parameters["parts"]


def test_the_cett_reference_is_its_threshold(home: Home) -> None:
    request = Request("plain", PROMPTS[:3], ("cett", "griffin"), SetRule("cett"), densities=(0.25,), set_densities=())
    run = store.find_run(home, predictors_run(model(), request, home))
    layers = run.table("layers").to_pandas()
    assert (layers[layers["method"] == "cett"]["recall"] == 1).all()
    with pytest.raises(InputError, match="`calibration`"):
        predictors_run(model(), replace(request, methods=("griffin",)), home)


def test_a_mixture_is_judged_by_all_its_experts_neurons(home: Home) -> None:
    loaded = tiny.load("mixtral")
    loaded.tokenizer = plain.tokenizer()
    request = Request("plain", PROMPTS[:3], ("oracle", "native", "griffin", "random", "cats"), densities=(0.1,), set_densities=())
    run = store.find_run(home, predictors_run(loaded, request, home))
    table = queries.table(run, 0.1)
    assert table.loc["native", "predicted"] == pytest.approx(0.5, abs=1e-3)
    assert table.loc["native", "energy"] == pytest.approx(1, abs=1e-3)
    assert table.loc["native", "recall"] == 1
    assert table.loc["native", "of_routed"] == pytest.approx(1, abs=1e-3), "two of four experts: half of all, all of the routed"
    assert table.loc["griffin", "of_routed"] == pytest.approx(2 * table.loc["griffin", "predicted"])
    assert "CATS" in run.manifest["skipped"] and "experts" in run.manifest["skipped"]["CATS"]
    assert "experts" in run.manifest["headline"]["CATS left out"], "it was named, so whoever asked is told"
    whole = 4 * tiny.F * tiny.D * 3
    assert table.loc["native", "cost_share"] == pytest.approx((0.5 * whole + 4 * tiny.D) / whole, abs=1e-3)


def test_a_mixtures_router_is_drawn_with_its_own_experts(home: Home) -> None:
    loaded = tiny.load("mixtral")
    loaded.tokenizer = plain.tokenizer()
    request = Request("plain", PROMPTS[:3], ("native",), densities=(0.1,), detail=("p0",), set_densities=(0.1,))
    run = store.find_run(home, predictors_run(loaded, request, home))
    found, experts = queries.overlay(run, "p0", "native", 0.1, 1), queries.experts(run, 1)
    assert experts.tolist() == [expert for expert in range(4) for _ in range(tiny.F)]
    facts = queries.methods(run)["native"]
    values = schemes.SchemeValues("native", "word", 1, 1, 10, tiny.D, 3, found.needed[0], found.kept[0], 1.0,
                                  facts["cost"]["choosing_macs"], 0, experts)
    assert len(values.chosen_experts) == 2 and facts["cost"]["choosing_macs"] == 4 * tiny.D
    said = " ".join(schemes.scheme(values).steps)
    assert "each of 4 experts, of 64 neurons each, trained together with it" in said and "no dense model behind it" in said
    assert schemes.shown(["native", "griffin"]) == ["native", "griffin"]


def test_a_size_that_follows_from_a_threshold_has_the_cost_of_that_size(home: Home) -> None:
    """Also where one density was asked for: CETT costs 2 + |A^|/F of three matrices."""
    request = Request("plain", PROMPTS[:3], ("cett", "griffin"), densities=(0.1,), set_densities=())
    table = queries.table(store.find_run(home, predictors_run(model(), request, home)), 0.1)
    assert table.loc["cett", "predicted"] > 0.2
    assert table.loc["cett", "cost_share"] == pytest.approx((2 + table.loc["cett", "predicted"]) / 3, abs=1e-6)


@pytest.mark.parametrize(("changes", "message"), [
    ({"densities": (0.0, 0.1)}, "above 0"), ({"densities": (0.3, 0.1)}, "ascending"), ({"set_densities": (0.7,)}, "of the comp"),
    ({"detail": ("nobody",)}, "nobody"), ({"prompt_share": 1.0}, "between 0 and 1"), ({"rule": SetRule("positive")}, "top or cett"),
    ({"prompts": ()}, "at least one prompt"), ({"max_tokens": 3}, "too few"),
])
def test_requests_that_cannot_be_met_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(REQUEST, **changes)


def test_an_unknown_method_and_a_model_without_any_are_refused(home: Home) -> None:
    with pytest.raises(InputError, match="'nonsense' is not known"):
        study.run(replace(REQUEST, methods=("nonsense",)), home)
    with pytest.raises(InputError, match="None of the methods applies"):
        predictors_run(model(), replace(REQUEST, methods=("native",)), home)
    with pytest.raises(InputError, match="too short"):
        predictors_run(model(), replace(REQUEST, prompts=plain.prompts(1, 2), detail=()), home)


def test_a_cancelled_comparison_leaves_nothing(home: Home) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "comparing methods" and done:
            raise Cancelled("stopped")

    before = sorted(path.name for path in home.runs.iterdir() if path.is_dir())
    with pytest.raises(Cancelled):
        predictors_run(model(), replace(REQUEST, seed=5), home, stop)
    assert sorted(path.name for path in home.runs.iterdir() if path.is_dir()) == before


def test_a_density_below_one_neuron_keeps_one_and_says_so(home: Home, run: store.Run) -> None:
    asked = replace(REQUEST, methods=("griffin",), densities=(0.001, 0.1), detail=(), set_densities=())
    made = store.find_run(home, predictors_run(model(), asked, home))
    assert made.manifest["notes"] == [f"a density of 0.001 is less than one of {tiny.F} neurons; one is kept"]
    assert made.manifest["headline"]["note"] == made.manifest["notes"][0]
    frame: Any = made.table("layers", ["density", "predicted"]).to_pandas()
    assert frame[frame["density"] < 0.01]["predicted"].unique() == pytest.approx([1 / tiny.F])
    assert not run.manifest["notes"] and "note" not in run.manifest["headline"]


def test_what_is_not_kept_is_said(run: store.Run) -> None:
    for ask in (lambda: queries.overlay(run, "p3", "griffin", 0.1, 1), lambda: queries.overlay(run, "p0", "griffin", 1.0, 1),
                lambda: queries.by_layer_and_token(run, "p3", 0.1)):
        with pytest.raises(NotInRunError, match="keeps no sets of prompt"):
            ask()


def test_a_request_survives_json() -> None:
    assert Request.from_json(REQUEST.as_json()) == REQUEST


# --- figures ----------------------------------------------------------------------------------------------------------------


def test_every_method_has_its_own_colour_and_every_family_a_marker() -> None:
    every = methods.every()
    assert set(every) <= set(figures.COLOURS) and {method.family for method in every.values()} <= set(figures.SYMBOLS)
    assert len({figures.colour(name) for name in every}) >= len(every) - 1  # oracle and native never meet


def test_figures_hold_the_queries_numbers(run: store.Run) -> None:
    facts, frame = queries.methods(run), queries.curves(run, "recall")
    figure = figures.curves(frame, facts, "recall", ["griffin"])
    griffin = next(trace for trace in figure.data if trace.name == "GRIFFIN")
    assert list(griffin.y) == frame[frame["method"] == "griffin"].sort_values("predicted")["mean"].tolist()
    named = {trace.name for trace in figure.data if trace.showlegend is not False}
    assert named == {"GRIFFIN", "chance |Â|/F"}, "a legend of every method leaves a phone no room for the lines"
    assert len(figures.staleness(queries.staleness(run, 0.1, "recall"), facts, "recall", ["griffin", "dejavu"]).data) == 4
    tokens = queries.by_layer_and_token(run, "p0", 0.1)
    panels = figures.by_layer_and_token(tokens, facts, "recall", ["griffin", "cats"], queries.token_texts(run, "p0"), 11)
    assert len(panels.data) == 2 and panels.data[0].z.shape == (2, 20)


def scheme_values(method: str, token: str = "<b>&") -> schemes.SchemeValues:
    random = np.random.default_rng(0)
    needed, kept = random.random(96) < 0.2, random.random(96) < 0.3
    return schemes.SchemeValues(method, token, 9, 2, 6, 24, 3, needed, kept, 0.42, 700, 3, np.arange(96) // 8)


@pytest.mark.parametrize("method", schemes.SCHEMES)
def test_a_scheme_is_drawn_in_steps_from_the_numbers(method: str) -> None:
    values = scheme_values(method)
    drawing = schemes.scheme(values)
    assert len(drawing.steps) == 4 and {box.step for box in drawing.boxes} <= set(range(4))
    hits, misses, alarms = values.counts
    assert f"{hits} were kept and {misses} missed; {alarms} were kept for nothing" in drawing.steps[-1]
    for step in range(4):
        root = ElementTree.fromstring(schemes.svg(values, step))  # well-formed, so nothing of the token became markup
        named = {element.tag.split("}")[1]: element.text for element in root if element.tag.endswith(("title", "desc"))}
        assert named["desc"] == drawing.steps[step] and f"step {step + 1} of 4" in str(named["title"])
        thick = [element for element in root.iter() if element.get("stroke-width") in ("3", "2.6")]
        assert thick, "what a step adds has a thick outline"
        assert "<b>" not in schemes.svg(values, step)
    assert f"{hits} hits" in schemes.svg(values, 3) and f"{hits} hits" not in schemes.svg(values, 2)


def test_a_schemes_strip_shows_every_neuron_once() -> None:
    values = scheme_values("griffin")
    counts = [scheme_drawing.binned(mask).sum() for mask in (values.needed, values.kept)]
    assert counts == [values.needed.sum(), values.kept.sum()]
    text = schemes.svg(values, 3)
    pattern = r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    boxes = [tuple(float(number) for number in found) for found in re.findall(pattern, text)]
    assert all(x >= 0 and x + w <= scheme_drawing.WIDTH and y >= 0 and y + h <= scheme_drawing.HEIGHT for x, y, w, h in boxes)


def test_the_catalog_knows_every_method_without_importing_it() -> None:
    assert list(catalog.titles().items()) == [(name, method.title) for name, method in methods.every().items()]


@pytest.mark.parametrize("family", sorted(tiny.CONFIGS))
def test_the_form_greys_out_what_does_not_apply(family: str, tmp_path: Path) -> None:
    """Before a model is loaded the form says the same as the methods do of the loaded one."""
    from app.ui import predictors_form
    from moyu_core import registry

    told = predictors_form.reasons(registry.model_facts(tiny.save(family, tmp_path)))
    loaded = tiny.load(family)
    assert set(told) == {name for name, method in methods.every().items() if method.applies(loaded)}
    assert all(told.values())
