"""The study `trial`: masked reading and writing against plain recomputation, equal sizes, its run, its claims, its words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from moyu_core import claims, methods, store
from moyu_core.errors import Cancelled, InputError
from moyu_core.figures import trial as figures
from moyu_core.home import REPOSITORY, Home
from moyu_core.masking import fixed, kl_divergence, masked
from moyu_core.methods import parts
from moyu_core.queries import trial as queries
from moyu_core.schema.trial import CONTINUATION, DENSE
from moyu_core.sites import Activation
from moyu_core.studies.trial import Request, forward, trial_run, verdicts
from moyu_core.studies.trial.judge import Setting, Trial
from moyu_core.studies.trial.request import METHODS, OURS, RIVALS, trial_prompts
from moyu_core.token_sequences import tokenise
from tests import plain, tiny

PROMPT, LENGTH, WRITTEN = 9, 21, 18
TEXTS = tuple(
    replace(prompt, id=f"g{place % 4}-{place // 4}/0", domain=f"g{place % 4}")
    for place, prompt in enumerate(plain.prompts(*[30] * 8, seed=3))
)
REQUEST = Request("tiny", TEXTS, densities=(0.1, 0.3), max_tokens=LENGTH, prompt_tokens=PROMPT, generated=WRITTEN)
MAIN = str(REPOSITORY / "app" / "main.py")


def model() -> Any:
    return plain.model("llama")


def ids() -> torch.Tensor:
    return torch.from_numpy(np.stack([sequence.token_ids for sequence in tokenise(model(), TEXTS, LENGTH)]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with parts that were fitted on random words, and one trial."""
    home, loaded = Home(tmp_path_factory.mktemp("made"), tracked=()), model()
    documents = tokenise(loaded, plain.prompts(*[58] * 10, seed=7))
    for name in ("static", "dejavu", "token-table"):
        parts.save(methods.find(name).fit(loaded, documents), home.root / "fitted")
    trial_run(loaded, REQUEST, home)
    return home


@pytest.fixture(scope="module")
def run(made: Home) -> store.Run:
    return store.list_runs(made)[0][0]


def frozen_by_hand(text: torch.Tensor, k: int) -> dict[int, torch.Tensor]:
    """GRIFFIN's masks with a masked prompt: each layer's statistic is of what the masked layers before it made."""
    loaded, keep = model(), {}

    def choose(activation: Activation) -> torch.Tensor:
        unit = activation.a[:PROMPT] / activation.a[:PROMPT].norm(dim=1, keepdim=True)
        mask = torch.zeros(activation.a.shape, dtype=torch.bool)
        mask[:, unit.norm(dim=0).topk(k).indices] = True
        mask[0] = True
        keep[activation.site.layer] = mask
        return mask

    with torch.inference_mode(), masked(loaded, choose):
        loaded.model(input_ids=text[None])
    return keep


def test_reading_masks_prompt_and_continuation_as_done_by_hand() -> None:
    loaded, texts, k = model(), ids()[:2], tiny.F // 4
    found = forward.read(loaded, methods.find("griffin").prepare(loaded), 0.25, texts, PROMPT)
    for place, text in enumerate(texts):
        with torch.inference_mode(), masked(loaded, fixed(frozen_by_hand(text, k))):
            expected = loaded.model(input_ids=text[None]).logits[0]
        torch.testing.assert_close(found.logits[place], expected, atol=1e-5, rtol=1e-4)
        assert found.kept[place] == pytest.approx(k / tiny.F)


def test_the_rows_of_reading_are_a_plain_recomputation() -> None:
    loaded, texts = model(), tokenise(model(), TEXTS[:2], LENGTH)
    trial = Trial(loaded, texts, PROMPT, WRITTEN, 0)
    trial.reading([Setting("oracle", 0.25, methods.find("oracle").prepare(loaded), 0.25)])
    rows = {(row["method"], row["prompt_id"], row["part"]): row for row in trial.read}
    assert len(rows) == 2 * 2 * 2

    def choose(activation: Activation) -> torch.Tensor:
        score = activation.a.abs() * activation.site.column_norms()
        mask = torch.zeros(score.shape, dtype=torch.bool).scatter_(1, score.topk(tiny.F // 4, dim=1).indices, True)
        mask[0] = True
        return mask

    for text in texts:
        one = torch.from_numpy(text.token_ids)[None]
        with torch.inference_mode():
            dense = loaded.model(input_ids=one).logits[0]
            with masked(loaded, choose):
                sparse = loaded.model(input_ids=one).logits[0]
        for part, where in (("prompt", slice(1, PROMPT)), (CONTINUATION, slice(PROMPT, LENGTH - 1))):
            row, targets = rows["oracle", text.prompt.id, part], one[0, where.start + 1 : where.stop + 1]
            assert row["kl"] == pytest.approx(float(kl_divergence(dense[where], sparse[where]).mean()), abs=1e-5)
            loss = torch.nn.functional.cross_entropy(sparse[where].double(), targets)
            assert row["loss"] == pytest.approx(float(loss), abs=1e-5)
            assert row["agreement"] == float((dense[where].argmax(-1) == sparse[where].argmax(-1)).double().mean())
            assert rows[DENSE, text.prompt.id, part]["kl"] == 0 and rows[DENSE, text.prompt.id, part]["agreement"] == 1


def test_writing_draws_from_the_masked_model_and_the_dense_one_reads_it() -> None:
    loaded, texts = model(), tokenise(model(), TEXTS[:3], LENGTH)
    ready = methods.find("griffin").prepare(loaded)
    trial = Trial(loaded, texts, PROMPT, WRITTEN, 0)
    trial.writing([Setting("griffin", 0.25, ready, 0.25)], frozenset({texts[0].prompt.id}))
    draws = trial._draws(texts[1])
    whole = torch.from_numpy(texts[1].token_ids)[:PROMPT]
    keep = frozen_by_hand(whole, tiny.F // 4)
    sets = {layer: mask[1] for layer, mask in keep.items()}
    said, divergences = whole, []
    for step in range(WRITTEN):
        masks = {layer: one.repeat(len(said), 1) for layer, one in sets.items()}
        for mask in masks.values():
            mask[0] = True
        with torch.inference_mode():
            dense = loaded.model(input_ids=said[None]).logits[0, -1]
            with masked(loaded, fixed(masks)):
                sparse = loaded.model(input_ids=said[None]).logits[0, -1]
        divergences.append(float(kl_divergence(dense, sparse)))
        cumulative = torch.softmax(sparse.double(), -1).cumsum(-1)
        said = torch.cat([said, (cumulative > draws[step]).nonzero()[0]])
    rows = [row for row in trial.written if row["method"] == "griffin" and row["prompt_id"] == texts[1].prompt.id]
    assert [row["step"] for row in rows] == [0, 16]
    assert rows[0]["kl"] == pytest.approx(np.mean(divergences[:16]), abs=1e-5)
    assert rows[1]["kl"] == pytest.approx(np.mean(divergences[16:]), abs=1e-5)
    dense_rows = [row for row in trial.written if row["method"] == DENSE]
    assert all(row["kl"] < 1e-6 and row["agreement"] == 1 for row in dense_rows)
    shown = [row for row in trial.answers if row["text"]]
    assert {row["prompt_id"] for row in shown} == {texts[0].prompt.id} and len(shown) == 2


def test_the_drawn_token_is_where_the_cumulative_probability_passes() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [1e-30, 1.0, 1e-30]]))
    assert forward.drawn(logits, torch.tensor([0.19, 0.71, 0.999])).tolist() == [0, 2, 1]


def test_density_one_is_the_dense_model_for_every_method(made: Home) -> None:
    loaded, texts = model(), ids()[:2]
    dense = forward.read(loaded, None, 1.0, texts, PROMPT)
    for name in METHODS:
        method = methods.find(name)
        part = parts.find(method.part, loaded.identity, made) if method.part else None
        found = forward.read(loaded, method.prepare(loaded, part), 1.0, texts, PROMPT)
        torch.testing.assert_close(found.logits, dense.logits, atol=1e-5, rtol=1e-4)
        assert found.kept == [1.0, 1.0]


def test_batches_change_nothing(made: Home) -> None:
    loaded, texts = model(), ids()[:4]
    for name in METHODS:
        method = methods.find(name)
        ready = method.prepare(loaded, parts.find(method.part, loaded.identity, made) if method.part else None)
        together = forward.read(loaded, ready, 0.3, texts, PROMPT)
        alone = [forward.read(loaded, ready, 0.3, text[None], PROMPT) for text in texts]
        torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), atol=1e-5, rtol=1e-4)
        assert together.kept == pytest.approx([one.kept[0] for one in alone])


def test_a_threshold_is_steered_to_the_size_and_fixed_sizes_are_asked_for_at_once(made: Home) -> None:
    loaded = model()
    tda = methods.find("tda").prepare(loaded, parts.find("calibration", loaded.identity, made))
    prompts = [ids()[:, :PROMPT]]
    asked = forward.asked_of(loaded, tda, 0.3, prompts)
    kept = np.mean(forward._kept_of_prompts(loaded, tda, asked, prompts[0]))
    assert kept == pytest.approx(0.3, rel=0.05)
    assert forward.asked_of(loaded, methods.find("griffin").prepare(loaded), 0.3, prompts) == 0.3
    looked: list[float] = []

    def cube(asked: float) -> float:
        looked.append(asked)
        return asked**3

    assert forward.steered(cube, 0.3) ** 3 == pytest.approx(0.3, rel=forward.TOLERANCE)
    assert len(looked) <= forward.LOOKS


def test_a_run_holds_what_was_measured(run: store.Run) -> None:
    assert run.manifest["scope"]["documents"] == 8 and run.manifest["scope"]["genres"] == 4
    assert list(queries.titles(run)) == [name for name in methods.every() if name in METHODS]
    table: Any = queries.table(run, 0.3)
    assert (table["documents"] == 8).all() and np.isfinite(table.drop(columns="title").to_numpy(float)).all()
    assert table.loc["oracle", "reading_kl"] < table.loc["random", "reading_kl"]
    assert table.loc["griffin", "kept"] == pytest.approx(19 / tiny.F, abs=1e-6)
    assert table.loc["tda", "kept"] == pytest.approx(0.3, rel=0.1)
    frame: Any = run.table("read").to_pandas()
    own = frame[(frame["method"] == "static") & (frame["density"] == 0.3) & (frame["part"] == CONTINUATION)]
    dense = frame[(frame["method"] == DENSE) & (frame["part"] == CONTINUATION)]
    ratio = np.exp(own.set_index("prompt_id")["loss"] - dense.set_index("prompt_id")["loss"]).map(np.log).mean()
    assert table.loc["static", "perplexity"] == pytest.approx(np.exp(ratio), rel=1e-5)
    assert 0 < queries.known(run) <= 1
    shown = queries.answers(run, 0.3)
    assert list(shown.columns) == ["g0", "g1", "g2", "g3"] and shown.index[0] == DENSE and shown.notna().all().all()


def test_a_gap_is_paired_by_document(run: store.Run) -> None:
    frame: Any = run.table("read").to_pandas()
    frame = frame[(frame["density"] == 0.3) & (frame["part"] == CONTINUATION)]
    wide = frame.pivot(index="prompt_id", columns="method", values="kl")
    lead = (wide["griffin"] - wide["token-table"]).to_numpy(float)
    found = queries.gap(run, "token-table", "griffin", 0.3, queries.READING)
    assert found.mean == pytest.approx(lead.mean()) and found.error == pytest.approx(lead.std(ddof=1) / 8**0.5)
    gaps: Any = queries.gaps(run, "token-table", 0.3, queries.READING).set_index(["rival", "genre"])
    of_genre = [value for name, value in zip(wide.index, lead, strict=True) if name.startswith("g2")]
    assert gaps.loc[("griffin", "g2"), "mean"] == pytest.approx(np.mean(of_genre)) and len(of_genre) == 2
    assert gaps.loc[("griffin", queries.EVERY_GENRE), "mean"] == pytest.approx(found.mean)


def test_the_claims_are_the_runs_gaps(run: store.Run) -> None:
    found = [claims.Claim.from_json(data) for data in run.manifest["claims"]]
    assert len(found) == len(RIVALS) + 1
    for rival, claim in zip(RIVALS, found, strict=False):
        gap = queries.gap(run, "token-table", rival, verdicts.DENSITY, queries.READING)
        assert claim.effect.mean == pytest.approx(gap.mean, rel=1e-4) and claim.units == "8 documents"
        assert methods.find(rival).title in claim.statement
    gap = queries.gap(run, "token-table", "static", verdicts.DENSITY, queries.WRITING)
    assert found[-1].effect.mean == pytest.approx(gap.mean, rel=1e-3) and found[-1].name.startswith("token table writes")


@pytest.mark.parametrize(("lead", "verdict"), [(0.5, claims.SUPPORTED), (-0.5, claims.NOT_SUPPORTED), (0.0, claims.NOT_RESOLVED)])
def test_a_planted_lead_is_found_and_a_planted_loss_too(lead: float, verdict: str) -> None:
    random = np.random.default_rng(0)
    noise = random.normal(scale=0.1 if lead else 1.0, size=(len(RIVALS), 12))
    rows = [{"method": OURS[0], "density": 0.3, "prompt_id": f"d{n}/0", "part": CONTINUATION, "kl": 1.0} for n in range(12)]
    rows += [{**row, "method": rival, "kl": 1 + lead + noise[place, n]}
             for place, rival in enumerate(RIVALS) for n, row in enumerate(rows[:12])]
    documents = {f"d{n}/0": f"d{n}" for n in range(12)}
    titles = {name: methods.find(name).title for name in METHODS}
    found = verdicts.of(rows, rows, documents, titles, "planted")
    assert [claim.verdict for claim in found] == [verdict] * (len(RIVALS) + 1)


def test_asking_twice_computes_once_and_cancel_leaves_nothing(made: Home, run: store.Run, home: Home) -> None:
    assert trial_run(model(), REQUEST, made) == run.id
    stages: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        if stage.startswith("writing"):
            raise Cancelled

    with pytest.raises(Cancelled):
        trial_run(model(), replace(REQUEST, methods=("oracle", "griffin"), densities=(0.3,)), home, stop)
    assert not store.list_runs(home)[0] and any(stage.startswith("reading") for stage in stages)
    assert Request.from_json(REQUEST.as_json()) == REQUEST


def test_a_model_that_mixes_dense_layers_and_mixtures_can_be_tried_without_fitted_parts(home: Home) -> None:
    mixed = plain.model("qwen3_moe")
    request = replace(REQUEST, methods=("griffin", "oracle", "moefication"), densities=(0.3,))
    run = store.find_run(home, trial_run(mixed, request, home))
    assert set(queries.titles(run)) == {"griffin", "oracle"} and "mixture of experts" in queries.left_out(run)["MoEfication"]
    assert np.isfinite(queries.table(run, 0.3)["reading_kl"]).all() and not run.manifest["claims"]


def test_bad_input_is_said(home: Home) -> None:
    for change, word in (({"densities": (0.0,)}, "above 0|\\(0, 1\\]"), ({"densities": (0.3, 0.1)}, "ascending"),
                         ({"prompt_tokens": LENGTH - 1}, "prompt of 2 to"), ({"generated": 0}, "At least one"),
                         ({"methods": ()}, "At least one")):
        with pytest.raises(InputError, match=word):
            replace(REQUEST, **change)
    with pytest.raises(InputError, match="0 of 8 are that long"):
        trial_run(model(), replace(REQUEST, methods=("oracle",), max_tokens=60), home)
    with pytest.raises(InputError, match="longer than"):
        trial_run(model(), replace(REQUEST, methods=("oracle",), generated=10_000), home)
    gelu = plain.model("gpt2")
    with pytest.raises(InputError, match="CATS"):
        trial_run(gelu, replace(REQUEST, methods=("cats",)), home)


def test_the_evaluation_set_has_genres_enough_and_one_text_a_document(home: Home) -> None:
    prompts = trial_prompts(home, 8)
    documents = [prompt.id.rsplit("/", 1)[0] for prompt in prompts]
    counts = {genre: sum(prompt.domain == genre for prompt in prompts) for genre in {prompt.domain for prompt in prompts}}
    assert len(set(documents)) == len(documents) and max(counts.values()) == 8
    assert sum(count >= 5 for count in counts.values()) >= 4
    with pytest.raises(InputError, match="At least one document"):
        trial_prompts(home, 0)


def test_the_figures_hold_the_numbers(run: store.Run) -> None:
    titles: Any = queries.titles(run)
    frame: Any = queries.gaps(run, "token-table", 0.3, queries.READING)
    lead: Any = figures.lead(frame, titles, verdicts.SMALLEST, queries.EVERY_GENRE)
    points = [trace for trace in lead.data if trace.mode == "markers"]
    assert len(points) == len(RIVALS) and points[0].x[-1] == pytest.approx(frame["mean"].iloc[0])
    assert set(points[0].marker.symbol) == {"circle", "circle-open"}
    of_two = frame["documents"] == 2
    assert of_two.any()
    wide: Any = frame.assign(low=frame["low"].mask(of_two, -1e3), high=frame["high"].mask(of_two, 1e3))
    ends = figures.lead(wide, titles, verdicts.SMALLEST, queries.EVERY_GENRE).layout.xaxis.range
    whole = frame[(frame["rival"] == frame["rival"].iloc[0]) & ~of_two]
    assert -100 < ends[0] < whole["low"].min() and whole["high"].max() < ends[1] < 100, "an interval over two squeezes nothing"
    curve: Any = figures.curves(queries.curves(run, queries.WRITING), titles, OURS)
    assert [trace.name for trace in curve.data] == list(titles.values())
    assert len({trace.marker.symbol for trace in curve.data}) == len(titles), "readable without colour"


def test_the_page_says_what_came_out(made: Home, run: store.Run, app_home: Home) -> None:
    from app.ui import predictors_trial

    app_home.tracked[0].symlink_to(made.runs)
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.query_params["part"] = "trial"
    app.run()
    app.switch_page("views/predictors.py").run()
    assert not app.exception and not app.error
    said = "\n".join(str(element.value) for kind in (app.markdown, app.caption, app.subheader) for element in kind)
    assert predictors_trial.sentence(run) in said
    for data in run.manifest["claims"]:
        claim = claims.Claim.from_json(data)
        assert claim.effect.text(2) in said and predictors_trial.WORDS[claim.verdict] in said
    verdict_table = next(frame.value for frame in app.dataframe if "model" in frame.value.columns)
    assert len(verdict_table.columns) == 1 + len(RIVALS) + 1
    measures = next(frame.value for frame in app.dataframe if "KL, read" in frame.value.columns)
    assert measures["kept"].tolist()[0] and len(measures) == len(METHODS)


def test_several_trials_are_counted_from_their_claims(run: store.Run) -> None:
    """However many there are: no number of models stands in the words."""
    from app.ui import predictors_trial

    def judged(verdict: str) -> store.Run:
        claim = {**run.manifest["claims"][0], "verdict": verdict}
        return replace(run, manifest={**run.manifest, "claims": [claim]})

    trials = [judged(verdict) for verdict in (claims.SUPPORTED, claims.SUPPORTED, claims.NOT_SUPPORTED, claims.NOT_RESOLVED)]
    name = predictors_trial.rival(claims.Claim.from_json(run.manifest["claims"][0]))
    said = predictors_trial.across(trials)
    assert said.startswith("4 trials, 30") and f"<b>{name}</b> in 2 of 4 (not closer in 1, not told apart in 1)" in said
    assert "that it writes" not in said
    assert f"<b>{name}</b> in 2 of 2." in predictors_trial.across(trials[:2])
