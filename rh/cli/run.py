"""From arguments to an exit code: nothing of Python's own is shown for what may go wrong."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from rh.cli import exit as codes
from rh.cli import show
from rh.errors import NotFoundError, RhError, TransferError
from rh.observe import log

__all__ = ["cancel", "interrupted", "run"]

GRACE_S = 1.7
"""How long an interrupted command may tidy up."""

cancel = threading.Event()
"""Set by Ctrl-C; transfers watch it."""


class _UsageError(RhError):
    kind = "usage"


class _InterruptedError(RhError):
    kind = "interrupted"
    receipt: Any = None


def run(words: Sequence[str]) -> int:
    """Run one command line."""
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    _prepare_streams()
    with show.warnings_told(as_json=as_json), _interruptible(as_json=as_json) as stops, _warned():
        try:
            code = _command(list(words))
            sys.stdout.flush()
            if cancel.is_set():  # typer makes an exit code of it
                return interrupted(*stops, as_json=as_json)
        except RhError as error:
            if cancel.is_set():
                return interrupted(error, as_json=as_json)
            _hinted(error)
            show.fail(error, as_json=as_json)
            return codes.code_of(error)
        except KeyboardInterrupt:
            return interrupted(*stops, as_json=as_json)
        except BrokenPipeError:
            show.drop(sys.stdout)  # whoever read us has gone
            return codes.PIPE
        except OSError as error:
            return _failed(error, as_json=as_json)
    return code


def _prepare_streams() -> None:
    """Let the standard streams take, or refuse, whatever comes.

    In place of one that was closed comes the null device, so that no file gets its number, and then what is told.
    Input and output fail then, as they do in coreutils: nothing was read or told.
    """
    for name, flags, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))
    codecs.register_error("rh", _unencodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rh" if stream is sys.stdout else "backslashreplace")


def _unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Names are bytes: what is no text goes out as it came in. What the encoding of the output has not is escaped."""
    assert isinstance(error, UnicodeEncodeError)
    error.end = error.start + 1
    is_byte = "\udc80" <= error.object[error.start] <= "\udcff"
    return codecs.lookup_error("surrogateescape" if is_byte else "backslashreplace")(error)


def _failed(error: OSError, *, as_json: bool) -> int:
    """What the machine refused outside of any place: a file that the user named, or where our output goes."""
    from rh.systems.local.disk import failure

    problem = failure(error, str(error.filename or "standard input or output"))
    try:
        sys.stdout.flush()
    except OSError:
        show.drop(sys.stdout)
    show.fail(problem, as_json=as_json)
    return codes.code_of(problem)


def _command(words: list[str]) -> int:
    import typer

    from rh.cli.app import app
    from rh.cli.complete import whole_words

    try:
        with whole_words():
            result = app(words, standalone_mode=False, prog_name="rh")
    except typer.Exit as stop:
        return int(stop.exit_code)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        raise
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command: its help is no error message
            show.tell(error.format_message())
            return codes.USAGE
        raise _usage(error, words) from None
    return result if isinstance(result, int) else codes.OK


def _usage(error: Any, words: Sequence[str]) -> RhError:
    context = getattr(error, "ctx", None)
    name = context.command_path if context is not None else "rh"
    if name == "rh" and "No such command" not in error.format_message():
        name = " ".join(("rh", *(word for word in words[:1] if not word.startswith("-"))))
    return _UsageError(_swapped(error, words) or error.format_message(), hint=f"{name} --help")


def _swapped(error: Any, words: Sequence[str]) -> str | None:
    """The message where one word was given of `SOURCE... TARGET`: the parser takes it for the last of the two."""
    missing, context = getattr(error, "param", None), getattr(error, "ctx", None)
    if context is None or getattr(missing, "nargs", 1) != -1 or type(error).__name__ != "MissingParameter":
        return None
    own = list(words[list(words).index(context.info_name) + 1 :])
    given, _, _ = context.command.make_parser(context).parse_args(args=own)
    last = [one for one in context.command.params if one.param_type_name == "argument"][-1]
    return f"Missing argument {last.metavar!r}." if given.get(last.name) else None


def _hinted(error: RhError) -> None:
    """Let a missing place tell what is beside it; who has no time for that gets the error as it is."""
    if isinstance(error, NotFoundError):
        from rh.resources.nearest import hinted

        with contextlib.suppress(KeyboardInterrupt):
            hinted(error)


def interrupted(*stopped: BaseException, as_json: bool) -> int:
    """Say so, with what it came to, or the receipt, of a transfer that was stopped."""
    notes = [note for one in stopped for note in getattr(one, "__notes__", ())]
    error = _InterruptedError(": ".join(("interrupted", *notes[:1])))
    for one in stopped:
        if isinstance(one, TransferError) and as_json:
            error.receipt = one.receipt
    show.fail(error, as_json=as_json)
    return codes.INTERRUPTED


def _force(as_json: bool) -> None:
    """Something does not end. What it has stored is whole or hidden, and the next run goes on."""
    document = json.dumps(_InterruptedError("interrupted").as_dict())
    with contextlib.suppress(OSError):
        os.write(2, f"{document}\n".encode() if as_json else b"rh: interrupted\n")
    os._exit(codes.INTERRUPTED)


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """Warnings are lines on standard error, one of a kind; what the library notes as a warning, each once."""
    told: set[type[Warning]] = set()
    notes = _Notes(logging.WARNING)

    def tell(message: Warning | str, category: type[Warning], *_where: object, **_more: object) -> None:
        if category not in told:
            told.add(category)
            show.warn(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = tell
        log.addHandler(notes)
        try:
            yield
        finally:
            log.removeHandler(notes)


class _Notes(logging.Handler):
    """Tells each note once; where a command keeps a log of its own, that has them."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        alone = all(other is self or isinstance(other, logging.NullHandler) for other in log.handlers)
        if alone and text not in self._told:
            self._told.add(text)
            show.warn(text)


@contextlib.contextmanager
def _interruptible(*, as_json: bool) -> Iterator[list[KeyboardInterrupt]]:
    """Ctrl-C stops within two seconds: by an exception, and if something will not end, by force. Yields the exceptions.

    What they come to is noted in them, and typer lets go of them.
    """
    stops: list[KeyboardInterrupt] = []
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        cancel.set()
        stops.append(KeyboardInterrupt())
        raise stops[-1]

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # in the background of a shell
        yield stops
        return
    cancel.clear()
    with _forced(lambda: signal.getsignal(signal.SIGINT) is stop, as_json=as_json):
        signal.signal(signal.SIGINT, stop)
        try:
            yield stops
        finally:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _forced(ours: Callable[[], bool], *, as_json: bool) -> Iterator[None]:
    """End by force what has not ended in time after a Ctrl-C that is `ours` to handle.

    Python runs no handler while its main thread is in a system call that goes on, such as the look-up of a host's name
    where no server answers. Signals are written to a descriptor at once (`signal.set_wakeup_fd`), which a thread reads.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def watch() -> None:
        while (number := os.read(read, 1)[0]) != _OVER:
            if number == signal.SIGINT and ours():
                time.sleep(GRACE_S)
                _force(as_json)

    watcher = threading.Thread(target=watch, name="rh-interrupt", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        if not cancel.is_set():  # else it watches until the process is no more
            signal.set_wakeup_fd(before)
            os.write(write, bytes([_OVER]))
            watcher.join()
            os.close(read)
            os.close(write)


_OVER = 0
"""No signal has this number."""
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # what a child is sent is not for its parent
