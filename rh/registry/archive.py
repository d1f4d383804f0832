"""A whole registry as one file: every change ever made, so that another one can take it over.

JSON lines. The first is `{"format": "rh-registry", "version": 1}`, the last `{"changes": <how many>, "sha256": <of all
lines before>}`; between them is one change per line, with the fields of `rh.registry.base.Change`, in an order in which
they can be replayed. A file that was cut or changed is refused before anything of it is taken over.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rh.errors import AccessError, ExistsError, IntegrityError, NotFoundError, UnsupportedError
from rh.registry import diverged
from rh.registry.base import Change, Registry
from rh.registry.documents import decode, encode

__all__ = ["export", "import_", "migrate"]

FORMAT = "rh-registry"
VERSION = 1


def export(registry: Registry, path: str | os.PathLike[str], *, overwrite: bool = False, partial: bool = False) -> int:
    """Write every change of a registry to a file, all or nothing, and return how many there are.

    Args:
        registry: of any kind.
        path: of the file.
        overwrite: replace a file that is there.
        partial: through a server, write what we may read there, even where that is not all.

    Raises:
        ExistsError: the file is there, and `overwrite` is not given.
        AccessError: we may not read all of it, and `partial` is not given.
    """
    target = Path(path).expanduser().absolute()
    if target.exists() and not overwrite:
        raise ExistsError("there is a file already", where=str(target), hint="overwrite=True replaces it")
    if not target.parent.is_dir():
        raise NotFoundError("there is no such directory", where=str(target.parent))
    if not partial:
        _check_whole(registry)
    with tempfile.NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            count = _write(registry, file)
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


def _check_whole(registry: Registry) -> None:
    """Refuse a server that shows us a part of its registry only."""
    from rh.registry.http import HTTPRegistry

    registry = registry.direct
    if isinstance(registry, HTTPRegistry) and not (me := registry.whoami())["admin"]:
        raise AccessError(
            f"{me['user']} is no admin and may not read all of the registry",
            where=registry.url,
            hint="log in as an admin; partial=True writes what you may read",
        )


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


def _write(registry: Registry, file: Any) -> int:
    hasher, count = hashlib.sha256(), 0

    def line(told: dict[str, Any]) -> None:
        text = encode(told) + b"\n"
        hasher.update(text)
        file.write(text)

    line({"format": FORMAT, "version": VERSION})
    for change in registry.changes():
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
    """
    source = Path(path).expanduser().absolute()
    try:
        with source.open("rb") as file:
            _check(file, str(source))
            file.seek(0)
            diverged.check(_changes(file, str(source)), registry.changes(), where=registry.url)
            file.seek(0)
            return registry.replay(_changes(file, str(source)))
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(source)) from error


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
    for number, text in enumerate(file, 1):
        told = _decoded(text, where, number)
        if "key" not in told:
            continue  # the first and the last line
        fields: dict[str, Any] = {name: told.get(name) for name in Change._fields}
        yield Change(**fields)


def _decoded(text: bytes, where: str, number: int) -> dict[str, Any]:
    try:
        return decode(text)
    except ValueError as error:
        raise IntegrityError(f"line {number} is not JSON: {error}", where=where) from error


def migrate(source: Registry, target: Registry, *, everything: bool = False) -> int:
    """Take over one registry into another one, and return how many changes were new. The source stays.

    Args:
        source: where from.
        target: where to.
        everything: also names in `~/` with their versions, which mean something on one machine only, and the users and
            tokens of a server.

    Raises:
        ConflictError: both have changed the same name, or its versions; nothing was taken over.
        NotFoundError: there is nothing in the source, or nothing of it that we may read.
    """
    if next(iter(source.changes()), None) is None:
        raise NotFoundError(
            "there is no registry, or nothing in it that you may read", where=source.url, hint="check the URL"
        )
    own = frozenset() if everything else _own_series(source)

    def wanted() -> Iterator[Change]:
        return (change for change in source.changes() if everything or not _is_own(change.key, own))

    diverged.check(wanted(), target.changes(), where=target.url)
    return target.replay(wanted())


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
