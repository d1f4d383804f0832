"""Where things are: what `system=` and `path=` mean, default places, and handles on systems."""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, overload
from urllib.parse import quote, unquote

from rh import config
from rh.errors import ExistsError, InvalidError, NotFoundError, RhError, UnsupportedError
from rh.forks import Lock
from rh.observe import log
from rh.registry.names import Name
from rh.systems import HOSTS, NAMED, URL, locate, open_system, scp_style, settings_of
from rh.systems.base import System, check_not_ours
from rh.types import Location

if TYPE_CHECKING:
    from rh.registry.lineage.recording import Pin
    from rh.resources.base import Resource

__all__ = [
    "Place",
    "at",
    "check_file",
    "check_key",
    "default_place",
    "is_here",
    "is_place",
    "portable",
    "resolve",
    "settle",
    "system_name",
    "target",
    "url_of",
]

Place: TypeAlias = "str | os.PathLike[str] | Location | Resource | None"
"""What `system=` takes: a name, a URL, a cluster, a directory here (as a `Path`), or another resource's place."""

SAVED = "rh://"
"""What comes before a saved name where a path or URL is taken."""

_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
HOST_SETTINGS = ("host", "user", "port", "identity_file", "root", "transport", "python", "timeout_s")
"""What a record may say of a host: where it is, not whom to trust and nothing that runs here."""

HERE_SETTINGS = ("known_hosts_file", "config_file")
"""What only a record of this machine may say besides: files of this machine that do decide whom to trust."""


def system_name(system: str) -> str:
    """The name under which a system is configured; the name of a saved cluster becomes one.

    Raises:
        NotFoundError: neither the settings nor the registry know it.
        InvalidError: it is empty, the name of something else, or a place in another program's spelling.
    """
    if not system:
        raise InvalidError("the name of a system cannot be empty", hint='"s3", a URL or a cluster; a path is path=')
    if "://" in system:
        return system
    name = config.ALIASES.get(system, system)
    if name in config.system_names():
        return name
    from rh.resources import base, cluster

    try:
        found = base.load(name, kinds=("cluster",))
    except (InvalidError, NotFoundError) as error:
        hosts = cluster.saved_hosts()
        if name in hosts:
            for each in hosts[name]:
                base.load(each)
            return name
        if ":" in system:
            with suppress(RhError):
                system_name(system.partition(":")[0])  # a saved cluster becomes known here
        if (meant := scp_style(system)) is not None:
            hint = f"{meant}; if it is a path here, write path={'./' + system!r}"
            raise InvalidError("that is neither a system's name nor a URL", where=system, hint=hint) from error
        unknown = config.unknown_system(name, tuple(hosts))
        if "/" in name or name.startswith((".", "~")):
            unknown.hint = f"if it is a path, write path={name!r}"
        raise unknown from error
    if not isinstance(found, cluster.Cluster):
        raise InvalidError(f"{name!r} is a {found.kind}, not a system")
    return found.system


def resolve(path: str | os.PathLike[str] | None, system: Place) -> Location:
    """The place that `path` on `system` means, as `rh.systems.locate` has it; `rh://` is looked up.

    Raises:
        InvalidError: they contradict each other, or a URL holds a password.
        NotFoundError: there is no system of that name, or nothing has the name after `rh://`.
    """
    from rh.resources import places_saved
    from rh.resources.base import Resource
    from rh.resources.cluster import Cluster

    if isinstance(path, Resource):
        raise InvalidError("path= takes a path or a URL", hint="its .path, .url or .location")
    if isinstance(system, Cluster):
        system = system.system
    elif isinstance(system, Resource):
        system = system.placed()
    elif isinstance(system, os.PathLike):
        system = locate(system, "file")
    elif places_saved.is_saved(system):
        system = places_saved.find(system).location
    elif system is None and places_saved.is_saved(path):
        return places_saved.find(path).location
    if isinstance(system, Location):
        return system if path is None else system / _relative(path)
    if path is not None and not isinstance(path, str | bytes | os.PathLike):
        raise InvalidError(f"path= takes a path or a URL, not {type(path).__name__}", where=repr(path))
    text = None if path is None else os.fspath(path)
    if text is not None and not isinstance(text, str):
        raise InvalidError("a path is text", hint="os.fsdecode turns bytes into it")
    for value in (text, system):
        if isinstance(value, str) and _PASSWORD.search(value):
            raise InvalidError(
                "a password in a URL is not accepted", hint="credentials stay where the platform keeps them"
            )
    if system is None:
        if text is not None and (match := _named(text)):
            system_name(match.group(1))  # a saved cluster becomes known here
        return _checked(locate(text))
    if not isinstance(system, str):
        raise InvalidError(f"system= takes a name, a URL or a cluster, not {type(system).__name__}")
    if match := _named(system):
        base = locate(match.group(2), system_name(match.group(1)))
        return base if text is None else base / _relative(text)
    if "://" not in system:
        return _checked(locate(text, system_name(system)))
    match = URL.fullmatch(system)
    if text is None or match is None:
        return _checked(locate(None, system))
    base = locate(None, system)
    if "://" in base.system and base.path in ("", "/", "~"):
        return _checked(locate(text, base.system))
    return base / _relative(text)


def _named(text: str) -> re.Match[str] | None:
    """Whether a text is a path on a named host: `gpu:/abs`, `gpu:~/x`."""
    return None if "://" in text else NAMED.fullmatch(text)


def is_place(text: str) -> bool:
    """Whether what was given as a system is a whole place: a URL, or a path on a named host."""
    return "://" in text or _named(text) is not None


def _relative(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if URL.match(text):
        raise InvalidError("system= and path= both say where", where=text, hint="give one of them")
    text = text.strip("/")
    check_key(text)
    return text


def _checked(location: Location) -> Location:
    settings_of(location.system)
    return location


def default_place(system: str, stem: str) -> Location:
    """Where `.to(system)` goes without a path: `<root>/<stem>`.

    The root is the setting `systems.<name>.root`. Without one it is `$RH_HOME/data` here, `~/.rh/data` on a host and
    the store `data` in memory; a bucket has to be named.
    """
    settings = settings_of(system)
    kind, root = settings["kind"], settings.get("root")
    if kind == "file":
        base = os.path.expanduser(str(root).removeprefix("file://")) if root else str(config.home() / "data")
        return locate(os.path.join(base, stem), "file")
    if kind in HOSTS and not root:
        return locate(f"~/.rh/data/{stem}", system)
    if kind == "memory" and not root:
        return locate(f"data/{stem}", system)
    return locate(stem, system)


@overload
def target(system: Place, path: str | os.PathLike[str] | None, stem: str | Callable[[], str]) -> Location: ...
@overload
def target(system: Place, path: str | os.PathLike[str] | None, stem: str | None) -> Location | None: ...
def target(system: Place, path: str | os.PathLike[str] | None, stem: str | Callable[[], str] | None) -> Location | None:
    """Where `.to(system, path)` goes; `None` if it needs a default place and there is no stem to name it by."""
    from rh.resources.cluster import Cluster

    if system is None and path is None:
        raise InvalidError("no target is given", hint='.to("s3"), .to(path="s3://bucket/key") or .to("s3", path="key")')
    named = isinstance(system, Cluster) or (isinstance(system, str) and not is_place(system))
    if path is not None or not named:
        return resolve(path, system)
    if stem is None:
        return None
    name = system.system if isinstance(system, Cluster) else system_name(str(system))
    return default_place(name, stem if isinstance(stem, str) else stem())


def stem_of(name: str | None) -> str | None:
    """The default place's last part for a name."""
    return None if name is None else Name(name).stem


def is_here(location: Location) -> bool:
    """Whether a place is a path of this machine."""
    return bool(settings_of(location.system)["kind"] == "file")


def url_of(location: Location, pin: Pin | None = None) -> str:
    """A place as one text, which `path=` takes back; with a `pin`, what is in that version by the version's name."""
    system, path = location.system, location.path
    if pin is not None and location.in_version:
        return f"{SAVED}{pin.name}:v{pin.number}{path.lstrip('/').removeprefix(pin.digest.removeprefix('sha256:'))}"
    if system == "file":
        return "file://" + path
    if location.in_version:
        return f"{unquote(system.removeprefix('tree://'), errors='surrogateescape')}@sha256:{path}"
    if system.startswith(("http://", "https://")):
        site, mark, query = system.partition("?")
        return site + quote(path, errors="surrogateescape") + mark + query
    if "://" in system:
        return system + path if path.startswith("/") else f"{system}/{path}".rstrip("/")
    return f"{system}:{path}" if path.startswith(("/", "~")) else f"{system}://{path}"


def check_key(key: str) -> None:
    """Refuse what cannot be a path below a folder, or would lead out of it."""
    if not isinstance(key, str):
        raise InvalidError(f"a path below a folder is text, not {type(key).__name__}")
    if not key:
        raise InvalidError("a path below a folder cannot be empty")
    if key.startswith("/") or "\0" in key or any(part in (".", "..") for part in key.split("/")):
        raise InvalidError(
            f"{key!r} does not stay below the folder",
            hint="give a path relative to the folder, without '.' and '..'",
        )
    check_not_ours(key)


def check_file(key: str) -> None:
    """Refuse what cannot be a file below a folder."""
    check_key(key)
    if key.endswith("/"):
        raise InvalidError(
            f"{key!r} names a directory, not a file", hint=f"folder / {key.rstrip('/')!r}, or leave out the slash"
        )


# Handles. Opening a handle is free, but connections live in handles, so that they are kept and shared.

_KEPT = 32
_lock = Lock()
_handles: OrderedDict[tuple[str, str, str], System] = OrderedDict()


os.register_at_fork(after_in_child=_handles.clear)


def at(location: Location, host: Mapping[str, Any] | None = None, pin: Pin | None = None) -> System:
    """A handle on a place. Handles are kept while the system's settings stay as they are.

    With a `pin`, the place is in that version, and errors tell its name.
    """
    settle(location, host)
    settings = settings_of(_system_of(location))
    called = f"{SAVED}{pin.name}:v{pin.number}" if pin is not None and location.in_version else ""
    key = (location.system, location.path, json.dumps(settings, sort_keys=True, default=str) + called)
    with _lock:
        system = _handles.get(key)
        if system is not None:
            _handles.move_to_end(key)
            return system
    system = _version(location, called) if called else open_system(location)
    with _lock:
        system = _handles.setdefault(key, system)
        old = [_handles.popitem(last=False)[1] for _ in range(len(_handles) - _KEPT)]
    for handle in old:
        handle.close()
    return system


def _version(location: Location, called: str) -> System:
    from rh.versions.system import opened_as

    return opened_as(location, called)


def _store(location: Location) -> Location:
    """The system that the store of a version is on; no path of it."""
    url = unquote(location.system.removeprefix("tree://"), errors="surrogateescape")
    host = URL.match(url)
    if host is not None and host.group(1) in ("ssh", "sftp"):
        return Location(f"{host.group(1)}://{host.group(2).partition('/')[0]}", "")
    return Location(url.partition(":")[0], "")


def _system_of(location: Location) -> str:
    """The system whose settings a handle on a place goes by: for a version, the one its store is on."""
    if location.in_version:
        return locate(unquote(location.system.removeprefix("tree://"), errors="surrogateescape")).system
    return location.system


def close() -> None:
    """Let go of all handles that are kept, and of their connections. What needs one opens it again."""
    with _lock:
        handles = list(_handles.values())
        _handles.clear()
    for handle in handles:
        handle.close()


# Systems that only this process knows (clusters): what lets another process find them.


def portable(location: Location) -> dict[str, Any] | None:
    """The settings of a host that was registered in this process; `None` where every process knows the system."""
    if location.in_version:  # a version: where its store is has to be known
        location = _store(location)
    if "://" in location.system:
        return None
    values = {value.key: value for value in config.show()}
    prefix = f"systems.{location.system}."
    kind = values.get(prefix + "kind")
    if kind is None or kind.value not in HOSTS or kind.origin != "registered":
        return None
    keys = ("kind", "cluster", *HOST_SETTINGS, *HERE_SETTINGS)
    return {key: values[prefix + key].value for key in keys if prefix + key in values}


def for_others(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a host without those that mean anything, or may be believed, on this machine only."""
    found = {key: settings[key] for key in ("kind", "cluster", *HOST_SETTINGS) if key in settings}
    if not str(found.get("cluster", "/")).startswith("/"):  # others may call one of theirs so, too
        del found["cluster"]
    return found


def check_same(system: str, known: Mapping[str, Any], host: Mapping[str, Any]) -> None:
    """Refuse a host whose system is called like that of another machine, where its data would be looked for.

    Args:
        system: the name of both.
        known: the settings it has here, if it has any.
        host: those of the host. They may be others than `known` where both are of the same cluster, or were registered
            by the name of the system, which moved.

    Raises:
        ExistsError: they are of different machines.
    """
    if not known or (host.get("cluster") is not None and host["cluster"] == known.get("cluster")):
        return
    here, there = _address(system, known), _address(system, host)
    if here != there:
        called, other = known.get("cluster") or "the host", host.get("cluster") or "the host"
        raise ExistsError(
            f"the system {system!r} is {called} ({here}) here, and not {other} ({there})",
            hint="give one of them another name (of a cluster: rh rename), or use them in processes of their own;"
            " if it moved, save what is on it again, with its path= and system=",
        )


def _address(system: str, host: Mapping[str, Any]) -> str:
    """Where a host answers, in one spelling. What has no other name is called as its system; a port may be text."""
    name = str(host.get("host") or system).lower().rstrip(".")
    name = f"[{name}]" if ":" in name and not name.startswith("[") else name
    port = str(host.get("port") or 22)
    return name if port == "22" else f"{name}:{port}"


def settle(location: Location, host: Mapping[str, Any] | None) -> None:
    """Make the system of a place known here, if it is a cluster: the one the registry has, else as `host` describes it.

    Raises:
        NotFoundError: nothing knows that system.
        ExistsError: it is another machine here than `host` is.
    """
    system = location.system
    if location.in_version:  # a version: where its store is has to be known
        settle(_store(location), host)
        return
    if "://" in system:
        return
    if config.ALIASES.get(system, system) in config.system_names():
        known = config.system(system)
        if host and known["kind"] in HOSTS:
            check_same(system, known, host)
        return
    if not host:
        system_name(system)
        return
    from rh.resources import base, cluster

    try:
        saved = host.get("cluster") not in (None, system)
        found = base.load(str(host["cluster"]), kinds=("cluster",)) if saved else None
    except RhError as error:
        log.debug("the cluster %s is not in the registry: %s", host.get("cluster"), error)
        found = None
    if isinstance(found, cluster.Cluster) and found.system == system:
        return
    if host.get("kind") not in HOSTS:
        raise UnsupportedError(f"the record describes a system of kind {host.get('kind')!r}", where=system)
    config.register(system, {key: host[key] for key in ("kind", *HOST_SETTINGS, *HERE_SETTINGS) if key in host})
