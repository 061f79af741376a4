"""What the methods are called, read from their files without importing them: a page that lists them must not load torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any

from moyu_core import methods


@cache
def titles() -> Mapping[str, str]:
    """Title of every method by name, in the order in which they are shown; equals that of `methods.every()`."""
    found = [facts for module in iter_modules(methods.__path__) for facts in _facts(module.name)]
    found.sort(key=lambda facts: (facts["rank"], facts["name"]))
    return MappingProxyType({facts["name"]: facts["title"] for facts in found})


def _facts(module: str) -> Iterator[dict[str, Any]]:
    """The literals that each class named in the module's `METHODS` sets in its own body."""
    spec = find_spec(f"{methods.__name__}.{module}")
    source = spec.loader.get_source(spec.name) if spec and spec.loader else ""  # pyright: ignore[reportAttributeAccessIssue]
    tree = ast.parse(source or "")
    named = [_assigned(node).get("METHODS") for node in tree.body if isinstance(node, ast.Assign)]
    wanted = {call.func.id for value in named if isinstance(value, ast.Tuple) for call in value.elts
              if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in wanted:
            values = [_assigned(line) for line in node.body if isinstance(line, ast.Assign)]
            yield {name: value.value for line in values for name, value in line.items() if isinstance(value, ast.Constant)}


def _assigned(node: ast.Assign) -> dict[str, ast.expr]:
    """Name -> expression of `a = 1` and of `a, b = 1, 2`."""
    target = node.targets[0]
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = zip(target.elts, node.value.elts, strict=True)
        return {left.id: right for left, right in pairs if isinstance(left, ast.Name)}
    return {target.id: node.value} if isinstance(target, ast.Name) else {}
