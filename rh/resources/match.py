"""Patterns of `Folder.glob`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rh.systems.base import System

__all__ = ["glob"]

_WILD = re.compile(r"[*?\[]")


def glob(system: System, pattern: str) -> list[str]:
    """Keys below the root of `system` that match, in key order; directories end with `/`.

    Only the directories that the pattern leads into are listed; below `**`, everything.
    """
    only_directories = pattern.endswith("/")
    parts = [part for part in pattern.split("/") if part]
    found = {key for key in _expand(system, "", parts) if key.endswith("/") or not only_directories}
    return sorted(found, key=lambda key: key.encode("utf-8", "surrogateescape"))


def _expand(system: System, base: str, parts: list[str]) -> Iterator[str]:
    literal = 0
    while literal < len(parts) and not _WILD.search(parts[literal]):
        literal += 1
    if literal:
        prefix = base + "/".join(parts[:literal])
        if literal == len(parts):
            yield from _literal(system, prefix)
            return
        base, parts = prefix + "/", parts[literal:]
    if parts[0] == "**":
        yield from _deep(system, base, parts)
        return
    matches = re.compile(_name(parts[0]), re.DOTALL).fullmatch
    for entry in system.list(base, depth=1):
        name = entry.key[len(base) :]
        if not name or matches(name.rstrip("/")) is None:
            continue
        if len(parts) == 1:
            yield entry.key
        elif entry.kind == "dir":
            yield from _expand(system, entry.key, parts[1:])


def _literal(system: System, key: str) -> Iterator[str]:
    """The file `key`, the directory `key/`, or both."""
    for entry in system.list(key, depth=1):
        if entry.key in (key, key + "/"):
            yield entry.key
        elif entry.key > key + "/":
            return


def _deep(system: System, base: str, parts: list[str]) -> Iterator[str]:
    pattern = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            pattern += ".*" if last else "(?:[^/]+/)*"
        else:
            pattern += _name(part) + ("" if last else "/")
    matches = re.compile(pattern, re.DOTALL).fullmatch
    directories: set[str] = set()
    for entry in system.list(base):
        key = entry.key[len(base) :]
        steps = key.rstrip("/").split("/")
        for depth in range(1, len(steps)):
            directory = "/".join(steps[:depth])
            if directory not in directories:
                directories.add(directory)
                if matches(directory):
                    yield f"{base}{directory}/"
        if key and matches(key.rstrip("/")):
            yield entry.key


def _name(pattern: str) -> str:
    """A regular expression for one name."""
    out, at = "", 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*":
            out += "[^/]*"
        elif letter == "?":
            out += "[^/]"
        elif letter == "[" and (end := pattern.find("]", at + 1 + (pattern[at : at + 1] == "!"))) > 0:
            inner = pattern[at:end]
            no, inner = ("^", inner[1:]) if inner[:1] == "!" else ("", inner)
            members = inner.replace("\\", "\\\\").replace("]", "\\]").replace("^", "\\^").replace("[", "\\[")
            out += f"(?!/)[{no}{members}]"
            at = end + 1
        else:
            out += re.escape(letter)
    return out
