"""Directories that a listing need not go into. Runs on the far side: standard library only, Python 3.7 or newer."""

from __future__ import annotations

import re
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SLASH = "ps_d"
"""pathspec's group of the slash behind what a pattern matches, or its end."""


class Skip:
    """Tells of a directory whether patterns leave out all that is in it.

    Args:
        patterns: regular expressions of keys, in which a line break is a NUL. What they match they match with all that
            may follow; but where they have the group `ps_d`, only if that took part, as a class such as `[^0-9]` may
            have matched the slash of the directory, and nothing that is in it.

    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = list(patterns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of classes such as `[[]`
            self._matches = [re.compile(pattern).match for pattern in self.patterns]

    def __call__(self, folder: str) -> bool:
        """`folder` is a key that ends with `/`."""
        folder = folder.replace("\n", "\0")
        found = (match(folder) for match in self._matches)
        return any(one.groupdict().get(_SLASH, True) for one in found if one)
