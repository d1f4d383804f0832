"""Which keys are meant: `include=`, `exclude=` and the ignore file, all with the patterns of `.gitignore`.

`*.txt` matches at any depth, `/top.txt` and `a/b.txt` from the root, `build/` a directory and all in it, `**` any
number of directories, `!keep.txt` takes back. What Git itself would ignore is data: only `.rhignore` at the root of
the source counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rh.errors import InvalidError

__all__ = ["IGNORE_FILE", "selector"]

IGNORE_FILE = ".rhignore"


def selector(
    include: Sequence[str] = (), exclude: Sequence[str] = (), ignore: Sequence[str] = ()
) -> Callable[[str], bool] | None:
    """A function that tells whether a key is meant; `None` when all are.

    A key is meant if it matches `include` (or there is none) and neither `exclude` nor `ignore`.
    """
    if isinstance(include, str) or isinstance(exclude, str):
        raise InvalidError("include= and exclude= take a list of patterns", hint="include=['*.txt']")
    if not (include or exclude or ignore):
        return None
    import pathspec

    def compile_(lines: Sequence[str]) -> pathspec.GitIgnoreSpec | None:
        if not lines:
            return None
        try:
            return pathspec.GitIgnoreSpec.from_lines(map(_on_one_line, lines))
        except ValueError as error:
            raise InvalidError(f"not a pattern: {error}", hint="the patterns are those of .gitignore") from error

    wanted, unwanted, ignored = compile_(include), compile_(exclude), compile_(ignore)

    def meant(key: str) -> bool:
        key = _on_one_line(key)
        if wanted is not None and not wanted.match_file(key):
            return False
        if unwanted is not None and unwanted.match_file(key):
            return False
        return not (ignored is not None and ignored.match_file(key))

    return meant


def _on_one_line(text: str) -> str:
    """A key or pattern as pathspec takes it, to whose regular expressions a line break is the end, or no character."""
    return text.replace("\n", "\0")
