"""The command line as a user runs it: results on standard output, one sentence on standard error, exit codes."""

import json
import os
import subprocess
import sys

import pytest
import typer

from moyu_core import cli, prompt_library, store
from moyu_core.home import REPOSITORY, Home
from tests import plain, small_runs, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny Llama of random weights and a tokenizer."""
    folder = tiny.save("llama", tmp_path_factory.mktemp("models") / "tiny-llama")
    plain.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def moyu(tmp_path):
    """Run `moyu ...` with a home of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "moyu_core.cli", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "MOYU_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY), **environment},
        )

    return run


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    records = [{"id": "one", "text": "a b c"}, {"id": "two", "text": "c b a a", "domain": "letters"}]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_capture_prints_id_folder_and_figures_and_a_second_one_finds_the_run(moyu, model, prompts, tmp_path):
    arguments = (
        "capture",
        "--model",
        str(model),
        "--prompts",
        str(prompts),
        "--set",
        "top",
        "--density",
        "0.25",
        "--out",
        str(tmp_path / "out"),
        "--json",
    )
    first = moyu(*arguments)
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    manifest = json.loads((tmp_path / "out" / said["run"] / "manifest.json").read_text(encoding="utf-8"))
    assert said["folder"] == str(tmp_path / "out" / said["run"])
    assert said["prompts"] == 2 and said["rows"] == said["tokens"] * 2
    assert manifest["spec"]["set_rule"] == {"name": "top", "density": 0.25, "target": None}
    again = moyu(*arguments)
    assert json.loads(again.stdout) == said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("capture", "--model", "MODEL", "--prompts", "PROMPTS", "--density", "0"), "above 0 and at most 1, not 0"),
        (("capture", "--model", "MODEL", "--prompts", "PROMPTS", "--set", "best"), "top, magnitude, cett, positive"),
        (("capture", "--model", "MODEL", "--prompts", "PROMPTS", "--layers", "0,7"), "layer 7"),
        (("capture", "--model", "MODEL", "--prompts", "PROMPTS", "--layers", "a-b"), "cannot be read"),
        (("capture", "--model", "MODEL", "--prompts", "PROMPTS", "--layers", "0-999999999999"), "more than 10,000 layers"),
        (("capture", "--model", "MODEL", "--prompts", "PROMPTS", "--layers", "3-1"), "'3-1' is backwards; write 1-3"),
        (("capture", "--model", "MODEL", "--prompts", "\\\\[/x].jsonl"), "\\\\[/x].jsonl does not exist"),
        (("capture", "--model", "MODEL", "--prompts", "PROMPTS", "--values", "three"), "three"),
        (("capture", "--model", "MODEL", "--prompts", "nowhere.jsonl"), "nowhere.jsonl"),
        (("capture", "--model", "./nothing-here", "--prompts", "PROMPTS"), "nothing-here"),
        (("show", "capture-000000000000"), "no run"),
        (("show", "../x"), "not the name of a run"),
        (("fetch", "gemma3-270m"), "--accept-terms"),
        (("train", "large"), "moyu train tiny"),
        (("train", "tiny", "--activation", "tanh"), "relu, gelu, swiglu"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(moyu, model, prompts, arguments, words):
    filled = [{"MODEL": str(model), "PROMPTS": str(prompts)}.get(part, part) for part in arguments]
    done = moyu(*filled)
    assert done.returncode == 1, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert words in " ".join(done.stderr.split()), done.stderr


def test_an_unknown_option_is_exit_code_2(moyu):
    done = moyu("runs", "--colour")
    assert done.returncode == 2 and "colour" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [(KeyboardInterrupt(), 130, "stopped; nothing"), (typer.Exit(3), 3, ""), (typer.Exit(0), None, "")],
)
def test_the_code_of_a_command_that_stops_is_that_of_the_program(
    raised: BaseException, status: int | None, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*given: object, **more: object) -> None:
        raise raised

    monkeypatch.setattr(store, "list_runs", stop)
    monkeypatch.setattr(sys, "argv", ["moyu", "runs"])
    if status is None:
        cli.main()
    else:
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == status
    said = capsys.readouterr()
    assert said.err.startswith(words) and bool(said.err) == bool(words) and said.out == ""


def test_a_closed_home_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*given: object) -> None:
        raise PermissionError(13, "Permission denied", "/closed/prompts")

    monkeypatch.setattr(prompt_library, "list_sets", refused)
    monkeypatch.setattr(sys, "argv", ["moyu", "prompts", "list"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: /closed/prompts cannot be opened (Permission denied); check")


def test_ctrl_c_while_the_program_starts_is_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    path = f"{tmp_path}{os.pathsep}{REPOSITORY}"
    command = [sys.executable, "-c", "from moyu_core.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped; nothing was left half-written\n")


@pytest.mark.parametrize("change", [{"model": "x"}, {"counts": 5}, {"checks": None, "counts": None}])
def test_one_odd_run_does_not_hide_the_others(moyu, tmp_path, change):
    home = Home(tmp_path / "home", ())
    odd, sound = small_runs.make(home, 1), small_runs.make(home, 2)
    path = odd.folder / "manifest.json"
    path.write_text(json.dumps({**odd.manifest, **change}))
    done = moyu("runs", "--json")
    listed = {row["run"] for row in json.loads(done.stdout)}
    assert done.returncode == 0 and sound.id in listed, done.stderr
    assert (odd.id in listed) != (odd.id in done.stderr)


def test_a_hub_id_without_network_fails_fast_with_a_sentence(moyu, prompts):
    done = moyu("capture", "--model", "someone/some-model", "--prompts", str(prompts), HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "someone/some-model" in done.stderr and "Traceback" not in done.stderr


def test_models_runs_show_and_check_answer_in_json(moyu, model, prompts):
    run = json.loads(moyu("capture", "--model", str(model), "--prompts", str(prompts), "--json").stdout)["run"]
    assert {"smollm2-135m-instruct", "gemma3-270m"} <= {row["name"] for row in json.loads(moyu("models", "--json").stdout)}
    assert run in {row["run"] for row in json.loads(moyu("runs", "--json").stdout)}
    assert json.loads(moyu("show", run, "--json").stdout)["manifest"]["run_id"] == run
    assert json.loads(moyu("check", run, "--json").stdout) == [{"run": run, "sound": True}]


def test_runs_show_check_and_compact_look_into_the_folder_that_capture_wrote(moyu, model, prompts, tmp_path):
    out = ("--out", str(tmp_path / "out"), "--json")
    run = json.loads(moyu("capture", "--model", str(model), "--prompts", str(prompts), *out).stdout)["run"]
    assert [row["run"] for row in json.loads(moyu("runs", *out).stdout)] == [run], "nothing but what lies there"
    assert json.loads(moyu("show", run, *out).stdout)["manifest"]["run_id"] == run
    assert json.loads(moyu("check", *out).stdout) == [{"run": run, "sound": True}]
    assert json.loads(moyu("compact", run, *out).stdout)["run"] == run
    assert run not in {row["run"] for row in json.loads(moyu("runs", "--json").stdout)} and moyu("show", run).returncode == 1


@pytest.mark.parametrize("command", [("runs",), ("show", "capture-000000000000"), ("check",), ("compact", "capture-000000000000")])
def test_a_folder_of_runs_that_is_not_there_is_named(moyu, command, tmp_path):
    done = moyu(*command, "--out", str(tmp_path / "nowhere"))
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "nowhere").exists()
    assert "There is no folder" in done.stderr and "nowhere" in done.stderr


def test_check_names_an_altered_file(moyu, model, prompts, tmp_path):
    run = json.loads(moyu("capture", "--model", str(model), "--prompts", str(prompts), "--json").stdout)["run"]
    path = tmp_path / "home" / "runs" / run / "neurons.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = moyu("check", run, "--json")
    assert done.returncode == 1 and json.loads(done.stdout) == [{"run": run, "sound": False}]
    assert "neurons.parquet" in done.stderr


COMMANDS = ("models", "fetch", "capture", "vocabulary", "train", "runs", "show", "check", "serve", "worker")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(moyu, command):
    done = moyu(command, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout


def test_the_trash_is_listed_with_keys_that_restore_takes(moyu, prompts) -> None:
    def keys(*arguments: str) -> list[str]:
        return [row["key"] for row in json.loads(moyu("prompts", "list", *arguments, "--json").stdout) if row["kind"] == "own"]

    assert moyu("prompts", "import", str(prompts), "--name", "mine").returncode == 0
    first = keys()
    assert moyu("prompts", "delete", "mine").returncode == 0
    assert keys() == [] and keys("--trash") == first
    assert moyu("prompts", "restore", *keys("--trash")).returncode == 0
    assert keys() == first and keys("--trash") == []
