"""Which keys are meant: `include=`, `exclude=` and the ignore file, all with the patterns of `.gitignore`.

`*.txt` matches at any depth, `/top.txt` and `a/b.txt` from the root, `build/` a directory and all in it, `**` any
number of directories, `!keep.txt` takes back. What Git itself would ignore is data: only `.rhignore` at the root of
the source counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rh.errors import InvalidError
from rh.systems.far.skip import Skip

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["IGNORE_FILE", "Selector", "selector"]

IGNORE_FILE = ".rhignore"


class Selector(NamedTuple):
    """Which keys are meant.

    Attributes:
        means: tells it of a key.
        skip: tells of a directory whether nothing below it can be meant; `None` where that is not known.
    """

    means: Callable[[str], bool]
    skip: Skip | None = None


def selector(include: Sequence[str] = (), exclude: Sequence[str] = (), ignore: Sequence[str] = ()) -> Selector | None:
    """Keys that match `include` (or there is none) and neither `exclude` nor `ignore`; `None` when those are all."""
    if isinstance(include, str) or isinstance(exclude, str):
        raise InvalidError("include= and exclude= take a list of patterns", hint="include=['*.txt']")
    if not (include or exclude or ignore):
        return None
    wanted, unwanted, ignored = _compiled(include), _compiled(exclude), _compiled(ignore)

    def means(key: str) -> bool:
        key = _on_one_line(key)
        if wanted is not None and not wanted.match_file(key):
            return False
        if unwanted is not None and unwanted.match_file(key):
            return False
        return not (ignored is not None and ignored.match_file(key))

    return Selector(means, Skip([*_final(unwanted), *_final(ignored)]))


def _compiled(lines: Sequence[str]) -> GitIgnoreSpec | None:
    if not lines:
        return None
    import pathspec

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of `[[]`, which Python may read otherwise some day
            return pathspec.GitIgnoreSpec.from_lines(map(_on_one_line, lines))
    except ValueError as error:
        raise InvalidError(f"not a pattern: {error}", hint="the patterns are those of .gitignore") from error


def _final(spec: GitIgnoreSpec | None) -> Sequence[str]:
    """The regular expressions of patterns none of which takes back what another one matches."""
    patterns = () if spec is None else spec.patterns
    if any(pattern.include is False for pattern in patterns):
        return ()
    return [pattern.regex.pattern for pattern in patterns if pattern.include and pattern.regex]


def _on_one_line(text: str) -> str:
    """A key or pattern as pathspec takes it, to whose regular expressions a line break is the end, or no character."""
    return text.replace("\n", "\0")
