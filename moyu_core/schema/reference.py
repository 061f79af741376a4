"""The column reference as Markdown, for `data/README.md`: the tables of captures, then those of each study."""

from __future__ import annotations

from importlib import import_module

from moyu_core.schema import TABLES, Column

STUDIES: tuple[str, ...] = ("corpus", "origin", "training", "inertia", "history", "trinity", "predictors", "trial")
"""Modules of this package that hold the `TABLES` of a study, in the order of the reference."""


def all_tables() -> dict[str, list[Column]]:
    """Every table by its full name: `activations`, ... and `<study>/<table>`."""
    tables = dict(TABLES)
    for study in STUDIES:
        own: dict[str, list[Column]] = import_module(f"moyu_core.schema.{study}").TABLES
        tables |= {f"{study}/{name}": columns for name, columns in own.items()}
    return tables


def reference() -> str:
    """The column reference as Markdown, one section a table."""
    lines = []
    for table, columns in all_tables().items():
        lines += [f"### {table}", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        for column in columns:
            kind = str(column.type).replace("[1]", "[ceil(F/8)]").replace("[8]", "[F]")
            kind = {"float": "float32", "halffloat": "float16"}.get(kind, kind)
            null = " (may be empty)" if column.nullable else ""
            lines.append(
                f"| `{column.name}` | {kind}{null} | {_cell(column.unit or '-')} | {_cell(column.doc)} |"
            )
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|")
