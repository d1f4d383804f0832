"""Completion of arguments: systems, saved names, runs, and paths of this machine. No place is asked."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from typer import Context

if TYPE_CHECKING:
    from rh.resources.runs import Run

__all__ = [
    "complete_draft",
    "complete_name",
    "complete_place",
    "complete_run",
    "complete_run_name",
    "complete_setting",
    "complete_system",
    "complete_version",
    "one_of",
    "open_ends",
    "whole_words",
]


def open_ends() -> None:
    """Have typer's script for bash put no space behind a word that goes on: a directory, a system."""
    try:
        from typer import _completion_shared as shared
        from typer._completion_classes import BashComplete

        script = shared.COMPLETION_SCRIPT_BASH
    except (ImportError, AttributeError):  # another typer, whose script has the space
        return
    ends = '[[ "${COMPREPLY[*]}" != *[/:] ]] || compopt -o nospace 2> /dev/null\n    return 0'
    script = script.replace("return 0", ends)
    BashComplete.source_template = shared._completion_scripts["bash"] = script  # noqa: SLF001 - typer asks nobody


@contextlib.contextmanager
def whole_words() -> Iterator[None]:
    """Ask for completions of words that bash took apart at colons, and answer with what follows the last one.

    That part is all that bash puts something in place of (`COMP_WORDBREAKS`), and it puts it there as it is: what would
    be two words, or a command, gets backslashes. Its words come one to a line.
    """
    if os.environ.get("_RH_COMPLETE") != "complete_bash":
        yield
        return
    parts = os.environ.get("COMP_WORDS", "").split("\n")
    words: list[str] = []
    current = 0
    for count, part in enumerate(parts):
        joined = words and part and (part == ":" or words[-1].endswith(":"))
        words[-1:] = [words[-1] + part] if joined else [*words[-1:], part]
        if count == int(os.environ["COMP_CWORD"]):
            current = len(words) - 1
    before = ""
    if ":" in parts:
        os.environ.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(current))
        before = words[current][: words[current].rfind(":") + 1]
    found = io.StringIO()
    try:
        with contextlib.redirect_stdout(found):
            yield
    finally:
        for value in _begun(before, (_quoted(line, words[current][:1]) for line in found.getvalue().splitlines())):
            print(value.removeprefix(before))


def _quoted(name: str, begun: str) -> str:
    """A name as a shell takes it for one word, which began with a quote or another letter."""
    if begun == "'":
        return name.replace("'", r"'\''")
    return re.sub(r'["$`\\]' if begun == '"' else r"[^\w@%+=:,./~-]", r"\\\g<0>", name)


def complete_place(incomplete: str) -> Sequence[str]:
    """Places that begin so."""
    found = [*_paths(incomplete), *_systems(incomplete), *(f"rh://{name}" for name in _names(_bare(incomplete)))]
    return found or [f"rh://{name}" for name in _names(incomplete)]


def complete_name(incomplete: str) -> Sequence[str]:
    """Saved names that begin so, those of this machine without `~/`, which the shell would make a path of."""
    return _names(incomplete)


def complete_system(incomplete: str) -> Sequence[str]:
    """Names of systems that begin so."""
    from rh import config
    from rh.errors import RhError

    try:
        return [name for name in config.system_names() if name.startswith(incomplete)]
    except RhError:
        return []


def complete_setting(incomplete: str) -> Sequence[str]:
    """Settings that begin so."""
    from rh import config
    from rh.errors import RhError

    try:
        return [value.key for value in config.show() if value.key.startswith(incomplete)]
    except RhError:
        return []


def complete_run(incomplete: str) -> Sequence[str]:
    """Ids and names of runs that begin so."""
    found = [(one.id, one.name) for one in _runs()]
    return [one[0] for one in found if one[0].startswith(incomplete)] + _begun(incomplete, (one[1] for one in found))


def complete_run_name(incomplete: str) -> Sequence[str]:
    """Names of runs that begin so."""
    return _begun(incomplete, (one.name for one in _runs()))


def complete_draft(context: Context, incomplete: str) -> Sequence[str]:
    """Names of open drafts that begin so, of the name on the command line."""
    from rh.errors import RhError
    from rh.resources.base import load
    from rh.resources.folder import Folder
    from rh.resources.named_draft import open_drafts

    name = context.params.get("name")
    try:
        folder = load(name.removeprefix("rh://"), dryrun=True) if isinstance(name, str) else None
        found = open_drafts(folder) if isinstance(folder, Folder) else []
    except RhError:
        return []
    return _begun(incomplete, (one.name for one in found))


def complete_version(context: Context, incomplete: str) -> Sequence[str]:
    """Numbers and aliases of versions that begin so, of the name on the command line, the newest first."""
    name = context.params.get("name")
    return _begun(incomplete, _versions(name.removeprefix("rh://")) if isinstance(name, str) else [])


def _begun(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _runs() -> Sequence[Run]:
    from rh.errors import RhError
    from rh.resources.runs import runs

    try:
        return runs()
    except RhError:
        return []


def one_of(*values: str) -> Callable[[str], Sequence[str]]:
    """A completion among fixed values."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def _bare(text: str) -> str:
    if text.startswith("rh://"):
        return text[5:]
    return "" if "rh://".startswith(text) and text else "\0"


def _versions(name: str) -> list[str]:
    from rh.errors import RhError
    from rh.resources.base import load
    from rh.resources.versioned import Versioned

    try:
        resource = load(name, dryrun=True)
        if not isinstance(resource, Versioned):
            return []
        return [*(version.label for version in resource.versions()[::-1]), *resource.aliases()]
    except RhError:
        return []


def _names(incomplete: str) -> list[str]:
    """Saved names that begin so; after a colon, the versions of one."""
    from rh.errors import RhError
    from rh.registry.names import parse_prefix
    from rh.resources import records

    name, colon, _ = incomplete.partition(":")
    if colon:
        return _begun(incomplete, (f"{name}:{version}" for version in _versions(name)))

    try:
        if incomplete.startswith("@"):
            mine = parse_prefix("@")
            return _begun(incomplete, (f"@{one.removeprefix(mine)}" for one in records.list_names(mine)))
        known = records.list_names("/")
    except RhError:
        return []  # completion has nowhere to complain
    short = known if incomplete.startswith("~") else [name.removeprefix("~/") for name in known]
    return [name for name in short if name.startswith(incomplete)]


def _systems(incomplete: str) -> list[str]:
    from rh import config
    from rh.errors import RhError
    from rh.systems import HOSTS

    found = []
    try:
        for name in config.system_names():
            text = f"{name}:/" if config.system(name)["kind"] in HOSTS else f"{name}://"
            if incomplete and text.startswith(incomplete) and name != "file":
                found.append(text)
    except RhError:
        return []
    return found


def _paths(incomplete: str) -> list[str]:
    if "://" in incomplete:
        return []
    folder, _, stem = incomplete.rpartition("/")
    place = os.path.expanduser(folder) if folder else ("/" if incomplete.startswith("/") else ".")
    lead = f"{folder}/" if "/" in incomplete else ""
    try:
        with os.scandir(place) as entries:
            found = [
                lead + entry.name + ("/" if entry.is_dir() else "") for entry in entries if entry.name.startswith(stem)
            ]
    except OSError:
        return []
    return sorted(name for name in found if stem.startswith(".") or not name.removeprefix(lead).startswith("."))
