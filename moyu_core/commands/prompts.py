"""`moyu prompts list|import|export|delete|restore`: the prompt library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moyu_core import prompt_library as library
from moyu_core.commands.common import Json
from moyu_core.errors import InputError
from moyu_core.home import Home
from moyu_core.prompt_export import FORMATS, export
from moyu_core.prompts import PromptSet
from moyu_core.terminal import say, show_result

prompts_app = typer.Typer(name="prompts", no_args_is_help=True, help="Prompt sets: list, import, export, delete.")

Name = Annotated[str, typer.Argument(help="Name, key or version of a set, as `moyu prompts list` shows them.")]


@prompts_app.command("list")
def list_sets(
    trash: Annotated[bool, typer.Option("--trash", help="The deleted ones, with the keys that `restore` takes.")] = False,
    as_json: Json = False,
) -> None:
    """List the sets, shipped ones first."""
    home = Home.default()
    rows = [
        {
            "name": found.name,
            "version": found.newest.reference,
            "prompts": found.newest.prompts,
            "versions": len(found.versions),
            "key": found.key,
            "kind": "shipped" if found.shipped else "own",
        }
        for found in (library.deleted(home) if trash else library.list_sets(home))
    ]
    show_result(rows, as_json)


@prompts_app.command("import")
def take_in(
    file: Annotated[Path, typer.Argument(help="txt, csv, tsv, jsonl, parquet or xlsx.")],
    name: Annotated[str, typer.Option(help="Of the set; the file's name if left out.")] = "",
    text: Annotated[str, typer.Option(help="Column of the text; guessed if left out.")] = "",
    id_column: Annotated[str, typer.Option("--id", help="Column of the ids; guessed if left out.")] = "",
    domain: Annotated[str, typer.Option(help="Column of the domains; guessed if left out.")] = "",
    condition: Annotated[str, typer.Option(help="Column of the conditions; guessed if left out.")] = "",
    encoding: Annotated[str, typer.Option(help="Of text without a byte order mark.")] = "utf-8",
    split: Annotated[str, typer.Option(help="What parts a plain text: auto, lines, paragraphs or whole.")] = "auto",
    cut: Annotated[bool, typer.Option(help="Shorten texts that are too long instead of leaving them out.")] = False,
    as_json: Json = False,
) -> None:
    """Import a file, say what was left out and why, and keep the rest as a set."""
    from moyu_core.prompt_import import Mapping, import_file

    mapping = Mapping(text, id_column, domain, condition)
    found, understood = import_file(file, mapping, encoding=encoding, split=split, cut=cut)
    for problem in understood.left_out[:20]:
        say(f"left out, row {problem.row}: {problem.reason}")
    for note in understood.notes:
        say(f"note: {note}")
    stored, version = library.save(
        Home.default(), PromptSet(name or found.name, found.prompts, found.notes), f"imported from {file.suffix}"
    )
    show_result(
        {
            "name": stored.name,
            "version": version.reference,
            "prompts": version.prompts,
            "left_out": len(understood.left_out),
            "file": str(stored.folder / f"{version.reference}.jsonl"),
        },
        as_json,
    )


@prompts_app.command("export")
def hand_out(
    name: Name,
    to: Annotated[
        Path | None, typer.Option(help="File; its ending chooses the format. Standard output as jsonl if left out.")
    ] = None,
) -> None:
    """Write a set as a file."""
    found = library.load(Home.default(), _find(name)[1].reference)
    if to is None:
        sys.stdout.write(export(found.prompts, "jsonl").decode())
        return
    kind = to.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise InputError(f"A set is written as one of {', '.join(FORMATS)}, not {to.suffix or 'a file without ending'!r}.")
    try:
        to.write_bytes(export(found.prompts, kind))
    except OSError as error:
        raise InputError(f"{to} cannot be written ({error.strerror}); choose another place.") from error


@prompts_app.command("delete")
def delete(name: Name) -> None:
    """Move a set to the trash; `moyu prompts restore KEY` brings it back."""
    stored = _find(name)[0]
    library.delete(Home.default(), stored.key)
    say(f"{stored.name} is in the trash; `moyu prompts restore {stored.key}` brings it back")


@prompts_app.command("restore")
def restore(key: Annotated[str, typer.Argument(help="Key that `delete` printed, or `list --trash`.")]) -> None:
    """Bring a deleted set back."""
    library.restore(Home.default(), key)


def _find(name: str) -> tuple[library.StoredSet, library.Version]:
    """A set and its version by name, key or reference."""
    for found in library.list_sets(Home.default()):
        if name in (found.name, found.key):
            return found, found.newest
    return library.find(Home.default(), name)
