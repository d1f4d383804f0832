"""A machine with a name: this one, or a host reached by SSH."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

from rh import config
from rh.errors import DeadlineError, InvalidError, NotFoundError, UnavailableError, UnsupportedError
from rh.registry import names
from rh.registry.documents import check_document
from rh.registry.names import Name
from rh.resources import places
from rh.resources.base import Resource
from rh.systems import HOSTS, settings_of
from rh.systems.abilities import Running
from rh.systems.base import System
from rh.types import Location

__all__ = ["BUILT_IN", "Cluster", "Done", "built_in"]

BUILT_IN: tuple[str, ...] = ("^here", "^rh-cpu")
"""Names of the machine `rh` runs on."""

PROVIDERS = ("local", "ssh")
SETTINGS = (*places.HOST_SETTINGS, *places.HERE_SETTINGS)
"""What a cluster may say of its host. None of it is a secret, and none of it runs anything here."""

_HOST = re.compile(r"[A-Za-z0-9_.:%\[\]][A-Za-z0-9_.:%\[\]-]*")
_USER = re.compile(r"[A-Za-z0-9_.][^\s:/\x00-\x1f]*")


class Done(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Cluster(Resource):
    """A machine that runs commands and holds files.

    Attributes:
        provider: `"local"` (this machine) or `"ssh"`.
        settings: of its host: `host`, `user`, `port`, `identity_file`, …
        configured: the name of the system in the settings that it is, if it is one.
    """

    kind: ClassVar[str] = "cluster"
    provider: str = "ssh"
    settings: Mapping[str, Any] = field(default_factory=dict)
    configured: str | None = None

    def __post_init__(self) -> None:
        if self.name in BUILT_IN and self.provider != "local":
            raise InvalidError(f"{self.name} is this machine")
        super().__post_init__()
        if self.provider not in PROVIDERS:
            raise UnsupportedError(
                f"this version of rh has no clusters of kind {self.provider!r}",
                hint=f"there are: {', '.join(PROVIDERS)}",
            )
        settings = {key: value for key, value in self.settings.items() if value is not None}
        object.__setattr__(self, "settings", settings)
        _check(settings)
        if self.provider == "ssh" and not self.configured and not settings.get("host"):
            raise InvalidError(
                "a cluster needs a host", hint='rh.cluster(name="gpu", host="gpu.example.org", user="ada")'
            )
        self._register()

    def __hash__(self) -> int:
        return hash((type(self), self.name, self.system))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()

    def _register(self) -> None:
        """Let this process know the system by its name."""
        if self.provider == "ssh" and not self.configured and "://" not in self.system:
            settings = {"kind": "ssh", **self.settings}
            if self.name is not None:
                settings["cluster"] = self.name
            places.check_same(self.system, config.registered(self.system), settings)
            config.register(self.system, settings)

    @property
    def system(self) -> str:
        """The name of its system, for `system=`."""
        if self.provider == "local":
            return "file"
        if self.configured:
            return self.configured
        if self.name is not None:
            return _system_of(self.name)
        settings = dict(self.settings)
        host, user, port = settings.pop("host"), settings.pop("user", None), settings.pop("port", None)
        if settings:
            import hashlib

            return "host-" + hashlib.sha256(repr(sorted(self.settings.items())).encode()).hexdigest()[:12]
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return "ssh://" + (f"{user}@" if user else "") + host + (f":{port}" if port else "")

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {"provider": self.provider}
        if self.configured:
            document["configured"] = self.configured
        if self.settings:
            document["settings"] = dict(self.settings) if self.is_local else places.for_others(self.settings)
        return document

    @classmethod
    def of_document(cls, document: dict[str, Any], *, local: bool) -> dict[str, Any]:
        known = SETTINGS if local else places.HOST_SETTINGS
        settings = document.pop("settings", None) or {}
        return {
            "provider": document.pop("provider"),
            "configured": document.pop("configured", None),
            "settings": {key: value for key, value in settings.items() if key in known},
        }

    def check_reachable(self) -> None:
        if self.configured:
            config.system(self.configured)

    # What it does.

    def handle(self) -> System:
        """The system opened at the login's home (here: at the working directory)."""
        if self.provider == "local":
            return places.at(places.resolve(".", "file"))
        return places.at(Location(self.system, "~"))

    def is_up(self) -> bool:
        """Whether it answers. Refusing us (a key, a password) is an error, not an answer."""
        if self.provider == "local":
            return True
        try:
            self._running().run(["true"])
        except (UnavailableError, DeadlineError):
            return False
        return True

    def up_if_not(self) -> Self:
        """The cluster itself, if it is up. A host is nothing that `rh` could start.

        Raises:
            UnavailableError: it does not answer.
        """
        if not self.is_up():
            raise UnavailableError(
                "the host does not answer, and rh cannot start it",
                where=self.system,
                hint="start it, or check its address",
            )
        return self

    def run(
        self, commands: Sequence[str | Sequence[str]], *, timeout_s: float | None = None, stdin: bytes | None = None
    ) -> list[Done]:
        r"""Run commands one after the other, in the login's home (here: in the working directory).

        Args:
            commands: each a list of words, or a text that is split into words as a shell would, and then never
                interpreted by one. For a shell's own syntax write `["sh", "-c", "…"]`.
            timeout_s: seconds for each command.
            stdin: what each command reads.

        Returns:
            Exit status, output and errors of each; a command that fails does not keep the next from running.

        Raises:
            NotFoundError: there is no such command there; those after it were not run.

        Example:
            >>> import rh
            >>> rh.here.run([["echo", "a b"], "echo 'c d'"])
            [Done(status=0, stdout='a b\n', stderr=''), Done(status=0, stdout='c d\n', stderr='')]
        """
        if isinstance(commands, str) or not isinstance(commands, Iterable):
            raise InvalidError("run takes a list of commands", hint='run(["ls -l", …])')
        lines = [_words(command) for command in commands]
        running = self._running()
        done = []
        for words in lines:
            status, out, err = running.run(words, stdin=stdin, timeout_s=timeout_s)
            done.append(Done(status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")))
        return done

    def _running(self) -> Running:
        system = self.handle()
        running = system.ask(Running)
        if running is None:
            raise UnsupportedError("no command can be run there", where=system.url())
        return running

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        yield "kind", self.provider
        yield "system", self.system
        for key, value in self.settings.items():
            yield key, str(value)

    def __repr__(self) -> str:
        what = "this machine" if self.provider == "local" else str(self.settings.get("host") or self.configured)
        return f"<Cluster {self.name + ': ' if self.name else ''}{what}>"


def _check(settings: Mapping[str, Any]) -> None:
    check_document(settings, where="cluster")
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise InvalidError(f"a cluster has no setting {', '.join(unknown)}", hint=f"settings: {', '.join(SETTINGS)}")
    host, user, port = settings.get("host"), settings.get("user"), settings.get("port")
    if host is not None and not (isinstance(host, str) and _HOST.fullmatch(host)):
        raise InvalidError(f"not a host: {host!r}")
    if user is not None and not (isinstance(user, str) and _USER.fullmatch(user)):
        raise InvalidError(f"not a user: {user!r}")
    if port is not None and not (isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536):
        raise InvalidError(f"not a port: {port!r}")


def _words(command: str | Sequence[str]) -> list[str]:
    if not isinstance(command, str):
        words = list(command) if isinstance(command, Iterable) else []
        if not words or not all(isinstance(word, str) for word in words):
            raise InvalidError("a command is a list of words", hint='["ls", "-l"]')
        return words
    # Where a shell would do more than split, a list of words would silently mean something else.
    quoted = shlex.shlex(command, posix=False, punctuation_chars=True)
    quoted.whitespace_split = True
    quoted.commenters = ""
    try:
        for token in quoted:
            bare = re.sub(r"'[^']*'", "", token)
            if set(re.sub(r'"[^"]*"', "", bare)) & set("();<>|&") or "`" in bare or "$" in bare:
                raise InvalidError(
                    f"this needs a shell: {command!r}",
                    hint='["sh", "-c", "…"] runs one; a list of words is passed as it is',
                )
        words = shlex.split(command)
    except ValueError as error:
        if isinstance(error, InvalidError):
            raise
        raise InvalidError(f"the command has an open quote: {command!r}") from error
    if not words:
        raise InvalidError("a command cannot be empty")
    return words


def here() -> Cluster:
    """The machine `rh` runs on."""
    return Cluster(name="^here", provider="local")


def built_in(name: str) -> Cluster | None:
    """The built-in cluster of that name."""
    return Cluster(name=name, provider="local") if name in BUILT_IN else None


def cluster(
    name: str | None = None,
    host: str | None = None,
    kind: str | None = None,
    *,
    user: str | None = None,
    port: int | None = None,
    identity_file: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    dryrun: bool = False,
    **settings: Any,
) -> Cluster:
    """Return a cluster: with a name alone a saved, configured or built-in one, with `host=` a new one.

    No connection is made.

    Args:
        name: a name as for other resources, the name of an SSH host in the settings, or `^here`, `^rh-cpu`.
        host: name or address.
        kind: `"ssh"` (the default) or `"local"`.
        user: whom to log in as.
        port: where sshd listens.
        identity_file: path of the private key; agent and `~/.ssh/config` are used anyway.
        metadata: plain JSON values to be saved with it.
        dryrun: give the saved record even if its system is not known here.
        settings: `root`, `known_hosts_file`, `config_file`, `transport`, `python`, `timeout_s`.

    Example:
        >>> import rh
        >>> rh.cluster("^rh-cpu").up_if_not().is_up()
        True
    """
    given = {
        key: value
        for key, value in {"host": host, "user": user, "port": port, "identity_file": identity_file}.items()
        if value is not None
    }
    given |= settings
    if kind is None and not given:
        found = _known(name, dryrun=dryrun)
        if metadata is None:
            return found
        return Cluster(
            name=found.name,
            provider=found.provider,
            settings=found.settings,
            configured=found.configured,
            metadata=metadata,
            extra=found.extra,
            revision=found.revision,
        )
    if name is not None and kind != "local":
        _refuse_configured(_system_of(names.parse(name).path))
    return Cluster(name=name, provider=kind or "ssh", settings=given, metadata=metadata or {})


def _known(name: str | None, *, dryrun: bool) -> Cluster:
    from rh.resources.base import load

    if name is None:
        raise InvalidError("a cluster needs a name or a host", hint='rh.cluster(name="gpu", host="gpu.example.org")')
    try:
        found = load(name, kinds=("cluster",), dryrun=dryrun)
    except NotFoundError as error:
        plain = config.ALIASES.get(name, name)
        if plain == "file":
            return here()
        systems = config.system_names()
        if plain in systems and settings_of(plain)["kind"] in HOSTS:
            return Cluster(name=None, configured=plain)
        hosts = sorted({*saved_hosts(), *(each for each in systems if config.system(each)["kind"] in HOSTS)})
        there_are = f"clusters here: {', '.join(['here', *hosts])}"
        if plain in systems:
            raise InvalidError(
                f"{plain!r} is a system, not a cluster: it holds data and runs nothing", hint=there_are
            ) from error
        near = config.did_you_mean(name, tuple(hosts))
        if not near:
            raise
        raise NotFoundError(f"no cluster is called {name!r}{near}", where=error.where, hint=there_are) from error
    if not isinstance(found, Cluster):
        raise InvalidError(f"{name} is a {found.kind}")
    return found


def saved_hosts() -> dict[str, list[str]]:
    """The systems of the clusters that have a name, each with the names of those that have it."""
    from rh.resources.records import list_records

    hosts: dict[str, list[str]] = {}
    for prefix in ("~", "/"):
        for name, record in list_records(prefix):
            if record.document.get("kind") == "cluster":
                hosts.setdefault(_system_of(name.path), []).append(name.path)
    return hosts


def _system_of(name: str) -> str:
    """The name of a cluster's system: what `system=` and `name:/path` take."""
    return Name(name).stem.replace("/", "--").replace(".", "-")


def _refuse_configured(system: str) -> None:
    """Refuse a second system of a name, of which one would silently win."""
    for value in config.show():
        if value.key.startswith(f"systems.{system}.") and value.origin not in ("registered", "argument"):
            raise InvalidError(
                f"a system called {system!r} is configured already",
                where=value.origin,
                hint="give the cluster another name",
            )
