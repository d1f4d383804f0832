"""Some names of a registry with what belongs to them, for another registry to take over.

A name brings its record, versions, aliases, properties and drafts along, with their histories, and of names that it had
before what happened until it was renamed. Runs stay: they are about other names as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rh.errors import InvalidError, NotFoundError
from rh.registry.base import Change, Registry
from rh.registry.names import SPACE, Name, nearest, parse, parse_prefix

__all__ = ["Chosen", "Selection"]

Chosen: TypeAlias = Iterable[str] | Mapping[str, str]
"""Names or folders of names; a mapping says what they are to be called there."""

_SERIES = "series/"
_RUNS = ("runs", "inputs", "outputs", "used", "made")


class _Step(NamedTuple):
    """What a selection has to know of a change of a name."""

    revision: int
    token: str
    moved: str | None


class Selection:
    """The changes of some names.

    Args:
        source: the registry that has them. It is read here, once through its names.
        names: whole names, or short ones of the current folder.
        prefixes: folders of names; everything below.

    Raises:
        NotFoundError: nothing has, or ever had, such a name.
        InvalidError: it is no name; two would be called the same.
    """

    def __init__(self, source: Registry, names: Chosen = (), prefixes: Chosen = ()) -> None:
        self.source = source
        self._steps: dict[str, list[_Step]] = {}
        self._holders: dict[str, str] = {}  # series → the name that had it last
        for space in (SPACE, _SERIES):
            for change in source.changes(space):
                moved = change.moved if change.action == "put" else None
                self._steps.setdefault(change.key, []).append(_Step(change.revision, change.token, moved))
                if space == _SERIES and change.document is not None:
                    self._holders[str(change.document.get("series"))] = change.key.removeprefix(_SERIES)
        self.called: dict[str, str] = {}
        """Names without their first slash, and what they are called afterwards."""
        self._choose(names, prefixes)
        self._until = self._histories()
        self._series = frozenset(series for series, holder in self._holders.items() if holder in self.called)

    def changes(self) -> Iterator[Change]:
        """The changes, in an order in which `replay` takes them, under the names there."""
        for change in self.source.changes():
            space, _, rest = change.key.partition("/")
            if f"{space}/" in (SPACE, _SERIES):
                if change.revision <= self._until.get(change.key, 0):
                    moved = None if change.moved is None else self._there(change.moved)
                    yield change._replace(key=self._there(change.key), moved=moved)
            elif space not in _RUNS and rest.partition("/")[0] in self._series:
                yield change

    def _choose(self, names: Chosen, prefixes: Chosen) -> None:
        known = [key.removeprefix(SPACE) for key in self._steps if key.startswith(SPACE)]
        for name, new in _pairs(names):
            whole, there = _whole(name), _whole(new)
            path = whole.path.removeprefix("/")
            if path not in known:
                near = nearest(whole, (Name.of_key(SPACE + one).path for one in known))
                raise NotFoundError(
                    f"nothing is called {whole}" + (f"; did you mean {' or '.join(near)}?" if near else ""),
                    where=self.source.url,
                )
            self.called[path] = there.path.removeprefix("/")
        for prefix, folder in _pairs(prefixes):
            below, above = (f"{parse_prefix(one)}/".removeprefix("/") for one in (prefix, folder))
            found = [path for path in known if path.startswith(below)]
            if not found:
                raise NotFoundError(f"there is no name below {prefix}", where=self.source.url)
            for path in found:
                self.called.setdefault(path, above + path.removeprefix(below))
        taken: dict[str, str] = {}
        for path, new in self.called.items():
            if new in taken:
                raise InvalidError(f"both {taken[new]!r} and {path!r} would be called {new!r} there")
            taken[new] = path

    def _histories(self) -> dict[str, int]:
        """Up to which revision each key of a name goes along: older names until they were renamed."""
        until: dict[str, int] = {}
        todo = [
            (space + path, self._steps[space + path][-1].revision)
            for path in self.called
            for space in (SPACE, _SERIES)
            if space + path in self._steps
        ]
        while todo:
            key, last = todo.pop()
            first = until.get(key, 0)
            if last <= first:
                continue
            until[key] = last
            for step in self._steps[key]:
                if step.moved is not None and first < step.revision <= last:
                    before = (one.revision for one in self._steps.get(step.moved, ()) if one.token == step.token)
                    todo.append((step.moved, next(before, 0)))
        return until

    def _there(self, key: str) -> str:
        space, _, rest = key.partition("/")
        return f"{space}/{self.called.get(rest, rest)}"


def _pairs(chosen: Chosen) -> Iterator[tuple[str, str]]:
    if isinstance(chosen, str):
        raise InvalidError(f"a list of names is wanted, not {chosen!r}", hint=f"[{chosen!r}]")
    yield from chosen.items() if isinstance(chosen, Mapping) else ((one, one) for one in chosen)


def _whole(text: str) -> Name:
    name = parse(text)
    if name.is_built_in or name.pinned:
        raise InvalidError(f"{name} is not a name that goes elsewhere by itself", hint=f"name {name.path}")
    return name
