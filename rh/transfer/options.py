"""How a transfer is to be made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from threading import Event
from typing import Any, Literal, TypedDict, get_args

from rh.config import did_you_mean
from rh.errors import InvalidError
from rh.progress import Progress

__all__ = ["Keywords", "Links", "Names", "OnExisting", "Options", "WholeKeywords", "check_watchers"]

OnExisting = Literal["update", "skip", "error", "replace"]
Links = Literal["follow", "keep", "skip", "error"]
Names = Literal["refuse", "encode", "decode"]


class WholeKeywords(TypedDict, total=False):
    """What `.to()` and `.plan()` of a table take, all of whose files are moved. For editors and type checkers."""

    on_existing: OnExisting
    workers: int | None
    bandwidth: float | None
    progress: Progress | None
    cancel: Event | None


class Keywords(WholeKeywords, total=False):
    """What `.to()` and `.plan()` take: `Options` by keyword, and who watches. For editors and type checkers."""

    include: Sequence[str]
    exclude: Sequence[str]
    keys: Collection[str] | None
    ignore_file: bool
    links: Links
    delete: bool
    max_delete: int | None
    dry_run: bool
    names: Names
    manifest: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `.to()`, `plan` and the command line.

    Attributes:
        include: patterns (those of `.gitignore`) of the keys that are meant; none means all.
        exclude: patterns of keys that are not.
        keys: the very keys that are meant, instead of patterns. The source has to have them all; with `delete` it need
            not.
        ignore_file: whether `.rhignore` at the root of the source is obeyed.
        links: `"follow"` copies what a link points to; `"keep"` the link itself, where the target has links; `"skip"`
            leaves links out; `"error"` refuses a source that has any.
        on_existing: `"update"` moves what differs, `"skip"` leaves what exists, `"error"` refuses to begin if
            anything that differs exists, `"replace"` moves everything again.
        delete: remove what the target has and the source has not. Keys that the patterns leave out are left alone.
        max_delete: refuse to begin if more than so many would be removed, as where the source was emptied by mistake.
        dry_run: plan only; the receipt says what would be done.
        names: `"refuse"` keys the target cannot hold before anything is moved, `"encode"` them (`%XX`), or on the way
            back `"decode"` what was encoded.
        workers: requests under way at once; default the setting `workers`.
        bandwidth: bytes per second that pass this machine at most.
        manifest: write the manifest of the target when all is done.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    keys: Collection[str] | None = None
    ignore_file: bool = True
    links: Links = "follow"
    on_existing: OnExisting = "update"
    delete: bool = False
    max_delete: int | None = None
    dry_run: bool = False
    names: Names = "refuse"
    workers: int | None = None
    bandwidth: float | None = None
    manifest: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (
            ("links", get_args(Links)),
            ("on_existing", get_args(OnExisting)),
            ("names", get_args(Names)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise InvalidError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")
        for name in ("ignore_file", "delete", "dry_run", "manifest"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidError(f"{name}={getattr(self, name)!r} is neither True nor False")
        for name in ("workers", "bandwidth", "max_delete"):
            if isinstance(getattr(self, name), bool):  # else `True` would be one of them, or a byte per second
                raise InvalidError(f"{name}={getattr(self, name)!r} is not a number")
        if self.workers is not None and not (isinstance(self.workers, int) and 1 <= self.workers <= 1024):
            raise InvalidError(f"workers={self.workers!r} is not a number from 1 to 1024")
        if self.bandwidth is not None and not (isinstance(self.bandwidth, int | float) and self.bandwidth > 0):
            raise InvalidError(f"bandwidth={self.bandwidth!r} is not a number of bytes per second above 0")
        if self.max_delete is not None and not (isinstance(self.max_delete, int) and self.max_delete >= 0):
            raise InvalidError(f"max_delete={self.max_delete!r} is not a number of files")
        for name in ("include", "exclude", "keys"):
            value = getattr(self, name)
            if value is None:
                continue
            if not _are_texts(value):
                what = "keys" if name == "keys" else "patterns"
                hint = f"{name}=[{value!r}]" if isinstance(value, str) else None
                raise InvalidError(f"{name}= takes a list of {what}, which are text", hint=hint)
            if not all(value):
                raise InvalidError(f"an empty text in {name}= means nothing", hint="leave it out")
            object.__setattr__(self, name, tuple(value))  # a column of a frame, say, is neither true nor false

    @classmethod
    def names_of(cls) -> frozenset[str]:
        """The names of all options."""
        return frozenset(field.name for field in fields(cls))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Options from keyword arguments, with a clear error for one that does not exist."""
        known = tuple(sorted(cls.names_of()))
        for name in options:
            if name not in known:
                near = did_you_mean(name, known)
                raise InvalidError(f"no such option: {name}{near}", hint=f"options: {', '.join(known)}")
        return cls(**options)


def _are_texts(values: object) -> bool:
    if isinstance(values, str) or not isinstance(values, Collection):
        return False
    return all(isinstance(one, str) for one in values)


def check_watchers(progress: object, cancel: object) -> None:
    """Refuse a `progress=` or `cancel=` that could not be used; `None` is neither."""
    verbs = ("start", "total", "advance", "finish")
    if progress is not None and not all(callable(getattr(progress, verb, None)) for verb in verbs):
        raise InvalidError(
            f"progress={progress!r} is no progress",
            hint=f"an object with the methods {', '.join(verbs)}: rh.progress.Progress",
        )
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        raise InvalidError(f"cancel={cancel!r} is no event", hint="cancel=threading.Event()")
