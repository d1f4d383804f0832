"""What every wrapper around a system is made of.

A wrapper is a system that passes each verb on to the one inside. It says what to do around a request by overriding
hooks; the verbs and the abilities (`ask`) all go through them::

    call     around one request
    once     around one that cannot be sent again
    listing  around a listing
    many     around a stream of items and their outcomes
    body     around the bytes that come out
    data     around the bytes that go in
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Self, TypeVar, cast

from rh.errors import IntegrityError
from rh.systems.abilities import (
    WORKERS,
    Bulk,
    Digesting,
    Direct,
    Fetching,
    Following,
    Item,
    Linked,
    Multipart,
    Paging,
    Running,
    ServerCopy,
    Signing,
    Streaming,
    Sweeping,
    Upload,
    Versioned,
    Vouching,
    Watch,
)
from rh.systems.base import Body, Bytes, System
from rh.systems.far.skip import Skip
from rh.types import ANY, Condition, Entry, Link, Outcome, SignedRequest, Span

__all__ = ["Flow", "Listing", "Wrapper", "unwrap"]

T = TypeVar("T")
P = TypeVar("P")
In = TypeVar("In")
Out = TypeVar("Out")


def unwrap(system: System) -> System:
    """The system inside all wrappers."""
    while isinstance(system, Wrapper):
        system = system.inner
    return system


class Flow(Generic[In, Out]):
    """A verb that takes a stream of items and answers a stream of outcomes: what wrappers need to know about it.

    Args:
        verb: its name.
        work: items in, outcomes out.
        item: the key of an item.
        outcome: the key of the item that an outcome is of.
        error: the error in an outcome, if it is one.
        failed: the outcome of an item, given its error.
    """

    def __init__(
        self,
        verb: str,
        work: Callable[[Iterable[In]], Iterator[Out]],
        *,
        item: Callable[[In], str],
        outcome: Callable[[Out], str],
        error: Callable[[Out], Exception | None],
        failed: Callable[[In, Exception], Out],
    ) -> None:
        self.verb = verb
        self.work = work
        self.item = item
        self.outcome = outcome
        self.error = error
        self.failed = failed

    def over(self, work: Callable[[Iterable[In]], Iterator[Out]]) -> Flow[In, Out]:
        """The same with something around the work."""
        changed = copy.copy(self)
        changed.work = work
        return changed


class Listing(Generic[T]):
    """A verb that lists: what wrappers need to know about it.

    Args:
        work: `work(prefix, after)` lists entries, or pages of them.
        last: the last key of what it gave.
    """

    def __init__(self, work: Callable[[str, str], Iterator[T]], last: Callable[[T], str]) -> None:
        self.work = work
        self.last = last


class Wrapper(System):
    """A system that passes everything on."""

    def __init__(self, inner: System) -> None:
        self._around(inner)

    def _around(self, inner: System) -> None:
        self.inner = inner
        self.location = inner.location
        self.settings = inner.settings
        vars(self).update(
            kind=inner.kind,
            keeps_links=inner.keeps_links,
            keeps_executable=inner.keeps_executable,
            keeps_directories=inner.keeps_directories,
            writable=inner.writable,
        )

    def over(self, inner: System) -> Self:
        """The same wrapper, with its state, around another system."""
        other = copy.copy(self)
        other._around(inner)  # noqa: SLF001
        return other

    # Hooks

    def call(self, verb: str, key: str, work: Callable[[], T]) -> T:  # noqa: ARG002
        """One request. `verb` is its name, `key` what it is about."""
        return work()

    def once(self, verb: str, key: str, work: Callable[[], T]) -> T:
        """One request that takes a stream, and so cannot be sent again."""
        return self.call(verb, key, work)

    def listing(self, verb: str, listing: Listing[T], prefix: str, after: str) -> Iterator[T]:
        """A listing of what is below `prefix`, from the key `after` on."""
        return self.call(verb, prefix, lambda: listing.work(prefix, after))

    def many(self, flow: Flow[In, Out], items: Iterable[In]) -> Iterator[Out]:
        """A stream of items."""
        return flow.work(items)

    def body(self, key: str, body: Body) -> Body:  # noqa: ARG002
        """Bytes on their way out."""
        return body

    def data(self, key: str, data: Bytes | Iterable[Bytes] | Link) -> Bytes | Iterable[Bytes] | Link:  # noqa: ARG002
        """Bytes on their way in."""
        return data

    # Verbs

    @classmethod
    def open(cls, *_: Any) -> System:
        raise TypeError("a wrapper is put around a system that is open")

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        inner = self.inner
        listing = Listing(lambda prefix, after: inner.list(prefix, after=after, depth=depth), _entry_key)
        return self.listing("list", listing, prefix, after)

    def head(self, key: str) -> Entry:
        return self.call("head", key, lambda: self.inner.head(key))

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        return self.body(key, self.call("read", key, lambda: self.inner.read(key, span, when=when)))

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,
        when: Condition = ANY,
    ) -> Entry:
        given = self.data(key, data)
        return self.call(
            "write", key, lambda: self.inner.write(key, given, size=size, executable=executable, when=when)
        )

    def delete(self, keys: Sequence[str]) -> None:
        self.call("delete", keys[0] if keys else "", lambda: self.inner.delete(keys))

    def close(self) -> None:
        self.inner.close()

    def at(self, path: str) -> Self:
        return self.over(self.inner.at(path))

    def url(self, key: str = "") -> str:
        return self.inner.url(key)

    def ask(self, protocol: type[P]) -> P | None:
        ability = self.inner.ask(protocol)
        if ability is None:
            return None
        through = _THROUGH.get(protocol)
        return ability if through is None else cast("P", through(self, ability))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.inner!r}>"


class _Through(Generic[T]):
    """An ability of the system inside, by way of its wrapper."""

    def __init__(self, wrapper: Wrapper, inner: T) -> None:
        self._wrapper = wrapper
        self._inner = inner


def _outcomes(
    verb: str, work: Callable[[Iterable[In]], Iterator[Outcome]], item: Callable[[In], str]
) -> Flow[In, Outcome]:
    return Flow(
        verb,
        work,
        item=item,
        outcome=lambda outcome: outcome.key,
        error=lambda outcome: outcome.error,
        failed=lambda one, error: Outcome(item(one), error=error),
    )


def _entry_key(entry: Entry) -> str:
    return entry.key


def _last_key(page: Sequence[Entry]) -> str:
    return page[-1].key


def _target_key(pair: tuple[Entry, str]) -> str:
    return pair[1]


class _Bulk(_Through[Bulk]):
    @property
    def largest(self) -> int:
        return self._inner.largest

    def read_many(
        self, entries: Iterable[Entry], *, workers: int = WORKERS
    ) -> Iterator[tuple[Entry, bytes | Exception]]:
        flow: Flow[Entry, tuple[Entry, bytes | Exception]] = Flow(
            "read_many",
            partial(self._inner.read_many, workers=workers),
            item=_entry_key,
            outcome=lambda outcome: outcome[0].key,
            error=lambda outcome: outcome[1] if isinstance(outcome[1], Exception) else None,
            failed=lambda entry, error: (entry, error),
        )
        return self._wrapper.many(flow, entries)

    def write_many(self, items: Iterable[Item], *, workers: int = WORKERS) -> Iterator[Outcome]:
        write = partial(self._inner.write_many, workers=workers)
        return self._wrapper.many(_outcomes("write_many", write, lambda item: item.key), items)


class _Direct(_Through[Direct]):
    def can_send_to(self, other: System) -> bool:
        return self._wrapper.call("can_send_to", "", lambda: self._inner.can_send_to(unwrap(other)))

    def send_to(self, other: System, pairs: Iterable[tuple[Entry, str]]) -> Iterator[Outcome]:
        far = unwrap(other)
        flow = _outcomes("send_to", lambda items: self._inner.send_to(far, items), _target_key)
        return self._wrapper.many(flow, pairs)

    def receive_from(self, other: System, pairs: Iterable[tuple[Entry, str]]) -> Iterator[Outcome]:
        far = unwrap(other)
        flow = _outcomes("receive_from", lambda items: self._inner.receive_from(far, items), _target_key)
        return self._wrapper.many(flow, pairs)


class _ServerCopy(_Through[ServerCopy]):
    def can_copy_from(self, source: System) -> bool:
        return self._inner.can_copy_from(unwrap(source))

    def copy_many(
        self, source: System, pairs: Iterable[tuple[Entry, str]], *, watch: Watch | None = None
    ) -> Iterator[Outcome]:
        near = unwrap(source)
        flow = _outcomes("copy_many", lambda items: self._inner.copy_many(near, items, watch=watch), _target_key)
        return self._wrapper.many(flow, pairs)


class _Fetching(_Through[Fetching]):
    def fetch_many(
        self, requests: Iterable[tuple[Entry, str, SignedRequest | Sequence[tuple[Span, SignedRequest]]]]
    ) -> Iterator[Outcome]:
        return self._wrapper.many(_outcomes("fetch_many", self._inner.fetch_many, lambda one: one[1]), requests)

    def send_many(self, requests: Iterable[tuple[Entry, Sequence[tuple[Span, SignedRequest]]]]) -> Iterator[Outcome]:
        return self._wrapper.many(_outcomes("send_many", self._inner.send_many, lambda one: one[0].key), requests)


class _Digesting(_Through[Digesting]):
    def digest_many(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        return self._wrapper.many(_outcomes("digest_many", self._inner.digest_many, _entry_key), entries)


class _Following(_Through[Following]):
    def list_following(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        inner = self._inner
        listing = Listing(lambda prefix, after: inner.list_following(prefix, after=after, depth=depth), _entry_key)
        return self._wrapper.listing("list", listing, prefix, after)


class _Paging(_Through[Paging]):
    def list_pages(
        self, prefix: str = "", *, after: str = "", follow: bool = False, skip: Skip | None = None
    ) -> Iterator[Sequence[Entry]]:
        def pages(prefix: str, after: str) -> Iterator[Sequence[Entry]]:
            return self._inner.list_pages(prefix, after=after, follow=follow, skip=skip)

        listing = Listing(pages, _last_key)
        return self._wrapper.listing("list", listing, prefix, after)


class _Linked(_Through[Linked]):
    def real_path(self) -> str:
        return self._wrapper.call("real_path", "", self._inner.real_path)


class _Running(_Through[Running]):
    def run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None
    ) -> tuple[int, bytes, bytes]:
        return self._wrapper.call("run", "", lambda: self._inner.run(argv, stdin=stdin, timeout_s=timeout_s))


class _Sweeping(_Through[Sweeping]):
    def sweep(self, *, older_than_s: float = 0.0) -> int:
        return self._wrapper.call("sweep", "", lambda: self._inner.sweep(older_than_s=older_than_s))


class _Multipart(_Through[Multipart]):
    def begin(self, key: str, size: int, *, part_size: int, executable: bool | None = None) -> Upload:
        upload = self._wrapper.call(
            "begin", key, lambda: self._inner.begin(key, size, part_size=part_size, executable=executable)
        )
        return _Upload(self._wrapper, upload, key, size)

    def resume(self, key: str, token: str) -> Upload:
        return _Upload(self._wrapper, self._wrapper.call("resume", key, lambda: self._inner.resume(key, token)), key)


class _Upload:
    """An upload by way of a wrapper. `inner` is the system's own."""

    def __init__(self, wrapper: Wrapper, inner: Upload, key: str, size: int | None = None) -> None:
        self.inner = inner
        self.token = inner.token
        self.part_size = inner.part_size
        self.key = key
        self.size = size
        self._wrapper = wrapper

    def put(self, number: int, data: Bytes) -> str:
        given = cast("Bytes", self._wrapper.data(self.key, data))
        return self._wrapper.call("part", self.key, lambda: self.inner.put(number, given))

    def parts(self) -> dict[int, str]:
        return self._wrapper.call("parts", self.key, self.inner.parts)

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        entry = self._wrapper.call("finish", self.key, lambda: self.inner.finish(tags, when=when))
        if self.size is not None and entry.size != self.size:
            raise IntegrityError(
                "what was published is not what was uploaded",
                where=self._wrapper.url(self.key),
                expected=f"{self.size} bytes",
                got=f"{entry.size} bytes",
            )
        return entry

    def abort(self) -> None:
        self._wrapper.call("abort", self.key, self.inner.abort)


class _Streaming(_Through[Streaming]):
    def put_stream(self, upload: Upload, number: int, pieces: Iterable[Bytes]) -> str:
        key = upload.key if isinstance(upload, _Upload) else ""
        given = cast("Iterable[Bytes]", self._wrapper.data(key, pieces))
        inner = upload.inner if isinstance(upload, _Upload) else upload
        return self._wrapper.once("part", key, lambda: self._inner.put_stream(inner, number, given))


class _Signing(_Through[Signing]):
    """Signing sends nothing, so there is nothing to wrap but the upload."""

    def sign_read(self, key: str, *, expires_s: int = 3600) -> SignedRequest:
        return self._inner.sign_read(key, expires_s=expires_s)

    def sign_write(self, key: str, size: int, *, expires_s: int = 3600) -> SignedRequest:
        return self._inner.sign_write(key, size, expires_s=expires_s)

    def sign_part(self, upload: Upload, number: int, size: int, *, expires_s: int = 3600) -> SignedRequest:
        while isinstance(upload, _Upload):
            upload = upload.inner
        return self._inner.sign_part(upload, number, size, expires_s=expires_s)


class _Versioned(_Through[Versioned]):
    def versions_of(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        return self._wrapper.call("versions_of", "", lambda: self._inner.versions_of(entries))

    def pinned(self, versions: Mapping[str, str]) -> System:
        return self._wrapper.over(self._inner.pinned(versions))


class _Vouching(_Through[Vouching]):
    def vouch(self, entry: Entry) -> Entry:
        return self._wrapper.call("vouch", entry.key, lambda: self._inner.vouch(entry))


_THROUGH: dict[Any, Callable[[Wrapper, Any], Any]] = {
    Bulk: _Bulk,
    Direct: _Direct,
    Digesting: _Digesting,
    Fetching: _Fetching,
    Following: _Following,
    Linked: _Linked,
    Multipart: _Multipart,
    Paging: _Paging,
    Running: _Running,
    ServerCopy: _ServerCopy,
    Signing: _Signing,
    Streaming: _Streaming,
    Sweeping: _Sweeping,
    Versioned: _Versioned,
    Vouching: _Vouching,
}
