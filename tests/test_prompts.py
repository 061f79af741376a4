"""Prompts: cleaning, identity, files with every defect, and the sets that ship with the code."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moyu_core import prompts as module
from moyu_core.errors import InputError
from moyu_core.prompts import (
    MAX_CHARACTERS,
    MAX_NOTES,
    MAX_PROMPTS,
    Prompt,
    PromptSet,
    clean,
    library,
    make_prompt,
    parse_prompts,
    prompts_hash,
    read_prompts,
    text_id,
    write_prompts,
)

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "prompts"
SURROGATES = st.characters(categories=["Cs"])
AWKWARD = st.sampled_from("\0\r\n\t \u2028\ufeff")
ANY_TEXT = st.text(alphabet=st.one_of(st.characters(), SURROGATES, AWKWARD), max_size=60)
LABELS = st.text(alphabet=st.characters(), min_size=1, max_size=80).filter(
    lambda text: text.isprintable() and text == text.strip())
PROMPTS = st.builds(make_prompt, ANY_TEXT.filter(lambda text: text.strip()), LABELS, st.just("") | LABELS,
                    st.just("plain") | LABELS)
SETS = st.lists(PROMPTS, min_size=1, max_size=6, unique_by=lambda prompt: (prompt.id, prompt.condition))


def parse(*records: object, cut: bool = False) -> PromptSet:
    return parse_prompts("\n".join(json.dumps(record) for record in records).encode(), "some.jsonl", cut=cut)


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse_prompts(data, "some.jsonl")
    return str(caught.value)


# clean

def test_clean_changes_what_it_says_and_nothing_else():
    text, notes = clean(" a\0b\ud800\udfffc\r\nd\re\t\x1b ")
    assert text == " a\ufffdb\ufffd\ufffdc\nd\ne\t\x1b "
    assert notes == ("2 lone surrogate(s) replaced by U+FFFD", "1 NUL character(s) replaced by U+FFFD",
                     "2 carriage return(s), CRLF or CR, replaced by a newline")


def test_joined_emoji_and_direction_marks_stay():
    text = "👩‍🚀 \u202eabc\u202c é e\u0301"
    assert clean(text) == (text, ())


@given(ANY_TEXT.filter(lambda text: text.strip()))
def test_clean_text_stays_clean(text: str):
    once, notes = clean(text)
    assert clean(once) == (once, ())
    assert (once == text) == (not notes)
    assert once.encode("utf-8").decode("utf-8") == once
    assert not set(once) & set("\0\r")


@pytest.mark.parametrize("text", ["", " ", "\n\t\r\n", "\u3000\u00a0", "\x1c"])
def test_white_space_is_refused(text: str):
    with pytest.raises(InputError, match="empty or only white space"):
        clean(text)


def test_a_text_at_the_limit_passes_and_one_above_is_refused_or_cut():
    assert clean("é" * MAX_CHARACTERS) == ("é" * MAX_CHARACTERS, ())
    with pytest.raises(InputError, match=r"at most 20,000 characters and this one has 20,001"):
        clean("a" * (MAX_CHARACTERS + 1))
    text, notes = clean("é" * 200_000, cut=True)
    assert text == "é" * MAX_CHARACTERS
    assert notes == ("cut after 20,000 of 200,000 characters",)


def test_the_limit_counts_cleaned_characters():
    assert clean("a\r\n" * (MAX_CHARACTERS // 2))[0] == "a\n" * (MAX_CHARACTERS // 2)


def test_a_cut_that_leaves_white_space_is_refused():
    with pytest.raises(InputError, match="white space"):
        clean(" " * MAX_CHARACTERS + "a", cut=True)


# Prompt and its identity

def test_a_prompt_without_name_is_named_after_its_cleaned_text():
    prompt = make_prompt("abc\r\n")
    assert prompt == Prompt(text_id("abc\n"), "abc\n", "", "plain")
    assert text_id("abc") == "ba7816bf8f"  # FIPS 180-2, appendix B.1


@pytest.mark.parametrize("id", ["", "a" * 81, " a", "a ", "a\nb", "a\x7f", "a\u200b", "a\u202e", "\ud800"])
def test_ids_that_cannot_be_shown_are_refused(id: str):
    with pytest.raises(InputError, match="The id"):
        make_prompt("text", id)


@pytest.mark.parametrize("id", ["a", "a" * 80, "../a/b", "Zwei Wörter", "ספר", "猫"])
def test_other_ids_pass(id: str):
    assert make_prompt("text", id).id == id


def test_domain_and_condition_are_labels_too():
    with pytest.raises(InputError, match="The domain"):
        make_prompt("text", domain="a\n")
    with pytest.raises(InputError, match="The condition"):
        make_prompt("text", condition="")


@pytest.mark.parametrize("text", ["a\0", "\ud800", "a\r\n"])
def test_no_prompt_holds_text_that_is_not_clean(text: str):
    with pytest.raises(InputError, match="make_prompt"):
        Prompt("a", text)


def test_prompts_hash_is_pinned():
    """Stored runs are named by it: if this fails, old runs are no longer found."""
    assert prompts_hash([make_prompt("It rained.", "rain", "prose"), make_prompt("猫", "cat")]) == (
        "87eadbaceca26977586eba4026369506352662e499b2ddb3a00491dbd0f6d80d")


@given(SETS, st.data())
def test_every_field_and_the_order_count_in_the_hash(prompts: list[Prompt], data: st.DataObject):
    place = data.draw(st.integers(0, len(prompts) - 1))
    name = data.draw(st.sampled_from(["id", "text", "domain", "condition"]))
    changed = list(prompts)
    old = getattr(changed[place], name)
    changed[place] = dataclasses.replace(changed[place], **{name: "other" if old != "other" else "another"})
    assert prompts_hash(changed) != prompts_hash(prompts)
    assert prompts_hash(tuple(prompts)) == prompts_hash(prompts)
    if len(prompts) > 1:
        assert prompts_hash(prompts[::-1]) != prompts_hash(prompts)


def test_the_hash_keeps_fields_apart():
    assert prompts_hash([make_prompt("bc", "a")]) != prompts_hash([make_prompt("c", "ab")])


def test_a_set_refuses_nothing_too_much_and_twice_the_same():
    with pytest.raises(InputError, match="is empty"):
        PromptSet("s", ())
    with pytest.raises(InputError, match="'a' occurs 2 times"):
        PromptSet("s", (make_prompt("x", "b"), make_prompt("x", "a"), make_prompt("y", "a")))
    assert len(PromptSet("s", (make_prompt("x", "a"), make_prompt("x", "a", condition="shuffled"))).prompts) == 2
    with pytest.raises(InputError, match=r"at most 10,000 prompts and 's' has 10,001"):
        PromptSet("s", tuple(make_prompt("x", str(number)) for number in range(MAX_PROMPTS + 1)))


# files

@given(SETS)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, prompts: list[Prompt]):
    path = tmp_path_factory.mktemp("set") / "some set.jsonl"
    write_prompts(path, prompts)
    assert read_prompts(path) == PromptSet("some set", tuple(prompts))
    assert read_prompts(path).notes == ()
    assert [entry.name for entry in path.parent.iterdir()] == ["some set.jsonl"]


def test_a_written_line_is_short_and_legible(tmp_path: Path):
    write_prompts(tmp_path / "a.jsonl", [make_prompt("猫\n", "cat"), make_prompt("b", "b", "prose", "shuffled")])
    assert (tmp_path / "a.jsonl").read_text("utf-8") == (
        '{"id": "cat", "text": "猫\\n"}\n{"id": "b", "text": "b", "domain": "prose", "condition": "shuffled"}\n')


def test_a_refused_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.jsonl"
    write_prompts(path, [make_prompt("old")])
    with pytest.raises(InputError, match="occurs 2 times"):
        write_prompts(path, [make_prompt("new"), make_prompt("new")])

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(InputError, match="No space left on device"):
        write_prompts(path, [make_prompt("new")])
    assert read_prompts(path).prompts == (make_prompt("old"),)
    assert list(tmp_path.iterdir()) == [path]


def test_optional_fields_byte_order_mark_blank_lines_and_line_separators():
    data = '\ufeff{"text": "a\u2028b"}\r\n\r\n{"text": "c", "id": null, "domain": "d", "source": "me"}\n'.encode()
    found = parse_prompts(data, "folder.d/my.set.jsonl")
    assert found.name == "my.set"
    assert found.prompts == (make_prompt("a\u2028b"), make_prompt("c", domain="d"))
    assert found.notes == ()


def test_changes_and_unknown_fields_are_noted():
    notes = parse({"text": "a\r\nb", "x": 1}, {"text": "c", "x": 2, "label\n": 3}).notes
    assert notes == ("line 1: 1 carriage return(s), CRLF or CR, replaced by a newline",
                     "2 unknown field(s) ignored: 'label\\n', 'x'; known are condition, domain, id, source, text")


def test_notes_stay_few():
    notes = parse(*({"text": f"{number}\0", f"x{number}": 0} for number in range(1_000))).notes
    assert len(notes) == MAX_NOTES + 2
    assert notes[MAX_NOTES] == "and 980 more changes of this kind"
    assert notes[-1].startswith("1,000 unknown field(s)") and len(notes[-1]) < 300


def test_a_long_text_in_a_file_is_refused_or_cut():
    with pytest.raises(InputError, match=r"some\.jsonl, line 2: .*this one has 30,000"):
        parse({"text": "a"}, {"text": "b" * 30_000})
    found = parse({"text": "b" * 30_000}, cut=True)
    assert found.prompts == (make_prompt("b" * MAX_CHARACTERS),)
    assert found.notes == ("line 1: cut after 20,000 of 30,000 characters",)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "some.jsonl holds no prompts"),
    (b"\n \r\n", "some.jsonl holds no prompts"),
    (b'{"text": "a"}\n{"text": ', "line 2: this is not JSON (Expecting value at column 10)"),
    (b"a text\n", "line 1: this is not JSON"),
    (b'["a"]', "line 1: expected an object"),
    (b'"a"', "got a string"),
    (b'{"id": "a"}', 'line 1: the field "text" is missing'),
    (b'\n{"text": 5}', 'line 2: the field "text" must be a string, got a number'),
    (b'{"text": null}', 'the field "text" must be a string, got null'),
    (b'{"text": "a", "id": 7}', 'the field "id" must be a string, got a number'),
    (b'{"text": "a", "domain": ["b"]}', 'the field "domain" must be a string, got a list'),
    (b'{"text": "a", "condition": true}', 'the field "condition" must be a string, got true or false'),
    (b'{"text": " "}', "line 1: The text is empty"),
    (b'{"text": "a", "id": ""}', "line 1: The id must have 1 to 80 characters, not 0"),
    (b'{"text": "a", "id": "x"}\n{"text": "b"}\n{"text": "c", "id": "x"}',
     "line 3: the id 'x' is not new, it stands already on line 1"),
    (b'{"text": "a"}\n{"text": "a"}',
     "line 2: the id 'ca978112ca' is not new, the same text without an id stands on line 1"),
    ("{\"text\": \"a\"}\n{\"text\": \"é\"}".encode("latin-1"), "line 2: expected text in UTF-8, got the byte 0xe9"),
    ('{"text": "a"}'.encode("utf-16"), "line 1: expected text in UTF-8, got the byte 0xff"),
    (b"[" * 100_000, "line 1: this JSON is too deep"),
    (b'{"text": ' + b"1" * 5_000 + b"}", "line 1: this JSON is too deep or holds a number too long"),
])
def test_a_defect_is_named_with_its_line_and_field(data: bytes, message: str):
    assert message in refusal(data)


@given(st.binary(max_size=80) | st.text(alphabet='{}[]":,\\ \nabtexid01.eE-', max_size=60).map(str.encode))
def test_any_bytes_give_a_set_or_an_input_error(data: bytes):
    try:
        found = parse_prompts(data, "some.jsonl")
    except InputError as error:
        assert str(error).startswith("some.jsonl")
    else:
        assert found.prompts


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InputError, match="no prompt file"):
            read_prompts(path)
    with pytest.raises(InputError, match="File name too long"):
        read_prompts(tmp_path / ("a" * 300))
    write_prompts(tmp_path / "a.jsonl", [make_prompt("abc")])
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    with pytest.raises(InputError, match="larger than the limit"):
        read_prompts(tmp_path / "a.jsonl")


def test_library_lists_the_sets_of_a_folder_by_name(tmp_path: Path):
    for name in ("b", "a", ".hidden"):
        write_prompts(tmp_path / f"{name}.jsonl", [make_prompt(name)])
    (tmp_path / "README.md").write_text("no prompts")
    assert [found.name for found in library(str(tmp_path))] == ["a", "b"]
    (tmp_path / "c.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"c\.jsonl, line 1"):
        library(tmp_path)
    with pytest.raises(InputError, match="no folder of prompts"):
        library(tmp_path / "none")


def test_prompts_load_without_torch_or_streamlit():
    code = "import sys, moyu_core.prompts; print(sorted({'torch', 'transformers', 'streamlit'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# the sets that ship with the code

DOMAINS = {"prose": 4, "dialogue": 3, "code": 4, "mathematics": 3, "recipe": 2, "poem": 3, "news": 3, "language": 5,
           "list": 2, "repetition": 3, "random words": 3, "conversation": 1, "topic switch": 1}
TOPICS = {"astronomy", "cooking", "law", "football", "gardening", "medicine", "sailing", "computing"}


@pytest.fixture(scope="module")
def demo() -> dict[str, str]:
    return {prompt.id: prompt.text for prompt in read_prompts(SHIPPED / "demo.jsonl").prompts}


@pytest.fixture(scope="module")
def topics() -> tuple[Prompt, ...]:
    return read_prompts(SHIPPED / "topics.jsonl").prompts


def test_shipped_sets_load_without_notes_and_share_no_name():
    sets = library(SHIPPED)
    assert [(found.name, found.notes) for found in sets] == [("demo", ()), ("evaluation", ()), ("histories", ()), ("topics", ())]
    prompts = [prompt for found in sets for prompt in found.prompts]
    for values in ([prompt.id for prompt in prompts], [prompt.text for prompt in prompts]):
        assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+(/\d)?", prompt.id) and prompt.domain for prompt in prompts)


def test_demo_has_its_domains_and_lengths():
    prompts = read_prompts(SHIPPED / "demo.jsonl").prompts
    assert Counter(prompt.domain for prompt in prompts) == DOMAINS
    for prompt in prompts:
        lowest = 25 if prompt.id.startswith(("chinese", "hebrew")) else 100
        assert lowest <= len(prompt.text) <= 260, prompt.id


def test_demo_holds_its_awkward_characters(demo: dict[str, str]):
    assert '<script>alert("x")</script>' in demo["code-html-guestbook"]
    assert "🐈" in demo["dialogue-emoji-cat"]
    assert re.search("[\u05d0-\u05ea]", demo["hebrew-library-cat"])
    assert re.search("[\u4e00-\u9fff]", demo["chinese-cobbler"])


def test_demo_repeats_what_it_says(demo: dict[str, str]):
    assert demo["repetition-word"].split() == ["river"] * 36
    assert demo["repetition-pair"].split() == ["left", "right"] * 18
    assert Counter(demo["repetition-sentence"].split(". ")).most_common(1)[0][1] >= 4


def test_demo_code_and_sums_are_right(demo: dict[str, str]):
    exec(compile(demo["code-python-gcd"], "demo", "exec"), {})
    for left, right in re.findall(r"([\d+ ]+) = (\d+)", demo["math-odd-numbers"]):
        assert sum(map(int, left.split("+"))) == int(right)


def test_random_words_are_the_draw_that_the_readme_describes(demo: dict[str, str]):
    block = re.search(r"```\n(.*?)```", (SHIPPED / "README.md").read_text("utf-8"), re.S)
    assert block
    words = random.Random(1).sample(block[1].split(), 90)
    assert len(set(words)) == 90
    for number in range(3):
        assert demo[f"random-words-{number + 1}"] == " ".join(words[30 * number:30 * number + 30])


def test_topics_are_balanced_in_number_and_length(topics: tuple[Prompt, ...]):
    assert Counter(prompt.domain for prompt in topics) == dict.fromkeys(TOPICS, 5)
    for prompt in topics:
        assert 32 <= len(prompt.text.split()) <= 43, prompt.id
        assert prompt.id.startswith(prompt.domain + "-") and prompt.text.endswith(".")
        assert len(re.findall(r"\.(?: |$)", prompt.text)) == 2, prompt.id


def test_topics_share_no_five_words_and_no_opening(topics: tuple[Prompt, ...]):
    runs: Counter[tuple[str, ...]] = Counter()
    for prompt in topics:
        words = re.findall(r"[\w'-]+", prompt.text.lower())
        runs.update({tuple(words[start:start + 5]) for start in range(len(words) - 4)})
    assert max(runs.values()) == 1
    assert max(Counter(prompt.text.split()[0] for prompt in topics).values()) <= 3


def test_the_readme_counts_what_is_there(topics: tuple[Prompt, ...], demo: dict[str, str]):
    readme = (SHIPPED / "README.md").read_text("utf-8")
    assert f"| `demo.jsonl` | {len(demo)} in {len(DOMAINS)} domains |" in readme
    assert f"| `topics.jsonl` | {len(topics)} = {len(TOPICS)} topics x 5 |" in readme
    assert "CC0" in readme
