"""Which adapter takes a value, and which one has a name."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from rh.errors import InvalidError
from rh.tables.base import ADAPTERS, Adapter

__all__ = ["TAKEN", "named", "names", "owner_of"]

TAKEN = (
    "a pyarrow Table, RecordBatch, RecordBatchReader, Dataset or Scanner, a pandas, polars or Dask DataFrame, a Ray or "
    "Hugging Face Dataset, anything with __arrow_c_stream__, a dict of columns, or a list of dicts"
)
"""What `rh.table(data=…)` takes, in words."""


def names() -> list[str]:
    """The names that `fetch(as_=…)` takes."""
    return list(ADAPTERS)


def named(name: str) -> type[Adapter]:
    """The adapter of that name.

    Raises:
        InvalidError: there is none; the hint says which there are.
    """
    module = ADAPTERS.get(name) if isinstance(name, str) else None
    if module is None:
        near = difflib.get_close_matches(str(name), names(), 1)
        raise InvalidError(
            f"there is no kind of table called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"one of {', '.join(names())}",
        )
    members = vars(import_module(module)).values()
    return next(member for member in members if isinstance(member, type) and getattr(member, "name", None) == name)


def owner_of(value: Any) -> type[Adapter]:
    """The adapter that takes a value: its library's own, else Arrow for what hands out Arrow data. Imports no library.

    Raises:
        InvalidError: nothing takes it, with its type and what is taken.
    """
    for name in ADAPTERS:
        adapter = named(name)
        if adapter.owns(value):
            return adapter
    if hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__"):
        return named("arrow")
    kind = type(value)
    raise InvalidError(f"a {kind.__module__}.{kind.__qualname__} is not a table", hint=f"give {TAKEN}")
