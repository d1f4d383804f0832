"""`rh.run`: runs that begin and end, as a block or as a function."""

from __future__ import annotations

import functools
import inspect
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from rh.errors import InvalidError
from rh.forks import Lock
from rh.observe import log, warn
from rh.registry import default, lineage
from rh.registry.base import author
from rh.registry.documents import check_document, encode, is_secret_field
from rh.registry.lineage.recording import VARIABLE, Active, RunRef, active
from rh.resources.runs import Run
from rh.resources.runs.recording import Recording
from rh.versions.properties import check_names, plain

__all__ = ["Block", "UnrecordedWarning", "run"]

_MESSAGE = 2_000
_ARGUMENT = 4 << 10
_ARGUMENTS = 64 << 10
"""Bytes of the JSON of an argument, and of all: a record says how a function was called, and is no place for data."""
_SECRET = re.compile(r"(?i)\b([\w.-]*(?:password|passwd|secret|token|api_?key|credential)[\w.-]*['\"]?\s*[=:]\s*)\S+")

Called = TypeVar("Called", bound=Callable[..., Any])


class UnrecordedWarning(UserWarning):
    """What a run did is done, and the registry could not be told how it ended."""


class _Children:
    """Tells processes that are started from now on which run they are in, by their environment.

    That is one for the whole process, so while runs that are not in one another go on at once, nothing is told.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: dict[str, str | None] = {}
        self._before: str | None = None

    def began(self, run: str, parent: str | None) -> None:
        """A run began."""
        with self._lock:
            if not self._open:
                self._before = os.environ.get(VARIABLE)
            self._open[run] = parent
            self._tell()

    def ended(self, run: str) -> None:
        """A run ended."""
        with self._lock:
            self._open.pop(run, None)
            self._tell()

    def _tell(self) -> None:
        innermost = self._open.keys() - self._open.values()
        told = next(iter(innermost)) if len(innermost) == 1 else None if innermost else self._before
        if told is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = told


_children = _Children()


class Block:
    """A run that is about to begin: a `with` block, or a decorator."""

    def __init__(self, name: str, params: Mapping[str, Any], code: Callable[[], dict[str, Any]]) -> None:
        self._name = name
        self._params = params
        self._code = code
        self._active: Active | None = None
        self._run: Run | None = None
        self._document: dict[str, Any] = {}

    def __enter__(self) -> Run:
        from rh.resources.runs.origin import environment

        if self._run is not None:
            raise InvalidError("a run is begun once", hint="rh.run(…) makes another one")
        registry = default()
        above = active()
        ref = RunRef(lineage.new_run(), self._name)
        self._document = {
            "name": self._name,
            "status": "running",
            "user": author(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": time.time(),
            "ended": None,
            "parent": None if above is None else above.ref.id,
            "error": None,
            "code": self._code(),
            "environment": environment(),
            "metadata": dict(self._params),
        }
        recording = Recording(registry, ref)
        self._run = Run(registry, registry.put(lineage.run_key(ref.id), self._document), recording)
        self._active = Active(recording)
        self._active.__enter__()
        _children.began(ref.id, self._document["parent"])
        return self._run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._run is not None
        assert self._active is not None
        self._active.__exit__(kind, error, trace)
        _children.ended(self._run.id)
        recording = self._run._recording  # noqa: SLF001 - one thing in two classes
        assert recording is not None
        try:
            status, told = _ending(error)
            document = {**self._document, "status": status, "error": told, "ended": time.time()}
            try:
                recording.flush()
            finally:
                if recording.is_ours:
                    registry = recording.registry
                    self._run._take(registry.put(lineage.run_key(self._run.id), document))  # noqa: SLF001
        except Exception as failure:  # noqa: BLE001 - what the block made, or raised, is worth more than its record
            what = f"run {self._run.ref} is over, and stays `running` in its record, which `rh run rm` forgets"
            log.warning("%s: %s", what, failure)
            if error is None:
                warn(f"{what}: {failure}", UnrecordedWarning)

    def __call__(self, function: Called) -> Called:
        """The function, of which each call is a run; plain arguments of up to 4 KiB are parameters of it."""
        return decorated(function, self._name, self._params)


@overload
def run(name: Called, /) -> Called: ...


@overload
def run(name: str, *, params: Mapping[str, Any] | None = None) -> Block: ...


def run(name: Any, *, params: Mapping[str, Any] | None = None) -> Any:
    """A run: what is read and written in its block, and with which code and parameters, is recorded by itself.

    As a decorator, `@rh.run` or `@rh.run("name")`, each call of the function is a run with its arguments as parameters.

    Args:
        name: what it is called.
        params: plain JSON values, no secrets.

    Returns:
        A block that gives the `Run`.

    Raises:
        InvalidError: a parameter is no JSON value or looks like a secret.

    Warns:
        UnrecordedWarning: the registry could not be told how it ended. What the block or the function made is not lost.

    Example:
        >>> import rh
        >>> with rh.run("double", params={"factor": 2}) as r:
        ...     made = rh.blob(4, name="docs-double").save().commit()
        >>> r.status, [str(item) for item in r.outputs], made.produced_by.name
        ('done', ['~/docs-double:v1'], 'double')
    """
    from rh.resources.runs.origin import code_in

    if callable(name):
        return decorated(name, getattr(name, "__qualname__", type(name).__name__), {})
    if not isinstance(name, str) or not name or len(name) > 200:
        raise InvalidError(f"not the name of a run: {name!r:.80}", hint='rh.run("train")')
    check_document({"name": name}, where="the name of a run")
    params = plain({} if params is None else params)
    check_document(params, where=f"parameters of run {name}")
    check_names(params, f"parameters of run {name}")
    caller = sys._getframe(1)  # noqa: SLF001 - the documented way to the caller
    module, code = str(caller.f_globals.get("__name__", "?")), caller.f_code
    return Block(name, params, lambda: code_in(module, code))


def decorated(function: Called, name: str, params: Mapping[str, Any]) -> Called:
    """`run` as a decorator."""
    from rh.resources.runs.origin import code_of

    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidError(
            f"{name} is a generator, and runs only while somebody asks it", hint='with rh.run("name"): in its body'
        )
    signature = inspect.signature(function)

    def block(args: Any, kwargs: Any) -> Block:
        return Block(name, {**_arguments(signature, args, kwargs), **params}, lambda: code_of(function))

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def later(*args: Any, **kwargs: Any) -> Any:
            with block(args, kwargs):
                return await function(*args, **kwargs)

        return later  # type: ignore[return-value]

    @functools.wraps(function)
    def now(*args: Any, **kwargs: Any) -> Any:
        with block(args, kwargs):
            return function(*args, **kwargs)

    return now  # type: ignore[return-value]


def _arguments(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call that a record holds: JSON values, and names of resources; no secrets."""
    from rh.resources.base import Resource

    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return {}  # the call itself says what is wrong with it
    bound.apply_defaults()
    found: dict[str, Any] = {}
    left = _ARGUMENTS
    for name, value in bound.arguments.items():
        if isinstance(value, Resource):
            pinned = getattr(value, "version", None)
            value = value.name and (f"{value.name}:{pinned}" if pinned else value.name)  # noqa: PLW2901
        elif isinstance(value, tuple):
            value = list(value)  # noqa: PLW2901
        if is_secret_field(name) or value is None or (isinstance(value, str | list) and len(value) > _ARGUMENT):
            continue
        try:
            value = plain(value)  # noqa: PLW2901
            check_document({name: value}, where="")
        except Exception as error:  # noqa: BLE001 - code of the value's own: no reason not to call the function
            log.debug("the argument %s is no parameter: %s", name, error)
            continue
        size = len(encode({name: value}))
        if size <= min(_ARGUMENT, left):
            found[name] = value
            left -= size
    return found


def _ending(error: BaseException | None) -> tuple[str, dict[str, str] | None]:
    """The status of a run that ends so, and what is told of the error."""
    import asyncio

    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "done", None
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError | GeneratorExit):
        return "cancelled", {"type": type(error).__name__, "message": ""}
    message = _SECRET.sub(r"\1…", str(error))[:_MESSAGE].encode("utf-8", "backslashreplace").decode()
    try:
        check_document({"message": message}, where="")
    except InvalidError:
        message = "(not recorded: it holds what looks like a credential)"
    return "failed", {"type": type(error).__qualname__, "message": message}
