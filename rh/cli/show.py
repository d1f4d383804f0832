"""How results and errors look: text for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rh.errors import RhError

__all__ = ["NAMES", "drop", "emit", "fail", "human", "line", "table", "tell", "warn", "warnings_told", "when"]


def human(size: float) -> str:
    """Bytes for people, in binary units."""
    from rh.transfer.receipt import human as text

    return text(size)


def when(seconds: float | None) -> str:
    """A moment for people, in local time; one that no calendar has in seconds, as `date` takes them."""
    if seconds is None:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"@{seconds:.0f}"


def safe(text: str, stream: Any) -> str:
    """Text for a stream: a terminal gets no control characters from names, a pipe gets exactly what there is."""
    if not stream.isatty():
        return text
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def line(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(safe(text, sys.stdout) + "\n")


def tell(text: str) -> None:
    """One line for the person at the terminal, on standard error; if it is closed, the exit code says it still."""
    try:
        sys.stderr.write(safe(text, sys.stderr) + "\n")
    except OSError:
        drop(sys.stderr)


_kept: list[str] | None = None
"""Warnings of a command that tells all in JSON, until it ends."""


@contextlib.contextmanager
def warnings_told(*, as_json: bool) -> Iterator[None]:
    """Warnings are lines on standard error. In JSON they are kept for the document of an error, or the end."""
    global _kept  # noqa: PLW0603 - one command line at a time
    _kept = [] if as_json else None
    try:
        yield
    finally:
        left, _kept = _kept or (), None
        for text in left:
            tell(json.dumps({"warning": text}))


def warn(text: str) -> None:
    """Tell a warning, at once or with what comes of it."""
    if _kept is None:
        tell(f"warning: {text}")
    else:
        _kept.append(text)


def drop(stream: Any) -> None:
    """Let go nowhere what a stream cannot be rid of: Python would try again at exit, and complain."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def emit(value: Any) -> None:
    """One JSON document on a line of its own."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def table(rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Rows in columns, those numbered in `right` set flush right. The last column is as wide as it likes."""
    rows = [list(row) for row in rows]
    if not rows:
        return
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        cells[-1] = row[-1] if len(row) - 1 not in right else cells[-1]
        line("  ".join(cells).rstrip(" "))


_WORDS = {
    ".commit()": "rh commit",
    ".rebase()": "rh draft NAME rebase",
    ".add_dir(…)": "rh draft NAME add DIRECTORY",
    ".draft(…).add(…)": "rh draft NAME add FILE",
    "rh.table(rows, path=…).write() makes": "rh table write makes",
    ".to(…, --delete)": "rh sync --delete",
    ".to(…)": "rh cp",
    "rh.resources('/')": "rh resources",
    "; to make a new one give path= or system=": "",
    "rh.runs()": "rh run ls",
    "rh.find(where=…)": "rh find --where …",
}
"""Calls of Python in the fixes of errors, and the commands that do the same."""


_PATH = r"(?:^|; )(?:if it is a path, |for a path )?write path=(?:'[^']*'|\"[^\"]*\"|…)"
"""An argument that no command has: what says that a word is a path, and no name."""
_PAIR, _PAIRED = re.compile(r'"(\w+)": "(.+?)"'), r"\1=\2"
_ARGUMENT = re.compile(r"^(on_existing|links|names|workers|bandwidth|as_of|created_after|limit)=")
"""The argument that a message begins with, where its value cannot be right."""
_CHOICE = re.compile(r"""\b(on_existing|links|names|as_of|created_after)=((?:(?:, | or )?(?:'[\w-]+'|"[\w-]+"))+)""")
"""The same in a fix, with the values it may have."""
NAMES = "rh resources lists the names there are"


def _option(argument: str) -> str:
    return f"--{argument.replace('_', '-')} "


def typed(hint: str | None) -> str | None:
    """A fix that names an argument of Python's, as it is typed here: `--links keep` for `links="keep"`."""
    if hint is None:
        return None
    hint = re.sub(r"\b(overwrite|recursive|delete|update)=True\b", r"--\1", hint)
    hint = _CHOICE.sub(lambda found: _option(found[1]) + re.sub("['\"]", "", found[2]), hint)
    hint = re.sub(r"\bbase=(?:'(\w+)')?", lambda found: f"--base {found[1] or ''}".rstrip(), hint)
    hint = re.sub(r"(?<![(\w])(mode|format)=\"(\w+)\"", r"--\1 \2", hint)
    hint = re.sub(r"\bformat=(?=\s|$)", "--format", hint)
    hint = re.sub(r"\boptions=\{\"(\w+)\": (\{.*?\}|…|\d+)\}", r"--option '\1=\2'", hint)
    hint = re.sub(r"\boptions=\{\"(\w+)\": \"(.*?)\"\}", r"--option '\1=\2'", hint)
    hint = re.sub(r"\bcolumns=(\[.*?\])?", "--column", hint)
    hint = re.sub(r"\bschema=\{(.*?)\}", lambda found: f"--schema '{_PAIR.sub(_PAIRED, found[1])}'", hint)
    hint = hint.removesuffix(", or a pyarrow.Schema")
    hint = re.sub(r"\bschema=", "--schema", hint)
    hint = re.sub(r"rh\.folder\('(.+?)'\)\.query\(…\)", r"rh find rh://\1 --where …", hint)
    hint = re.sub(_PATH, "", hint) or NAMES
    for python, words in _WORDS.items():
        hint = hint.replace(python, words)
    return hint


def fail(error: RhError, *, as_json: bool) -> None:
    """An error on standard error: its message and its fix, or one JSON document with `kind`."""
    receipt = getattr(error, "receipt", None)
    error.message = _ARGUMENT.sub(lambda found: _option(found[1]), error.message)
    if as_json:
        document = error.as_dict() | {"hint": typed(error.hint)}
        if receipt is not None:
            document["receipt"] = receipt.as_dict()
        if _kept:
            document["warnings"] = [*_kept]
            _kept.clear()
        tell(json.dumps(document, default=str))
        return
    error.hint = typed(error.hint)
    tell(f"rh: {error}")
    for profile in _profiles(error):
        tell(f"  (the profile {profile} has settings for this place: export RH_PROFILE={profile})")
    if receipt is not None and len(receipt.failed) > 10:
        tell("  (--json lists them all)")


def _profiles(error: RhError) -> list[str]:
    """Profiles in which the place of an error would be another one, or one at all."""
    from rh import config

    system = re.match(r"([\w.-]+)(?::|$)", error.where or "")
    if system is None or config.ALIASES.get(system[1], system[1]) == "file":
        return []
    try:
        return config.profiles_of(system[1])
    except RhError:
        return []  # the error may well be of the settings themselves
