"""Settings: defaults < `~/.rh/config.toml` (and a profile) < `RH_*` variables < arguments.

`config.toml` has a table per system, and top-level values::

    user = "ada"

    [systems.s3]
    root = "s3://my-bucket/data"

    [systems.ovh]
    kind = "s3"
    endpoint_url = "https://s3.gra.io.cloud.ovh.net"
    profile = "ovh"

`RH_PROFILE=name` layers `~/.rh/profiles/name.toml` over it. `RH_S3_ROOT` is `systems.s3.root`, `RH_SSH_A_PORT`
is `systems.ssh-a.port`, `RH_USER` is `user`. `RH_HOME` moves `~/.rh`. No secret belongs here: credentials come from
where each platform keeps them. A setting that does not exist is an error: here for the top level, in `rh.systems` for
those of a system, whose class says what it takes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rh.errors import AccessError, InvalidError, NotFoundError, RhError
from rh.forks import Lock

__all__ = [
    "DEFAULTS",
    "Value",
    "did_you_mean",
    "get",
    "home",
    "override",
    "profiles_of",
    "register",
    "registered",
    "show",
    "system",
    "system_names",
    "unknown_system",
]

DEFAULTS: Mapping[str, Any] = {
    "user": None,
    "registry": None,
    "workers": 16,
    "memory_mb": 48,
    "timeout_s": 30.0,
    "retries": 10,
    "query_memory_mb": 1024,
    "cache_mb": 20_480,
    "chunk_from_mb": 0,
    "systems": {
        "file": {"kind": "file"},
        "memory": {"kind": "memory"},
        "s3": {"kind": "s3"},
        "gs": {"kind": "gs"},
        "azure": {"kind": "azure"},
        "github": {"kind": "git"},
    },
}
"""What holds when nothing else is said. In MiB, `memory_mb` bounds the bytes in flight of one transfer,
`query_memory_mb` what one query over tables may hold, `cache_mb` the contents of versions that are kept here.
Files of `chunk_from_mb` and more are stored in pieces that their contents decide, so that an appended one is not stored
whole again; 0 cuts none."""

ALIASES: Mapping[str, str] = {"here": "file", "local": "file", "gcs": "gs", "az": "azure"}
"""Other words for the built-in systems."""

_PASSWORD = re.compile(
    r"(://[^/@\s:]*:)[^/@\s]+(?=@)"
    r"|([?&](?:[\w-]*(?:password|token|signature|credential)|sig)=)[^&\s]+"
    r"|\b((?:AccountKey|SharedAccessKey|SharedAccessSignature|Password|Pwd)=)[^;\s]+",
    re.IGNORECASE,
)
_SECRET = re.compile(
    r"(?:password|passwd|pwd|passphrase|secret|token|sas|key|auth|authorization|cookie|credential)s?\Z", re.IGNORECASE
)
"""How the names of settings end that hold credentials, as those of an fsspec file system may."""
_LISTED = {
    "workers": int,
    "memory_mb": int,
    "query_memory_mb": int,
    "cache_mb": int,
    "chunk_from_mb": float,
    "timeout_s": float,
    "retries": int,
}
_lock = Lock()
_registered: dict[str, dict[str, Any]] = {}
_overrides: list[Mapping[str, Any]] = []
_files: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}


class Value(NamedTuple):
    """A setting and where it comes from."""

    key: str
    value: Any
    origin: str


def home() -> Path:
    """The directory of settings, registry, caches and journals: `$RH_HOME`, by default `~/.rh`.

    Raises:
        InvalidError: nobody says where it is: of a user without an account, as in some containers, only `$HOME` does.
    """
    try:
        return Path(os.environ.get("RH_HOME") or "~/.rh").expanduser()
    except RuntimeError as error:
        raise InvalidError("this user has no home directory", where="RH_HOME", hint="set HOME or RH_HOME") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise AccessError(f"the settings cannot be looked at: {error.strerror}", where=str(path)) from error
    stamp = (stat.st_mtime_ns, stat.st_size)
    cached = _files.get(path)
    if cached is None or cached[0] != stamp:
        import tomllib

        try:
            cached = (stamp, tomllib.loads(path.read_text("utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidError(f"the settings file is not valid TOML: {error}", where=str(path)) from error
        except OSError as error:
            raise AccessError(f"the settings cannot be read: {error.strerror}", where=str(path)) from error
        _check(cached[1], str(path))
        _files[path] = cached
    return cached[1]


@cache
def did_you_mean(word: str, known: tuple[str, ...], *, least: float = 0.6) -> str:
    """`; did you mean …?` with those of `known` that are like `word`, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, known, 3, least if len(word) > 3 else min(least, 0.5))
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _check_number(key: str, value: Any, where: str) -> None:
    """Refuse what is no number, or one below what makes sense."""
    word = key.lower()
    whole = word.endswith(("workers", "memory_mb"))
    least = 0 if word.endswith(("retries", "chunk_from_mb", "cache_mb")) else 1 if whole else 0.001
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise InvalidError(f"{key} is not a number of at least {least}: {value!r}", where=where)


def _check(tree: Mapping[str, Any], origin: str) -> None:
    """Refuse settings that nothing would ever read."""
    for key, value in tree.items():
        if key not in DEFAULTS:
            raise InvalidError(
                f"no setting is called {key!r}" + did_you_mean(key, tuple(DEFAULTS)),
                where=f"{origin}: {key}",
                hint=f"settings: {', '.join(DEFAULTS)}",
            )
        if key in _LISTED:
            _check_number(key, value, f"{origin}: {key}")
        if key in ("user", "registry") and value is not None and not isinstance(value, str):
            raise InvalidError(f"{key} is text, not {type(value).__name__}", where=f"{origin}: {key}")
        if (key == "systems") is not isinstance(value, Mapping):
            raise InvalidError(f"{key!r} is {'' if key == 'systems' else 'not '}a table", where=f"{origin}: {key}")
    for name, settings in tree.get("systems", {}).items():
        where = f"{origin}: systems.{name}"
        if not isinstance(settings, Mapping):
            raise InvalidError("a system is a table of settings", where=where, hint=f"[systems.{name}]")
        if "." in name:  # which is between the parts of a setting's own name
            raise InvalidError(
                f"the name of a system has no dot: {name!r}", where=where, hint=f"[systems.{name.replace('.', '-')}]"
            )
        if name in ALIASES:
            raise InvalidError(
                f"{name!r} is another word for {ALIASES[name]!r}", where=where, hint=f"[systems.{ALIASES[name]}]"
            )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _layers() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Layers from weakest to strongest, flat."""
    yield "default", dict(_flat(DEFAULTS))
    path = home() / "config.toml"
    yield str(path), dict(_flat(_load(path)))
    profile = os.environ.get("RH_PROFILE")
    if profile:
        path = home() / "profiles" / f"{profile}.toml"
        if not path.exists():
            hint = "unset RH_PROFILE, or write that file"
            if profile.startswith("playground"):  # there while it runs
                hint = "start it in another terminal: rh playground; or unset RH_PROFILE"
            raise NotFoundError(f"there is no profile {profile!r}", where=str(path), hint=hint)
        yield str(path), dict(_flat(_load(path)))
    yield "registered", dict(_flat({"systems": _registered}))


def _environment(names: set[str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    stems = {name.upper().replace("-", "_").replace(".", "_"): name for name in names}
    for variable, text in os.environ.items():
        if not text or not variable.startswith("RH_") or variable in ("RH_HOME", "RH_PROFILE"):
            continue
        rest = variable[3:]
        if rest.lower() in DEFAULTS and rest.lower() != "systems":
            key = rest.lower()
            convert = _LISTED.get(key, str)
            try:
                found[key] = (convert(text), variable)
            except ValueError as error:
                raise InvalidError(f"{variable} is not a number: {text!r}", where=variable) from error
            if key in _LISTED:
                _check_number(variable, found[key][0], variable)
            continue
        for stem in sorted(stems, key=len, reverse=True):
            if rest.startswith(stem + "_"):
                found[f"systems.{stems[stem]}.{rest[len(stem) + 1 :].lower()}"] = (text, variable)
                break
        else:
            meant = _meant(rest, tuple(stems))
            if meant:
                raise InvalidError(f"no setting is called {variable}{meant}", where=variable, hint=f"unset {variable}")
    return found


@cache
def _meant(rest: str, stems: tuple[str, ...]) -> str:
    """What a variable may have been meant for. One that is like none of ours belongs to another program."""
    if rest.startswith("SYSTEMS_"):  # as the file has it
        return f"; did you mean RH_{rest.removeprefix('SYSTEMS_')}?"
    words = rest.split("_")
    for size in range(1, len(words)):
        head, tail = "_".join(words[:size]), "_".join(words[size:])
        alias = ALIASES.get(head.lower())
        if alias is not None:
            return f"; did you mean RH_{alias.upper()}_{tail}?"
        told = did_you_mean(head, stems, least=0.85)
        if told:
            return told.replace("mean ", "mean RH_").replace("?", f"_{tail}?")
    ours = (*(key.upper() for key in DEFAULTS if key != "systems"), "HOME", "PROFILE")
    return did_you_mean(rest, ours, least=0.8).replace("mean ", "mean RH_")


def _merged() -> dict[str, Value]:
    merged: dict[str, Value] = {}
    for origin, layer in _layers():
        for key, value in layer.items():
            merged[key] = Value(key, value, origin)
    names = {key.split(".")[1] for key in merged if key.startswith("systems.")}
    for key, (value, origin) in _environment(names).items():
        merged[key] = Value(key, value, origin)
    for override in _overrides:
        for key, value in _flat(override):
            merged[key] = Value(key, value, "argument")
    return merged


def get(key: str) -> Any:
    """One setting, by its dotted name (`"workers"`, `"systems.s3.root"`); `None` if it has no value."""
    value = _merged().get(key)
    return None if value is None else value.value


def show() -> list[Value]:
    """Every setting with its origin, by name, to be shown: without credentials, also those in URLs."""
    return sorted(value._replace(value=_shown(value.key, value.value)) for value in _merged().values())


def _shown(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _shown(name, one) for name, one in value.items()}
    if value is not None and _SECRET.search(key):
        return "***"
    return _PASSWORD.sub(r"\1\2\3***", value) if isinstance(value, str) else value


def system_names() -> list[str]:
    """The systems that have a name."""
    return sorted({key.split(".")[1] for key in _merged() if key.startswith("systems.")})


def system(name: str) -> dict[str, Any]:
    """The settings of a named system, with the general ones (`timeout_s`, `retries`, …) filled in.

    Raises:
        NotFoundError: nobody configured a system of that name; the nearest names are in the hint.
    """
    name = ALIASES.get(name, name)
    merged = _merged()
    prefix = f"systems.{name}."
    own = {key[len(prefix) :]: value.value for key, value in merged.items() if key.startswith(prefix)}
    if not own:
        raise unknown_system(name)
    own.setdefault("kind", name)
    own["name"] = name
    for key in ("timeout_s", "retries"):
        own.setdefault(key, merged[key].value)
    return own


def profiles_of(name: str) -> list[str]:
    """The profiles that have settings of a system, where neither a profile nor a setting of it is in use."""
    prefix = f"systems.{ALIASES.get(name, name)}."
    used = any(key.startswith(prefix) and value.origin != "default" for key, value in _merged().items())
    found: list[str] = []
    if os.environ.get("RH_PROFILE") or used:
        return found
    for path in sorted((home() / "profiles").glob("*.toml")):
        with suppress(RhError):
            if any(key.startswith(prefix) for key, _ in _flat(_load(path))):
                found.append(path.stem)
    return found


def unknown_system(name: str, also: tuple[str, ...] = ()) -> NotFoundError:
    """The error for a system nobody configured. `also` are other names that would do."""
    known = tuple(sorted({*system_names(), *also}))
    elsewhere = "".join(f"RH_PROFILE={profile} has it; else " for profile in profiles_of(name)[:1])
    return NotFoundError(
        f"there is no system called {name!r}" + did_you_mean(name, known),
        hint=f"{elsewhere}add [systems.{name.replace('.', '-')}] to {home() / 'config.toml'}, or give a URL;"
        f" systems here: {', '.join(known)}",
    )


def register(name: str, settings: Mapping[str, Any] | None) -> None:
    """Give a system a name for this process (`None` takes it back)."""
    global _registered  # noqa: PLW0603 - replaced whole, since others may be reading it
    with _lock:
        changed = {key: value for key, value in _registered.items() if key != name}
        if settings is not None:
            changed[name] = {key: value for key, value in settings.items() if value is not None}
        _registered = changed


def registered(name: str) -> Mapping[str, Any]:
    """The settings that a system was registered with in this process; none if it was not."""
    return _registered.get(name, {})


@contextmanager
def override(settings: Mapping[str, Any]) -> Iterator[None]:
    """Settings that hold inside the block, in the whole process: `override({"systems": {"s3": {"root": "s3://b"}}})`."""
    global _overrides  # noqa: PLW0603 - replaced whole, since others may be reading it
    _check(settings, "override")
    mine = dict(settings)
    with _lock:
        _overrides = [*_overrides, mine]
    try:
        yield
    finally:
        with _lock:  # an equal one may be another block's
            _overrides = [each for each in _overrides if each is not mine]
