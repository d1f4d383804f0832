"""Directories that a listing need not go into. Runs on the far side: standard library only, Python 3.7 or newer."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Skip:
    """Tells of a directory whether patterns leave out all that is in it.

    Args:
        patterns: regular expressions of keys, in which a line break is a NUL.

    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = list(patterns)
        self._matches = [re.compile(pattern).match for pattern in self.patterns]

    def __call__(self, folder: str) -> bool:
        """`folder` is a key that ends with `/`."""
        folder = folder.replace("\n", "\0")
        # A pattern of things in the directory matches some of them, but not the directory itself.
        return any(match(folder) and match(folder + "\1") for match in self._matches)
