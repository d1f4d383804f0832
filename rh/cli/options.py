"""Arguments and options that several commands share, and how their text is read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated

import typer
from typer import Context

from rh.cli import show
from rh.cli.complete import complete_name, complete_place, one_of
from rh.durations import seconds_of
from rh.errors import InvalidError, RhError

__all__ = [
    "AsJson",
    "Exclude",
    "HowLinks",
    "Include",
    "NamePrefix",
    "NoProgress",
    "PlaceArgument",
    "SavedName",
    "Yes",
    "ask",
    "name_meant",
    "prefix_meant",
    "saved_below_home",
    "size_of",
    "span_of",
    "tilde",
]


def tilde(text: str) -> str | None:
    """`~/x` for a path below the home directory, which is what a shell makes of it; `None` for all else."""
    home = os.path.expanduser("~").rstrip("/")
    return "~" + text[len(home) :] if home and (text + "/").startswith(home + "/") else None


def saved_below_home(text: str) -> str | None:
    """The name `~/x` that a path below the home directory was typed as, if it is saved."""
    from rh.resources import base

    back = tilde(text)
    try:
        return back if back is not None and base.exists(back) else None
    except InvalidError:
        return None


def name_meant(context: Context, name: str | None) -> str | None:
    """The name that was typed: the shell makes `/home/ada/x` of `~/x`. Where `/home/ada` owns names it may be one."""
    from rh.resources import base

    back = None if name is None else tilde(name)
    if name is None or back is None:
        return name
    try:
        if not _owns_names(name.removesuffix(back[1:])):
            return back
        return name if base.exists(name) or not base.exists(back) else back
    except InvalidError:
        return back
    except RhError:
        if context.resilient_parsing:
            return name  # completion has nowhere to complain
        raise


def prefix_meant(context: Context, prefix: str | None) -> str | None:
    """The same for what names begin with: `~` and what is below it."""
    back = None if prefix is None else tilde(prefix)
    if prefix is None or back is None or context.resilient_parsing:
        return prefix
    return prefix if _owns_names(prefix) else back


def _owns_names(prefix: str) -> bool:
    from rh.resources import records

    try:
        return next(records.list_records(prefix), None) is not None
    except InvalidError:
        return False


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Do not show a progress bar.")]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Include only names that match this pattern (as in .gitignore); repeatable."),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Exclude names that match this pattern; repeatable.")
]
HowLinks = Annotated[
    str,
    typer.Option(
        "--links",
        metavar="HOW",
        autocompletion=one_of("follow", "keep", "skip", "error"),
        help="follow: take what links point to; keep: the links themselves; skip; error.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
PlaceArgument = Annotated[str, typer.Argument(metavar="PLACE", autocompletion=complete_place, show_default=False)]
SavedName = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=complete_name, callback=name_meant, show_default=False)
]
NamePrefix = Annotated[
    str | None,
    typer.Argument(metavar="PREFIX", autocompletion=complete_name, callback=prefix_meant, show_default=False),
]

_SHOWN = 20
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b)?(?:/s)?", re.IGNORECASE)
_LARGEST = (1 << 63) - 1
_LONGEST_S = 1000 * 366 * 86400.0


def size_of(text: str | None, option: str) -> int | None:
    """Bytes from `10M`, `10MiB` (1024²) or `10MB` (1000²)."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidError(f"{option} {text!r} is not a size", hint=f"{option} 500K, 10M, 1.5GiB or 10MB")
    step = 1000 if (match.group(3) or "").lower() == "b" and match.group(2) else 1024
    power = " kmgtp".index(match.group(2).lower() or " ")
    size = int(Decimal(match.group(1)) * step**power)  # a fraction of floating point is not exact beyond 2^53
    if size > _LARGEST:
        raise InvalidError(f"{option} {text!r} is more than any file has")
    return size


def span_of(text: str | None, option: str) -> float | None:
    """Seconds from `90s`, `15m`, `2h`, `3d` or `1w`."""
    if text is None:
        return None
    seconds = seconds_of(text)
    if seconds is None:
        raise InvalidError(f"{option} {text!r} is not a span of time", hint=f"{option} 90s, 15m, 2h, 3d or 1w")
    if seconds > _LONGEST_S:
        raise InvalidError(f"{option} {text!r} is longer than a thousand years")
    return seconds


def ask(what: Sequence[str], question: str) -> None:
    """Go on only if the person at the terminal wants what cannot be taken back; nobody there is a no.

    Raises:
        InvalidError: there is no terminal.
        Exit: the answer is no.
    """
    if not sys.stdin.isatty():
        raise InvalidError("there is nobody to ask", hint="--yes goes on without asking")
    for text in what[:_SHOWN]:
        show.tell(text)
    if len(what) > _SHOWN:
        show.tell(f"… and {len(what) - _SHOWN:,} more")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
