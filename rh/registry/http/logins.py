"""Tokens of registry servers on this machine: one private file, and `RH_REGISTRY_TOKEN` for the one that is configured.

`$RH_HOME/tokens.json` (mode 0600) maps the address of each server to the token `rh login` was given. Nothing else of
`rh` reads it, and no setting, record, log or error holds what is in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tomllib
from pathlib import Path

from rh import config
from rh.errors import AccessError, InvalidError
from rh.forks import Lock
from rh.systems.objects.http import parse_endpoint

__all__ = ["VARIABLE", "forget", "is_configured", "path", "remember", "set_registry", "token_of"]

VARIABLE = "RH_REGISTRY_TOKEN"

_lock = Lock()
_read: dict[Path, tuple[tuple[int, int, int], dict[str, str]]] = {}


def path() -> Path:
    """The file of tokens."""
    return config.home() / "tokens.json"


def token_of(server: str) -> str | None:
    """The token for a server (`https://host:port`): that of the environment, else the one that was stored.

    That of the environment is for the registry that `RH_REGISTRY` or the setting `registry` names, and goes nowhere
    else: a name or an option may lead to a server that somebody else runs.

    Raises:
        AccessError: others may read the file, or it cannot be read.
    """
    given = os.environ.get(VARIABLE)
    if given and is_configured(server):
        return given.strip()
    return _stored().get(server)


def is_configured(server: str) -> bool:
    """Whether a server is the registry that is used by default."""
    url = config.get("registry")
    if not url or not str(url).lower().startswith(("http://", "https://")):
        return False
    try:
        return parse_endpoint(str(url)).url == server
    except InvalidError:
        return False


def _stored() -> dict[str, str]:
    file = path()
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise AccessError(f"the tokens cannot be read: {error.strerror}", where=str(file)) from error
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessError("others may read the file of tokens", where=str(file), hint=f"chmod 600 {file}")
    stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
    known = _read.get(file)
    if known is None or known[0] != stamp:
        try:
            told = json.loads(file.read_text("utf-8"))
        except OSError as error:
            raise AccessError(f"the tokens cannot be read: {error.strerror}", where=str(file)) from error
        except ValueError:
            # The error of the parser would show what is in the file.
            raise InvalidError("the file of tokens is damaged", where=str(file), hint="rh login URL") from None
        tokens = {str(server): str(token) for server, token in told.items()} if isinstance(told, dict) else {}
        known = _read[file] = (stamp, tokens)
    return known[1]


def remember(server: str, token: str) -> None:
    """Store the token of a server."""
    with _lock:
        _write(path(), json.dumps({**_stored(), server: token}, indent=1, sort_keys=True), 0o600)


def forget(server: str) -> bool:
    """Forget the token of a server; whether there was one."""
    with _lock:
        tokens = dict(_stored())
        if tokens.pop(server, None) is None:
            return False
        _write(path(), json.dumps(tokens, indent=1, sort_keys=True), 0o600)
        return True


def set_registry(url: str, user: str) -> Path:
    """Write `registry` and `user` into `config.toml`, and leave everything else in it as it is.

    Returns:
        The file.
    """
    file = config.home() / "config.toml"
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise AccessError(f"the settings cannot be read: {error.strerror}", where=str(file)) from error
    for key, value in (("user", user), ("registry", url)):
        text = _set(text, key, value)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(
            f"the settings file is not valid TOML: {error}", where=str(file), hint=f"write registry = {url!r} yourself"
        ) from error
    _write(file, text, 0o644)
    return file


def _set(text: str, key: str, value: str) -> str:
    """The text of a TOML file with one value at its top level."""
    head, table, rest = re.match(r"(?s)(.*?)(^[ \t]*\[.*|\Z)()", text, re.MULTILINE).groups()  # type: ignore[union-attr]
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    changed, count = re.subn(rf"(?m)^[ \t]*{key}[ \t]*=.*$", lambda _: line, head, count=1)
    return (changed if count else f"{line}\n{head}") + table + rest


def _write(file: Path, text: str, mode: int) -> None:
    """Replace a file whole."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            mode &= stat.S_IMODE(file.stat().st_mode)
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), mode)
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(fresh, file)
    except OSError as error:
        raise AccessError(f"it cannot be written: {error.strerror}", where=str(file)) from error
