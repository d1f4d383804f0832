"""SQLite in a process that may fork: a fork waits until no connection is open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from rh.forks import databases

__all__ = ["Unnamed", "opened"]


@contextmanager
def opened(database: Any, **options: Any) -> Iterator[sqlite3.Connection]:
    """`sqlite3.connect`, with the same arguments, for one short block: forks wait for its end.

    A child that works on a file of which it inherited a connection takes the parent's locks for its own and damages the
    file. So nothing is to be yielded to a caller in here.

    Raises:
        sqlite3.Error: also where this process was forked while a connection was open all the same.
    """
    with databases:
        if databases.torn:
            raise sqlite3.OperationalError("this process was forked while a database was in use; spawn it instead")
        with closing(sqlite3.connect(database, **options)) as db:
            yield db


class Unnamed:
    """A database that has no name, in memory as long as it is small, then in a file that goes with this process.

    Its one connection stays open, as SQLite takes the database away with it. A fork may find it open, though not in
    use: a child must leave it alone.
    """

    def __init__(self) -> None:
        with databases:
            self._db = sqlite3.connect("", isolation_level=None)

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one short block: forks wait for its end."""
        with databases:
            yield self._db

    def close(self) -> None:
        """Take the database away."""
        with databases:
            self._db.close()
