"""What the command line prints of a record: only what there is, sizes in units, nothing as Python writes it."""

import json

import pytest

from moyu_core.figures.text import size
from moyu_core.terminal import say, show_result

RECORD = {"run": "origin-1", "set": "", "bytes": 1_234_567, "seconds": 1034.5, "identity_error": None,
          "energy_by_lambda": {"0.0": 0.81234, "0.25": 0.9}, "new": False}


def test_a_record_shows_what_there_is_with_sizes_in_units(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(RECORD, False)
    lines = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1].strip() for line in capsys.readouterr().out.splitlines()}
    assert lines == {"run": "origin-1", "size": "1.23 MB", "seconds": "1\u2009034", "new": "no",
                     "energy_by_lambda": "0.0: 0.812, 0.25: 0.9"}  # fmt: skip


def test_a_table_leaves_out_columns_without_anything_and_cells_empty(capsys: pytest.CaptureFixture[str]) -> None:
    show_result([RECORD, {**RECORD, "run": "capture-1", "prompts": 3, "bytes": 12}], False)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "size", "seconds", "energy_by_lambda", "new", "prompts"]
    assert "None" not in first and not first.rstrip().endswith("3")
    assert second.rstrip().endswith("3") and "12 bytes" in second
    name = "vocabulary-0123456789ab"
    show_result([{"run": name, **{f"fact {number}": "word " * 9 for number in range(12)}}], False)
    assert name in capsys.readouterr().out, "the name that the next command needs is never cut"
    show_result([], False)
    assert capsys.readouterr().out.strip() == "nothing yet"


def test_json_holds_everything_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(RECORD, True)
    assert json.loads(capsys.readouterr().out) == RECORD


def test_sizes_in_words() -> None:
    said = [size(count) for count in (0, 1, 999, 1000, 999_600, 2.5e9)]
    assert said == ["0 bytes", "1 byte", "999 bytes", "1 kB", "1 MB", "2.5 GB"]


@pytest.mark.parametrize("text", ["\\\\[/x].jsonl", "[/x]", "\\[red]", "[bold]a[/bold]", "a\\\\", "[1] :smile:"])
def test_what_looks_like_markup_is_printed_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text, "error:")
    assert capsys.readouterr().err == f"error: {text}\n"
    show_result([{text: text}], False)
    show_result({text: text}, False)
    assert capsys.readouterr().out.count(text) == 4
