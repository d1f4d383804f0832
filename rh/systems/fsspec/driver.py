"""One file system of fsspec: its object in this process, whose turn it is, how it publishes, its exceptions as ours."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import secrets
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from rh import plugins
from rh.errors import (
    AccessError,
    DeadlineError,
    FullError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnavailableError,
    UnsupportedError,
)
from rh.forks import Lock
from rh.systems.base import HIDDEN, Bytes, Settings
from rh.types import Location

__all__ = ["Driver", "Pieces", "error_of", "guarded"]

_WHOLE = 64 * 1024 * 1024


class Driver:
    """One fsspec object, shared by handles and threads, made anew after `fork`; and what differs between them."""

    def __init__(self, location: Location, settings: Settings) -> None:
        self._where = f"{location.system}:{location.path}"
        self.protocol = str(settings.get("protocol") or "")
        if not self.protocol:
            raise InvalidError(
                "an fsspec system needs a protocol",
                where=self._where,
                hint=f'set systems.{location.system}.protocol = "…"',
            )
        self._options = _options(settings)
        fsspec = plugins.need("fsspec", purpose=f"the protocol {self.protocol!r}")
        try:
            self._class = fsspec.get_filesystem_class(self.protocol)
        except ValueError as error:
            raise InvalidError(f"fsspec knows no protocol {self.protocol!r}", where=self._where) from error
        except ImportError as error:
            raise UnsupportedError(
                f"fsspec needs another package for {self.protocol!r}: {error}", where=self._where
            ) from error
        from fsspec.archive import AbstractArchiveFileSystem

        self._is_archive = issubclass(self._class, AbstractArchiveFileSystem)
        self.writable = settings.get("writable", not self._is_archive)
        self.has_directories = self._class.root_marker == "/"
        self.turns = Lock()
        self._made: tuple[int, Any] | None = None

    def fs(self) -> Any:
        """The file system object of this process."""
        with self.turns:
            if self._made is None or self._made[0] != os.getpid():
                with guarded(self._where):
                    fs = self._class(**self._options, skip_instance_cache=True)
                    if self._is_archive and not all(info["name"] for info in fs.ls("")):
                        raise NameClashError(
                            "no key can say the absolute names in this archive",
                            where=self._where,
                            hint="extract it with tar or unzip",
                        )
                    self._made = os.getpid(), fs
            return self._made[1]

    @contextmanager
    def turn(self, where: str) -> Iterator[Any]:
        """A block that has the file system to itself, and in which its exceptions become ours.

        fsspec makes one object for each thread, except of those whose work is done by its event loop. Ours is one for
        all, since an archive would be read anew by each; their calls, and those of the files they opened, take turns.
        """
        with guarded(where):
            fs = self.fs()
            shared = fs.async_impl and getattr(fs, "fs", None) is None  # what wraps another is as that one is
            with nullcontext() if shared else self.turns:
                yield fs

    def close(self) -> None:
        with self.turns:
            made, self._made = self._made, None
        if made is not None and made[0] == os.getpid() and callable(getattr(made[1], "close", None)):
            with guarded(self._where):
                made[1].close()

    def full(self, path: str, where: str) -> str:
        """The path as the file system takes it, or `NameClashError` if it would take another."""
        with guarded(where):
            fs = self.fs()
            if fs.root_marker == "/" and not path.startswith("/"):
                path = "/" + path
            stripped = fs._strip_protocol(path)  # noqa: SLF001 - the hook fsspec gives for this
        if stripped.rstrip("/") != path.rstrip("/") and stripped.strip("/") != path.strip("/"):
            raise NameClashError(f"this file system would take {path!r} for {stripped!r}", where=where)
        return str(stripped)

    def fence(self, path: str, root: str, where: str) -> None:
        """Refuse a path that a link leads out of the root (only the local file system has links)."""
        if path != root and getattr(self.fs(), "local_file", False):
            real, at = os.path.realpath(root), os.path.realpath(path)
            if at != real and not at.startswith(real.rstrip("/") + "/"):
                raise NameClashError("a link leads out of the root", where=where)

    def publish(self, path: str, pieces: Pieces, size: int | None, where: str) -> None:
        """Store the bytes under `path`, all or nothing.

        Where the file system can rename, under another name first; else in one call, with all the bytes in hand: stores
        publish that whole.
        """
        from fsspec.spec import AbstractFileSystem

        if self._class.mv is not AbstractFileSystem.mv:
            part = f"{posixpath.dirname(path).rstrip('/')}/{HIDDEN}{secrets.token_hex(8)}"
            try:
                with self.turn(where) as fs:
                    file = fs.open(part, "wb")

                def write(piece: Bytes) -> None:
                    with self.turn(where):
                        file.write(piece)

                try:
                    pieces.pour(write, size, where)
                finally:
                    with self.turn(where):
                        file.close()
                with self.turn(where) as fs:
                    fs.mv(part, path)
            except BaseException:
                with suppress(Exception), self.turn(where) as fs:
                    fs.rm_file(part)
                raise
            return
        with tempfile.NamedTemporaryFile(prefix=HIDDEN) as spool:
            pieces.pour(spool.write, size, where)
            spool.flush()
            with self.turn(where) as fs:
                if pieces.total <= _WHOLE or self.protocol == "memory":
                    spool.seek(0)
                    fs.pipe_file(path, spool.read())
                else:
                    fs.put_file(spool.name, path)


class Pieces:
    """What is to be written, piece by piece, counted. Remembers an error that was the giver's own."""

    def __init__(self, data: Bytes | Iterable[Bytes]) -> None:
        self._data = iter((data,)) if isinstance(data, bytes | bytearray | memoryview) else iter(data)
        self.total = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[Bytes]:
        while True:
            try:
                piece = next(self._data)
            except StopIteration:
                return
            except BaseException as error:
                self.error = error
                raise
            if len(piece):
                self.total += len(piece)
                yield piece

    def pour(self, write: Callable[[Bytes], object], size: int | None, where: str) -> None:
        """Give everything to what writes it."""
        for piece in self:
            write(piece)
        if size is not None and self.total != size:
            raise IntegrityError(
                "the stream has another length than told", where=where, expected=str(size), got=str(self.total)
            )


@contextmanager
def guarded(where: str, given: Pieces | None = None) -> Iterator[None]:
    """A block in which the file system's exceptions become ours; those of the stream `given` pass."""
    try:
        yield
    except Exception as error:
        if given is not None and given.error is error:
            raise
        raise error_of(error, where) from error


def error_of(error: Exception, where: str) -> RhError:
    """The error of ours for an exception of a file system; they raise builtins, mostly."""
    if isinstance(error, RhError):
        return error
    text = str(error) or type(error).__name__
    number = getattr(error, "errno", None)
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | KeyError):
        return NotFoundError(
            "nothing is there" if not isinstance(error, IsADirectoryError) else "a directory is there", where=where
        )
    if isinstance(error, PermissionError):
        return AccessError(f"not allowed: {text}", where=where)
    if isinstance(error, FileExistsError) or number == errno.ENAMETOOLONG:
        return NameClashError(f"the name cannot be used: {text}", where=where)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return FullError("no space is left", where=where)
    if isinstance(error, TimeoutError):
        return DeadlineError("no answer within the time allowed", where=where)
    if isinstance(error, NotImplementedError | ImportError | io.UnsupportedOperation):
        return UnsupportedError(f"the file system cannot do that: {text}", where=where)
    if isinstance(error, tarfile.TarError | zipfile.BadZipFile | zlib.error | EOFError):
        return IntegrityError(f"it is damaged, or not of this format: {text}", where=where)
    if isinstance(error, ValueError | TypeError):
        return InvalidError(f"the file system refuses: {text}", where=where)
    return UnavailableError(f"the file system failed: {type(error).__name__}: {text}", where=where)


def _options(settings: Settings) -> dict[str, Any]:
    """The `options` table; settings hold nested tables under dotted names."""
    options: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "options":
            options.update(value)
        elif key.startswith("options."):
            *path, last = key.split(".")[1:]
            inner = options
            for name in path:
                inner = inner.setdefault(name, {})
            inner[last] = value
    return options
