"""Names → records. `open_registry` opens one by URL, `default` the one that is configured.

`rh.registry.base` is the contract, `rh.registry.names` says what a name is. A registry knows no bytes.
"""

from __future__ import annotations

import re

from rh import config
from rh.errors import InvalidError, UnsupportedError
from rh.registry.base import Registry
from rh.registry.names import Name

__all__ = ["default", "holding", "local", "open_registry"]

_PLACES = frozenset({"s3", "gs", "azure", "abfs", "file", "ssh", "sftp"})
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def open_registry(url: str) -> Registry:
    """A handle on the registry at `url`. No I/O.

    Args:
        url: `sqlite:///abs/path.db` or `sqlite:///~/path.db`; `postgresql://user@host:port/database?options`; or a
            place on any system with conditional writes: `s3://bucket/prefix`, `gs://…`, `az://…`,
            `file:///shared/directory`, `name:/path` on a named host; or `https://…`, a server (`rh registry serve`).

    Raises:
        InvalidError: it is not a URL of that form.
        UnsupportedError: no back-end here has that scheme.
    """
    match = _URL.fullmatch(url)
    if _is_place(url):
        from rh.registry.bucket import BucketRegistry

        return BucketRegistry(url)
    if match is None:
        raise InvalidError(f"not the URL of a registry: {url!r}", hint="sqlite:///abs/path/registry.db")
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme in ("postgresql", "postgres"):
        from rh.registry.sql.postgres import PostgresRegistry

        return PostgresRegistry(url)
    if scheme in ("http", "https"):
        from rh.registry.http import HTTPRegistry

        return HTTPRegistry(url)
    if scheme != "sqlite":
        raise UnsupportedError(
            f"there is no registry for {scheme}:// here",
            where="registry",
            hint="there is: sqlite:///path, postgresql://host/db, https://host, s3://bucket/prefix (and other places)",
        )
    path = re.sub("^/+", "/", rest)
    if not path.startswith("/") or path == "/":
        raise InvalidError(
            "the URL of a SQLite registry has three slashes and a path", where="registry", hint="sqlite:///abs/path.db"
        )
    from rh.registry.sql.sqlite import SQLiteRegistry

    return SQLiteRegistry(path[1:] if path.startswith("/~") else path)


def _is_place(url: str) -> bool:
    """Whether it is a place on a system that can hold a registry in objects or files."""
    scheme, colon, rest = url.partition(":")
    if not colon or not rest.startswith(("/", "~/")):
        return False
    scheme = config.ALIASES.get(scheme, scheme)
    return scheme in _PLACES or (scheme != "memory" and scheme in config.system_names())


def local() -> Registry:
    """The registry of this machine (of this `RH_HOME`): where names in `~/` live."""
    from rh.registry.sql.sqlite import SQLiteRegistry

    return SQLiteRegistry(config.home() / "registry.db")


def default() -> Registry:
    """The registry that `RH_REGISTRY` or the setting `registry` names; by default the local one."""
    url = config.get("registry")
    if not url:
        return local()
    found = open_registry(str(url))
    if not found.distant:
        return found
    from rh.registry.mirror import Mirrored

    return Mirrored(found)


def holding(name: Name) -> Registry:
    """The registry that holds a name: names in `~/` are in the local one."""
    return local() if name.is_local else default()
