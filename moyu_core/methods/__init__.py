"""Dynamic-activation methods behind one protocol, one file each: which neurons would a method have kept?

    griffin = methods.find("griffin")
    ready = griffin.prepare(model)            # refuses a model it cannot apply to, with the reason
    choice = ready.begin()                    # one prompt; a second prompt begins anew and sees nothing of the first
    choice.see(rows)                          # the prompt's rows of a layer
    mask = choice.choose(rows, density=0.1)   # (N, F) neurons to keep

A new method is a new module of this package that holds a `METHODS` tuple; nothing else needs to be changed.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from moyu_core.errors import InputError

if TYPE_CHECKING:
    from moyu_core.methods.protocol import Method


@cache
def every() -> dict[str, Method]:
    """All methods by name, in the order in which they are shown."""
    found: list[Method] = []
    for module in iter_modules(__path__):
        found += getattr(import_module(f"{__name__}.{module.name}"), "METHODS", ())
    return {method.name: method for method in sorted(found, key=lambda method: (method.rank, method.name))}


def find(name: str) -> Method:
    """The method of this name.

    Raises:
        InputError: there is none; the message names those that exist.
    """
    if name not in every():
        raise InputError(f"Method {name!r} is not known; use one of {', '.join(every())}.")
    return every()[name]
