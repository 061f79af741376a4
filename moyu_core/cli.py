"""The command line: `moyu models|fetch|capture|study|fit|vocabulary|train|runs|show|check|compact
|export|import|prompts|serve|worker`.

Results go to standard output (JSON with --json), everything else to standard error. Exit codes: 0 done, 1 an error that the
user can mend (one sentence), 2 wrong usage, 130 stopped. Heavy imports happen inside the commands that need them.
"""

from __future__ import annotations

import sys

import typer

from moyu_core.commands import bundles, capture, models, runs, serving
from moyu_core.commands import fit as fitting
from moyu_core.commands.common import study_app
from moyu_core.commands.prompts import prompts_app
from moyu_core.errors import Cancelled, MoyuError
from moyu_core.terminal import console, plain

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
app.command()(fitting.fit)
for command in (models.models, models.fetch, capture.capture, capture.vocabulary, models.train):
    app.command()(command)
for command in (runs.runs, runs.show, runs.check, runs.compact, serving.serve, serving.worker):
    app.command()(command)


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


if __name__ == "__main__":
    main()
