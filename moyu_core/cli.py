"""The command line: `moyu models|fetch|capture|study|fit|vocabulary|train|runs|show|check|compact
|export|import|prompts|serve|worker`.

Results go to standard output (JSON with --json), everything else to standard error. Exit codes: 0 done, 1 an error that the
user can mend (one sentence), 2 wrong usage, 130 stopped. Heavy imports happen inside the commands that need them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moyu_core.commands import bundles
from moyu_core.commands import fit as fitting_command
from moyu_core.commands.common import Device, Json, Model, carried_out, home_for, layer_list, perform, study_app
from moyu_core.commands.prompts import prompts_app
from moyu_core.errors import Cancelled, InputError, MoyuError
from moyu_core.home import Home
from moyu_core.prompts import MAX_PROMPTS
from moyu_core.spec import SetRule
from moyu_core.terminal import console, plain, progress_bar, show_result, summary

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Which FFN neurons of a language model fire, token by token.",
)
app.add_typer(study_app)
app.add_typer(prompts_app)
app.command("export")(bundles.export)
app.command("import")(bundles.take_in)
app.command("fit")(fitting_command.fit)


def main() -> None:
    """Entry point of the `moyu` script."""
    try:
        app(standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort, Cancelled):
        console.print("stopped; nothing was left half-written")
        sys.exit(130)
    except MoyuError as error:
        console.print(f"[red]error:[/red] {plain(str(error))}", soft_wrap=True)
        sys.exit(1)
    except typer.BadParameter as error:
        console.print(f"[red]usage:[/red] {plain(error.format_message())}", soft_wrap=True)
        sys.exit(2)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # usage errors of the option parser
            error.show()  # pyright: ignore[reportAttributeAccessIssue]
            sys.exit(error.exit_code)  # pyright: ignore[reportAttributeAccessIssue]
        raise


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that are known or on this machine."""
    from moyu_core.methods import parts
    from moyu_core.registry import known_models

    home = Home.default()
    facts = known_models(home)
    fitted = parts.by_model([m.name for m in facts if m.installed], home)
    rows = [
        {
            "name": m.name,
            "title": m.title,
            "architecture": m.architecture,
            "activation": m.shape.activation,
            "gated": m.gated,
            "layers": m.shape.layers,
            "neurons": m.shape.n_neurons,
            "licence": m.licence,
            "fetched": m.installed,
            "bytes": m.size_bytes,
            "check": m.check,
            "fitted": ", ".join(fitted.get(m.name, ())),
            "note": m.note,
        }
        for m in facts
    ]
    show_result(rows, as_json)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name from `moyu models`, or a Hugging Face id.")] = "default",
    accept_terms: Annotated[bool, typer.Option(help="Accept the model's terms of use.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a model, check it against its pinned hash and convert it once."""
    from moyu_core import fetch as fetching
    from moyu_core.registry import locate

    home = Home.default()
    with progress_bar() as report:
        known = isinstance(locate(name, home), Path)
        folder = fetching.fetch(name, home, accept_terms, report) if known else fetching.fetch_hub(name, report)
    show_result({"name": name, "folder": str(folder)}, as_json)


@app.command()
def capture(
    prompts: Annotated[
        Path,
        typer.Option(help='JSONL file, one {"id", "text", "domain"} a line; Parquet; a folder of Parquet or `datasets` files.'),
    ],
    model: Model = "default",
    rule: Annotated[str, typer.Option("--set", help="top, magnitude, cett or positive.")] = "top",
    density: Annotated[float | None, typer.Option(help="Kept share, for top and magnitude (default 0.1).")] = None,
    target: Annotated[float | None, typer.Option(help="CETT target, for cett (default 0.2).")] = None,
    layers: Annotated[str | None, typer.Option(help="For instance 0,5,10-12; all if left out.")] = None,
    values: Annotated[str, typer.Option(help="none, all, or prompt ids parted by commas.")] = "none",
    cett: Annotated[bool, typer.Option(help="Compute the CETT of every token.")] = False,
    max_tokens: Annotated[int, typer.Option(min=2, help="Longest sequence, sink token included.")] = 1024,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    sink_token_id: Annotated[int | None, typer.Option(help="Overrides the model's own sink token.")] = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; the usual place if left out.")] = None,
    title: Annotated[str, typer.Option(help="Name shown for the run.")] = "",
    text_column: Annotated[str, typer.Option(help="Column of the texts, in Parquet and `datasets` folders.")] = "text",
    split: Annotated[str | None, typer.Option(help="Split of a `datasets` folder; train if left out.")] = None,
    limit: Annotated[int, typer.Option(help="The most prompts to take.")] = MAX_PROMPTS,
    refuse_long: Annotated[bool, typer.Option("--refuse-long", help="Refuse prompts above the limit, cut none.")] = False,
    corpus: Annotated[bool, typer.Option("--corpus", help="Keep rates by half, pairs and strongest tokens.")] = False,
    engine: Annotated[str, typer.Option(help="local (this process) or ray (many workers, see requirements-ray.txt).")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster; with --engine ray.")] = None,
    workers: Annotated[int | None, typer.Option(help="One for each GPU, or two, if left out; with --engine ray.")] = None,
    gpus_per_worker: Annotated[int, typer.Option(help="Above 1 for models that one GPU cannot hold; with --engine ray.")] = 1,
    as_json: Json = False,
) -> None:
    """Run prompts through a model and keep which neurons were active."""
    from moyu_core.datasets import Selection, read_dataset
    from moyu_core.studies.requests import CaptureRequest

    _check_engine(engine, address, workers, gpus_per_worker)
    found = read_dataset(prompts, Selection(text_column, limit, split, cut=not refuse_long))
    for note in found.notes:
        console.print(f"note: {plain(note)}")
    request = CaptureRequest(
        model,
        found.prompts,
        SetRule(rule, density, target),
        layer_list(layers),
        _values(values),
        cett,
        max_tokens,
        dtype,
        sink_token_id,
        title or found.name,
        corpus,
        refuse_long,
    )
    home = home_for(out)
    if engine == "local":
        perform("capture", request.as_json(), home, device, as_json)
        return
    from moyu_core.cluster.capture import capture_on_cluster
    from moyu_core.cluster.engine import Cluster

    cluster = Cluster(address, workers, gpus_per_worker, device)
    carried_out(lambda report: capture_on_cluster(request, home, cluster, report), home, as_json)


@app.command()
def vocabulary(
    model: Model = "default",
    tokens: Annotated[int, typer.Option(min=1, max=50)] = 8,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find the tokens that each neuron's output promotes and suppresses."""
    from moyu_core.studies.requests import VocabularyRequest

    perform("vocabulary", VocabularyRequest(model, tokens).as_json(), Home.default(), device, as_json)


@app.command()
def train(
    what: Annotated[str, typer.Argument(help="tiny: the matched ReLU, GELU and SwiGLU models of data/models.")],
    activation: Annotated[list[str] | None, typer.Option(help="relu, gelu or swiglu; may be repeated; all if left out.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="May be repeated; 0, 1 and 2 if left out.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Fewer are for trying it; the models' names then say so.")] = 4500,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Rebuild the tiny models from their sources; goes on where an earlier, stopped call ended."""
    if what != "tiny":
        raise InputError(f"There is no recipe {what!r}; use `moyu train tiny`.")
    from moyu_core.training import tiny, tiny_models

    unknown = set(activation or ()) - set(tiny_models.ACTIVATIONS)
    if unknown:
        raise InputError(f"Activation {sorted(unknown)[0]!r} is not trained here; use one of {', '.join(tiny_models.ACTIVATIONS)}.")
    with progress_bar() as report:
        chosen = activation or tiny_models.ACTIVATIONS, seed or tiny.SEEDS
        results = tiny.rebuild(Home.default(), report, device, *chosen, steps=steps)
    rows = [{**{key: r.config[key] for key in ("activation", "seed", "steps")}, "held_out_loss": r.held_out_loss} for r in results]
    show_result(rows, as_json)


@app.command()
def runs(as_json: Json = False) -> None:
    """List the runs, damaged ones last."""
    from moyu_core.store import list_runs

    found, errors = list_runs(Home.default())
    show_result([summary(run) for run in found], as_json)
    for error in errors:
        console.print(f"[red]{plain(str(error))}[/red]", soft_wrap=True)


@app.command()
def show(run_id: str, as_json: Json = False) -> None:
    """Show one run: what was computed, how, and its figures."""
    from moyu_core.store import find_run

    run = find_run(Home.default(), run_id)
    show_result({**summary(run), "manifest": run.manifest} if as_json else summary(run), as_json)


@app.command()
def check(run_id: Annotated[str | None, typer.Argument(help="A run; all runs if left out.")] = None, as_json: Json = False) -> None:
    """Compare the files of runs with the hashes taken when they were written."""
    from moyu_core.store import find_run, list_runs

    home = Home.default()
    found, errors = ([find_run(home, run_id)], []) if run_id else list_runs(home)
    rows, damaged = [], [str(error) for error in errors]
    for run in found:
        try:
            run.verify()
            rows.append({"run": run.id, "sound": True})
        except MoyuError as error:
            damaged.append(str(error))
            rows.append({"run": run.id, "sound": False})
    show_result(rows, as_json)
    if damaged:
        raise MoyuError(" ".join(damaged))


@app.command()
def compact(
    run_id: Annotated[str, typer.Argument(help="A run of the study `capture` that was made here.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run, if not the usual place.")] = None,
    as_json: Json = False,
) -> None:
    """Join a run's small files; its id and what it holds stay the same."""
    from moyu_core.compaction import compact as join

    home = home_for(out)
    with progress_bar() as report:
        done = join(home, run_id, report)
    show_result({"run": run_id, **vars(done)}, as_json)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="0.0.0.0 for every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 = any free one.")] = 8501,
    read_only: Annotated[bool, typer.Option(help="Show finished runs only; no worker, no torch.")] = False,
    public: Annotated[bool, typer.Option(help="For the internet: limits, and visitors do not see each other's runs.")] = False,
    limits: Annotated[Path | None, typer.Option(help="TOML file of the limits of --public, see docs/hosting.md.")] = None,
    base_path: Annotated[
        str, typer.Option(envvar="MOYU_BASE_PATH", help="Path prefix under which a reverse proxy shows the app.")
    ] = "",
    device: Device = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
) -> None:
    """Start the app and its worker."""
    from moyu_core.serve import serve as run_server

    raise typer.Exit(
        run_server(
            Home.default(),
            host,
            port,
            worker=not read_only,
            read_only=read_only,
            open_browser=open_browser,
            device=device,
            public=str(limits) if limits else "1" if public else "",
            base_path=base_path,
        )
    )


@app.command()
def worker(device: Device = None, once: Annotated[bool, typer.Option(help="Stop when nothing is queued.")] = False) -> None:
    """Start a worker alone, for an app that runs elsewhere on this machine."""
    from moyu_core.worker import main as run_worker

    arguments = [
        "--home",
        str(Home.default().root),
        *(["--device", device] if device else []),
        *(["--once"] if once else []),
    ]
    raise typer.Exit(run_worker(arguments))


def _check_engine(engine: str, address: str | None, workers: int | None, gpus_per_worker: int) -> None:
    if engine not in ("local", "ray"):
        raise InputError(f"Engine {engine!r} is not known; use local or ray.")
    if engine == "local" and (address is not None or workers is not None or gpus_per_worker != 1):
        raise InputError("--address, --workers and --gpus-per-worker belong to --engine ray; add it or leave them out.")


def _values(text: str) -> tuple[str, ...] | None:
    return () if text == "none" else None if text == "all" else tuple(part.strip() for part in text.split(","))


if __name__ == "__main__":
    main()
