"""The command line: `moyu models|fetch|capture|study|fit|vocabulary|train|runs|show|check|compact
|export|import|prompts|serve|worker`.

Results go to standard output (JSON with --json), everything else to standard error. Exit codes: 0 done, 1 an error that the
user can mend (one sentence), 2 wrong usage, 130 stopped. Heavy imports happen inside the commands that need them.
"""

from __future__ import annotations

import sys
from typing import NoReturn

STOPPED = 130
STOPPED_WORDS = "stopped; nothing was left half-written"

try:
    import typer

    from moyu_core.commands import bundles, capture, models, runs, serving
    from moyu_core.commands import fit as fitting
    from moyu_core.commands.common import study_app
    from moyu_core.commands.prompts import prompts_app
    from moyu_core.errors import Cancelled, MoyuError
    from moyu_core.terminal import say
except KeyboardInterrupt:  # they take most of a second
    sys.stderr.write(f"{STOPPED_WORDS}\n")
    sys.exit(STOPPED)

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


def _leave(status: int) -> NoReturn:
    """End with an exit code, and a word where the user stopped the command."""
    if status == STOPPED:
        say(STOPPED_WORDS)
    sys.exit(status)


def main() -> None:
    """Entry point of the `moyu` script."""
    try:
        status = app(standalone_mode=False)  # typer returns the code of an Exit, and makes one of Ctrl-C
        if isinstance(status, int) and status:
            _leave(status)
    except (KeyboardInterrupt, typer.Abort, Cancelled):
        _leave(STOPPED)
    except MoyuError as error:
        say(str(error), "error:")
        sys.exit(1)
    except PermissionError as error:  # where it is foreseen, the sentence says more
        say(f"{error.filename or 'A file'} cannot be opened ({error.strerror}); check its permissions and those of the folders "
            "above it, or choose another home with MOYU_HOME.", "error:")
        sys.exit(1)
    except typer.BadParameter as error:
        say(error.format_message(), "usage:")
        sys.exit(2)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # usage errors of the option parser
            error.show()  # pyright: ignore[reportAttributeAccessIssue]
            sys.exit(error.exit_code)  # pyright: ignore[reportAttributeAccessIssue]
        raise


if __name__ == "__main__":
    main()
