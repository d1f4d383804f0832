"""Pages of a listing, of which each tells how to ask for the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["Pages"]

Page = TypeVar("Page")


class Pages(Iterator[Page]):
    """Pages in turn. From the second on, the next is under way while somebody deals with the last.

    Args:
        ask: asks for the page after this one (`None`: for the first); gives `None` if it was the last.
    """

    def __init__(self, ask: Callable[[Page | None], Page | None]) -> None:
        self._ask = ask
        self._last: Page | None = None
        self._coming: Future[Page | None] | None = None

    def __next__(self) -> Page:
        coming, self._coming = self._coming, None
        page = self._ask(self._last) if coming is None else coming.result()
        if page is None:
            raise StopIteration
        further, self._last = self._last is not None, page
        if further:
            self.go_on()
        return page

    def go_on(self) -> None:
        """Ask for the next page from now on, since it is going to be wanted."""
        if self._coming is None:
            coming: Future[Page | None] = Future()
            self._coming = coming
            threading.Thread(target=_keep, args=(coming, self._ask, self._last), name="rh-pages", daemon=True).start()


def _keep(coming: Future[Page | None], ask: Callable[[Page | None], Page | None], last: Page | None) -> None:
    try:
        coming.set_result(ask(last))
    except BaseException as error:  # noqa: BLE001 - raised where the page is taken
        coming.set_exception(error)
