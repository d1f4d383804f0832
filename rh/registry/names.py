"""What a resource may be called, and which name a text means.

=============  ==================================================================================
`x`            below the current folder (`set_folder`; at first `~`)
`~/x`          on this machine only
`@/x`          mine: `/<user>/x`, the user being the setting `user` (`RH_USER`)
`/org/team/x`  the whole name
`^x`           built in
`name:v3`      a version by number, `name:production` by alias, `name@sha256:…` by digest
=============  ==================================================================================

Components match `[A-Za-z0-9][A-Za-z0-9._-]*`. A name is never taken for a path, nor a path for a name.
"""

from __future__ import annotations

import contextvars
import difflib
import os
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from rh import config
from rh.errors import InvalidError
from rh.forks import Lock

__all__ = ["Name", "current_folder", "nearest", "parse", "parse_prefix", "set_folder", "unset_folder"]

SPACE = "resources/"
"""The keys of resources in a registry begin with this."""

HOME = "~"
MAX_COMPONENT = 128
MAX_NAME = 512

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIGEST = re.compile(r"sha256(?:-[0-9]+m)?:[0-9a-f]{4,64}")
_PATHLIKE = re.compile(
    r"[A-Za-z][A-Za-z0-9+._-]*://"  # a URL
    r"|[A-Za-z0-9._-]+:[/~]"  # a path on a named host
    r"|/?\.|~/?$|~[^/]"  # ./x, ../x, .hidden, the home directory
    r"|.*[\\*?]|.*/.*\s|.*\s.*/",  # what no name holds and paths do
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Name:
    """A whole name: `path` is `~/x`, `/org/x` or `^x`; at most one of `label` and `digest` is set."""

    path: str
    label: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        return self.path + (f":{self.label}" if self.label else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def is_built_in(self) -> bool:
        return self.path.startswith("^")

    @property
    def is_local(self) -> bool:
        """Whether only this machine knows it."""
        return self.path.startswith(HOME + "/")

    @property
    def pinned(self) -> str | None:
        """The label or digest asked for, or `None`."""
        return self.label or self.digest

    @property
    def key(self) -> str:
        """The key of its record."""
        return SPACE + self.path.removeprefix("/")

    @property
    def stem(self) -> str:
        """The name as a relative path, for default places: `x` for `~/x`, `org/team/x` for `/org/team/x`."""
        return self.path.removeprefix(HOME + "/").lstrip("/^")

    @property
    def last(self) -> str:
        """The last component."""
        return self.path.rsplit("/", 1)[-1].lstrip("^")

    @classmethod
    def of_key(cls, key: str) -> Name:
        """The name whose record is under `key`."""
        rest = key.removeprefix(SPACE)
        return cls(rest if rest.startswith(HOME + "/") else "/" + rest)


def parse(text: str | os.PathLike[str] | Name) -> Name:
    """The whole name that `text` means now.

    Raises:
        InvalidError: it is not a name (a path, a URL, a component that is not allowed), or it begins with `@/` and no
            user is known.
    """
    if isinstance(text, Name):
        return text
    if isinstance(text, os.PathLike):
        raise _is_path(os.fspath(text))
    if not isinstance(text, str):
        raise InvalidError(f"a name is text, not {type(text).__name__}")
    if not text:
        raise InvalidError("a name cannot be empty")
    rest, label, digest = _pinned(text)
    if _PATHLIKE.match(rest):
        raise _is_path(text)
    if len(rest) > MAX_NAME:
        raise InvalidError(f"the name {rest[:40]!r}… is longer than {MAX_NAME} characters")
    if rest.startswith("^"):
        _components(rest[1:], text)
        return Name(rest, label, digest)
    if rest.startswith(HOME + "/"):
        path = rest
        _components(rest[2:], text)
    elif rest.startswith("@"):
        if rest == "@":
            raise InvalidError("'@' is whose, and not yet what", hint="@/name is yours, /org/name is of a team")
        if not rest.startswith("@/"):
            raise InvalidError(f"not a name: {text!r}", hint=f"@/{rest[1:]} is yours, /{rest[1:]}/… is of {rest[1:]}")
        _components(rest[2:], text)
        path = f"/{_user(text)}/{rest[2:]}"
    elif rest.startswith("/"):
        if len(_components(rest[1:], text)) < 2:
            raise InvalidError(
                f"{text!r} is not a whole name: it needs an owner and a name",
                hint=f"/org{rest}; for a path write path={text!r}",
            )
        path = rest
    else:
        _components(rest, text)
        path = f"{current_folder()}/{rest}"
    return Name(path, label, digest)


def parse_prefix(text: str | None) -> str:
    """What `resources` and `set_folder` take, as a whole folder: `~`, `/org`, `/org/team`; `""` is everything."""
    if text is None:
        return current_folder()
    if not isinstance(text, str):
        raise InvalidError(f"a folder of names is text, not {type(text).__name__}")
    rest = text.rstrip("/")
    if not rest:
        if text:
            return ""
        raise InvalidError("a folder of names cannot be empty", hint="'/' is all of them, '~' those of this machine")
    if rest == HOME:
        return rest
    if rest == "@":
        return f"/{_user(text)}"
    if rest.startswith("/") and "/" not in rest[1:]:
        _components(rest[1:], text)
        return rest
    name = parse(rest)
    if name.is_built_in or name.pinned:
        raise InvalidError(f"not a folder of names: {text!r}")
    return name.path


def _pinned(text: str) -> tuple[str, str | None, str | None]:
    head, at, tail = text[1:].rpartition("@")
    if at:
        if not _DIGEST.fullmatch(tail):
            if tail.startswith("sha"):
                raise InvalidError(f"not a digest: {tail[:80]!r}", hint="name@sha256:<at least 4 hex digits>")
            raise InvalidError(
                f"not a name: {text!r}", hint="name@sha256:… is a version by digest, name:alias one by its alias"
            )
        return text[0] + head, None, tail
    head, colon, tail = text.rpartition(":")
    if colon and not tail.startswith(("/", "~", "\\")) and "://" not in text:
        if not _COMPONENT.fullmatch(tail):
            raise InvalidError(
                f"not a version or alias: {tail[:80]!r}", where=text[:200], hint="name:v3, name:production"
            )
        return head, tail, None
    return text, None, None


def _components(path: str, text: str) -> list[str]:
    parts = path.split("/")
    for part in parts:
        if not _COMPONENT.fullmatch(part):
            if part in ("", ".", ".."):
                raise InvalidError(
                    f"the name {text!r} has a component {part!r}, which could lead elsewhere",
                    hint=f"for a path write path={text!r}",
                )
            what = f"component {part[:80]!r}" if "/" in path else "character"
            raise InvalidError(
                f"the name {text!r} has a {what} that is not allowed",
                hint="letters, digits, '.', '_', '-', a letter or digit first"
                + (f"; for a path write path={text!r}" if "/" in text else ""),
            )
        if len(part) > MAX_COMPONENT:
            raise InvalidError(f"the name {text[:40]!r}… has a component of more than {MAX_COMPONENT} characters")
    return parts


def _is_path(text: str) -> InvalidError:
    what = "URL" if "://" in text else "path"
    return InvalidError(f"{text!r} looks like a {what}, and the first argument is a name", hint=f"write path={text!r}")


def _user(text: str) -> str:
    user = config.get("user")
    if not user:
        raise InvalidError(
            f"{text!r} is yours, but who are you?",
            hint=f'export RH_USER=ada, or put user = "ada" into {config.home() / "config.toml"}',
        )
    if not isinstance(user, str) or not _COMPONENT.fullmatch(user):
        raise InvalidError(
            f"the user {user!r} cannot be part of a name", hint="letters, digits, '.', '_' and '-' (RH_USER)"
        )
    return user


def nearest(name: Name, known: Iterable[str]) -> list[str]:
    """Up to three known names that `name` may have meant: alike as a whole, or the same at the end."""
    paths = list(known)
    alike = difflib.get_close_matches(name.path, paths, 3, 0.75)
    by_last: dict[str, list[str]] = {}
    for path in paths:
        by_last.setdefault(path.rsplit("/", 1)[-1], []).append(path)
    for last in difflib.get_close_matches(name.last, by_last, 3, 0.7):
        alike += [path for path in by_last[last] if path not in alike]
    return alike[:3]


# The current folder. A thread that never chose one uses that of the process.

_process = {"folder": HOME}
_lock = Lock()
_context: contextvars.ContextVar[str | None] = contextvars.ContextVar("rh_folder", default=None)


def current_folder() -> str:
    """The folder that short names are relative to; initially `~`."""
    return _context.get() or _process["folder"]


class Switch:
    """What `set_folder` returns: as a context manager it goes back at the end of the block."""

    def __init__(self, folder: str, context: str | None, process: str | None) -> None:
        self.folder = folder
        self._context = context
        self._was_process = process

    def __enter__(self) -> str:
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _context.set(self._context)
        if self._was_process is not None:
            with _lock:
                _process["folder"] = self._was_process

    def __repr__(self) -> str:
        return f"<names in {self.folder}>"


def set_folder(folder: str) -> Switch:
    """Make short names relative to `folder`: `~/project`, `@`, `/org/team`, or one below the current folder.

    Called in the main thread, it applies to the whole process, except for threads that set their own; called in another
    thread, or in a task of an event loop, to that one only. As a context manager, it applies within the block::

        with rh.set_folder("/org/team"):
            rh.folder("train")          # /org/team/train
    """
    whole = parse_prefix(folder)
    if not whole:
        raise InvalidError("short names cannot be in '/'", hint="choose an owner: /org")
    before, process = _context.get(), None
    _context.set(whole)
    if threading.current_thread() is threading.main_thread() and not _in_task():
        with _lock:
            process, _process["folder"] = _process["folder"], whole
    return Switch(whole, before, process)


def unset_folder() -> None:
    """Make short names relative to `~` again."""
    set_folder(HOME)


def _in_task() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001
