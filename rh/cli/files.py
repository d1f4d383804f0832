"""`rh cat`, `rh put`, `rh rm`, `rh info`: single things."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rh.cli import show
from rh.cli.complete import complete_place
from rh.cli.options import AsJson, HowLinks, PlaceArgument, Yes, ask, size_of, span_of

if TYPE_CHECKING:
    from rh.cli.place import Place
    from rh.errors import InvalidError
    from rh.resources.base import Located
    from rh.systems.base import System
    from rh.types import Entry

__all__ = ["cat", "info", "put", "rm", "sweep"]

_PIECE = 1024 * 1024
Places = Annotated[list[str], typer.Argument(metavar="PLACE", autocompletion=complete_place, show_default=False)]


def cat(
    place: Places,
    offset: Annotated[str | None, typer.Option(metavar="BYTES", help="Start at this byte.")] = None,
    length: Annotated[str | None, typer.Option(metavar="BYTES", help="Maximum number of bytes.")] = None,
    json: AsJson = False,
) -> None:
    """Write files to standard output.

    Bytes are verified where their digest is known. With --json, prints one document per file: its text, or its bytes in
    base64 if they are not text.
    """
    from rh.cli.place import place_of
    from rh.errors import InvalidError, NotFoundError
    from rh.registry.lineage.recording import told_as
    from rh.resources.blob import Blob

    start, most = size_of(offset, "--offset") or 0, size_of(length, "--length")
    for one in place:
        at = place_of(one)
        above = None if at.tree else at.above()
        if above is None:
            raise _no_file(at)
        try:
            with told_as(at.told()):
                blob = at.whole  # whose record may tell its digest
                file = blob.open("rb") if isinstance(blob, Blob) else at.folder_above().open(at.location.name, "rb")
        except (NotFoundError, InvalidError):
            if at.kind() == "tree":  # says if nothing is there
                raise _no_file(at) from None
            raise
        with file:
            if start:
                file.seek(start)
            if json:
                show.emit({"place": at.url} | _text(file.read() if most is None else _exactly(file, most)))
                continue
            _copy(file, most)


def _no_file(at: Place) -> InvalidError:
    """The error for what cannot be read, a directory or a file with a slash after it."""
    from rh.errors import InvalidError

    if at.tree and replace(at, tree=False).entry() is not None:
        return InvalidError("this is a file, no directory", where=at.shown, hint=f"rh cat {at.text.rstrip('/')}")
    return InvalidError("that is a directory", where=at.shown, hint=f"rh ls {at.text}")


def _copy(file: Any, most: int | None) -> None:
    out = sys.stdout.buffer
    sys.stdout.flush()
    left = most
    while left != 0 and (piece := file.read(_PIECE if left is None else min(left, _PIECE))):
        out.write(piece)
        left = None if left is None else left - len(piece)
    out.flush()


def _exactly(file: Any, size: int) -> bytes:
    pieces = []
    while size and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _text(data: bytes) -> dict[str, str]:
    import base64

    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def put(
    place: PlaceArgument,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json: AsJson = False,
) -> None:
    """Store standard input as a file.

    date | rh put s3://bucket/now.txt
    """
    from rh.cli.place import place_of
    from rh.errors import ExistsError, InvalidError
    from rh.registry.lineage.recording import told_as
    from rh.systems import unwritable
    from rh.transfer.survey import is_data

    at = place_of(place)
    above = None if at.tree else at.above()
    if above is None:
        raise InvalidError("a file needs a name", where=at.url, hint=f"rh put {at.text.rstrip('/')}/NAME")
    if not above[0].writable:
        raise unwritable(above[0], above[1])
    try:
        with told_as(at.told()):
            at.folder_above().put({at.location.name: sys.stdin.buffer}, overwrite=overwrite)
    except ExistsError as error:
        there = at.entry()
        hint = "--overwrite replaces it" if there is None or is_data(above[0], there) else "choose another target"
        raise ExistsError("something is there already", where=at.url, hint=hint) from error
    entry = at.entry()
    size = entry.size if entry is not None else 0
    if json:
        show.emit({"place": at.url, "size": size, "etag": entry.etag if entry is not None else None})
    else:
        show.line(f"{at.url}: {show.human(size)}")


def rm(
    place: Places,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Remove directories and their contents.")
    ] = False,
    missing_ok: Annotated[bool, typer.Option("--missing-ok", "-f", help="What is not there is no error.")] = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Remove files, and directories with --recursive.

    Asks for confirmation.
    """
    from rh.cli.place import place_of
    from rh.errors import InvalidError, NotFoundError
    from rh.registry.lineage.recording import told_as
    from rh.systems import unwritable

    found = [place_of(one) for one in place]
    for at in found:
        if not at.system().writable:
            error = unwritable(at.system())
            error.where = at.shown
            raise error
    trees = []
    for at in found:
        try:
            trees.append((at, at.kind() == "tree"))
        except NotFoundError:
            if not missing_ok:
                raise
    for at, tree in trees:
        if tree and not recursive:
            raise InvalidError("that is a directory", where=at.url, hint=f"rh rm --recursive {at.text}")
    if trees and not yes:
        ask([at.url + ("/ and everything in it" if tree else "") for at, tree in trees], "Remove?")
    for at, tree in trees:
        with told_as(at.told(tree=tree)):
            if tree:
                at.folder().rm(recursive=True)
            else:
                at.folder_above().rm(at.location.name)
        if json:
            show.emit({"removed": at.url, "kind": "tree" if tree else "file"})


def sweep(
    place: PlaceArgument,
    older_than: Annotated[
        str, typer.Option(metavar="SPAN", help="Only leftovers at least this old: 12h, 3d, 1w; 0s for all.")
    ] = "1w",
    json: AsJson = False,
) -> None:
    """Remove leftovers of crashed transfers.

    These are unfinished uploads and hidden files below PLACE; complete data is never touched. An interrupted transfer
    resumes from its leftovers, and a running one needs them.
    """
    from rh.cli.place import place_of
    from rh.errors import InvalidError

    age = span_of(older_than, "--older-than")
    at = place_of(place)
    if at.entry() is not None:
        raise InvalidError("that is a file; a directory is swept", where=at.url)
    swept = at.folder().sweep(older_than_s=age or 0.0)
    if json:
        show.emit({"place": at.url, "swept": swept})
    else:
        show.line(f"{at.url}: {swept:,} removed")


def info(
    place: PlaceArgument,
    digest: Annotated[
        bool, typer.Option("--digest", help="Also compute the digest (reads the bytes if needed).")
    ] = False,
    links: HowLinks = "follow",
    json: AsJson = False,
) -> None:
    """Show everything known about a place or a name.

    The digest of a directory with symbolic links depends on --links, as what rh cp makes of it does. With --digest, the
    number of files and their size are those of the digest.
    """
    from rh import transfer
    from rh.cli.listing import document
    from rh.cli.place import place_of
    from rh.resources.versioned import DRAFTED

    at = place_of(place)
    facts: dict[str, Any] = {"place": at.url, **_record(at.resource)}
    entry = at.entry()
    if entry is not None:
        facts |= document(entry)
        if digest:
            facts["digest"] = transfer.digest_file(at.location)
    else:
        at.kind()
        told = transfer.digest_tree(at.location, links=cast("transfer.Links", links)) if digest else None
        facts |= {"kind": "tree", "files": 0, "size": 0}
        for one in _listed(at.system(), links if digest else "keep"):
            facts["files"] += 1
            facts["size"] += one.size
        if told is not None:
            facts["digest"] = told
    if json:
        show.emit(facts)
        return
    if facts.pop("drafted", False):
        key = "version" if "version" in facts else "latest"
        facts[key] += f", {DRAFTED}"
    if "modified" in facts:
        facts["modified"] = show.when(facts["modified"])
    facts["size"] = f"{facts['size']:,} ({show.human(facts['size'])})"
    show.table([[key, str(value)] for key, value in facts.items() if key != "key"])


def _listed(system: System, links: str) -> Iterator[Entry]:
    """What is there besides directories, with what stands for links."""
    from rh.systems.abilities import Following

    following = system.ask(Following) if links == "follow" else None
    for entry in system.list() if following is None else following.list_following():
        if entry.kind != "dir" and (entry.kind != "link" or links != "skip"):
            yield entry


def _record(resource: Located | None) -> dict[str, Any]:
    """What is known of what was saved: of the version, if the place is one or in one."""
    if resource is None:
        return {}
    known: dict[str, Any] = {"name": resource.name, "resource": resource.kind, "revision": resource.revision}
    return known | ({"metadata": dict(resource.metadata)} if resource.metadata else {}) | _version(resource)


def _version(resource: Any) -> dict[str, Any]:
    """The version that a resource is, or the newest one it has, and whether the live data had no part in it."""
    from rh.errors import NotFoundError
    from rh.resources.versioned import Versioned

    if not isinstance(resource, Versioned):
        return {}
    try:
        version = resource.committed_version()
    except NotFoundError:
        return {}
    return {"version" if resource.version else "latest": version.label, "drafted": version.drafted}
