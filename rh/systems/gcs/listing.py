"""The names in a bucket of Google Cloud Storage, in order and page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rh.systems.base import HIDDEN
from rh.systems.gcs.json_api import PAGE, Api, Object, Page, Target
from rh.systems.objects.pages import Pages
from rh.types import Entry

__all__ = ["listing", "objects"]


def listing(api: Api, root: Target, prefix: str, after: str, depth: int | None) -> Iterator[Sequence[Entry]]:
    """Pages of what `System.list` gives for the prefix `root`, in order."""
    mark, cut, floor = f"/{HIDDEN}", len(root.name), after.encode()
    marker: Entry | None = None
    last = None
    for found in _names(api, root, prefix, after, "/" if depth == 1 else ""):
        page: list[Entry] = []
        for name, thing in found:
            key = name[cut:]
            if not key or (HIDDEN in key and mark in f"/{key}"):
                continue
            if depth is not None:
                steps = key[len(prefix) :].split("/", depth)
                if len(steps) > depth:
                    key, thing = key[: len(key) - len(steps[-1])], None  # noqa: PLW2901
                    if key == last:
                        continue
                    last = key
            if marker is not None:
                if not key.startswith(marker.key):
                    page.append(marker)
                marker = None
            if after and key.encode() <= floor:
                continue
            if thing is None:
                page.append(Entry(key, 0, "dir"))
                continue
            entry = thing.entry(key)
            if entry.kind == "dir":
                # Whether this directory is empty, the next name tells.
                marker = entry
            else:
                page.append(entry)
        if page:
            yield page
    if marker is not None:
        yield [marker]


def _names(
    api: Api, root: Target, prefix: str, after: str, delimiter: str
) -> Iterator[Sequence[tuple[str, Object | None]]]:
    """Names in order, page by page, hidden ones too; with a delimiter, common prefixes have no object."""
    start = root.name + after if after else ""
    late: set[str] = set()
    done = b""
    for page in _pages(api, root.bucket, root.name + prefix, root.where, start=start, delimiter=delimiter):
        if not page.prefixes and not late:
            yield [(thing.name, thing) for thing in page.items]
        else:
            found: dict[str, Object | None] = dict.fromkeys((*late, *page.prefixes))
            found.update((thing.name, thing) for thing in page.items)
            late = set()
            # A server that counts only the objects of a page tells prefixes too early: they wait for their turn.
            early = page.next_page_token and page.items and len(page.items) + len(page.prefixes) > PAGE
            bound = page.items[-1].name.encode() if early else None
            due: list[tuple[str, Object | None]] = []
            for name in sorted(found, key=str.encode):
                place = name.encode()
                if place <= done:
                    continue
                if bound is not None and place > bound:
                    late.add(name)
                    continue
                done = place
                due.append((name, found[name]))
            yield due


def _pages(api: Api, bucket: str, prefix: str, where: str, *, start: str = "", delimiter: str = "") -> Iterator[Page]:
    def ask(last: Page | None) -> Page | None:
        token = last.next_page_token if last is not None else None
        if last is not None and not token:
            return None
        page, _ = api.page(bucket, prefix, start=start, delimiter=delimiter, token=token, where=where)
        return page

    return Pages(ask)


def objects(api: Api, bucket: str, prefix: str, where: str) -> Iterator[Object]:
    """Every object whose name starts with `prefix`, hidden ones too."""
    for page in _pages(api, bucket, prefix, where):
        yield from page.items
