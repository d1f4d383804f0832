"""The verbs of an SSH system by way of plain SFTP, for hosts without Python or with nothing but SFTP.

Slower, and with less: no digests, copies or fetches over there, and etags are of size and modification time in seconds.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

from rh import observe
from rh.errors import (
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnsupportedError,
)
from rh.systems.abilities import Item
from rh.systems.base import Body, Bytes
from rh.systems.far.files import HIDDEN, TEMP
from rh.systems.far.skip import Skip
from rh.systems.ssh.session import Pool
from rh.systems.ssh.sftp import CREATE, EXCLUSIVE, READ, SFTP, WRITE, Attributes, StatusError
from rh.types import ABSENT, ANY, Condition, Entry, Link, Match, Outcome, Span

__all__ = ["SftpRoad"]

_PAGE = 1000


def _entry(key: str, found: Attributes, target: bytes = b"") -> Entry:
    mode, size = found.mode or 0, found.size or 0
    if stat.S_ISDIR(mode):
        return Entry(key if key.endswith("/") else key + "/", 0, "dir")
    etag = f"{size:x}-{found.mtime:x}" if found.mtime is not None else None
    modified = None if found.mtime is None else float(found.mtime)
    if stat.S_ISLNK(mode):
        return Entry(key, len(target), "link", etag, modified, None, None, target.decode("utf-8", "surrogateescape"))
    if not stat.S_ISREG(mode):  # a pipe, socket or device
        return Entry(key, 0, "file", None, modified, None, executable=False)
    return Entry(key, size, "file", etag, modified, None, bool(mode & 0o100))


class SftpBody(Body):
    """A read in progress; holds its session until it is closed or at its end."""

    def __init__(self, road: SftpRoad, key: str, span: Span | None, when: Condition) -> None:
        self._road, self._key = road, key
        self._taken: AbstractContextManager[SFTP] = road.session(key)
        self._session: SFTP | None = self._taken.__enter__()
        self._handle = b""
        self._asked: Generator[bytes, None, None] | None = None
        try:
            path = road.path(key)
            found = self._session.stat(path)
            if not stat.S_ISREG(found.mode or 0):
                raise NotFoundError("this is no file", where=road.url(key))
            self._handle = self._session.open(path, READ)
            self.entry = _entry(key, self._session.fstat(self._handle))
            if isinstance(when, Match) and when.etag != self.entry.etag:
                raise ConflictError("it has changed", where=road.url(key))
        except BaseException as error:
            self._end(error)
            raise
        start, stop = span if span is not None else (0, self.entry.size)
        self._start, self._stop = min(start, self.entry.size), min(stop, self.entry.size)
        observe.count(road.system, "read")

    def __iter__(self) -> Iterator[Bytes]:
        session = self._session
        if session is None:
            return
        try:
            left = self._stop - self._start
            self._asked = session.read(self._handle, self._start, self._stop)
            for data in self._asked:
                left -= len(data)
                observe.count(self._road.system, "read", requests=0, received=len(data))
                yield data
            if left:
                raise IntegrityError("the bytes ended early", where=self._road.url(self._key))
            now = _entry(self._key, session.fstat(self._handle))
            if now.etag != self.entry.etag:
                raise ConflictError("it changed while it was read", where=self._road.url(self._key))
        except GeneratorExit:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    def close(self) -> None:
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            if self._asked is not None:
                self._asked.close()  # it takes the answers to come, else whoever has the session next would find them
            if self._handle and not session.broken:
                session.close(self._handle)
        except (StatusError, RhError):
            session.broken = True
        finally:
            self._taken.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def __del__(self) -> None:
        if getattr(self, "_session", None) is not None:
            self._end(None)


class SftpRoad:
    """The six verbs, bulk transfers, commands by a shell line, and sweeping."""

    def __init__(
        self, pool: Pool, root: bytes, system: str, url: Callable[..., str], name: Callable[[str], bytes]
    ) -> None:
        self.pool, self.system, self.url, self.name = pool, system, url, name
        # SFTP begins in the login's home.
        self.root = b"." + root[1:] if root.startswith(b"~") else root

    def session(self, key: str = "") -> AbstractContextManager[SFTP]:
        """A session, whose statuses are turned into errors about `key`."""
        return self.pool.sftp(lambda: self.url(key))

    def path(self, key: str) -> bytes:
        """The path of a key."""
        return self.root.rstrip(b"/") + b"/" + self.name(key.rstrip("/"))

    def _parents(self, sftp: SFTP, key: str, *, make: bool) -> list[bytes]:
        """See that a key's directories are directories, not links, before something is written or removed there.

        Returns those that were made, the deepest last.
        """
        path = self.root.rstrip(b"/")
        made = self._root(sftp) if make else []
        for name in self.name(key.rstrip("/")).split(b"/")[:-1]:
            path += b"/" + name
            try:
                mode = sftp.lstat(path).mode or 0
            except StatusError as error:
                if not make or error.code != 2:
                    raise
                try:
                    sftp.mkdir(path)
                    made.append(path)
                except StatusError:
                    if not stat.S_ISDIR(sftp.lstat(path).mode or 0):
                        raise
                continue
            if stat.S_ISLNK(mode):
                raise NameClashError("there is a link where a directory must be", where=self.url(key))
            if not stat.S_ISDIR(mode):
                if make:
                    raise NameClashError("there is a file where a directory must be", where=self.url(key))
                raise StatusError(2, "not a directory")
        return made

    def _root(self, sftp: SFTP) -> list[bytes]:
        missing, made = [], []
        path = self.root
        while path not in (b"", b"/", b"."):
            try:
                mode = sftp.stat(path).mode or 0
            except StatusError as error:
                if error.code != 2:
                    raise
                missing.append(path)
                path = path.rpartition(b"/")[0]
                continue
            if not stat.S_ISDIR(mode):
                raise NameClashError("there is a file where a directory must be", where=self.url())
            break
        for each in reversed(missing):
            try:
                sftp.mkdir(each)
                made.append(each)
            except StatusError:
                if not stat.S_ISDIR(sftp.stat(each).mode or 0):
                    raise
        return made

    def list(
        self, prefix: str, after: str, depth: int | None, *, follow: bool = False, skip: Skip | None = None
    ) -> Iterator[Entry]:
        with self.session() as sftp:
            observe.count(self.system, "list")
            if not stat.S_ISDIR(sftp.stat(self.root).mode or 0):
                raise NameClashError("this is a file, not a directory", where=self.url())
            head, slash, start = prefix.encode("utf-8", "surrogateescape").rpartition(b"/")
            after_ = after.encode("utf-8", "surrogateescape")
            yield from self._walk(sftp, head + slash, start, after_, depth or 0, skip, follow=follow)

    def list_pages(
        self, prefix: str, after: str, depth: int | None, *, follow: bool = False, skip: Skip | None = None
    ) -> Iterator[Sequence[Entry]]:
        entries = self.list(prefix, after, depth, follow=follow, skip=skip)
        while page := tuple(islice(entries, _PAGE)):
            yield page

    def _walk(
        self,
        sftp: SFTP,
        base: bytes,
        start: bytes,
        after: bytes,
        depth: int,
        skip: Skip | None,
        *,
        follow: bool,
    ) -> Iterator[Entry]:
        path = self.root.rstrip(b"/") + b"/" + base
        for token, found in self._tokens(sftp, path, base, follow=follow):
            key = base + token
            folder = token.endswith(b"/")
            if not token.startswith(start) or (key <= after and not (folder and after.startswith(key))):
                continue
            if folder and skip is not None and skip(_text(key)):
                continue
            if not folder:
                target = sftp.readlink(path + token) if stat.S_ISLNK(found.mode or 0) else b""
                yield _entry(_text(key), found, target)
            elif depth == 1 or not self._tokens(sftp, path + token, key, follow=follow):
                if key > after:
                    yield _entry(_text(key), found)
            else:
                yield from self._walk(sftp, key, b"", after, depth - 1 if depth else 0, skip, follow=follow)

    def _tokens(self, sftp: SFTP, path: bytes, base: bytes, *, follow: bool) -> Sequence[tuple[bytes, Attributes]]:
        try:
            names = sftp.names(path.rstrip(b"/") or b"/")
        except StatusError as error:
            if error.code == 2:
                return ()
            raise error.typed(self.url(_text(base))) from None
        found = []
        for name, attributes in names:
            if name.startswith(HIDDEN):
                continue
            seen = attributes
            if follow and stat.S_ISLNK(seen.mode or 0):
                seen = self._behind(sftp, base, name) or seen
            if stat.S_ISDIR(seen.mode or 0):
                found.append((name + b"/", seen))
            else:
                found.append((name, seen))
        found.sort(key=lambda pair: pair[0])
        return found

    def _behind(self, sftp: SFTP, base: bytes, name: bytes) -> Attributes | None:
        """What a link leads to; `None` where it cannot be followed, or leads to a directory that it lies in."""
        top = self.root.rstrip(b"/")
        path = top + b"/" + base + name
        try:
            found = sftp.stat(path)
        except StatusError:
            return None
        if stat.S_ISDIR(found.mode or 0):
            steps = base.split(b"/")[:-1]
            above = [b"/".join((top, *steps[:n])) or b"/" for n in range(len(steps) + 1)]
            if sftp.realpath(path) in map(sftp.realpath, above):
                return None
        return found

    def head(self, key: str) -> Entry:
        path = self.path(key)
        with self.session(key) as sftp:
            observe.count(self.system, "head")
            try:
                found = sftp.lstat(path)
            except StatusError as error:
                # OpenSSH says "failure" where a parent is a file.
                raise (NotFoundError("there is nothing", where=self.url(key)) if error.code == 4 else error) from None
            mode = found.mode or 0
            if stat.S_ISDIR(mode) != key.endswith("/"):
                raise NotFoundError("there is nothing", where=self.url(key))
            return _entry(key, found, sftp.readlink(path) if stat.S_ISLNK(mode) else b"")

    def read(self, key: str, span: Span | None, when: Condition) -> Body:
        return SftpBody(self, key, span, when)

    def write(
        self, key: str, data: Iterable[Bytes] | Link, *, size: int | None, executable: bool | None, when: Condition
    ) -> Entry:
        with self.session(key) as sftp:
            observe.count(self.system, "write")
            return self._write(sftp, key, data, size=size, executable=executable, when=when)

    def _write(
        self,
        sftp: SFTP,
        key: str,
        data: Iterable[Bytes] | Link,
        *,
        size: int | None,
        executable: bool | None,
        when: Condition,
    ) -> Entry:
        if isinstance(when, Match):
            raise UnsupportedError(
                "SFTP cannot check an etag and write in one step",
                where=self.url(key),
                hint="install python3 on the host",
            )
        path = self.path(key)
        made = self._parents(sftp, key + "x" if key.endswith("/") else key, make=True)
        if key.endswith("/"):
            return _entry(key, sftp.lstat(path))
        try:
            found = sftp.lstat(path)
        except StatusError as error:
            if error.code != 2:
                raise
        else:
            if when is ABSENT:
                raise ExistsError("something is there already", where=self.url(key))
            if stat.S_ISDIR(found.mode or 0):
                raise NameClashError("there is a directory of that name", where=self.url(key))
            if stat.S_IFMT(found.mode or 0) not in (0, stat.S_IFREG, stat.S_IFLNK):
                raise NameClashError(
                    "a pipe, socket or device stands where a file is to be",
                    where=self.url(key),
                    hint="choose another target",
                )
        temp = path.rpartition(b"/")[0] + b"/" + TEMP + secrets.token_hex(8).encode()
        published = False
        try:
            if isinstance(data, Link):
                sftp.symlink(data.target.encode("utf-8", "surrogateescape"), temp)
            else:
                self._fill(sftp, temp, key, data, size=size, executable=executable)
            try:
                if when is ABSENT:
                    sftp.rename(temp, path)
                else:
                    sftp.replace(temp, path)
            except StatusError as error:
                if when is ABSENT and error.code == 4:
                    raise ExistsError("something is there already", where=self.url(key)) from None
                raise
            published = True
        finally:
            if not published and not sftp.broken:
                try:
                    sftp.remove(temp)
                except (StatusError, RhError):
                    sftp.broken = True  # what raised first says what is wrong
                else:
                    self._unmake(sftp, made)
        target = data.target.encode("utf-8", "surrogateescape") if isinstance(data, Link) else b""
        return _entry(key, sftp.lstat(path), target)

    def _unmake(self, sftp: SFTP, made: Sequence[bytes]) -> None:
        """Remove directories that were made for a file that did not come, unless others use them by now."""
        try:
            for path in reversed(made):
                sftp.rmdir(path)
        except StatusError:
            return
        except RhError:
            sftp.broken = True

    def _fill(
        self, sftp: SFTP, temp: bytes, key: str, data: Iterable[Bytes], *, size: int | None, executable: bool | None
    ) -> None:
        handle = sftp.open(temp, WRITE | CREATE | EXCLUSIVE, 0o777 if executable else 0o666)
        try:
            count = sftp.write(handle, iter(data))
            observe.count(self.system, "write", requests=0, sent=count)
            if size is not None and count != size:
                raise InvalidError(f"the stream has {count} bytes, {size} were announced", where=self.url(key))
            if sftp.fstat(handle).size != count:
                raise IntegrityError("not all bytes arrived", where=self.url(key))
            sftp.sync(handle)
        finally:
            if not sftp.broken:
                sftp.close(handle)

    def delete(self, keys: Sequence[str]) -> None:
        with self.session() as sftp:
            for key in keys:
                path = self.path(key)
                observe.count(self.system, "delete")
                try:
                    self._parents(sftp, key, make=False)
                    if stat.S_ISDIR(sftp.lstat(path).mode or 0) != key.endswith("/"):
                        continue
                    if key.endswith("/"):
                        if not sftp.names(path):
                            sftp.rmdir(path)
                    else:
                        sftp.remove(path)
                except StatusError as error:
                    if error.code != 2:
                        raise error.typed(self.url(key)) from None

    def read_many(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes | Exception]]:
        """One after the other: the pieces of each are asked for ahead."""
        for entry in entries:
            try:
                with self.read(entry.key, None, Match(entry.etag) if entry.etag else ANY) as body:
                    data: bytes | Exception = body.read()
            except (NotFoundError, ConflictError, InvalidError, PermissionError) as error:
                data = error
            yield entry, data

    def write_many(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """One after the other, on one session."""
        for item in items:
            try:
                if item.key.endswith("/") and not isinstance(item.data, Link) and len(item.data):
                    raise InvalidError("a directory holds no bytes", where=self.url(item.key))
                data: Any = item.data if isinstance(item.data, Link) else (item.data,)
                size = None if isinstance(item.data, Link) else memoryview(item.data).nbytes
                entry = self.write(item.key, data, size=size, executable=item.executable, when=ANY)
                outcome = Outcome(item.key, entry)
            except (InvalidError, NotFoundError, PermissionError, ExistsError) as error:
                outcome = Outcome(item.key, error=error)
            yield outcome

    def real_path(self) -> bytes:
        """The root without links; where it is not there yet, below what is."""
        there, missing = self.root.rstrip(b"/") or b"/", b""
        with self.session() as sftp:
            observe.count(self.system, "real_path")
            while True:
                try:
                    return sftp.realpath(there).rstrip(b"/") + missing
                except StatusError as error:
                    if error.code != 2 or b"/" not in there.strip(b"/"):
                        raise
                there, _, name = there.rpartition(b"/")
                missing = b"/" + name + missing

    def sweep(self, older_than_s: float) -> int:
        with self.session() as sftp:
            observe.count(self.system, "sweep")
            return self._sweep(sftp, self.root.rstrip(b"/"), time.time() - older_than_s)

    def _sweep(self, sftp: SFTP, path: bytes, before: float) -> int:
        count = 0
        for name, found in sftp.names(path or b"/"):
            below = path + b"/" + name
            if stat.S_ISDIR(found.mode or 0):
                count += self._sweep(sftp, below, before)
            elif name.startswith(TEMP) and (found.mtime or 0) <= before:
                sftp.remove(below)
                count += 1
        return count

    def run(self, argv: Sequence[str], stdin: bytes | None, timeout_s: float | None) -> tuple[int, bytes, bytes]:
        """A command by way of the host's shell, every word quoted."""
        where = self.root.decode("utf-8", "surrogateescape")
        line = f"cd {shlex.quote(where)} && exec {shlex.join(argv)}"
        observe.count(self.system, "run")
        channel = self.pool.opened(line, lambda channel: channel)
        try:
            status, out, err = channel.whole(stdin or b"", timeout_s)
        except DeadlineError as error:
            raise DeadlineError(f"the command did not end within {timeout_s:g} s", where=self.url()) from error
        finally:
            channel.close()
        said = re.escape(os.fsencode(argv[0])) + rb": (command )?(not found|No such file or directory)\s*$"
        if status == 127 and not out and re.search(said, err):
            raise NotFoundError(f"there is no command {argv[0]!r} to run (exit status 127)", where=self.url())
        return status, out, err


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
