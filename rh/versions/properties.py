"""What is said about versions and files: tags, and properties whose types are fixed on first use.

The records of a series are

* `files/<series>/<path, percent-quoted>`: `{"tags": […], "metadata": {…}}` of a file, for all versions with the path,
* `types/<series>`: `{"number": […], "text": […], "truth": […]}`: the names of properties, by their type.

Versions have their tags and metadata in their own records. The properties of resources have their types under
`types/resources/<owner>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeAlias
from urllib.parse import quote, unquote

from rh.config import did_you_mean
from rh.errors import AccessError, ConflictError, ExistsError, InvalidError, NotFoundError
from rh.observe import log
from rh.registry import filters
from rh.registry.base import Put, Record, Registry, Step
from rh.registry.documents import check_document, encode, is_secret_field
from rh.registry.filters import Compare, Exists, Filter
from rh.types import ABSENT, Match

__all__ = [
    "NOTHING",
    "Said",
    "Types",
    "check_fields",
    "check_kinds",
    "check_names",
    "check_tags",
    "condition",
    "file_key",
    "files_prefix",
    "names_in",
    "note_types",
    "of_file",
    "path_of",
    "plain",
    "types_key",
    "types_of_names",
    "write",
]

_SAFE = "/ !$'()*+,-.:;=@_~"
_MAX_KEY = 1024
_TRIES = 100
_FEW = 20
_BATCH = 2_000
_BATCH_BYTES = 1 << 20
"""A commit of so many bytes passes every registry."""
_TAG = 200
_KNOWN = 10_000


def files_prefix(series: str) -> str:
    """What the keys of the records of a series' files begin with."""
    return f"files/{series}/"


def file_key(series: str, path: str) -> str:
    """The key of the record of a file."""
    key = files_prefix(series) + quote(path, safe=_SAFE, errors="surrogateescape")
    if len(key) > _MAX_KEY:
        raise InvalidError(f"the path {path[:80]!r}… is too long to have properties", hint="a shorter path")
    return key


def path_of(key: str) -> str:
    """The path of the file whose record is under a key."""
    return unquote(key.split("/", 2)[2], errors="surrogateescape")


def types_key(series: str) -> str:
    """The key of the types of a series' properties."""
    return f"types/{series}"


def types_of_names(path: str) -> str:
    """The key of the types of the properties of resources, for those of the owner of a whole name."""
    return f"types/resources/{path.lstrip('/').partition('/')[0]}"


def check_tags(tags: object, what: str = "tags=") -> tuple[str, ...]:
    """Tags as a tuple, each once.

    Raises:
        InvalidError: they are no list of words.
    """
    if isinstance(tags, str) or not isinstance(tags, Sequence | set | frozenset):
        raise InvalidError(f"{what} takes a list of words", hint=f"{what}[{tags!r}]" if isinstance(tags, str) else None)
    for tag in tags:
        if not isinstance(tag, str) or not tag.strip() or len(tag) > _TAG or not tag.isprintable():
            raise InvalidError(f"not a tag: {tag!r:.80}", hint=f"one line of text of up to {_TAG} characters")
    return tuple(dict.fromkeys(sorted(tags) if isinstance(tags, set | frozenset) else tags))


_SCALARS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)
"""What makes a value of a type that derives from one of Python's one of that."""


def plain(value: Any) -> Any:
    """A value with the scalars of NumPy and its like, and those of types of one's own, as those of Python.

    Raises:
        InvalidError: there is an array in it, or it holds itself.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise InvalidError("the record is nested too deeply, or holds itself") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if type(value) is list:
        return [_plain(inner) for inner in value]
    if isinstance(value, bool):
        return value
    for kind, exact in _SCALARS:
        if isinstance(value, kind):
            return exact(value)
    if not isinstance(getattr(value, "ndim", None), int) or not callable(getattr(value, "item", None)):
        return value
    if value.ndim:
        raise InvalidError(
            f"a record holds no {type(value).__name__}", hint=".tolist() makes plain JSON of a small one"
        )
    return value.item()


def check_names(metadata: Mapping[str, Any], where: str, beside: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Refuse properties without a name, and two with the same one: `{"a.b": 1, "a": {"b": 2}}`.

    Args:
        metadata: the properties.
        where: for the error.
        beside: further ones that a record has.

    Raises:
        InvalidError: conditions could not tell which one is meant.
    """
    keys = {".".join(path): path for path in _paths(beside)}
    for path in _paths(metadata):
        if not all(key.strip() for key in path):
            raise InvalidError(f"a property needs a name, and {path[-1]!r} is none", where=where)
        name = ".".join(path)
        if keys.setdefault(name, path) != path:
            raise InvalidError(
                f"two properties are called {name!r}: one by a key with a dot, one by keys in one another",
                where=where,
                hint="give one of them another name",
            )


def _paths(metadata: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The keys that lead to every value."""
    for key, value in metadata.items():
        if isinstance(value, Mapping) and value:
            yield from ((key, *path) for path in _paths(value))
        else:
            yield (key,)


class Said(NamedTuple):
    """A change of tags and metadata: a value `None` takes the property away, and so does `remove`.

    If it is `strict`, what `untag` and `remove` name has to be there.
    """

    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}
    untag: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    strict: bool = True

    @classmethod
    def of(
        cls,
        metadata: Mapping[str, Any] | None,
        tags: object = (),
        untag: object = (),
        remove: object = (),
        *,
        where: str,
    ) -> Self:
        """The change in these arguments.

        Raises:
            InvalidError: one of them is not what a record can hold; `where` is named.
        """
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidError(f"metadata is a mapping, not {type(metadata).__name__}", where=where)
        if metadata is not None and "tags" in metadata:
            raise InvalidError("no property can be called 'tags'", where=where, hint="tags=[…] gives it tags")
        if isinstance(remove, str):
            raise InvalidError("remove= takes a list", where=where, hint=f"remove=[{remove!r}]")
        metadata = {} if metadata is None else plain(metadata)
        check_document(metadata, where=where)
        check_names(metadata, where)
        try:
            names = tuple(str(name) for name in remove)  # type: ignore[attr-defined]
            return cls(check_tags(tags), metadata, check_tags(untag, "untag="), names)
        except InvalidError as error:
            error.where = error.where or where
            raise
        except TypeError as error:
            raise InvalidError("remove= takes a list of names", where=where) from error

    def on(self, document: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
        """The tags and the metadata of a record after the change.

        Raises:
            NotFoundError: a property or a tag to be taken away is not there.
        """
        there = document or {}
        if self.metadata:
            others = there.get("metadata") or {}
            check_names(self.metadata, where, {name: others[name] for name in others if name not in self.metadata})
        tags = dict.fromkeys(there.get("tags") or ())
        metadata = dict(there.get("metadata") or {})
        for tag in self.untag:
            if tag not in tags and self.strict:
                raise NotFoundError(f"there is no tag {tag!r}" + did_you_mean(tag, tuple(tags)), where=where)
            tags.pop(tag, None)
        for name in self.remove:
            if not _removed(metadata, name) and self.strict:
                known = tuple(dict.fromkeys(name for name, _ in filters.properties({"metadata": metadata})))
                raise NotFoundError(f"there is no property {name!r}" + did_you_mean(name, known), where=where)
        for name, value in self.metadata.items():
            if value is None:
                metadata.pop(name, None)
            else:
                metadata[name] = value
        return {"tags": [*tags, *(tag for tag in self.tags if tag not in tags)], "metadata": metadata}


NOTHING = Said()


def _removed(metadata: dict[str, Any], name: str) -> bool:
    """Take a property away, by its key or by its dotted name; whether it was there."""
    if name in metadata:
        del metadata[name]
        return True
    head, dot, rest = name.partition(".")
    inner = metadata.get(head)
    if not dot or not isinstance(inner, Mapping):
        return False
    inner = dict(inner)
    found = _removed(inner, rest)
    if inner:
        metadata[head] = inner
    else:
        del metadata[head]
    return found


# Types.

Where: TypeAlias = str | Callable[[str], str]
"""What errors call a place, or what gives that of a property."""

_NAMES = {"number": "a number", "text": "text", "truth": "true or false"}


def _type_of(value: filters.Scalar) -> str:
    return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _place(where: Where, name: str) -> str:
    return where if isinstance(where, str) else where(name)


@dataclass
class Types:
    """The types of properties that one record fixes."""

    key: str
    record: Record | None = None
    known: dict[str, str] = field(default_factory=dict)
    firsts: dict[str, Where] = field(default_factory=dict)
    """Where those were learned that the record does not have yet."""

    @classmethod
    def read(cls, registry: Registry, key: str) -> Self:
        """Those that stand."""
        record = registry.find(key)
        return cls(key, record, {} if record is None else _by_name(record.document))

    def learn(self, metadata: Mapping[str, Any], where: Where) -> None:
        """Take over the types of properties that are used for the first time.

        Raises:
            InvalidError: one has another type, or values of several; `where` says whose.
        """
        here: dict[str, str] = {}
        for name, value in filters.properties({"metadata": metadata}):
            kind = _type_of(value)
            if here.setdefault(name, kind) != kind:
                raise InvalidError(
                    f"the property {name!r} is mixed here, {_NAMES[here[name]]} and {_NAMES[kind]}",
                    where=_place(where, name),
                    hint="a list has values of one type",
                )
        for name, kind in here.items():
            if name not in self.known:
                self.known[name], self.firsts[name] = kind, where
            first = self.known[name]
            if first != kind:
                fixed = f" in {_place(self.firsts[name], name)}" if name in self.firsts else ""
                raise InvalidError(
                    f"the property {name!r} is {_NAMES[kind]} here, and {_NAMES.get(first, first)} since its first use"
                    + fixed,
                    where=_place(where, name),
                    hint=f"write it as {_NAMES.get(first, first)}, or give it another name",
                )

    def steps(self) -> list[Step]:
        """What the registry has to learn; nothing if all was known."""
        document = dict(self.record.document) if self.record is not None else {}
        before = _by_name(document)
        new = [(name, kind) for name, kind in self.known.items() if name not in before]
        if not new:
            return []
        for name, kind in new:
            document[kind] = [*document.get(kind, ()), name]
        return [Put(self.key, document, ABSENT if self.record is None else Match(self.record.etag))]


def _by_name(document: Mapping[str, Any]) -> dict[str, str]:
    return {name: kind for kind, names in document.items() if isinstance(names, list) for name in names}


def note_types(registry: Registry, key: str, metadata: Mapping[str, Any] | None, where: str) -> None:
    """Take over the types of properties before a record with them is written.

    Raises:
        InvalidError: a property has another type since its first use, or no name of its own.
    """
    check_names(metadata or {}, where)
    for _ in range(_TRIES if metadata else 0):
        types = Types.read(registry, key)
        types.learn(metadata or {}, where)
        steps = types.steps()
        try:
            if steps:
                registry.commit(steps)
            return
        except (ConflictError, ExistsError):
            continue  # somebody used a property for the first time in this moment; look again
        except (AccessError, NotFoundError) as error:
            # Who may write one name of an owner need not say what holds for all, nor know of it.
            log.debug("the types of new properties of %s are not noted: %s", where, error)
            return


# Files.


def of_file(registry: Registry, series: str, path: str) -> dict[str, Any]:
    """What is said about a file: `{"tags": […], "metadata": {…}}`."""
    record = registry.find(file_key(series, path))
    return NOTHING.on(None if record is None else record.document, path)


def write(
    registry: Registry,
    series: str,
    said: Mapping[str, Said],
    where: Callable[[str], str] = str,
    where_of: Callable[[str, str], str] | None = None,
) -> int:
    """Write what is said about files, and return how many records changed.

    All is looked at before the first record is written. They are written in batches; the same call again writes what an
    interrupted one did not.

    Args:
        registry: that of the series.
        series: its id.
        said: changes, by path.
        where: what to call a path in errors.
        where_of: what to call a property of a path in errors.

    Raises:
        InvalidError: a property has another type since its first use.
        NotFoundError: what is to be taken away is not there.
    """
    keys = {file_key(series, path): path for path in said}
    for _ in range(_TRIES):
        types = Types.read(registry, types_key(series))
        found = _standing(registry, files_prefix(series), keys)
        steps: list[Put] = []
        for key, path in keys.items():
            types.learn(said[path].metadata, where(path) if where_of is None else partial(where_of, path))
            step = _step(key, found.get(key), said[path], where(path))
            if step is not None:
                steps.append(step)
        try:
            if first := types.steps():
                registry.commit(first)
        except (ConflictError, ExistsError):
            continue  # somebody used a property for the first time in this moment; look again
        for batch in _batches(steps):
            _commit(registry, batch, lambda key: (said[keys[key]], where(keys[key])))
        return len(steps)
    raise ConflictError("the types of the properties are being changed all the time", where=registry.url)


def _standing(registry: Registry, prefix: str, keys: Mapping[str, str]) -> dict[str, Record]:
    if len(keys) <= _FEW:
        return {key: record for key in keys if (record := registry.find(key)) is not None}
    return {record.key: record for record in registry.list(prefix) if record.key in keys}


def _step(key: str, record: Record | None, said: Said, where: str) -> Put | None:
    before = None if record is None else record.document
    after = said.on(before, where)
    if before is not None:
        after = {**before, **after}
        if after == before:
            return None
    elif not after["tags"] and not after["metadata"]:
        return None
    return Put(key, after, ABSENT if record is None else Match(record.etag))


def _batches(steps: Iterable[Put]) -> Iterator[list[Put]]:
    left = iter(steps)
    while batch := list(islice(left, _BATCH)):
        size = 0
        some: list[Put] = []
        for step in batch:
            length = len(encode(step.document)) + len(step.key)
            if some and size + length > _BATCH_BYTES:
                yield some
                size, some = 0, []
            size += length
            some.append(step)
        yield some


def _commit(registry: Registry, batch: list[Put], again: Callable[[str], tuple[Said, str]]) -> None:
    for _ in range(_TRIES):
        if not batch:
            return
        try:
            registry.commit(batch)
            return
        except (ConflictError, ExistsError):
            made = (_step(step.key, registry.find(step.key), *again(step.key)) for step in batch)
            batch = [step for step in made if step is not None]
    raise ConflictError("the properties of these files are being changed all the time", where=registry.url)


# Conditions.


def condition(where: Filter | str | Mapping[str, Any] | None) -> Filter:
    """A filter from what a caller gives: a filter, its text, its JSON form, or `{"label": "cat", "split": ["a", "b"]}`.

    A mapping is the JSON form only where it cannot be one of properties that are called `all`, `any`, `not`, `field`.

    Raises:
        InvalidError: it is none of these, or `{"exists": "x"}`, which may be two things.
    """
    if where is None:
        return filters.All(())
    if isinstance(where, Filter):
        return where
    if isinstance(where, str):
        return filters.parse(where)
    if not isinstance(where, Mapping):
        raise InvalidError(f"a {type(where).__name__} is no condition", hint='F.label == "cat", or \'label == "cat"\'')
    if _is_json_form(where):
        return filters.of_dict(where)
    if len(where) == 1 and isinstance(where.get("exists"), str):
        name = str(where["exists"])
        raise InvalidError(
            f"{{'exists': {name!r:.80}}} may be about that property, or about one called 'exists'",
            hint=f'F[{name!r:.80}].exists(), or F["exists"] == {name!r:.80}',
        )
    parts = (Compare(name, "==", tuple(v) if isinstance(v, list | tuple) else (v,)) for name, v in where.items())
    return filters.All(tuple(parts))


def _is_json_form(where: Mapping[str, Any]) -> bool:
    """Whether a mapping is a filter as `as_dict` gives it. The value of a property is neither a mapping nor has any."""
    match where:
        case {"field": str(), "op": str(), "values": list()}:
            return len(where) == 3
        case {"all": list(parts)} | {"any": list(parts)}:
            return len(where) == 1 and all(isinstance(part, Mapping) for part in parts)
        case {"not": Mapping()}:
            return len(where) == 1
    return False


def check_fields(
    where: Filter,
    known: Iterable[str],
    is_used: Callable[[Exists], bool],
    place: str,
    others: Callable[[Exists], InvalidError | None] = lambda _: None,
) -> None:
    """Refuse a condition on a property that nothing has.

    Args:
        where: the condition.
        known: names of properties.
        is_used: asked of a name that is not among them, for records from before types were noted.
        place: for the error.
        others: the error for a property that only others have than those the condition is for, if it is one.

    Raises:
        InvalidError: with the nearest names.
    """
    names: tuple[str, ...] | None = None
    for name in dict.fromkeys(where.fields()):
        if name == "tags":
            continue
        if names is None:
            names = tuple(dict.fromkeys(known))
        if is_used(Exists(name)):
            continue
        error = others(Exists(name))
        if error is not None:
            raise error
        if name not in names:
            meant = (one for one in sorted(names) if not is_secret_field(one) and others(Exists(one)) is None)
            shown = list(islice(meant, _FEW + 1))
            alike = get_close_matches(name, names[:_KNOWN], _FEW, 0.5)
            near = tuple(one for one in alike if others(Exists(one)) is None)
            told = ", ".join([*shown[:_FEW], *(["…"] if len(shown) > _FEW else [])])
            raise InvalidError(
                f"nothing has a property {name!r}" + did_you_mean(name, near),
                where=place,
                hint=f"there are: {told or 'none yet'}, and tags",
            )


def check_kinds(where: Filter, records: Iterable[tuple[Record | None, str]]) -> None:
    """Refuse a condition that fits nothing, because the property never has values of that type.

    Args:
        where: the condition.
        records: those that fix the types of properties, each with its place, for the error.

    Raises:
        InvalidError: with both types.
    """
    kinds: dict[str, set[str]] = {}
    places: dict[str, dict[str, None]] = {}
    for record, place in records:
        for name, kind in ({} if record is None else _by_name(record.document)).items():
            kinds.setdefault(name, set()).add(kind)
            places.setdefault(name, {})[place] = None
    for leaf in filters.leaves_of(where):
        if not isinstance(leaf, Compare) or leaf.op == "!=" or leaf.field not in kinds:
            continue
        wanted = ["text" if leaf.op in ("contains", "starts") else _type_of(value) for value in leaf.values]
        if wanted and kinds[leaf.field].isdisjoint(wanted):
            have = " or ".join(_NAMES.get(kind, kind) for kind in sorted(kinds[leaf.field]))
            raise InvalidError(
                f"the property {leaf.field!r} is {have}, and {str(leaf)!r} holds it against {_NAMES[wanted[0]]}",
                where=", ".join(places[leaf.field]),
                hint=f"hold it against {have}",
            )


def names_in(record: Record | None) -> list[str]:
    """The names of the properties whose types a record fixes."""
    return [] if record is None else list(_by_name(record.document))
