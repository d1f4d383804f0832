"""Listings page by page."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest

from rh import config
from rh.errors import UnavailableError
from rh.observe import counting
from rh.systems import locate, open_system
from rh.systems.objects.pages import Pages


class Book:
    """Pages that are asked for, each after the last."""

    def __init__(self, count: int, *, torn: int | None = None) -> None:
        self.count, self.torn = count, torn
        self.asked: list[int] = []
        self.threads: set[threading.Thread] = set()
        self.changed = threading.Condition()

    def ask(self, last: int | None) -> int | None:
        number = 0 if last is None else last + 1
        with self.changed:
            self.asked.append(number)
            self.threads.add(threading.current_thread())
            self.changed.notify_all()
        if number == self.torn:
            raise UnavailableError("torn out")
        return number if number < self.count else None

    def wait(self, asked: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= asked, 10)


def test_each_page_is_asked_for_once_and_in_order() -> None:
    book = Book(5)
    assert list(Pages(book.ask)) == [0, 1, 2, 3, 4]
    assert book.asked == [0, 1, 2, 3, 4, 5]


def test_whoever_wants_one_page_asks_for_one() -> None:
    """In the thread that wants it."""
    book = Book(5)
    pages = Pages(book.ask)
    assert next(pages) == 0
    assert book.asked == [0]
    assert book.threads == {threading.current_thread()}


def test_from_the_second_on_the_next_is_on_its_way() -> None:
    """One, not all of them."""
    book = Book(9)
    pages = Pages(book.ask)
    next(pages)
    next(pages)
    book.wait(3)
    assert book.asked == [0, 1, 2]
    assert next(pages) == 2
    book.wait(4)
    assert book.asked == [0, 1, 2, 3]


def test_the_second_comes_early_for_whoever_says_so() -> None:
    book = Book(9)
    pages = Pages(book.ask)
    next(pages)
    pages.go_on()
    pages.go_on()
    book.wait(2)
    assert book.asked == [0, 1]


def test_what_fails_fails_where_the_page_is_wanted() -> None:
    """What came before is there, and the page can be asked for again."""
    book = Book(5, torn=3)
    pages = Pages(book.ask)
    assert [next(pages) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UnavailableError, match="torn out"):
        next(pages)
    book.torn = None
    assert list(pages) == [3, 4]
    assert list(pages) == []


@pytest.mark.parametrize(
    ("server", "size"),
    [
        ("s3_server", "rh.systems.s3.BATCH"),
        ("gcs_server", "rh.systems.gcs.json_api.PAGE"),
        ("azure_server", "rh.systems.azure.container.PAGE"),
    ],
)
def test_stores_are_asked_for_no_more_pages_than_there_are(
    server: str, size: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for whoever looks whether there is anything."""
    config.register("there", request.getfixturevalue(server).settings())
    store = open_system(locate(f"data/{uuid4().hex}", "there"))
    keys = [f"{number:03}" for number in range(240)]
    for key in keys:
        store.write(key, b"")
    monkeypatch.setattr(size, 110)
    with counting() as counts:
        assert next(iter(store.list())).key == "000"
    assert counts.requests["there", "list"] == 1
    with counting() as counts:
        assert [entry.key for entry in store.list()] == keys
    assert counts.requests["there", "list"] == 3
