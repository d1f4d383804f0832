"""What the factories and verbs of several resources are given: names, places, options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from rh.errors import InvalidError
from rh.registry import names
from rh.resources import places
from rh.resources.base import Resource, load
from rh.resources.places import Place
from rh.types import Location

if TYPE_CHECKING:
    from rh.transfer import Options

R = TypeVar("R", bound=Resource)

__all__ = ["check_flag", "load_only", "place_for", "split_options"]


def check_flag(name: str, value: object) -> None:
    """Refuse what is no truth value: `"no"` would be taken for true."""
    if not isinstance(value, bool):
        raise InvalidError(f"{name}={value!r} is neither True nor False")


def load_only(name: str | None, cls: type[R], *, dryrun: bool) -> R:
    """A saved resource of one kind, for factories that got a name and no place."""
    kind = cls.kind
    if name is None:
        raise InvalidError(
            f"a {kind} needs a name or a place", hint=f'rh.{kind}(name="saved-name") or rh.{kind}(path=…)'
        )
    found = load(name, kinds=(kind,), dryrun=dryrun)
    assert isinstance(found, cls)
    return found


def place_for(name: str | None, path: str | os.PathLike[str] | None, system: Place) -> Location | None:
    """The place a factory was given, or the default one for the name; `None` without either."""
    stem = None
    if name is not None:
        whole = names.parse(name)
        if whole.is_built_in:
            raise InvalidError(f"{whole} is built in; choose another name")
        stem = whole.stem
    return places.target(system, path, stem)


def split_options(options: Mapping[str, object]) -> tuple[Options, dict[str, Any]]:
    """Keyword arguments of `.to()` as transfer options, and who watches."""
    from rh import transfer
    from rh.transfer.options import check_watchers

    rest: dict[str, Any] = dict(options)
    watch: dict[str, Any] = {key: rest.pop(key) for key in ("progress", "cancel") if key in rest}
    check_watchers(watch.get("progress"), watch.get("cancel"))
    return transfer.Options.of(rest), watch
