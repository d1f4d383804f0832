"""Sidecars: files of a version that tell tags and metadata of other files in it.

====================================  ================================================================================
`<file>.metadata.json`                beside `<file>`: a JSON object, its metadata; `tags` in it are its tags
`rh.metadata.jsonl`                   one line per file: `{"file": "a.png", "metadata": {…}, "tags": […]}`, paths below
                                      the directory it lies in
`valohai.metadata.jsonl`              the same
====================================  ================================================================================

In metadata, the names that Valohai reserves mean what they mean there: `valohai.tags` are tags, `valohai.alias` is an
alias of the version, and `valohai.dataset-versions` puts the file into versions of data sets: their URIs become tags,
and where the data set is this folder the version's name and `targeting_aliases` become aliases of the version.

Sidecars stay files of the version. They are read when a version is made, those that are not what they were in the one
before: what such a one says no longer is taken away. Where several tell of one property, the one beside the file has
the last word, then the one whose path comes last; one that is taken away leaves the word to the others. Whatever is
wrong with one is told with its line, and no version is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rh.config import did_you_mean
from rh.content.tree import key_bytes, key_text
from rh.errors import InvalidError, NotFoundError
from rh.versions import properties
from rh.versions.bulk import read_children
from rh.versions.levels import Past
from rh.versions.nodes import Child, Node
from rh.versions.properties import Said
from rh.versions.reading import entry_of
from rh.versions.series import Series
from rh.versions.store import Store, Tree
from rh.versions.told import check_alias

__all__ = ["LINES", "SUFFIX", "object_of_line", "taken"]

SUFFIX = ".metadata.json"
LINES = ("rh.metadata.jsonl", "valohai.metadata.jsonl")

_SUFFIX = SUFFIX.encode()
_LINES = tuple(name.encode() for name in LINES)
_ENDS = (_SUFFIX, *_LINES)
_LIMIT = 1 << 28
"""Bytes of the largest sidecar."""
_GROUP = 1_000
_NEAREST_OF = 10_000
_RESERVED = "valohai."
_KEYS = ("valohai.tags", "valohai.alias", "valohai.dataset-versions")
_FIELDS = ("file", "metadata", "tags")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]')
"""What the keys of JSON are found by: texts, and what begins, parts and ends objects and arrays."""
_DATASET = re.compile(r"dataset://([^/]+)/([^/]+)")
_OF_DATASET = ("uri", "targeting_aliases", "packaging", "metadata")
_REBUILDING = ("from", "start_fresh", "exclude")


class _Sidecar(NamedTuple):
    """One of them: its path, what errors call it, what it is now, and what it was in the version before."""

    path: str
    where: str
    child: Child | None
    was: Child | None

    @property
    def of(self) -> str | None:
        """The file it is about; `None` for one that has lines."""
        return self.path.removesuffix(SUFFIX) if self.path.endswith(SUFFIX) else None


@dataclass
class _Told:
    """What sidecars say."""

    files: dict[str, Said] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, None] = field(default_factory=dict)

    def add(self, path: str, said: Said, where: str) -> None:
        """What a further sidecar says of a file: it has the last word."""
        before = self.files.get(path, properties.NOTHING)
        tags = (*before.tags, *(tag for tag in said.tags if tag not in before.tags))
        self.files[path] = Said(tags, {**before.metadata, **said.metadata})
        self.where[path] = where


def taken(series: Series, store: Store, tree: Tree, base: str | None) -> Sequence[str]:
    """Take over what the sidecars of a tree say of its files, and return the aliases they want for the version.

    Args:
        series: that the tree is going to be a version of.
        store: of the tree.
        tree: which.
        base: the digest of the newest version, if that is in the same store: what is in it as well was read before.

    Raises:
        InvalidError: one is malformed, or a property changes its type; nothing was written.
        NotFoundError: one tells of a file that is not in the tree; nothing was written.
    """
    if tree.digest == base:
        return ()
    past = store.tree(base) if base is not None and store.has_tree(base) else None
    found = list(_found(store, tree, past, series.name))
    if not found:
        return ()
    level = _Directories(store, tree)
    there = [one for one in found if one.child is not None]
    beside = {one.of: one.where for one in there if one.of is not None}
    _check_files(store, tree, level, beside, "it has to lie beside its file; one that is no sidecar needs another name")
    now = _read(store, ((one.path, one.child) for one in there))
    before = _read(store, ((one.path, one.was) for one in found))
    folder = series.name.rpartition("/")[2]
    told = _told(there, now, folder)
    _check_files(store, tree, level, told.where, "paths are relative to the directory of the sidecar")
    last = _told(there, before, folder, lenient=True)
    gone = _told([one for one in found if one.child is None], before, folder, lenient=True)
    about = {**gone.files, **last.files, **told.files}
    others = list(_unchanged(level, about, {one.path for one in found}, series.name))
    now |= _read(store, ((one.path, one.child) for one in others))
    whole = _told(there + others, now, folder, lenient=True) if others else told
    said = {path: _change(path, told=told, last=last, gone=gone, whole=whole) for path in about}
    properties.write(
        series.registry,
        series.series,
        said,
        lambda path: whole.where.get(path, path),
        lambda path, name: _where_of(there + others, now, path, name) or whole.where.get(path, path),
    )
    return tuple(told.aliases)


def _in_order(some: Iterable[_Sidecar]) -> list[_Sidecar]:
    """The one beside a file knows best: it comes after those with lines."""
    return sorted(some, key=lambda one: (one.of is not None, one.path))


def _told(some: Iterable[_Sidecar], data: Mapping[str, bytes], folder: str, *, lenient: bool = False) -> _Told:
    """What sidecars say, each by what it has in `data`; a `lenient` reading leaves out those that cannot be read."""
    told = _Told()
    for one in _in_order(some):
        if one.path in data:
            try:
                _tell(told, one, data[one.path], folder)
            except InvalidError:
                if not lenient:  # else what it was did not come from here
                    raise
    return told


def _where_of(some: Iterable[_Sidecar], data: Mapping[str, bytes], path: str, name: str) -> str | None:
    """The place of a property of a file, by its dotted name, in the sidecar that has the last word on it."""
    found = None
    for one in _in_order(some):
        if one.of not in (None, path) or one.path not in data:
            continue
        told = _told([one], data, "", lenient=True)
        keys = told.files[path].metadata if path in told.files else ()
        key = next((key for key in keys if f"{name}.".startswith(f"{key}.")), None)
        if key is not None:
            found = told.where[path] if one.of is None else _at(one, _text(data[one.path], one.where), key)
    return found


def _change(path: str, *, told: _Told, last: _Told, gone: _Told, whole: _Told) -> Said:
    """What becomes of a file's record.

    Args:
        path: of the file.
        told: what the new and changed sidecars say.
        last: what they said before.
        gone: what those said that were taken away. It stays, unless another sidecar tells of the same.
        whole: what all sidecars say that there are.
    """
    new, old, lost, all_ = (one.files.get(path, properties.NOTHING) for one in (told, last, gone, whole))
    metadata: dict[str, Any] = dict.fromkeys(old.metadata)  # `None` takes away what is there
    for name in (*lost.metadata, *old.metadata, *new.metadata):
        if name in all_.metadata:
            metadata[name] = all_.metadata[name]
    untag = tuple(tag for tag in old.tags if tag not in all_.tags)
    return Said(new.tags, metadata, untag, strict=False)


# Which there are.


def _found(store: Store, tree: Tree, past: Tree | None, name_of: str) -> Iterator[_Sidecar]:
    """The sidecars that are not what they were, or not there any more. Directories that are equal are not opened."""
    waiting = [("", store.root(tree), Past.of(store, past))]
    while waiting:
        top, node, before = waiting.pop()
        for child in node.children:
            name = child.name
            if child.kind == "dir":
                below = before.below(name)
                if below.child is None or below.child.digest != child.digest:
                    waiting.append((f"{top}{key_text(name)}/", store.below(child), below))
            elif child.kind == "file" and name.endswith(_ENDS) and _is_sidecar(name, node):
                was = before.file(name)
                if was is None or was.digest != child.digest:
                    path = top + key_text(name)
                    yield _Sidecar(path, f"{name_of}/{path}", child, was)
        for was in () if before.child is None else store.below(before.child).children:
            if was.kind == "file" and was.name.endswith(_ENDS) and _is_sidecar(was.name, node):
                now = node.find(was.name)
                if now is None or now.kind != "file":
                    path = top + key_text(was.name)
                    yield _Sidecar(path, f"{name_of}/{path}", None, was)


def _is_sidecar(name: bytes, node: Node) -> bool:
    """Whether a file of that name is one: beside a directory it is like any other."""
    if name.endswith(_SUFFIX):
        return name != _SUFFIX and node.find(name[: -len(_SUFFIX)], directory=True) is None
    return name in _LINES


class _Directories:
    """The directories of a tree, each opened once."""

    def __init__(self, store: Store, tree: Tree) -> None:
        self._nodes: dict[str, Past] = {"": Past.of(store, tree)}

    def find(self, path: str) -> Child | None:
        """What is at a path."""
        above, _, name = path.rpartition("/")
        return self._at(above).find(key_bytes(name))

    def _at(self, path: str) -> Past:
        if path not in self._nodes:
            above, _, name = path.rpartition("/")
            self._nodes[path] = self._at(above).below(key_bytes(name))
        return self._nodes[path]


def _unchanged(level: _Directories, paths: Iterable[str], known: set[str], name_of: str) -> Iterator[_Sidecar]:
    """The sidecars that may tell of files as well, other than those known."""
    asked = set(known)
    for path in paths:
        steps = path.split("/")
        tops = ("".join(f"{step}/" for step in steps[:depth]) for depth in range(len(steps)))
        for side in (f"{path}{SUFFIX}", *(top + name for top in tops for name in LINES)):
            if side not in asked:
                asked.add(side)
                child = level.find(side)
                if child is not None and child.kind == "file":
                    yield _Sidecar(side, f"{name_of}/{side}", child, child)


def _read(store: Store, files: Iterable[tuple[str, Child | None]]) -> dict[str, bytes]:
    group = [(entry_of(child, path), child) for path, child in files if child is not None]
    for entry, _ in group:
        if entry.size > _LIMIT:
            raise InvalidError(f"a sidecar has up to {_LIMIT:,} bytes", where=entry.key)
    found: dict[str, bytes] = {}
    for start in range(0, len(group), _GROUP):
        for entry, data in read_children(store, group[start : start + _GROUP]):
            if isinstance(data, Exception):
                raise data
            found[entry.key] = data
    return found


def _check_files(store: Store, tree: Tree, level: _Directories, told: Mapping[str, str], hint: str) -> None:
    """Refuse what is said of files that the tree has not: `told` has the place where by the path."""
    for path, where in told.items():
        if level.find(path) is None:
            raise NotFoundError(
                f"{path!r} is told of, and is not there" + did_you_mean(path, _names(store, tree)),
                where=where,
                hint=hint,
            )


def _names(store: Store, tree: Tree) -> tuple[str, ...]:
    """Some paths of a tree, for suggestions."""
    found: list[str] = []
    waiting = [("", store.root(tree))]
    while waiting and len(found) < _NEAREST_OF:
        top, node = waiting.pop()
        for child in node.children:
            if child.kind == "dir":
                waiting.append((f"{top}{key_text(child.name)}/", store.below(child)))
            else:
                found.append(top + key_text(child.name))
    return tuple(found[:_NEAREST_OF])


# What they say.


def _tell(told: _Told, one: _Sidecar, data: bytes, folder: str) -> None:
    text = _text(data, one.where)
    if one.of is not None:
        said = _object(text, one.where, None)
        tags = said.pop("tags", ())
        where = _at(one, text, None)
        try:
            told.add(one.of, _said(told, said, tags, where, folder), where)
        except InvalidError as error:
            error.where = _at(one, text, _refused(said, tags, where, folder))
            raise
        return
    top = one.path.rpartition("/")[0]
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{one.where}, line {number}"
        found = _object(line, one.where, number)
        for key in found:
            if key not in _FIELDS:
                raise InvalidError(
                    f"a line has no field {key!r}" + did_you_mean(key, _FIELDS),
                    where=where,
                    hint='{"file": "a.png", "metadata": {"label": "cat"}, "tags": ["gold"]}',
                )
        file = found.get("file")
        if not isinstance(file, str) or not file:
            raise InvalidError("the line names no file", where=where, hint='{"file": "a.png", …}')
        file = file.removeprefix("./")
        if {"", ".", ".."}.intersection(file.split("/")) or "\0" in file:
            raise InvalidError(
                f"{file!r} is no path below the directory of the sidecar", where=where, hint="a relative path"
            )
        path = f"{top}/{file}" if top else file
        if path in lines:
            raise InvalidError(f"{file!r} has a line already: line {lines[path]}", where=where)
        lines[path] = number
        metadata = found.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise InvalidError(f"metadata is an object, not {_json_type(metadata)}", where=where)
        told.add(path, _said(told, metadata or {}, found.get("tags", ()), where, folder), where)


def _refused(metadata: Mapping[str, Any], tags: Any, where: str, folder: str) -> str | None:
    """The first key that cannot be taken by itself."""
    parts: list[tuple[str, dict[str, Any], Any]] = [("tags", {}, tags)]
    parts += [(name, {name: value}, ()) for name, value in metadata.items()]
    for name, alone, words in parts:
        try:
            _said(_Told(), alone, words, where, folder)
        except InvalidError:
            return name
    return None


def _at(one: _Sidecar, text: str, key: str | None) -> str:
    """The place of a key of the object that a sidecar is: its line; the first one for no key in particular."""
    decoder = json.JSONDecoder()
    at = 0 if key is None else _next(text, text.index("{") + 1)
    while key is not None:
        found, end = decoder.raw_decode(text, at)
        if found == key:
            break
        _, end = decoder.raw_decode(text, _next(text, end))
        at = _next(text, end)
    line = text.count("\n", 0, at) + 1
    return f"{one.where}, line {line}"


def _next(text: str, at: int) -> int:
    """Where the next key or value of JSON begins."""
    while text[at] in " \t\r\n,:":
        at += 1
    return at


def object_of_line(data: bytes, place: str, number: int) -> dict[str, Any]:
    """The object in one line of JSON.

    Raises:
        InvalidError: it is none, or has a key twice; the place and the number of the line are named.
    """
    try:
        text = data.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        raise InvalidError("the line is not UTF-8", where=f"{place}, line {number}") from error
    return _object(text, place, number, "line")


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidError("the sidecar is not UTF-8", where=f"{place}, line {line}") from error


def _object(text: str, place: str, line: int | None, what: str = "sidecar") -> dict[str, Any]:
    try:
        found = json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        where = f"{place}, line {line or error.lineno}"
        message = error.msg.removesuffix(" at")
        raise InvalidError(f"the {what} is not JSON: {message} at column {error.colno}", where=where) from error
    except (InvalidError, RecursionError, ValueError) as error:
        message, at = f"the {what} is nested too deeply", 0
        if isinstance(error, InvalidError):
            name, at = _twice(text)
            message = f"the field {name!r} is there twice"
        elif not isinstance(error, RecursionError):
            message = "a number in it has too many digits"
        number = line or text.count("\n", 0, at) + 1
        raise InvalidError(message, where=f"{place}, line {number}") from error
    if not isinstance(found, dict):
        raise InvalidError(f"the {what} has {_json_type(found)}, not an object", where=f"{place}, line {line or 1}")
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidError("a field is there twice")
    return found


def _twice(text: str) -> tuple[str, int]:
    """The first key of JSON that an object has already, and where it is."""
    seen: list[set[str] | None] = []  # the keys of the objects that are open; `None` for an array
    is_key = False
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "{" | "[" as opening:
                seen.append(set() if opening == "{" else None)
                is_key = opening == "{"
            case "}" | "]":
                seen.pop()
            case ",":
                is_key = seen[-1] is not None
            case word if is_key:
                is_key = False
                name, keys = json.loads(word), seen[-1]
                if keys is not None and name in keys:
                    return name, token.start()
                if keys is not None:
                    keys.add(name)
    return "?", 0  # not reached: there is one


def _json_type(value: object) -> str:
    kinds = {list: "an array", dict: "an object", str: "text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def _said(told: _Told, metadata: dict[str, Any], tags: Any, where: str, folder: str) -> Said:
    """What one sidecar, or one line of one, says of a file; aliases are noted."""
    mine = {name: value for name, value in metadata.items() if not name.startswith(_RESERVED)}
    words = list(_words(tags, "tags", where))
    for name, value in metadata.items():
        if name not in _KEYS and name.startswith(_RESERVED):
            raise InvalidError(
                f"{name!r} is a name that Valohai reserves, and means nothing here" + did_you_mean(name, _KEYS),
                where=where,
                hint=f"there are {', '.join(_KEYS)}",
            )
        if name == "valohai.tags":
            words += _words(value, name, where)
        elif name == "valohai.alias":
            for alias in _words([value] if isinstance(value, str) else value, name, where):
                _alias(told, alias, where)
        elif name == "valohai.dataset-versions":
            for uri, aliases in _dataset_versions(value, where, folder):
                words.append(uri)
                for alias in aliases:
                    _alias(told, alias, where)
    return Said.of({name: value for name, value in mine.items() if value is not None}, words, where=where)


def _words(value: Any, name: str, where: str) -> Sequence[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise InvalidError(f"{name} is a list of words, not {_json_type(value)}", where=where)
    return value


def _alias(told: _Told, alias: str, where: str) -> None:
    try:
        check_alias(alias)
    except InvalidError as error:
        error.where = where
        raise
    told.aliases[alias] = None


def _dataset_versions(value: Any, where: str, folder: str) -> Iterator[tuple[str, Sequence[str]]]:
    """The URIs of data sets' versions, each with the aliases that this folder's version is to get by it."""
    if not isinstance(value, list):
        raise InvalidError(f"valohai.dataset-versions is a list, not {_json_type(value)}", where=where)
    for one in value:
        told = {"uri": one} if isinstance(one, str) else one
        if not isinstance(told, dict) or not isinstance(told.get("uri"), str):
            raise InvalidError(
                "a data set's version is a URI, or an object with one",
                where=where,
                hint='"valohai.dataset-versions": ["dataset://cats/spring"]',
            )
        match = _DATASET.fullmatch(told["uri"])
        if match is None:
            raise InvalidError(f"not the URI of a data set's version: {told['uri']!r:.200}", where=where)
        for key in told:
            if key in _REBUILDING and told[key]:
                raise InvalidError(
                    f"{key!r} of valohai.dataset-versions builds another version, and this one is what is there",
                    where=where,
                    hint="folder.draft() with copy_from and remove does that",
                )
            if key not in _OF_DATASET and key not in _REBUILDING:
                raise InvalidError(
                    f"valohai.dataset-versions has no {key!r}" + did_you_mean(key, (*_OF_DATASET, *_REBUILDING)),
                    where=where,
                )
        aliases = _words(told.get("targeting_aliases") or (), "targeting_aliases", where)
        yield told["uri"], (match.group(2), *aliases) if match.group(1) == folder else ()
