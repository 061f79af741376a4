"""The measures of the inertia study against plain recomputation, and what must be true of them in models made to show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plain
import pytest
import torch

from moyu_core import sets
from moyu_core.errors import InputError, ModelError
from moyu_core.models import LoadedModel
from moyu_core.progress import silent
from moyu_core.prompts import Prompt
from moyu_core.spec import SetRule
from moyu_core.studies.inertia import checks, hitters, lag, neurons, overlap, prefix, regression, transplants
from moyu_core.studies.inertia.carrier import unrelated
from moyu_core.studies.inertia.conditions import Draws, Text, distinct, documents, read_texts, sequence_ids, unit_tokens
from moyu_core.studies.inertia.pairs import Pairs, PairSums, index
from moyu_core.studies.inertia.units import Reader, Units, additive, cut

RULE = SetRule("top", 0.25)


@pytest.fixture(autouse=True)
def word_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary's words in place of the English list, of which it knows none."""
    monkeypatch.setattr("moyu_core.words.word_list", lambda: tuple(plain.WORDS[5:]))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return plain.model("llama", max_position_embeddings=128)


def reader_of(model: LoadedModel, rule: SetRule = RULE) -> Reader:
    return Reader(model, rule, {}, silent)


def prompts(topics: int = 4, each: int = 3, words: int = 9, seed: int = 0, own: int = 0) -> tuple[Prompt, ...]:
    """Texts of random words; with `own` those of a topic come from so many words that only it uses."""
    random = np.random.default_rng(seed)
    made = []
    for topic in range(topics):
        pool = plain.WORDS[5 + topic * own : 5 + (topic + 1) * own] if own else plain.WORDS[5:]
        made += [Prompt(f"t{topic}-{n}", " ".join(random.choice(pool, words)), f"topic{topic}") for n in range(each)]
    return tuple(made)


def texts_of(model: LoadedModel, **changes: int) -> list[Text]:
    return read_texts(model, prompts(**changes), 9)[0]


def energy_vectors(units: Units, layer: int) -> np.ndarray:
    """(N, F): the energy share of each active neuron, 0 elsewhere."""
    mask = sets.unpack(units.active[layer], units.n_neurons)
    shares = np.zeros(mask.shape, np.float32)
    shares[mask] = units.energy[layer]
    return shares


def naive(left: np.ndarray, right: np.ndarray, tokens: np.ndarray, topics: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of left . right pair by pair, in float64; both (S, n, F)."""
    count = topics.max() + 1
    found = {"within": np.zeros(count), "within_pairs": np.zeros(count), "across": np.zeros((count, count)),
             "across_pairs": np.zeros((count, count))}
    size, width = tokens.shape
    for s in range(size):
        for t in range(size):
            for i in range(width):
                for j in range(width):
                    if i == j or tokens[s, i] == tokens[t, j] or not valid[s, i] or not valid[t, j]:
                        continue
                    value = float(left[s, i].astype(float) @ right[t, j].astype(float))
                    place = topics[s] if s == t else (topics[s], topics[t])
                    name = "within" if s == t else "across"
                    found[name][place] += value
                    found[f"{name}_pairs"][place] += 1
    return found


@pytest.mark.parametrize("everything", [True, False])
def test_pair_sums_are_those_of_all_pairs_one_by_one(everything: bool) -> None:
    random = np.random.default_rng(0)
    mask = random.random((8, 6, 30)) < random.random((8, 6, 1))
    mask[1, 2] = mask[4, 0] = False
    energy = np.where(mask, random.random(mask.shape), 0).astype(np.float16)
    tokens, topics = random.integers(0, 11, (8, 6)), np.array([0, 0, 0, 1, 1, 1, 2, 2])
    valid = np.ones((8, 6), bool) if everything else random.random((8, 6)) < 0.7
    flat = sets.pack(mask.reshape(48, 30))
    count, held = Pairs(tokens, topics, valid).sums(flat, 30, energy[mask])
    vectors = mask / np.sqrt(np.maximum(mask.sum(-1, keepdims=True), 1))
    for found, left, right in ((count, vectors, vectors), (held, energy, mask)):
        for name, expected in naive(left, right, tokens, topics, valid).items():
            np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-5, atol=1e-4, err_msg=name)
    alone, nothing = Pairs(tokens, topics, valid).sums(flat, 30)
    np.testing.assert_array_equal(alone.across, count.across)
    assert not nothing.within.any() and not nothing.across.any()
    assert np.isnan(Pairs(tokens, topics, np.zeros((8, 6), bool)).sums(flat, 30)[0].mean_within()), "no unit, no pair"


def test_a_set_overlaps_itself_wholly_and_random_sets_at_their_density() -> None:
    random = np.random.default_rng(1)
    size, width, neurons_ = 12, 10, 2000
    units = Units(sets.pack(random.random((1, size * width, neurons_)) < 0.1), [], neurons_, (0,))
    pairs = Pairs(np.arange(size * width).reshape(size, width), np.arange(size) // 3)
    found = overlap.counts_of(pairs, units)
    assert found.mean_across()[0] == pytest.approx(0.1, abs=0.002) and found.mean_within()[0] == pytest.approx(0.1, abs=0.004)
    same = Units(np.repeat(units.active[:, :1], size * width, axis=1), [], neurons_, (0,))
    assert overlap.counts_of(pairs, same).mean_within()[0] == pytest.approx(1, abs=1e-6)


def test_the_index_is_its_formula_over_the_topics_kept() -> None:
    def sums(within: Sequence[float], across: float) -> PairSums:
        return PairSums(np.asarray(within), np.ones(2), np.full((2, 2), across), np.ones((2, 2)))

    sequence, parallel = sums([0.5, 0.7], 0.4), sums([0.3, 0.3], 0.2)
    assert index(sequence, parallel) == pytest.approx(((0.6 - 0.4) - (0.3 - 0.2)) / (1 - 0.4))
    assert index(sequence, parallel, np.array([1])) == pytest.approx(((0.7 - 0.4) - 0.1) / 0.6)


def test_conditions_hold_words_tokens_and_places_fixed(model: LoadedModel) -> None:
    texts = texts_of(model)
    draws = Draws(model, 7)
    shuffled, words, tokens = (draws.content(name, texts) for name in ("shuffled", "random_words", "random_tokens"))
    for text, other in zip(texts, shuffled, strict=True):
        assert sorted(w.ids for w in text.words) == sorted(w.ids for w in other.words) and text.words != other.words
    drawn = [word.ids for text in words for word in text.words]
    assert len(drawn[:80]) == len(set(drawn[:80])), "no word twice until the list is used up"
    for other in (words, tokens):
        assert [[len(w.ids) for w in t.words] for t in other] == [[len(w.ids) for w in t.words] for t in texts]
    again = Draws(model, 7).content("shuffled", texts)
    assert [t.words for t in again] == [t.words for t in shuffled] != [t.words for t in Draws(model, 8).content("shuffled", texts)]


@pytest.mark.parametrize("rule", [RULE, SetRule("magnitude", 0.1), SetRule("positive")])
def test_units_are_the_sets_of_a_plain_pass(model: LoadedModel, rule: SetRule) -> None:
    texts = texts_of(model)
    reader = reader_of(model, rule)
    whole, alone = reader.sequences(texts, "x", energy=True), reader.parallel(texts, "x")
    for layer in range(2):
        for number in (0, 5, 11):
            ids = torch.tensor([[1, *(word.ids[0] for word in texts[number].words)]])
            a, c = plain.activation(model, "llama", layer, ids)
            members = plain.members(a, c, rule)[1:]
            np.testing.assert_array_equal(sets.unpack(whole.active[layer], 64)[number * 9 : number * 9 + 9], members)
            energy = np.where(members, (a[1:] * c) ** 2, 0)
            shares = energy_vectors(whole, layer)[number * 9 : number * 9 + 9]
            np.testing.assert_allclose(shares, energy / energy.sum(1, keepdims=True), atol=1e-3)
            a, c = plain.activation(model, "llama", layer, ids[:, [0, 4]])
            np.testing.assert_array_equal(sets.unpack(alone.active[layer], 64)[number * 9 + 3], plain.members(a, c, rule)[1])


def test_taking_units_takes_their_energy_along(model: LoadedModel) -> None:
    units = reader_of(model, SetRule("positive")).sequences(texts_of(model), "x", energy=True)
    where = np.array([17, 3, 3])
    np.testing.assert_array_equal(energy_vectors(units.take(where), 1), energy_vectors(units, 1)[where])


def vocabulary_model() -> LoadedModel:
    """A tiny model in which the words of a topic look alike: their embeddings differ little."""
    model = plain.model("llama", max_position_embeddings=128, seed=3)
    table = model.model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, table.shape[1], generator=generator)
    with torch.no_grad():
        for topic in range(4):
            for word in range(20):
                table[5 + 20 * topic + word] = centres[topic] + 0.4 * torch.randn(table.shape[1], generator=generator)
    return model


def test_without_attention_there_is_no_inertia_though_words_flock() -> None:
    model = vocabulary_model()
    texts = read_texts(model, prompts(own=20, seed=2), 9)[0]
    found = overlap.measure(reader_of(model), texts, 0)
    blind, raw = found.controls["attention cut"], found.controls["attention cut, raw flocking"]
    assert blind.low < 0 < blind.high and blind.high - blind.low < 0.05
    assert raw.low > 0.1, "the vocabulary of a topic alone makes its texts flock"
    shuffled = found.controls["labels shuffled"]
    assert shuffled.low < 0 < shuffled.high


def test_a_context_that_every_token_copies_is_inertia() -> None:
    """The first word's stream is added to every later one: what a text begins with decides all its sets."""
    model = plain.model("llama", max_position_embeddings=128)

    def copy_first(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        return output if output.shape[1] < 3 else output + 6 * output[:, 1:2]

    handle = model.decoder.embed_tokens.register_forward_hook(copy_first)
    try:
        found = overlap.measure(reader_of(model), texts_of(model, words=9), 0)
    finally:
        handle.remove()
    everything = np.arange(found.n_topics)
    assert found.index("sentence", everything).mean() > 0.3 and found.index("random_words", everything).mean() > 0.3


def test_the_cut_mask_leaves_the_word_and_the_sink(model: LoadedModel) -> None:
    text = texts_of(model)[:1]
    changed = [Text(text[0].prompt, "x", (*text[0].slots[1:5], *text[0].slots[4:]))]
    reader = reader_of(model)
    pairs = [reader.sequences(each, "x", mask=cut).active[:, 5:] for each in (text, changed)]
    np.testing.assert_array_equal(*pairs)
    assert not np.array_equal(*(reader.sequences(each, "x").active[:, 5:] for each in (text, changed)))


def test_the_marginal_level_takes_rates_from_different_texts() -> None:
    always = np.zeros((4, 5, 16), bool)
    always[..., :4] = True
    assert overlap.marginal(sets.pack(always), np.array([0, 0, 1, 1]), 16) == 1.0
    halves = np.zeros((4, 5, 16), bool)
    halves[::2, :, :4] = halves[1::2, :, 4:8] = True
    assert overlap.marginal(sets.pack(halves), np.array([0, 0, 1, 1]), 16) == 0.0
    assert np.isnan(overlap.marginal(sets.pack(always[:1]), np.array([0]), 16))


def test_the_lag_curve_is_that_of_plain_pairs() -> None:
    random = np.random.default_rng(2)
    mask, tokens = random.random((2, 3 * 12, 40)) < 0.3, random.integers(0, 9, (3, 12))
    found = lag.by_lag(Units(sets.pack(mask), [], 40, (0, 1)), tokens, 5)
    for text in range(3):
        for distance in range(1, 6):
            pairs = [(t, t - distance) for t in range(5, 12) if tokens[text, t] != tokens[text, t - distance]]
            rows = mask[1, 12 * text : 12 * text + 12].astype(float)
            expected = [rows[a] @ rows[b] / np.sqrt(rows[a].sum() * rows[b].sum()) for a, b in pairs]
            assert found[text, 1, distance - 1] == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_half_life_comes_out_of_a_planted_curve_and_not_out_of_noise() -> None:
    random = np.random.default_rng(3)
    planted = 0.2 + 0.1 * 2.0 ** (-np.arange(1, 31) / 4) + 0.001 * random.standard_normal((8, 30))
    found = lag.half_life(planted)
    assert found is not None and found["low"] < 4 < found["high"]
    assert lag.half_life(0.2 + 0.05 * random.standard_normal((8, 30))) is None
    assert lag.half_life(planted[:1]) is None


def test_griffins_statistic_is_its_formula(model: LoadedModel) -> None:
    ids = [sequence_ids(text, [1])[0] for text in texts_of(model)[:3]]
    found = prefix.statistic(reader_of(model), ids, [((1, 4), (1, len(each))) for each in ids], "x")
    a, _ = plain.activation(model, "llama", 1, torch.from_numpy(ids[2])[None])
    relative = a.astype(float) ** 2 / (a.astype(float) ** 2).sum(1, keepdims=True)
    np.testing.assert_allclose(found[1, 2, 0], relative[1:4].mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found[1, 2, 1], relative[1:].mean(0), rtol=1e-4, atol=1e-7)
    others = prefix.leave_out(found[:, :, 0], np.array([0, 0, 1]), [0, 0, 1])
    np.testing.assert_allclose(others[:, 1], found[:, 2, 0])
    np.testing.assert_allclose(others[:, 2], found[:, :2, 0].mean(1))


def test_unrelated_texts_come_from_another_topic() -> None:
    topics = np.array([0, 0, 0, 1, 1, 2])
    chosen = unrelated(topics)
    assert all(topics[other] != topic for other, topic in zip(chosen, topics, strict=True))
    assert chosen[0] != chosen[1]


def test_own_scores_of_the_last_token_are_those_of_the_whole_pass(model: LoadedModel) -> None:
    from moyu_core.branching import history

    ids = torch.from_numpy(sequence_ids(texts_of(model)[0], [1])[0])
    found = transplants.own_scores(reader_of(model), ids, history(model, ids[None, :-1]))
    for layer in range(2):
        a, c = plain.activation(model, "llama", layer, ids[None])
        np.testing.assert_allclose(found[layer], np.abs(a[-1]) * c, rtol=1e-3, atol=1e-5)


def test_regression_sums_give_the_coefficients_of_all_rows_and_of_some() -> None:
    random = np.random.default_rng(4)
    design, first, second = random.random((400, 4)), *random.integers(0, 4, (2, 400))
    y = design @ [0.3, -0.2, 0.1, 0.0] + 0.05 * random.standard_normal(400)
    grams = regression.gram(design, y, first, second, 4)
    for kept in (np.arange(4), np.array([0, 2, 3])):
        rows = np.isin(first, kept) & np.isin(second, kept)
        full = np.linalg.lstsq(np.column_stack([np.ones(rows.sum()), design[rows]]), y[rows], rcond=None)[0][1:]
        np.testing.assert_allclose(regression.coefficients(grams[kept][:, kept].sum((0, 1))), full, rtol=1e-8)
    whole = grams.sum((0, 1))
    shares = regression.shapley(whole)
    columns = np.column_stack([np.ones(400), design])
    residual = y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    assert shares.sum() == pytest.approx(1 - residual.var() / y.var(), rel=1e-8)
    assert shares.argmax() == 0 and abs(shares[3]) < 0.01


def test_a_term_that_does_not_vary_has_no_coefficient() -> None:
    random = np.random.default_rng(5)
    design = random.random((50, 4))
    design[:, 0] = 0
    sums = regression.gram(design, design[:, 1] * 2, np.zeros(50, int), np.zeros(50, int), 1)[0, 0]
    found = regression.coefficients(sums)
    assert np.isnan(found[0]) and found[1] == pytest.approx(2) and regression.shapley(sums)[0] == 0


def test_attention_is_averaged_over_the_queries_that_can_see() -> None:
    attention = np.tril(np.random.default_rng(6).random((12, 12)))
    attention /= attention.sum(1, keepdims=True)
    found = hitters.choose(attention, np.random.default_rng(0))
    assert found.received[4] == pytest.approx(np.mean([attention[query, 4] for query in range(5, 12)]))
    open_ones = np.arange(1, found.first_recent)
    assert set(found.heavy) == set(open_ones[np.argsort(-found.received[open_ones])[: len(found.heavy)]])
    assert not set(found.heavy) & set(found.matched) and 0 not in found.matched and max(found.matched) < found.first_recent


def test_the_match_loses_as_much_attention() -> None:
    random = np.random.default_rng(7)
    attention = np.tril(random.random((60, 60)) ** 3)
    attention /= attention.sum(1, keepdims=True)
    found = hitters.choose(attention, random)
    assert found.lost[found.matched].sum() == pytest.approx(found.lost[found.heavy].sum(), rel=0.15)


def test_blocked_positions_get_no_attention_but_their_own(model: LoadedModel) -> None:
    ids = sequence_ids(texts_of(model)[0], [1])[0]
    reader = reader_of(model)
    choice = hitters.choose(hitters.mean_attention(reader, ids, 0, 1), np.random.default_rng(0))
    mask = additive(hitters._mask([choice], "heavy")(0, len(ids))[None], model)
    model.model.set_attn_implementation("eager")
    try:
        given = model.model(input_ids=torch.from_numpy(ids)[None], attention_mask=mask, output_attentions=True)
        weights = given.attentions[1][0].mean(0)
    finally:
        model.model.set_attn_implementation("sdpa")
    for position in choice.heavy:
        assert weights[position + 1 :, position].max() == 0 < weights[position, position]


def test_a_model_without_attention_weights_says_so(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> None:
        raise ValueError("no eager attention here")

    monkeypatch.setattr(model.model, "set_attn_implementation", refuse)
    with pytest.raises(ModelError, match="no eager attention here"):
        hitters.mean_attention(reader_of(model), np.array([1, 5, 6]), 0, 1)


def test_binding_tells_all_or_nothing_from_chance() -> None:
    random = np.random.default_rng(8)
    chance = (random.random((1, 40, 30, 500)) < 0.3).mean(2)
    assert abs(neurons.between((chance, 30)).mean()) < 0.01
    whole = (random.random((1, 40, 1)) < 0.5).astype(float)
    assert neurons.between((whole, 30))[0, 0] == pytest.approx(1, abs=0.05)
    assert not neurons.between((np.ones((1, 5, 3)), 30)).any()


def test_token_by_token_gives_the_activations_of_one_prefill(model: LoadedModel) -> None:
    found = checks.token_by_token(reader_of(model), texts_of(model))
    assert found["largest_difference"] < 1e-5 and found["mean_overlap"] > 0.999 and found["texts"] == 2


def test_words_are_counted_once_and_documents_are_one_a_topic(model: LoadedModel) -> None:
    texts = texts_of(model)
    words, where = distinct(texts)
    assert len({word.ids for word in words}) == len(words) < where.size
    assert [words[where[2, 5]]] == [texts[2].words[5]]
    joined = documents(texts, 20)
    assert len(joined) == 4 and {len(text.slots) for text in joined} == {20}
    np.testing.assert_array_equal(unit_tokens(joined)[1, :9], unit_tokens(texts)[3])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("word5", "fewer than two words"), ("word5 nonsense word6", "cannot encode alone"), ("word5 word6", "")],
)
def test_texts_that_cannot_be_used_are_named(model: LoadedModel, text: str, expected: str) -> None:
    given = (Prompt("odd", text, "a"), *prompts(words=3))
    texts, notes = read_texts(model, given, 3)
    assert any(expected in note and note.startswith("odd") for note in notes) if expected else not [n for n in notes if "odd" in n]
    assert len(texts) == (12 if "fewer" in expected else 13)


def test_no_usable_text_is_one_sentence(model: LoadedModel) -> None:
    with pytest.raises(InputError, match="No text has two words"):
        read_texts(model, (Prompt("a", "word5"),), 4)


def test_mixtures_of_experts_are_refused() -> None:
    with pytest.raises(InputError, match="mixture of experts"):
        reader_of(plain.model("mixtral"))
