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

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def open_registry(url: str) -> Registry:
    """A handle on the registry at `url`. No I/O.

    Args:
        url: `sqlite:///abs/path.db` or `sqlite:///~/path.db`.

    Raises:
        InvalidError: it is not a URL of that form.
        UnsupportedError: no back-end here has that scheme.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidError(f"not the URL of a registry: {url!r}", hint="sqlite:///abs/path/registry.db")
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme != "sqlite":
        raise UnsupportedError(
            f"there is no registry for {scheme}:// here", where="registry", hint="there is: sqlite:///path"
        )
    path = re.sub("^/+", "/", rest)
    if not path.startswith("/") or path == "/":
        raise InvalidError(
            "the URL of a SQLite registry has three slashes and a path", where="registry", hint="sqlite:///abs/path.db"
        )
    from rh.registry.sql import SQLRegistry

    return SQLRegistry(path[1:] if path.startswith("/~") else path)


def local() -> Registry:
    """The registry of this machine (of this `RH_HOME`): where names in `~/` live."""
    from rh.registry.sql import SQLRegistry

    return SQLRegistry(config.home() / "registry.db")


def default() -> Registry:
    """The registry that `RH_REGISTRY` or the setting `registry` names; by default the local one."""
    url = config.get("registry")
    return open_registry(str(url)) if url else local()


def holding(name: Name) -> Registry:
    """The registry that holds a name: names in `~/` are in the local one."""
    return local() if name.is_local else default()
