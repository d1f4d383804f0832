"""Git LFS: files whose repository holds only a pointer to them.

A pointer handed over as if it were the file would be silently wrong, so it is recognised in every repository.
Source: the pointer and batch specifications of the git-lfs project (`docs/spec.md`, `docs/api/batch.md`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rh.errors import IntegrityError, InvalidError, NotFoundError, UnsupportedError
from rh.observe import count
from rh.systems.web.answers import stream
from rh.systems.web.client import Web, public, refusal

__all__ = ["POINTER_MAX", "Pointer", "damaged", "download", "holds", "parse", "path_of", "unsupported"]

POINTER_MAX = 1024
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-\d-[^\n]+\n)*oid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n?"
)
_JSON = "application/vnd.git-lfs+json"
_verified: dict[str, tuple[int, int, int]] = {}
"""How the files looked (size, time, inode) that this process found to be what their pointers say."""


class Pointer(NamedTuple):
    """What a pointer says: the SHA-256 (hex) and the size in bytes of the file it stands for."""

    oid: str
    size: int


def parse(data: bytes) -> Pointer | None:
    """The pointer in a blob, or `None` if it is an ordinary one."""
    match = _POINTER.fullmatch(data) if len(data) < POINTER_MAX else None
    return Pointer(match.group(1).decode(), int(match.group(2))) if match else None


def path_of(git_dir: str, pointer: Pointer) -> str:
    """Where git-lfs keeps the file in a repository's directory."""
    return os.path.join(git_dir, "lfs", "objects", pointer.oid[:2], pointer.oid[2:4], pointer.oid)


def holds(path: str, pointer: Pointer) -> bool | None:
    """Whether a file is what its pointer says, or `None` if it is not there. Bytes are hashed once as long as it looks
    the same.
    """
    try:
        with open(path, "rb") as file:
            look = _look(os.fstat(file.fileno()))
            if _verified.get(path) == look:
                return True
            if look[0] != pointer.size or hashlib.file_digest(file, "sha256").hexdigest() != pointer.oid:
                return False
    except FileNotFoundError:
        return None
    _verified[path] = look
    return True


def _look(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def download(
    web: Web,
    repository: str,
    pointer: Pointer,
    target: str,
    *,
    login: Callable[[str], Mapping[str, str] | None],
    system: str,
) -> None:
    """Fetch one file from the repository's LFS server into `target`, verified, whole or not at all."""
    base = repository.rstrip("/")
    endpoint = (base if base.endswith(".git") else base + ".git") + "/info/lfs/objects/batch"
    asked = {"operation": "download", "transfers": ["basic"], "objects": [{"oid": pointer.oid, "size": pointer.size}]}
    count(system, "lfs")
    with web.request(
        "POST",
        endpoint,
        {"Accept": _JSON, "Content-Type": _JSON},
        body=json.dumps(asked).encode(),
        login=login(endpoint),
    ) as answer:
        if answer.status == 404:
            raise NotFoundError("the repository has LFS files but no LFS server", where=endpoint)
        if answer.status != 200:
            raise refusal(answer.status, endpoint, reason=answer.reason or "")
        text = b"".join(stream(answer, endpoint))
    try:
        found = json.loads(text)["objects"][0]
        action = found.get("actions", {}).get("download")
        error = found.get("error")
        href = str(action["href"]) if action else ""
        headers = {str(name): str(value) for name, value in (action or {}).get("header", {}).items()}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
        raise InvalidError("the LFS server's answer makes no sense", where=endpoint) from problem
    if error or not href:
        raise NotFoundError(f"the LFS server does not have {pointer.oid[:12]}…", where=endpoint)
    _save(web, href, headers, pointer, target, system)


def _save(web: Web, href: str, headers: Mapping[str, str], pointer: Pointer, target: str, system: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    count(system, "lfs")
    with web.request("GET", href, login=headers) as answer:
        if answer.status != 200:
            raise refusal(answer.status, public(href), reason=answer.reason or "")
        handle, part = tempfile.mkstemp(prefix=".rh-", dir=os.path.dirname(target))
        try:
            with os.fdopen(handle, "wb") as file:
                state, size = hashlib.sha256(), 0
                for piece in stream(answer, public(href)):
                    size += len(piece)
                    if size > pointer.size:
                        break
                    state.update(piece)
                    file.write(piece)
                count(system, "lfs", requests=0, received=size)
                if size != pointer.size or state.hexdigest() != pointer.oid:
                    raise IntegrityError(
                        "the LFS server sent other bytes than the pointer says",
                        where=public(href),
                        expected=f"sha256:{pointer.oid} ({pointer.size} bytes)",
                        got=f"sha256:{state.hexdigest()} ({size} bytes)",
                    )
            look = _look(os.stat(part))
            os.replace(part, target)
            _verified[target] = look
        except BaseException:
            os.unlink(part)
            raise


def unsupported(where: str) -> UnsupportedError:
    """The error for places whose LFS files cannot be fetched."""
    return UnsupportedError(
        "that is a Git LFS pointer, and the file itself is not in the repository",
        where=where,
        hint="open the repository by its https URL, or run `git lfs fetch` in the local one",
    )


def damaged(where: str, pointer: Pointer) -> IntegrityError:
    """The error for a file that is not what its pointer says, where it cannot be fetched again."""
    return IntegrityError(
        f"the Git LFS file {pointer.oid[:12]}… of the repository is damaged",
        where=where,
        hint="run `git lfs fsck` and `git lfs fetch` there",
    )
