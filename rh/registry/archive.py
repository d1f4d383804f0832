"""A whole registry as one file: every change ever made, so that another one can take it over.

JSON lines. The first is `{"format": "rh-registry", "version": 1}`, the last `{"changes": <how many>, "sha256": <of all
lines before>}`; between them is one change per line, with the fields of `rh.registry.base.Change`, in an order in which
they can be replayed. A file that was cut or changed is refused before anything of it is taken over.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rh.errors import AccessError, ExistsError, IntegrityError, InvalidError, NotFoundError, UnsupportedError
from rh.registry import diverged
from rh.registry.base import Change, Registry
from rh.registry.documents import decode, encode
from rh.registry.selection import Chosen, Selection
from rh.systems import locate
from rh.systems.local.disk import translated

__all__ = ["export", "import_", "limited_to", "migrate"]

FORMAT = "rh-registry"
VERSION = 1


def export(
    registry: Registry,
    path: str | os.PathLike[str],
    *,
    names: Chosen = (),
    prefixes: Chosen = (),
    overwrite: bool = False,
    partial: bool = False,
) -> int:
    """Write every change of a registry to a file, all or nothing, and return how many there are.

    Args:
        registry: of any kind.
        path: of the file.
        names: only these names, with their versions, aliases and properties; a mapping says what they are to be called
            where the file is taken over.
        prefixes: only names below these, in the same way.
        overwrite: replace a file that is there.
        partial: through a server, write what we may read there, even where that is not all.

    Raises:
        ExistsError: the file is there, and `overwrite` is not given.
        AccessError: we may not read all of it, and neither `partial` nor names are given.
        NotFoundError: there is nothing in the registry, or nothing of it that we may read; nothing has one of these
            names; or there is no such directory.
        InvalidError: no file here can be called like that.
    """
    registry = registry.direct
    target = _file(path)
    with translated(str(target)):
        if target.exists() and not overwrite:
            raise ExistsError("there is a file already", where=str(target), hint="overwrite=True replaces it")
        if not target.parent.is_dir():
            raise NotFoundError("there is no such directory", where=str(target.parent))
        _check_there(registry)
        chosen = _chosen(registry, names, prefixes)
        if not partial and chosen is None:
            _check_whole(registry, "writes")
        return _export(registry.changes() if chosen is None else chosen.changes(), target, overwrite=overwrite)


def _file(path: str | os.PathLike[str]) -> Path:
    """A file of this machine."""
    location = locate(path)
    if location.system != "file":
        raise InvalidError("a registry is written to a file here, and read from one", where=str(path))
    return Path(location.path)


def _export(changes: Iterable[Change], target: Path, *, overwrite: bool) -> int:
    with tempfile.NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            count = _write(changes, file)
            file.flush()
            os.fsync(file.fileno())
            if overwrite:
                os.replace(file.name, target)
            else:
                _put_anew(file.name, target)
        except FileExistsError as error:
            os.unlink(file.name)
            raise ExistsError("there is a file by now", where=str(target)) from error
        except BaseException:
            os.unlink(file.name)
            raise
    return count


def limited_to(registry: Registry) -> str | None:
    """The user whose rights say what can be read of a registry, where that may not be all: who is no admin."""
    from rh.registry.http import HTTPRegistry

    registry = registry.direct
    if not isinstance(registry, HTTPRegistry):
        return None
    me = registry.whoami()
    return None if me["admin"] else str(me["user"])


def _check_there(registry: Registry) -> None:
    """Refuse a registry without any change: its place is misspelt, or not mounted."""
    if next(iter(registry.changes()), None) is None:
        raise NotFoundError(
            "there is no registry, or nothing in it that you may read", where=registry.url, hint="check the URL"
        )


def _check_whole(registry: Registry, does: str) -> None:
    """Refuse a server that shows us a part of its registry only."""
    user = limited_to(registry)
    if user is not None:
        raise AccessError(
            f"{user} is no admin and may not read all of the registry",
            where=registry.url,
            hint=f"log in as an admin; partial=True {does} what you may read",
        )


def _chosen(registry: Registry, names: Chosen, prefixes: Chosen) -> Selection | None:
    return Selection(registry, names, prefixes) if names or prefixes else None


def _put_anew(temporary: str, target: Path) -> None:
    """Give a file its name, unless one of that name is there by now."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))
        os.replace(temporary, target)
    else:
        os.unlink(temporary)


def _write(changes: Iterable[Change], file: Any) -> int:
    hasher, count = hashlib.sha256(), 0

    def line(told: dict[str, Any]) -> None:
        text = encode(told) + b"\n"
        hasher.update(text)
        file.write(text)

    line({"format": FORMAT, "version": VERSION})
    for change in changes:
        line(change._asdict())
        count += 1
    file.write(encode({"changes": count, "sha256": hasher.hexdigest()}) + b"\n")
    return count


def import_(registry: Registry, path: str | os.PathLike[str]) -> int:
    """Take over every change of a file that `export` wrote, and return how many were new.

    What is there already is skipped, so it can be repeated.

    Raises:
        IntegrityError: the file is no export, or is cut or changed; nothing was taken over.
        ConflictError: the registry has other changes under the same names; nothing was taken over.
        NotFoundError, AccessError: there is no such file, or it may not be read. InvalidError: it is a directory.
    """
    source = _file(path)
    with translated(str(source)):
        if source.is_dir():
            raise InvalidError("this is a directory, and not the file of a registry", where=str(source))
        with source.open("rb") as file:
            _check(file, str(source))
            file.seek(0)
            diverged.check(_changes(file, str(source)), registry.changes(), where=registry.url)
            file.seek(0)
            return registry.replay(_changes(file, str(source)))


def _check(file: BinaryIO, where: str) -> None:
    hasher, last, count = hashlib.sha256(), b"", -2
    for number, text in enumerate(file):
        if number == 0:
            told = _decoded(text, where, 1)
            if told.get("format") != FORMAT:
                raise IntegrityError("this is not the file of a registry", where=where)
            if told.get("version") != VERSION:
                raise UnsupportedError(
                    f"the file has format {told.get('version')}; this version of rh reads {VERSION}",
                    where=where,
                    hint="upgrade rh-data",
                )
        hasher.update(last)
        last, count = text, count + 1
    end = _decoded(last, where, count + 2) if count >= 0 else {}
    if end.get("changes") != count or end.get("sha256") != hasher.hexdigest():
        raise IntegrityError("the file is cut or was changed", where=where, hint="export it again")


def _changes(file: BinaryIO, where: str) -> Iterator[Change]:
    from rh.registry.http.wire import change_of

    for number, text in enumerate(file, 1):
        told = _decoded(text, where, number)
        if "key" not in told:
            continue  # the first and the last line
        try:
            yield change_of({name: told.get(name) for name in Change._fields})
        except InvalidError as error:
            raise IntegrityError(f"line {number} is no change: {error.message}", where=where) from error


def _decoded(text: bytes, where: str, number: int) -> dict[str, Any]:
    try:
        return decode(text)
    except ValueError as error:
        raise IntegrityError(f"line {number} is not JSON: {error}", where=where) from error


def migrate(
    source: Registry,
    target: Registry,
    *,
    names: Chosen = (),
    prefixes: Chosen = (),
    everything: bool = False,
    partial: bool = False,
) -> int:
    """Take over one registry into another one, and return how many changes were new. The source stays.

    Args:
        source: where from.
        target: where to.
        names: only these names, with their versions, aliases and properties; a mapping says what they are to be called
            in the target.
        prefixes: only names below these, in the same way.
        everything: also names in `~/` with their versions, which mean something on one machine only, and the users and
            tokens of a server.
        partial: from a server, take over what we may read there, even where that is not all.

    Raises:
        ConflictError: both have changed the same name, or its versions; nothing was taken over.
        NotFoundError: there is nothing in the source, or nothing of it that we may read, or nothing has such a name.
        AccessError: we may not read all of the source, and neither `partial` nor names are given.
        InvalidError: a name in `~/` would come to where nobody can use it.
    """
    source, target = source.direct, target.direct
    _check_there(source)
    chosen = _chosen(source, names, prefixes)
    if chosen is not None:
        _check_usable(chosen, target)
    elif not partial:
        _check_whole(source, "takes over")
    own = frozenset() if everything or chosen is not None else _own_series(source)

    def wanted() -> Iterator[Change]:
        if chosen is not None:
            return chosen.changes()
        return (change for change in source.changes() if everything or not _is_own(change.key, own))

    diverged.check(wanted(), target.changes(), where=target.url)
    return target.replay(wanted())


def _check_usable(chosen: Selection, target: Registry) -> None:
    """Refuse names in `~/` for a registry that can be no machine's own."""
    mine = next((path for path in chosen.called.values() if path.startswith("~/")), None)
    if mine is not None and not target.url.startswith("sqlite:"):
        raise InvalidError(
            f"names in ~/ are those of one machine: nobody would find {mine} there",
            where=target.url,
            hint=f"say what it is to be called: --name {mine}=/org/name, names={{{mine!r}: '/org/name'}}",
        )


def _own_series(registry: Registry) -> frozenset[str]:
    """The ids of the series that only names in `~/` ever had."""
    own: set[str] = set()
    others: set[str] = set()
    for change in registry.changes("series/"):
        if change.document is not None:
            (own if change.key.startswith("series/~/") else others).add(str(change.document.get("series")))
    return frozenset(own - others)


def _is_own(key: str, own: frozenset[str]) -> bool:
    space, _, rest = key.partition("/")
    if space == "server" or (space in ("resources", "series") and rest.startswith("~/")):
        return True
    return rest.partition("/")[0] in own
