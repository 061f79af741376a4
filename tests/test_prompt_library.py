"""The library keeps what it was given: named, versioned by content, deletable with undo; templates make sets by rule."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from moyu_core import prompt_library as library
from moyu_core import prompt_templates as templates
from moyu_core.errors import InputError, ModelError, MoyuError
from moyu_core.home import REPOSITORY, Home
from moyu_core.prompts import Prompt, PromptSet, make_prompt, prompts_hash
from moyu_core.registry import model_facts
from moyu_core.tokens import shown_tokens, token_text, token_texts

TINY = REPOSITORY / "data" / "models" / "tiny-relu"


def texts(*names: str, domain: str = "") -> tuple[Prompt, ...]:
    return tuple(make_prompt(f"Text {name}.", name, domain) for name in names)


def test_a_version_bears_the_hash_that_runs_bear(home: Home) -> None:
    stored, version = library.save(home, PromptSet("mine", texts("a", "b"), ("one note",)), "a test")
    assert version.reference == prompts_hash(texts("a", "b"))[:12]
    assert library.load(home, version.reference).prompts == texts("a", "b")
    assert stored.newest.notes == ("one note",) and stored.newest.prompts == 2
    elsewhere = Home(home.root.parent / "other", tracked=())
    assert library.save(elsewhere, PromptSet("another name", texts("a", "b")))[1].reference == version.reference


def test_other_prompts_under_a_name_are_a_new_version_and_the_same_are_not(home: Home) -> None:
    first = library.save(home, PromptSet("Mine", texts("a")))[1]
    second = library.save(home, PromptSet("mine", texts("a", "b")))[0]
    again = library.save(home, PromptSet("MINE", texts("a")))[0]
    assert len(second.versions) == len(again.versions) == 2
    assert again.newest.reference == first.reference
    assert library.load(home, second.newest.reference).prompts == texts("a", "b")  # the old one is still there


def test_no_path_is_made_of_a_name(home: Home) -> None:
    library.save(home, PromptSet("../../etc/passwd", texts("a")))
    files = [path.relative_to(home.root) for path in home.root.rglob("*") if path.is_file()]
    assert all(path.parts[0] == "prompts" and "passwd" not in str(path) for path in files)
    for name in ("", "  ", "a\nb", "x" * 81):
        with pytest.raises(InputError, match="printable characters"):
            library.save(home, PromptSet(name, texts("a")))


def test_deleting_can_be_undone_and_shipped_sets_stay(home: Home) -> None:
    stored, version = library.save(home, PromptSet("mine", texts("a")))
    library.delete(home, stored.key)
    assert [found.name for found in library.deleted(home)] == ["mine"]
    with pytest.raises(InputError, match="import it on the Prompts page"):
        library.load(home, version.reference)
    library.restore(home, stored.key)
    assert library.load(home, version.reference).prompts == texts("a")
    shipped = library.shipped(home)
    assert {"demo", "topics"} <= {found.name for found in shipped}
    home.runs.mkdir()
    for key in (shipped[0].key, "../runs", "0" * 12):
        with pytest.raises(InputError, match="not one of the sets made here"):
            library.delete(home, key)


def test_a_deleted_set_stays_when_another_of_its_name_is_deleted(home: Home) -> None:
    key = ""
    for text in ("a", "b", "c"):
        stored, _ = library.save(home, PromptSet("mine", texts(text)))
        key = stored.key
        library.delete(home, key)
    thrown = {stored.newest.reference: stored.key for stored in library.deleted(home)}
    assert len(thrown) == len(set(thrown.values())) == 3
    back = []
    for _ in range(2):
        library.restore(home, key)
        back.append(next(found for found in library.list_sets(home) if found.key == key).newest.reference)
        library.remove(home, [found for found in library.list_sets(home) if found.key == key])
    assert back == [prompts_hash(texts(text))[:12] for text in ("c", "b")], "the last one first"
    first = library.deleted(home)[0]
    library.restore(home, first.key)
    assert [found.key for found in library.list_sets(home) if not found.shipped] == [key]
    assert library.load(home, first.newest.reference).prompts == texts("a")


def test_opening_a_version_keeps_every_set_that_has_it(home: Home) -> None:
    sets = [library.save(home, PromptSet("notes", texts("a")), owner=owner)[0] for owner in ("ann", "bob")]
    for stored in sets:
        os.utime(stored.folder / "set.json", (1000, 1000))
    library.load(home, sets[0].newest.reference)
    assert all(library.used(stored) > 1000 for stored in sets)


def test_a_library_that_another_process_changes_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    library.save(home, PromptSet("mine", texts("a")))
    monkeypatch.setattr(library, "LOCK_SECONDS", 0.1)
    with FileLock(library.place(home) / ".lock"), pytest.raises(MoyuError, match="Another process is changing"):
        library.save(home, PromptSet("mine", texts("b")))


def test_a_visitor_sees_everybodys_sets_and_own_ones(home: Home) -> None:
    for owner in ("", "ann", "bob"):
        library.save(home, PromptSet("notes", texts(owner or "all")), owner=owner)
    assert [found.owner for found in library.list_sets(home, "ann") if not found.shipped] == ["", "ann"]
    assert len([found for found in library.list_sets(home) if not found.shipped]) == 3


def test_an_altered_file_is_named_and_a_broken_entry_hides_only_itself(home: Home) -> None:
    stored, version = library.save(home, PromptSet("mine", texts("a")))
    other = library.save(home, PromptSet("other", texts("b")))[0]
    (stored.folder / f"{version.reference}.jsonl").write_text(json.dumps({"text": "changed", "id": "a"}))
    with pytest.raises(InputError, match="'mine' was altered"):
        library.load(home, version.reference)
    (stored.folder / "set.json").write_text("{")
    assert [found.name for found in library.list_sets(home) if not found.shipped] == ["other"]
    assert library.load(home, other.newest.reference).prompts == texts("b")


def test_writers_at_once_lose_no_version(home: Home) -> None:
    threads = [threading.Thread(target=library.save, args=(home, PromptSet("mine", texts(f"t{n}")))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = next(found for found in library.list_sets(home) if not found.shipped)
    assert len(found.versions) == 8


def test_tokens_are_counted_as_the_models_own_tokenizer_does() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    prompts = texts("a", "zwölf \U0001f408")
    plain = [tokenizer(prompt.text, add_special_tokens=False)["input_ids"] for prompt in prompts]
    assert library.token_counts(TINY, prompts) == [len(ids) + 1 for ids in plain]
    shown = shown_tokens(TINY, prompts[1].text)
    assert [number for number, _ in shown] == plain[1]
    assert [text for _, text in shown] == token_texts(tokenizer, plain[1])
    assert token_text(TINY, model_facts(TINY).sink_token_id)


def test_a_grid_holds_every_probe_behind_every_history() -> None:
    probes, histories = texts("p", "q"), texts("x", "y", "z")
    made = templates.history_grid(probes, histories, "\n")
    assert len(made) == 2 * (1 + 3)
    by_name = {(prompt.id, prompt.condition): prompt.text for prompt in made}
    assert by_name["p", "plain"] == "Text p." and by_name["q", "after y"] == "Text y.\nText q."
    with pytest.raises(InputError, match="probe id 'p' occurs twice"):
        templates.history_grid((*probes, probes[0]), histories)
    with pytest.raises(InputError, match="at most 10,000"):
        templates.history_grid(texts(*map(str, range(200))), texts(*map(str, range(60))))


def test_switches_pair_each_second_text_with_its_own_and_another_topic() -> None:
    pool = (*texts("a1", "a2", "a3", domain="a"), *texts("b1", "b2", domain="b"), *texts("lonely", domain="c"))
    made = templates.topic_switches(pool, pairs=5, seed=3, joint="|")
    domain = {prompt.text: prompt.domain for prompt in pool}
    assert len(made) == 10 and {prompt.condition for prompt in made} == {"stay", "switch"}
    for prompt in made:
        first, second = prompt.text.split("|")
        assert first != second and domain[second] == prompt.domain
        assert (domain[first] == domain[second]) == (prompt.condition == "stay")
    assert (
        made
        == templates.topic_switches(pool, pairs=5, seed=3, joint="|")
        != templates.topic_switches(pool, pairs=5, seed=4, joint="|")
    )
    with pytest.raises(InputError, match="at least two domains"):
        templates.topic_switches(texts("a", "b"))


def chat_model(folder: Path, template: str) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "bos_token": "<s>"}))
    return folder


def test_a_chat_goes_through_the_models_own_template(tmp_path: Path) -> None:
    model = chat_model(
        tmp_path,
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if "
        "add_generation_prompt %}[assistant]{% endif %}",
    )
    turns = [{"role": "user", "content": "Hi {{ 7 * 7 }}"}]
    assert templates.chat(model, turns) == "<s>[user]Hi {{ 7 * 7 }}[assistant]"
    assert templates.chat(model, turns, answer=False, sink="<s>") == "[user]Hi {{ 7 * 7 }}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only users speak') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{% for %}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(tmp_path: Path, template: str) -> None:
    with pytest.raises(ModelError, match="refuses these messages"):
        templates.chat(chat_model(tmp_path, template), [{"role": "user", "content": "Hi"}])


def test_a_model_without_template_says_so(tmp_path: Path) -> None:
    assert not templates.has_chat(tmp_path)
    with pytest.raises(ModelError, match="has no chat template"):
        templates.chat(tmp_path, [])


@pytest.mark.model
def test_the_default_models_chat_is_that_of_transformers() -> None:
    from transformers import AutoTokenizer

    folder = Home.default().models / "smollm2-135m-instruct"
    if not folder.is_dir():
        pytest.skip("the default model is not fetched: run `moyu fetch default`")
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}, {"role": "user", "content": "Oh."}]
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert templates.chat(folder, turns) == expected
