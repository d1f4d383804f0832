"""Who changed what, and who was refused: one JSON object a line. Never a document, never a token."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rh.errors import InvalidError
from rh.forks import Lock
from rh.observe import log

__all__ = ["Audit"]

_KEYS = 100
_OUTCOMES = ("unknown", "done", "done", "done", "refused", "failed")


class Audit:
    """Appends to a file of its owner's (mode 0600), or to standard output.

    Each line is one write to a file opened for it, so that others may rotate the file.

    Args:
        path: the file; `None` for standard output.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self.failures = 0
        """Lines that could not be written."""
        self.failing = False
        """Whether the last one could not."""
        self._lock = Lock()

    def check(self) -> None:
        """Make the file if it is not there.

        Raises:
            InvalidError: it cannot be written.
        """
        try:
            self._append(b"")
        except OSError as error:
            raise InvalidError(
                f"the audit log cannot be written: {error.strerror or error}",
                where=None if self.path is None else str(self.path),
                hint="name a file that the server may write: --audit FILE",
            ) from error

    def write(
        self,
        *,
        request: str,
        user: str | None,
        credential: str | None,
        client: str,
        action: str,
        status: int,
        keys: Sequence[str] = (),
        **more: Any,
    ) -> None:
        """One line; a `status` of 0 is that of a caller who left before the answer.

        What cannot be written is told to the log: it is no reason to fail what is done already.
        """
        told = {
            "time": time.time(),
            "request": request,
            "user": user,
            "credential": credential,
            "client": client,
            "action": action,
            "status": status,
            "outcome": _OUTCOMES[status // 100],
            "keys": list(keys[:_KEYS]),
            **more,
        }
        if len(keys) > _KEYS:
            told["keys_in_all"] = len(keys)
        line = (json.dumps(told) + "\n").encode()
        try:
            with self._lock:
                self._append(line)
            self.failing = False
        except OSError as error:
            self.failures += 1
            self.failing = True
            log.error("the audit log cannot be written: %s", error)

    def _append(self, line: bytes) -> None:
        if self.path is None:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
