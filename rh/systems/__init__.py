"""Places that hold bytes under keys. `locate` says which place is meant, `open_system` opens it.

`rh.systems.base` is the contract. A system knows no names of resources and nothing of other systems.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from rh import config, plugins
from rh.errors import ImmutableVersionError, InvalidError, NotFoundError, RhError, UnsupportedError
from rh.systems.abilities import Bucketed
from rh.systems.base import System
from rh.types import Location

__all__ = [
    "buckets",
    "check_settings",
    "locate",
    "open_system",
    "scp_style",
    "settings_of",
    "system_of_buckets",
    "unwritable",
]

BUILT_IN = {
    "file": ("rh.systems.local", "LocalSystem"),
    "memory": ("rh.systems.memory", "MemorySystem"),
    "ssh": ("rh.systems.ssh", "SSHSystem"),
    "s3": ("rh.systems.s3", "S3System"),
    "gs": ("rh.systems.gcs", "GCSSystem"),
    "azure": ("rh.systems.azure", "AzureSystem"),
    "http": ("rh.systems.http", "HTTPSystem"),
    "git": ("rh.systems.git", "GitSystem"),
    "fsspec": ("rh.systems.fsspec", "FsspecSystem"),
    "tree": ("rh.versions.system", "TreeSystem"),
}
"""Kinds shipped here; others come from the entry points `rh.systems`."""

GENERAL = ("kind", "root", "store", "timeout_s", "retries", "retry_s")
"""Settings that every system takes."""

_NUMBERS: Mapping[str, Callable[[Any], float]] = {
    "timeout_s": float,
    "retry_s": float,
    "retries": int,
    "port": int,
    "connections": int,
    "persist_s": int,
}

_TEXTS = frozenset({"root", "store", "url", "endpoint_url", "host", "region", "profile", "account"})

_OURS = frozenset({"name", "cluster"})
"""What `rh` itself writes beside the settings."""

BUCKETS = frozenset({"s3", "gs", "azure"})
HOSTS = frozenset({"ssh"})

URL = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://(.*)", re.DOTALL)
"""A URL: its scheme, and the rest."""
_VERSION = re.compile(r"(?!rh://)(.+[^/:])@sha256:([0-9a-f]{64})(/.*)?", re.DOTALL)
"""What is in a version: the URL of its store, the tree's digest, and a path."""
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*):([/~].*)", re.DOTALL)
"""A path on a named host."""
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z][A-Za-z0-9._-]*")
"""What `host:path` begins with elsewhere."""
_AUTHORITY_KINDS = {
    "ssh": "ssh",
    "sftp": "ssh",
    "http": "http",
    "https": "http",
    "github": "git",
    "git": "git",
    "git+http": "git",
    "git+https": "git",
    "git+ssh": "git",
    "git+file": "git",
    "tree": "tree",
}
_SCHEME_NAMES = {
    "s3": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "azure",
    "azure": "azure",
    "abfs": "azure",
    "memory": "memory",
}


def settings_of(system: str) -> dict[str, Any]:
    """The settings of a `Location.system`: a configured name, or the scheme and authority of a URL."""
    match = URL.match(system)
    if match is None:
        settings = config.system(system)
        check_settings(settings["name"], settings)
        return settings
    scheme, authority = match.group(1).lower(), match.group(2)
    kind = _AUTHORITY_KINDS.get(scheme)
    if kind is None:
        raise InvalidError(f"unknown scheme {scheme!r}", where=system)
    settings = {"kind": kind, "name": system, "url": system}
    if kind == "tree":
        return settings  # what holds for the store's own system holds there
    settings |= {key: config.get(key) for key in ("timeout_s", "retries")}
    if kind == "ssh":
        user, at, host = authority.rpartition("@")
        if at:
            if ":" in user:
                raise InvalidError(
                    "a password in a URL is not accepted", where=f"{scheme}://{host}", hint="use a key or the agent"
                )
            settings["user"] = user
        host, port = _host_port(host, system)
        settings["host"] = host
        if port is not None:
            settings["port"] = port
    return settings


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a kind of system that does not exist, and settings that this kind would never read (`System.takes`).

    Raises:
        InvalidError: with the nearest word, and the file and key (or variable) it stands in.
    """
    kind = settings.get("kind")
    if kind not in BUILT_IN and kind not in plugins.names("rh.systems"):  # ours first: asking all packages takes long
        kinds = (*sorted(BUILT_IN), *plugins.names("rh.systems"))
        said = _origin(name, "kind")
        if kind == name and said is None:
            raise InvalidError(
                f"the system {name!r} has no kind",
                where=f"systems.{name}",
                hint=f'kind = "…" in [systems.{name}]: {", ".join(kinds)}',
            )
        raise InvalidError(
            f"there is no kind of system called {kind!r}" + config.did_you_mean(str(kind), kinds),
            where=said or f"systems.{name}.kind",
            hint=f"kinds: {', '.join(kinds)}; plug-ins add others",
        )
    takes = _class_of(kind).takes
    for key, value in settings.items():
        if key in _NUMBERS and not _is_number(value, _NUMBERS[key]):
            raise InvalidError(f"{key} is not a number: {value!r}", where=_origin(name, key) or f"systems.{name}.{key}")
        if key in _TEXTS and value is not None and not isinstance(value, str):
            said = _origin(name, key) or f"systems.{name}.{key}"
            raise InvalidError(f"{key} is text, not {type(value).__name__}", where=said)
        if takes is not None and key not in takes and key not in GENERAL and key not in _OURS:
            known = (*sorted(takes), *GENERAL)
            raise InvalidError(
                f"a system of kind {kind!r} takes no setting {key!r}" + config.did_you_mean(key, known),
                where=_origin(name, key) or f"systems.{name}.{key}",
                hint=f"settings: {', '.join(known)}",
            )


def _is_number(value: Any, number: Callable[[Any], float]) -> bool:
    try:
        return value is None or (not isinstance(value, bool) and number(value) >= 0)
    except (TypeError, ValueError):
        return False


def _origin(name: str, key: str) -> str | None:
    """Where a setting of a system stands: a variable, or a file and the key in it."""
    whole = f"systems.{name}.{key}"
    for value in config.show():
        if value.key == whole:
            return value.origin if value.origin.startswith("RH_") else f"{value.origin}: {whole}"
    return None


def _class_of(kind: str) -> type[System]:
    if kind in BUILT_IN:
        module, name = BUILT_IN[kind]
        found = getattr(plugins.need(module), name)
    else:
        found = plugins.load("rh.systems", kind)
        if not (isinstance(found, type) and issubclass(found, System)):
            raise UnsupportedError(f"what the plug-in {kind!r} names is no subclass of System", where=repr(found))
    cls: type[System] = found
    return cls


def _host_port(text: str, where: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]+)(?::(\d{1,5}))?", text)
    if match is None or text.startswith("-"):
        raise InvalidError(f"not a host and port: {text!r}", where=where)
    port = int(match.group(2)) if match.group(2) else None
    return match.group(1).strip("[]"), port


def locate(path: str | os.PathLike[str] | None, system: str | None = None) -> Location:
    """Which place a path or URL means, given `system=` (a name or the scheme and authority of a URL).

    A URL says it all. `name:/abs` and `name:~/x` are paths on a named host. A path without scheme belongs to
    `system`: here it is relative to the working directory of this moment, on a host to the configured root or the
    login's home, elsewhere to the configured root.

    Raises:
        InvalidError: the URL is malformed, contradicts `system`, or a root is needed and none is configured.
        NotFoundError: there is no system of that name, or the working directory was removed.
    """
    if path is not None and not isinstance(path, str | os.PathLike):
        raise InvalidError(f"a path is text, not {type(path).__name__}", where=repr(path))
    text = os.fspath(path) if path is not None else ""
    if path is not None and not text:
        # It is an unset variable far more often than it is meant to be all there is.
        raise InvalidError(
            "an empty path names no place", hint="'.' is the working directory; leave path= out for the root"
        )
    if "\0" in text:
        raise InvalidError("a path cannot hold a NUL character", where=repr(text))
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidError("a path is text, or what os.fsdecode made of bytes", where=ascii(text)) from error
    system = config.ALIASES.get(system, system) if system else None
    if system and "://" in system and not text:
        text, system = system, None
    match = _VERSION.fullmatch(text)
    if match and system is None:
        store = quote(match.group(1), safe="", errors="surrogateescape")
        return Location(f"tree://{store}", (match.group(2) + (match.group(3) or "")).rstrip("/"))
    match = URL.match(text)
    if match:
        return _from_url(match.group(1).lower(), match.group(2), text, system)
    match = NAMED.match(text)
    if match and system is None:
        name = config.ALIASES.get(match.group(1), match.group(1))
        kind = config.system(name)["kind"]
        if kind in BUCKETS:
            raise InvalidError(f"{name} holds buckets, not paths", where=text, hint=f"write {name}://bucket/key")
        return Location(name, _clean(match.group(2)))
    if system is None:
        _refuse_scp_style(text)
    return _below(system or "file", text)


def scp_style(text: str) -> str | None:
    """What `s3:bucket/x` and `host:x` mean elsewhere, as it is written here; `None` where it is a path."""
    name, colon, rest = text.partition(":")
    name = config.ALIASES.get(name, name)
    if not colon or "/" in name or name == "file":
        return None
    if name not in config.system_names():
        plain = not _HOST.fullmatch(name) or os.path.lexists(text)
        return None if plain else f"ssh://{name}/~/{rest} on a host; rh://{text} of what is saved"
    if config.system(name)["kind"] in HOSTS:
        return f"{name}:~/{rest} or {name}:/{rest}"
    return f"{name}://{rest.lstrip('/')}"


def _refuse_scp_style(text: str) -> None:
    """As a name here, data would go to the wrong place."""
    meant = scp_style(text)
    if meant is not None:
        hint = f"{meant}; for a file here: ./{text}"
        raise InvalidError(f"{text!r} is neither a URL nor clearly a path", where=text, hint=hint)


def _from_url(scheme: str, rest: str, url: str, system: str | None) -> Location:
    if scheme == "file":
        if not rest.startswith("/"):
            raise InvalidError("a file URL has three slashes and an absolute path", where=url, hint=f"file:///{rest}")
        return _agree(Location("file", _clean(rest)), system, url)
    if scheme in ("github", "git", "git+http", "git+https", "git+ssh", "git+file"):
        repository, ref, inner = _git_parts(scheme, rest, url)
        return Location(f"{scheme}://{repository}" + (f"@{ref}" if ref else ""), inner.strip("/"))
    if scheme in ("http", "https"):
        return _site(scheme, rest)
    if scheme == "tree":
        store, _, inner = rest.partition("/")
        return Location(f"tree://{store}", inner.strip("/"))
    if scheme in _AUTHORITY_KINDS:
        authority, slash, path = rest.partition("/")
        if not authority:
            raise InvalidError("a URL needs a host", where=url)
        if scheme in ("ssh", "sftp"):
            if path.startswith("~"):
                slash = ""
            location = Location(f"ssh://{authority}", _clean(slash + path) if slash + path else "~")
            settings_of(location.system)
            return location
        raise InvalidError(f"unknown scheme {scheme!r}", where=url)
    if scheme == "rh":
        raise InvalidError(
            "rh:// is a saved name, and here a place itself is meant", where=url, hint="rh.load(name).url is its place"
        )
    name = _SCHEME_NAMES.get(scheme, scheme)
    kind = config.system(name)["kind"]
    if kind in HOSTS:
        raise InvalidError(f"{name} is a host", where=url, hint=f"write {name}:/{rest}")
    if kind in BUCKETS:
        if not rest.strip("/"):
            hint = f"{scheme}://bucket/key; `rh ls {scheme}://` lists the buckets"
            raise InvalidError("a URL needs a bucket", where=url, hint=hint)
        rest = rest.lstrip("/")  # one more slash in s3:///bucket/key
        _stays_inside(rest.partition("/")[2], "the bucket", url)
    if system and system != name and config.system(system)["kind"] == kind:
        return Location(system, rest)
    return _agree(Location(name, rest), system, url)


def _site(scheme: str, rest: str) -> Location:
    """A URL of the web: the path is decoded; a query stays with the authority, since every request needs it."""
    address, mark, query = rest.partition("?")
    authority, slash, path = address.partition("/")
    shown = f"{scheme}://{address}"
    if not authority:
        raise InvalidError("a URL needs a host", where=shown)
    if "#" in rest:
        raise InvalidError("a URL of data has no fragment", where=shown.partition("#")[0], hint="write # as %23")
    if "%2f" in path.lower():
        raise InvalidError("an encoded slash cannot be part of a name", where=shown)
    return Location(f"{scheme}://{authority}{mark}{query}", unquote(slash + path, errors="surrogateescape"))


def _agree(location: Location, system: str | None, url: str) -> Location:
    if system not in (None, location.system):
        raise InvalidError(
            f"the URL says {location.system!r} and system= says {system!r}", where=url, hint="give one of them"
        )
    return location


def _git_parts(scheme: str, rest: str, url: str) -> tuple[str, str, str]:
    """`owner/repo@ref/path` or `host/any/repo.git@ref/path` → repository, ref, path. A ref has `%2F` for a slash."""
    if scheme == "github":
        match = re.fullmatch(r"([^/@]+/[^/@]+?)(?:\.git)?(?:@([^/]+))?(?:/(.*))?", rest, re.DOTALL)
    else:
        match = re.fullmatch(r"(.+?\.git|.+?)(?:@([^/@]+))?(?:(?<=\.git)/(.*)|(?<=[^/])//(.*))?", rest, re.DOTALL)
        if ".git@" in rest or ".git/" in rest or rest.endswith(".git"):
            match = re.fullmatch(r"(.+?\.git)(?:@([^/]+))?(?:/(.*))?", rest, re.DOTALL)
    if match is None:
        raise InvalidError(
            "not a repository URL", where=url, hint="github://owner/repo@ref/path, git+https://host/repo.git@ref/path"
        )
    groups = [group or "" for group in match.groups()]
    return groups[0], groups[1], next((group for group in groups[2:] if group), "")


def _below(system: str, text: str) -> Location:
    settings = settings_of(system)
    kind, root = settings["kind"], settings.get("root")
    if kind == "file":
        # Of this machine itself, `root` is but where `.to("here")` goes: paths are those of the shell.
        base = str(root).removeprefix("file://") if root and system != "file" else "."
        try:
            return Location("file", _clean(os.path.abspath(os.path.join(*map(os.path.expanduser, (base, text))))))
        except FileNotFoundError as error:
            hint = "cd to a directory that is there, or give an absolute path"
            raise NotFoundError("the working directory is gone", where=text, hint=hint) from error
    if kind in BUCKETS:
        if not root:
            stem = system.upper().replace("-", "_").replace(".", "_")
            scheme = {"s3": "s3", "gs": "gs", "azure": "az"}[kind]
            raise InvalidError(
                f"no root is configured for {system!r}, so a path without a bucket has no place",
                hint=f"export RH_{stem}_ROOT={scheme}://my-bucket/data, or add to {config.home() / 'config.toml'}:\n"
                f'       [systems.{system}]\n       root = "{scheme}://my-bucket/data"\n       or write the whole URL',
            )
        _stays_inside(text, "the configured root", f"{system}: {text}")
        match = URL.match(root)
        base = (match.group(2) if match else root).strip("/")
        return Location(system, f"{base}/{text.lstrip('/')}".rstrip("/") if text.strip("/") else base)
    if kind in HOSTS:
        if text.startswith(("/", "~/")) or text == "~":
            return Location(system, _clean(text))
        base = (root or "~").rstrip("/") or "/"
        return Location(system, _clean(f"{base}/{text}") if text else base)
    base = (root or "").rstrip("/")
    return Location(system, f"{base}/{text.lstrip('/')}" if base else text)


def _stays_inside(path: str, what: str, where: str) -> None:
    """Names in buckets are exact, so `..` would be one; who writes it means a step up."""
    steps = path.split("/")
    if ".." not in steps:
        return
    meant = os.path.normpath("/".join(steps).lstrip("/"))
    if meant.startswith(".."):
        raise InvalidError(f"'..' leads out of {what}", where=where, hint="write the whole URL of what is meant")
    raise InvalidError("'..' is no step up here", where=where, hint=f"write {where.removesuffix(path)}{meant}")


def _clean(path: str) -> str:
    """A disk path without a trailing slash or doubled ones; `.` and `..` resolved as written."""
    if path.startswith("~"):
        home, _, rest = path.partition("/")
        if os.path.normpath(rest).startswith(".."):
            raise InvalidError("'..' leads out of the home directory", where=path, hint="write the absolute path")
        cleaned = os.path.normpath("/" + rest)
        return home + cleaned.rstrip("/")
    cleaned = os.path.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned  # POSIX lets two slashes mean something else


def system_of_buckets(url: str) -> str | None:
    """The system whose buckets a URL without one means (`s3://`); `None` where it means something else."""
    match = URL.fullmatch(url)
    if match is None or match.group(2).strip("/"):
        return None
    name = _SCHEME_NAMES.get(match.group(1).lower(), match.group(1).lower())
    return name if name in config.system_names() and config.system(name)["kind"] in BUCKETS else None


def buckets(system: str) -> Iterator[str]:
    """The names of the buckets (containers of Azure) of a system, as far as its credentials may list them.

    Raises:
        AccessError: they may not. A bucket whose name is known can be used all the same.
        UnsupportedError: the system has no buckets.
    """
    settings = settings_of(config.ALIASES.get(system, system))
    kind: object = _class_of(settings["kind"])
    if not isinstance(kind, Bucketed):
        raise UnsupportedError(f"{system} has no buckets", where=system)
    yield from kind.buckets(settings)


def unwritable(system: System, key: str = "") -> RhError:
    """The error for who wants to write to a system that can only be read."""
    if system.kind == "tree":
        return ImmutableVersionError(
            "a version never changes", where=system.url(key), hint="change what is live, and commit it"
        )
    return UnsupportedError("this place can be read only", where=system.url(key))


def open_system(location: Location) -> System:
    """A handle on a place, with the wrappers of `rh.systems.wrap` around it. No I/O."""
    settings = settings_of(location.system)
    from rh.systems.wrap import wrap

    system: System = wrap(_class_of(settings["kind"]).open(location, settings))
    return system
