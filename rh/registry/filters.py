"""Filters over the properties of records: written as Python, as text or as JSON, and held against a document.

The properties of a record are the scalars in its `metadata`, by dotted name, and its `tags`::

    {"kind": "folder", "tags": ["gold"], "metadata": {"stage": "train", "eval": {"accuracy": 0.93}, "ids": [3, 5]}}
    tags = "gold", stage = "train", eval.accuracy = 0.93, ids = 3, ids = 5

A property with several values fits where one of them does. Numbers compare with numbers, text with text, and truth
values are equal or not; a value of another type, or a property that is not there, fits nothing. `!=` wants the property
to be there, and none of its values to be equal.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from rh.config import did_you_mean
from rh.errors import InvalidError

__all__ = [
    "All",
    "AnyOf",
    "Compare",
    "Exists",
    "F",
    "Field",
    "Filter",
    "Not",
    "Scalar",
    "leaves_of",
    "moment",
    "of_dict",
    "parse",
    "properties",
]

Scalar: TypeAlias = str | int | float | bool

MAX_DEPTH = 50
MAX_VALUES = 10_000
MAX_CONDITIONS = 1_000
"""Of a filter that comes as JSON, from anybody. It holds up to `MAX_VALUES` values in all."""


def properties(document: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    """The properties of a record: names and values. A name comes as often as it has values."""
    for tag in document.get("tags") or ():
        if isinstance(tag, str):
            yield "tags", tag
    metadata = document.get("metadata")
    if isinstance(metadata, Mapping):
        yield from _scalars("", metadata)


def _scalars(name: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _scalars(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            if not isinstance(inner, Mapping | list | tuple):
                yield from _scalars(name, inner)
    elif isinstance(value, str | int | float):
        yield name, value


class Filter:
    """A condition on the properties of a record. Combined with `&`, `|` and `~`."""

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether it holds for a record's document."""
        found: dict[str, list[Scalar]] = {}
        for name, value in properties(document):
            found.setdefault(name, []).append(value)
        return self.holds(found)

    def holds(self, values: Mapping[str, Sequence[Scalar]]) -> bool:
        """Whether it holds for properties with these values."""
        raise NotImplementedError

    def fields(self) -> Iterator[str]:
        """The names of the properties it looks at."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, which `of_dict` takes back."""
        raise NotImplementedError

    def __and__(self, other: Filter) -> Filter:
        return All((self, _filter(other)))

    def __or__(self, other: Filter) -> Filter:
        return AnyOf((self, _filter(other)))

    def __invert__(self) -> Filter:
        return Not(self)

    def __bool__(self) -> bool:
        raise InvalidError("a filter is neither true nor false", hint="write &, | and ~, with parentheses")


@dataclass(frozen=True, slots=True)
class Compare(Filter):
    """A property held against values: `op` is one of `OPERATORS`; `==` and `!=` take several."""

    field: str
    op: str
    values: tuple[Scalar, ...]

    OPERATORS: ClassVar[Mapping[str, Callable[[Any, Any], bool]]] = {
        "==": operator.eq,
        "!=": operator.eq,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "contains": lambda have, want: isinstance(have, str) and want in have,
        "starts": lambda have, want: isinstance(have, str) and have.startswith(want),
    }

    def __post_init__(self) -> None:
        if not self.field or not isinstance(self.field, str):
            raise InvalidError(f"not the name of a property: {self.field!r}")
        if self.op not in self.OPERATORS:
            raise InvalidError(f"there is no comparison {self.op!r}", hint=f"there is {' '.join(self.OPERATORS)}")
        if len(self.values) > MAX_VALUES:
            raise InvalidError(f"a filter takes up to {MAX_VALUES:,} values for {self.field}")
        if self.op not in ("==", "!=") and len(self.values) != 1:
            raise InvalidError(f"{self.field} {self.op} takes one value")
        for value in self.values:
            if value is None:
                raise InvalidError(
                    f"{self.field} cannot be held against None: a property that is not there has no value",
                    hint=f"{_name(self.field)}.exists(), or ~ (in text: not) before it",
                )
            if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
                raise InvalidError(
                    f"{self.field} cannot be held against {value!r}", hint="text, a number or a truth value"
                )
            if isinstance(value, bool) and self.op not in ("==", "!="):
                raise InvalidError(f"{self.field} {self.op} {value}: truth values are equal or not")
            if self.op in ("contains", "starts") and not isinstance(value, str):
                raise InvalidError(f"{self.field} is held against text, not {value!r}")

    def holds(self, values: Mapping[str, Sequence[Scalar]]) -> bool:
        there = values.get(self.field, ())
        test = self.OPERATORS[self.op]
        found = any(_alike(have, want) and test(have, want) for have in there for want in self.values)
        return bool(there) and not found if self.op == "!=" else found

    def fields(self) -> Iterator[str]:
        yield self.field

    def as_dict(self) -> dict[str, Any]:
        return {"field": self.field, "op": self.op, "values": list(self.values)}

    def __str__(self) -> str:
        if self.op in ("==", "!=") and len(self.values) != 1:
            return f"{_name(self.field)} {'not ' if self.op == '!=' else ''}in {list(self.values)!r}"
        if self.op in ("contains", "starts"):
            called = {"contains": "contains", "starts": "startswith"}[self.op]
            return f"{_name(self.field)}.{called}({self.values[0]!r})"
        return f"{_name(self.field)} {self.op} {self.values[0]!r}"


@dataclass(frozen=True, slots=True)
class Exists(Filter):
    """The property is there, whatever its value."""

    field: str

    def holds(self, values: Mapping[str, Sequence[Scalar]]) -> bool:
        return bool(values.get(self.field))

    def fields(self) -> Iterator[str]:
        yield self.field

    def as_dict(self) -> dict[str, Any]:
        return {"exists": self.field}

    def __str__(self) -> str:
        return f"{_name(self.field)}.exists()"


@dataclass(frozen=True, slots=True)
class All(Filter):
    """Every one of these; none at all holds for everything."""

    parts: tuple[Filter, ...]

    def holds(self, values: Mapping[str, Sequence[Scalar]]) -> bool:
        return all(part.holds(values) for part in self.parts)

    def fields(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.fields()

    def as_dict(self) -> dict[str, Any]:
        return {"all": [part.as_dict() for part in self.parts]}

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf(Filter):
    """At least one of these."""

    parts: tuple[Filter, ...]

    def holds(self, values: Mapping[str, Sequence[Scalar]]) -> bool:
        return any(part.holds(values) for part in self.parts)

    def fields(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.fields()

    def as_dict(self) -> dict[str, Any]:
        return {"any": [part.as_dict() for part in self.parts]}

    def __str__(self) -> str:
        return " or ".join(str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The other one does not hold."""

    part: Filter

    def holds(self, values: Mapping[str, Sequence[Scalar]]) -> bool:
        return not self.part.holds(values)

    def fields(self) -> Iterator[str]:
        yield from self.part.fields()

    def as_dict(self) -> dict[str, Any]:
        return {"not": self.part.as_dict()}

    def __str__(self) -> str:
        return f"not ({self.part})"


class Field:
    """A property in a filter: `F.stage == "train"`, `F["eval.accuracy"] > 0.9`."""

    __slots__ = ("_name",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__"):
            raise AttributeError(name)
        return Field(f"{self._name}.{name}" if self._name else name)

    def __getitem__(self, name: str) -> Field:
        return Field(f"{self._name}.{name}" if self._name else name)

    def __eq__(self, other: object) -> Filter:  # type: ignore[override]
        return Compare(self._name, "==", (other,))  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Filter:  # type: ignore[override]
        return Compare(self._name, "!=", (other,))  # type: ignore[arg-type]

    def __lt__(self, other: Scalar) -> Filter:
        return Compare(self._name, "<", (other,))

    def __le__(self, other: Scalar) -> Filter:
        return Compare(self._name, "<=", (other,))

    def __gt__(self, other: Scalar) -> Filter:
        return Compare(self._name, ">", (other,))

    def __ge__(self, other: Scalar) -> Filter:
        return Compare(self._name, ">=", (other,))

    def is_in(self, values: Sequence[Scalar], *others: object) -> Filter:
        """Its value is one of these."""
        if others or isinstance(values, str) or not isinstance(values, Iterable):
            raise InvalidError(f"{self._name}.is_in takes a list", hint=f"is_in({[values, *others]!r})")
        return Compare(self._name, "==", tuple(values))

    def contains(self, text: str) -> Filter:
        """Its value is a text that holds this one."""
        return Compare(self._name, "contains", (text,))

    def startswith(self, text: str) -> Filter:
        """Its value is a text that begins with this one."""
        return Compare(self._name, "starts", (text,))

    def exists(self) -> Filter:
        """It is there, with any value."""
        return Exists(self._name)

    def __call__(self, *_args: object, **_named: object) -> Filter:
        name = self._name.rpartition(".")[2]
        raise InvalidError(
            f"a property has no method {name!r}" + did_you_mean(name, _METHODS), hint=f"there is {', '.join(_METHODS)}"
        )

    def __bool__(self) -> bool:
        raise InvalidError("a property by itself is no condition", hint=f"F.{self._name}.exists()")

    def __repr__(self) -> str:
        return f"F[{self._name!r}]" if self._name else "F"


_METHODS = ("is_in", "contains", "startswith", "exists")

F = Field("")
"""Where filters begin: `F.accuracy > 0.9`."""


def _alike(have: Scalar, want: Scalar) -> bool:
    if isinstance(have, str) or isinstance(want, str):
        return isinstance(have, str) and isinstance(want, str)
    return isinstance(have, bool) == isinstance(want, bool)


def _filter(other: object) -> Filter:
    if not isinstance(other, Filter):
        raise InvalidError(f"not a filter: {other!r}", hint="(F.a > 1) & (F.b == 2), with parentheses")
    return other


def _name(field: str) -> str:
    return field if all(part.isidentifier() for part in field.split(".")) else f"F[{field!r}]"


def moment(as_of: float, what: str = "as_of") -> float:
    """Seconds since the epoch, as registries compare them; `what` is what errors call it.

    Raises:
        InvalidError: there is no such moment.
    """
    try:
        seconds = float(as_of)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise InvalidError(f"{what} is not a moment", hint="seconds since the epoch")
    return seconds


def of_dict(told: Mapping[str, Any]) -> Filter:
    """The inverse of `Filter.as_dict`.

    Raises:
        InvalidError: it is no filter, or one of more conditions or values than anybody needs.
    """
    found = _of_dict(told, 0)
    leaves = list(leaves_of(found))
    if len(leaves) > MAX_CONDITIONS:
        raise InvalidError(f"a filter has up to {MAX_CONDITIONS:,} conditions, not {len(leaves):,}", hint=_SPLIT)
    values = sum(len(leaf.values) for leaf in leaves if isinstance(leaf, Compare))
    if values > MAX_VALUES:
        raise InvalidError(f"a filter has up to {MAX_VALUES:,} values, not {values:,}", hint=_SPLIT)
    return found


_SPLIT = "make it several searches, or one value list: F.x.is_in([…])"


def leaves_of(where: Filter) -> Iterator[Filter]:
    """Each condition in a filter; the combined ones as well."""
    match where:
        case All(parts=parts) | AnyOf(parts=parts):
            yield where
            for part in parts:
                yield from leaves_of(part)
        case Not(part=part):
            yield from leaves_of(part)
        case _:
            yield where


def _of_dict(told: Mapping[str, Any], depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidError("the filter is nested too deeply")
    try:
        match told:
            case {"field": str(field), "op": str(op), "values": list(values)}:
                return Compare(field, op, tuple(values))
            case {"exists": str(field)}:
                return Exists(field)
            case {"all": list(parts)}:
                return All(tuple(_of_dict(part, depth + 1) for part in parts))
            case {"any": list(parts)}:
                return AnyOf(tuple(_of_dict(part, depth + 1) for part in parts))
            case {"not": dict(part)}:
                return Not(_of_dict(part, depth + 1))
    except TypeError as error:
        raise InvalidError(f"not a filter: {told!r:.200}") from error
    raise InvalidError(f"not a filter: {told!r:.200}")


# Text.

_PARSED: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_TURNED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CALLS = {"contains": "contains", "startswith": "starts"}


def parse(text: str) -> Filter:
    """A filter written as text: `accuracy > 0.9 and stage in ["train", "test"] and not tags == "old"`.

    Comparisons, `in`, `not in`, `and`, `or`, `not`, `.exists()`, `.contains("x")` and `.startswith("x")`, as Python
    writes them. Nothing in it is run.

    Raises:
        InvalidError: it is no filter; the message shows the part that is not.
    """
    try:
        return _of_node(ast.parse(text.strip(), mode="eval").body, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InvalidError):
            raise
        raise InvalidError(f"not a filter: {text[:200]!r}", hint='accuracy > 0.9 and stage == "train"') from error


def _of_node(node: ast.expr, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidError("the filter is nested too deeply")
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = tuple(_of_node(value, depth + 1) for value in values)
            return All(parts) if isinstance(op, ast.And) else AnyOf(parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Not(_of_node(operand, depth + 1))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            found = [_compared(sides[n], op, sides[n + 1]) for n, op in enumerate(ops)]
            return found[0] if len(found) == 1 else All(tuple(found))
        case ast.Call(func=ast.Attribute(value=value, attr="exists"), args=[], keywords=[]):
            return Exists(_field_of(value))
        case ast.Call(func=ast.Attribute(value=value, attr=called), args=[argument], keywords=[]) if called in _CALLS:
            return Compare(_field_of(value), _CALLS[called], (_constant(argument),))
    raise InvalidError(f"not a condition: {ast.unparse(node)[:200]!r}", hint='accuracy > 0.9, stage == "train"')


def _compared(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Filter:
    if isinstance(op, ast.In | ast.NotIn):
        if isinstance(left, ast.Constant):  # "gold" in tags
            return Compare(_field_of(right), "==" if isinstance(op, ast.In) else "!=", (_constant(left),))
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise InvalidError(f"`in` wants a list: {ast.unparse(right)[:200]!r}", hint='stage in ["train", "test"]')
        return Compare(
            _field_of(left), "==" if isinstance(op, ast.In) else "!=", tuple(_constant(one) for one in right.elts)
        )
    sign = _PARSED.get(type(op))
    if sign is None:
        raise InvalidError("a property is compared with ==, !=, <, <=, >, >= or in")
    if isinstance(left, ast.Constant | ast.UnaryOp):
        return Compare(_field_of(right), _TURNED[sign], (_constant(left),))
    return Compare(_field_of(left), sign, (_constant(right),))


def _field_of(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return "" if name == "F" else name
        case ast.Attribute(value=value, attr=name):
            return f"{_field_of(value)}.{name}".removeprefix(".")
        case ast.Subscript(value=value, slice=ast.Constant(value=str(name))):
            return f"{_field_of(value)}.{name}".removeprefix(".")
    raise InvalidError(f"not the name of a property: {ast.unparse(node)[:200]!r}")


def _constant(node: ast.expr) -> Scalar:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise InvalidError(
            f"not a value: {ast.unparse(node)[:200]!r}", hint='text in quotes ("train"), a number, True or False'
        ) from error
    return value  # type: ignore[no-any-return]  # `Compare` checks it
