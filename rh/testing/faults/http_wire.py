"""HTTP/1.1 messages on a socket, taken apart and put together again byte for byte."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from typing import cast

__all__ = ["Head", "Malformed", "Reader"]

_PIECE = 1 << 18
_MOST = 1 << 18


class Malformed(Exception):  # noqa: N818 - stays inside the proxy
    """Not HTTP/1.1 as we know it."""


class Head:
    """The first line and the header fields of a message; what is not touched stays as it came."""

    def __init__(self, lines: list[bytes]) -> None:
        self.first = lines[0]
        self.fields = lines[1:]

    def get(self, name: str) -> str:
        """A field's value, `""` where there is none."""
        wanted = name.lower().encode()
        for line in self.fields:
            key, _, value = line.partition(b":")
            if key.strip().lower() == wanted:
                return value.strip().decode("latin-1")
        return ""

    def set(self, name: str, value: str | None) -> None:
        """Replace a field where it is, add it, or (`None`) remove it."""
        wanted, done = name.lower().encode(), value is None
        line = b"" if value is None else f"{name}: {value}".encode("latin-1")
        kept = []
        for old in self.fields:
            if old.partition(b":")[0].strip().lower() != wanted:
                kept.append(old)
            elif not done:
                kept.append(line)
                done = True
        self.fields = kept if done else [*kept, line]

    def mapping(self) -> dict[str, str]:
        """All fields by lower-case name; of repeated ones the last."""
        pairs = (line.partition(b":") for line in self.fields)
        return {key.strip().lower().decode("latin-1"): value.strip().decode("latin-1") for key, _, value in pairs}

    def encode(self) -> bytes:
        return b"\r\n".join([self.first, *self.fields, b"", b""])

    @property
    def chunked(self) -> bool:
        return "chunked" in self.get("Transfer-Encoding").lower()

    def length(self) -> int | None:
        """What it says about the length of its body; `None` if nothing."""
        text = self.get("Content-Length")
        if not text:
            return None
        if not text.isdigit():
            raise Malformed(f"Content-Length: {text}")
        return int(text)


class Reader:
    """Reads messages from a socket."""

    def __init__(self, source: socket.socket) -> None:
        self._file = cast("io.BufferedReader", source.makefile("rb", buffering=_PIECE))

    def close(self) -> None:
        self._file.close()

    def head(self) -> Head | None:
        """The next message's head; `None` where the stream ends between messages."""
        lines: list[bytes] = []
        size = 0
        while True:
            line = self._file.readline(_MOST)
            if not line and not lines:
                return None
            size += len(line)
            if not line.endswith(b"\n") or size > _MOST:
                raise Malformed("the head of a message does not end")
            line = line.rstrip(b"\r\n")
            if line:
                lines.append(line)
            elif lines:
                return Head(lines)

    def sized(self, length: int) -> Iterator[bytes]:
        """A body of so many bytes; ends early where the stream does (the caller counts)."""
        while length:
            piece = self._file.read1(min(length, _PIECE))
            if not piece:
                raise Malformed("the stream ended within a body")
            length -= len(piece)
            yield piece

    def chunks(self) -> Iterator[bytes]:
        """The payload of a chunked body, trailers dropped."""
        while True:
            line = self._file.readline(_MOST)
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError as error:
                raise Malformed(f"not a chunk's size: {line[:40]!r}") from error
            if not size:
                break
            yield from self.sized(size)
            self._file.readline(4)
        while self._file.readline(_MOST).strip():
            continue

    def rest(self) -> Iterator[bytes]:
        """Everything to the end of the stream."""
        while piece := self._file.read1(_PIECE):
            yield piece
