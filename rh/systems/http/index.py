"""Directory pages as web servers write them: nginx, Apache, lighttpd, Caddy, rclone, Python's `http.server`.

A page counts as a directory only if its title says so for the very path that was asked; anything else is not
guessed at.
"""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

__all__ = ["members"]

_TITLES = ("index of", "directory listing for", "directory listing of")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.title = ""
        self.whole = False
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        elif tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag == "html":
            self.whole = True

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data


def members(html: str, url: str, *, framed: bool = False) -> list[str] | None:
    """Names on the directory page of `url` (which ends with `/`), directories with a `/` at the end, in key order.

    `None` if this is not the whole directory page of that URL: an answer that was not `framed` (did not tell its
    length) must show its end.
    """
    page = _Page()
    try:
        page.feed(html)
        page.close()
    except AssertionError:  # Python's parser, where a declaration is none
        return None
    path = unquote(urlsplit(url).path)
    title = page.title.strip()
    for start in _TITLES:
        if title.lower().startswith(start):
            title = title[len(start) :].strip()
            break
    # A server behind a proxy may know only the tail of the path; rclone leaves out the leading slash.
    shown = title.strip("/")
    asked = path.strip("/")
    told = (f"/{asked}", "/" + urlsplit(url).path.strip("/"))
    fits = shown == asked or (shown and any(text.endswith(f"/{shown}") for text in told))
    if not title or not fits or not (framed or page.whole):
        return None
    base = urlsplit(url)
    *above, _ = base.path.split("/")
    names: set[str] = set()
    for link in page.links:
        if "?" in link or "#" in link:
            continue
        try:
            target = urlsplit(urljoin(url, link))
        except ValueError:
            continue  # no URL, so nothing below this one
        *steps, rest = target.path.split("/", len(above))
        # Decoded, since a server may quote fewer or more characters of its path than we do.
        if (target.scheme, target.netloc) != (base.scheme, base.netloc) or _decoded(steps) != _decoded(above):
            continue
        name = unquote(rest, errors="surrogateescape")
        if not rest or "/" in rest.removesuffix("/"):
            continue
        if "/" in name.removesuffix("/") or name.removesuffix("/") in (".", ".."):
            return None  # a name that no key can say
        names.add(name)
    return sorted(names, key=lambda name: name.encode("utf-8", "surrogateescape"))


def _decoded(steps: list[str]) -> list[str]:
    return [unquote(step, errors="surrogateescape") for step in steps]
