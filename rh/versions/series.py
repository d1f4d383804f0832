"""The versions of one resource in the registry: their numbers, what aliases stand on, who moved them.

A *series* has an id of its own, so that renaming a resource leaves its versions alone. Its records are

* `versions/<series>/<number, 8 digits>`: what a version is; written once,
* `heads/<series>`: `{"latest": number}`; every new version moves it in the same commit,
* `aliases/<series>/<alias>`: `{"version": number}`; the registry's history of the key is that of the alias.

Numbers grow by one. A version is told to the registry after its tree is in the store, so none points at nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rh.config import did_you_mean
from rh.errors import ConflictError, ExistsError, IntegrityError, InvalidError, NotFoundError
from rh.registry import lineage
from rh.registry.base import Put, Record, Registry, Step, author
from rh.registry.lineage import recording
from rh.registry.lineage.graph import Graph
from rh.registry.lineage.recording import Pin, RunRef
from rh.types import ABSENT, Location, Match
from rh.versions.properties import Said, note_types, types_key
from rh.versions.told import ALIAS, LATEST, NUMBER, Told, check_alias

__all__ = ["LATEST", "AliasMove", "Series", "Version", "check_alias", "check_which", "new_series"]

_NAMED = "'v3', an alias, 'latest' or 'sha256:…'"
_TRIES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version: what a resource held at one moment, for ever.

    Attributes:
        number: `3` of `v3`.
        digest: of its tree; equal content has an equal digest.
        store: where its bytes are kept.
        parent: the number of the version it was made from; `None` for a first one.
        message, tags, metadata: what its author said about it.
        files, size: how many files, and their bytes.
        author, time: who, and when (seconds since the epoch, for people).
        expires: seconds since the epoch after which `rh gc` may drop it; `None` for never.
        aliases: those that stood on it when it was looked up.
        produced_by: the run that made it, if one did.
        drafted: whether a draft or an upload made it: what was live then had no part in it.
        name: of the resource.
        series, registry: of which series it is, and the URL of the registry that has it.
    """

    number: int
    digest: str
    store: Location
    parent: int | None = None
    message: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    files: int = 0
    size: int = 0
    author: str = ""
    time: float = 0.0
    expires: float | None = None
    aliases: tuple[str, ...] = ()
    produced_by: RunRef | None = None
    drafted: bool = False
    name: str = field(default="", compare=False)
    series: str = field(default="", compare=False, repr=False)
    registry: str = field(default="", compare=False, repr=False)

    def used_by(self) -> list[RunRef]:
        """The runs that read it, in the order they began."""
        return lineage.used_by(lineage.registries(self.registry), lineage.version_node(self.series, self.number))

    def upstream(self, depth: int | None = None) -> Graph:
        """What it was made from, `depth` runs back (by default all)."""
        return self._around(up=depth, down=0)

    def downstream(self, depth: int | None = None) -> Graph:
        """What was made from it, `depth` runs on (by default all)."""
        return self._around(up=0, down=depth)

    def _around(self, *, up: int | None, down: int | None) -> Graph:
        entry = lineage.version_entry(self.name, self.series, self.number, self.digest)
        found = lineage.Lineage(lineage.registries(self.registry))
        return found.around([lineage.entry_node(entry)], up=up, down=down)

    @property
    def label(self) -> str:
        """`v3`."""
        return f"v{self.number}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "version": self.label,
            "digest": self.digest,
            "parent": None if self.parent is None else f"v{self.parent}",
            "message": self.message,
            "tags": list(self.tags),
            "metadata": dict(self.metadata),
            "files": self.files,
            "size": self.size,
            "author": self.author,
            "time": self.time,
            "expires": self.expires,
            "aliases": list(self.aliases),
            "produced_by": None if self.produced_by is None else self.produced_by._asdict(),
            "drafted": self.drafted,
        }

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.time))
        names = f" ({', '.join(self.aliases)})" if self.aliases else ""
        text = f" {self.message}" if self.message else ""
        how = ", by a draft" if self.drafted else ""
        return f"{self.label}{names} {self.digest[:19]}… {when} {self.author}{how}: {self.files:,} files{text}"

    def __repr__(self) -> str:
        return f"<Version {self}>"


class AliasMove(NamedTuple):
    """One step in the history of an alias: `version` is `None` where it was taken away."""

    alias: str
    version: int | None
    author: str
    time: float


def new_series() -> str:
    """The id of a series that nobody else has."""
    return uuid.uuid4().hex


def check_which(which: object) -> None:
    """Refuse what can name no version: nothing, what is no text, and text that no version can have."""
    if isinstance(which, Version):
        return
    if not isinstance(which, str):
        hint = f"'v{which}'" if type(which) is int and which > 0 else _NAMED
        raise InvalidError(f"a version is named by text, not by {which!r:.80}", hint=hint)
    if ":" not in which and not ALIAS.fullmatch(which):
        raise InvalidError(f"{which!r:.80} names no version", hint=_NAMED)


class Series:
    """The versions of one resource.

    Args:
        registry: where they are recorded.
        series: their id.
        name: of the resource, for errors.
    """

    def __init__(self, registry: Registry, series: str, name: str) -> None:
        self.registry = registry
        self.series = series
        self.name = name

    # Reading.

    def get(self, which: str | Version | None) -> Version:
        """The version that a label (`v3`, `production`, `latest`) or a digest (`sha256:…`, any beginning of it) means.

        Raises:
            NotFoundError: there is none; the nearest are in the message.
            InvalidError: the beginning of a digest that several versions have, or no text.
        """
        if isinstance(which, Version):
            found = self._numbered(which.number, which.label)
            if found.digest != which.digest:
                raise InvalidError(f"{which.label} of another resource is none of {self.name}")
            return found
        if which is not None:
            check_which(which)
        if which is None or which == LATEST:
            head = self.latest()
            if head is None:
                raise NotFoundError(f"{self.name} has no versions", where=self.registry.url, hint=".commit() makes one")
            return self._numbered(head, f"v{head}")
        if match := NUMBER.fullmatch(which):
            return self._numbered(int(match.group(1)), which)
        if ":" in which:
            return self._of_digest(which)
        record = self.registry.find(self._alias_key(which))
        if record is None:
            known = (*self.aliases(), LATEST)
            raise NotFoundError(
                f"{self.name} has no alias {which!r}" + did_you_mean(which, known),
                where=self.registry.url,
                hint=f"a version is v{which}" if which.isdigit() else f"aliases: {', '.join(known)}",
            )
        return self._numbered(int(record.document["version"]), which)

    def latest(self) -> int | None:
        """The number of the newest version; `None` where there is none."""
        record = self.registry.find(self._head_key)
        return None if record is None else int(record.document["latest"])

    def all(self) -> list[Version]:
        """Every version, oldest first."""
        standing = self._standing()
        return [self._version(record, standing) for record in self.registry.list(self._prefix)]

    def aliases(self) -> dict[str, int]:
        """Aliases and the numbers of the versions they stand on."""
        prefix = self._alias_key("")
        return {record.key[len(prefix) :]: int(record.document["version"]) for record in self.registry.list(prefix)}

    def alias_history(self, alias: str) -> list[AliasMove]:
        """Every move of an alias (`latest`: of the newest version), oldest first, also after it was taken away.

        Raises:
            NotFoundError: there never was one of that name.
        """
        key, field = (self._head_key, "latest") if alias == LATEST else (self._alias_key(alias), "version")
        if alias != LATEST:
            check_alias(alias)
        moves = [
            AliasMove(
                alias,
                None if change.document is None else int(change.document[field]),
                change.author,
                change.time,
            )
            for change in self.registry.history(key)
        ]
        if not moves and alias != LATEST:
            near = did_you_mean(alias, tuple(self.aliases()))
            raise NotFoundError(f"{self.name} never had an alias {alias!r}{near}", hint=f"rh alias ls {self.name}")
        return moves

    # Writing.

    def add(
        self,
        digest: str,
        store: Location,
        *,
        files: int,
        size: int,
        message: str = "",
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        parent: int | None = None,
        aliases: Sequence[str] = (),
        expires: float | None = None,
        drafted: bool = False,
        also: Sequence[Step] = (),
    ) -> tuple[Version, bool]:
        """Record a tree that is in the store as the newest version, and say whether it is a new one.

        A tree equal to that of the newest version, in the same store, makes no new one; aliases are moved onto it all
        the same.

        Args:
            digest: of the tree.
            store: where it is.
            files: how many it has.
            size: their bytes.
            message: what its author says.
            tags: words to find it by.
            metadata: plain JSON values.
            parent: the version it was made from. If another one is the newest by now, nothing is recorded.
            aliases: to be moved onto it in the same step.
            expires: seconds since the epoch.
            drafted: whether what is live has no part in it.
            also: what is changed in the registry in the same step.

        Raises:
            ConflictError: `parent` is not the newest version, or what a change of `also` asks for does not hold.
        """
        message, aliases, tags, metadata, _ = Told.of(message, aliases, tags, metadata, where=self.name)
        for _ in range(_TRIES):
            head = self.registry.find(self._head_key)
            latest = None if head is None else int(head.document["latest"])
            if parent is not None and parent != latest:
                raise ConflictError(
                    f"{self.name} is at v{latest} by now, and this was made from v{parent}",
                    where=self.registry.url,
                    hint=f"make the change again from v{latest}",
                )
            if latest is not None:
                newest = self._numbered(latest, f"v{latest}")
                if (newest.digest, newest.store) == (digest, store):
                    for alias in aliases:
                        self.alias(alias, newest)
                    if also:
                        self.registry.commit(also)
                    recording.committed(self._pin(latest, digest), new=False)
                    return (self._numbered(latest, f"v{latest}") if aliases else newest), False
            number = (latest or 0) + 1
            note_types(self.registry, types_key(self.series), metadata, f"metadata of {self.name}:v{number}")
            document: dict[str, Any] = {
                "tree": digest,
                "store": store.as_dict(),
                "parent": latest,
                "message": message,
                "tags": list(tags),
                "metadata": metadata,
                "files": files,
                "size": size,
                "expires": expires,
                "author": author(),
                "time": time.time(),
            }
            if drafted:
                document["drafted"] = True
            if (made_by := recording.producer()) is not None:
                document["produced_by"] = made_by
            steps: list[Step] = [
                Put(self._version_key(number), document, ABSENT),
                Put(self._head_key, {"latest": number}, ABSENT if head is None else Match(head.etag)),
                *(Put(self._alias_key(alias), {"version": number}) for alias in dict.fromkeys(aliases)),
                *also,
            ]
            try:
                self.registry.commit(steps)
            except (ConflictError, ExistsError):
                if also and self.latest() == latest:
                    raise
                continue  # somebody committed in this moment; look again
            recording.committed(self._pin(number, digest), new=True)
            return self._numbered(number, f"v{number}"), True
        raise ConflictError(f"{self.name} is being changed all the time", where=self.registry.url)

    def alias(self, alias: str, version: Version, *, expect: int | object | None = ...) -> None:
        """Move an alias onto a version.

        Args:
            alias: the word.
            version: of this series.
            expect: only if it stands on the version of this number now (`None`: nowhere).

        Raises:
            ConflictError: it stands elsewhere.
            NotFoundError: the version was dropped meanwhile.
        """
        check_alias(alias)
        key = self._alias_key(alias)
        for _ in range(_TRIES):
            current = self.registry.find(key)
            stands = None if current is None else int(current.document["version"])
            if expect is not ... and stands != expect:
                raise ConflictError(
                    f"the alias {alias!r} of {self.name} stands on {_label(stands)} by now, not on {_label(expect)}",
                    where=self.registry.url,
                    hint="look again, then move it",
                )
            if stands == version.number:
                return
            record = self._record(version.number, version.label)
            steps = [
                Put(key, {"version": version.number}, ABSENT if current is None else Match(current.etag)),
                # The version has to be there in the same moment: nobody can drop it while an alias moves onto it.
                Put(record.key, record.document, Match(record.etag)),
            ]
            try:
                self.registry.commit(steps)
            except (ConflictError, ExistsError):
                continue
            return
        raise ConflictError(f"the alias {alias!r} is being moved all the time", where=self.registry.url)

    def revise(self, version: Version, said: Said) -> Version:
        """Change the tags and the metadata of a version. What it holds, and its number, never change.

        Raises:
            InvalidError: a property has another type since its first use.
            NotFoundError: what is to be taken away is not there, or the version was dropped.
        """
        where = f"{self.name}:{version.label}"
        for _ in range(_TRIES):
            record = self._record(version.number, version.label)
            document = record.document | said.on(record.document, where)
            if document == record.document:
                return self._numbered(version.number, version.label)
            note_types(self.registry, types_key(self.series), said.metadata, where)
            try:
                self.registry.put(record.key, document, when=Match(record.etag))
            except (ConflictError, ExistsError):
                continue
            return self._numbered(version.number, version.label)
        raise ConflictError(f"{where} is being changed all the time", where=self.registry.url)

    def unalias(self, alias: str) -> None:
        """Take an alias away. The version stays.

        Raises:
            NotFoundError: there is none of that name.
        """
        check_alias(alias)
        known = tuple(self.aliases())
        if alias not in known:
            raise NotFoundError(f"{self.name} has no alias {alias!r}" + did_you_mean(alias, known))
        self.registry.delete(self._alias_key(alias))

    def drop(self, version: Version, *, runs: bool = True) -> None:
        """Forget a version. Its number is not used again; the bytes go with the next `gc`.

        Args:
            version: of this series.
            runs: whether what a recorded run read or made is kept (see `kept_for`).

        Raises:
            ConflictError: an alias stands on it, a run needs it, or it is the newest.
        """
        record = self._record(version.number, version.label)
        standing = [alias for alias, number in self.aliases().items() if number == version.number]
        if standing:
            raise ConflictError(
                f"{self.name}:{version.label} is needed by {', '.join(standing)}", hint="move the alias first"
            )
        if version.number == self.latest():
            raise ConflictError(f"{self.name}:{version.label} is the newest version")
        run = self.kept_for([version]).get(version.number) if runs else None
        if run is not None:
            raise ConflictError(
                f"{self.name}:{version.label} is needed by the run {run}", hint=f"rh run rm {run.id} forgets the run"
            )
        self.registry.delete(record.key, when=Match(record.etag))

    def kept_for(self, versions: Sequence[Version]) -> dict[int, RunRef]:
        """The numbers of those versions that recorded runs need, and one of the runs.

        A run needs what it read, and what it made unless that was to go after a time.
        """
        expiring = {version.number for version in versions if version.expires is not None}
        wanted = {version.number for version in versions}
        found = lineage.needed(lineage.registries(self.registry.url), self.series)
        return {
            number: run
            for number, (read, run) in found.items()
            if number in wanted and (read or number not in expiring)
        }

    # Records.

    def _pin(self, number: int, digest: str) -> Pin:
        return Pin(self.name, self.series, number, digest, f"v{number}")

    @property
    def _prefix(self) -> str:
        return f"versions/{self.series}/"

    @property
    def _head_key(self) -> str:
        return f"heads/{self.series}"

    def _version_key(self, number: int) -> str:
        return f"{self._prefix}{number:08d}"

    def _alias_key(self, alias: str) -> str:
        return f"aliases/{self.series}/{alias}"

    def _standing(self) -> dict[int, tuple[str, ...]]:
        standing: dict[int, tuple[str, ...]] = {}
        for alias, number in self.aliases().items():
            standing[number] = (*standing.get(number, ()), alias)
        latest = self.latest()
        if latest is not None:
            standing[latest] = (LATEST, *standing.get(latest, ()))
        return standing

    def _numbered(self, number: int, asked: str) -> Version:
        return self._version(self._record(number, asked), self._standing())

    def _record(self, number: int, asked: str) -> Record:
        record = self.registry.find(self._version_key(number))
        if record is None:
            latest = self.latest()
            raise NotFoundError(
                f"there is no version {asked} of {self.name}",
                where=self.registry.url,
                hint="it has no versions" if latest is None else f"the newest is v{latest}",
            )
        return record

    def _of_digest(self, digest: str) -> Version:
        found = [version for version in self.all() if version.digest.startswith(digest)]
        if not found:
            raise NotFoundError(f"{self.name} has no version {digest}", where=self.registry.url)
        if len({version.digest for version in found}) > 1:
            raise InvalidError(
                f"several versions of {self.name} begin with {digest}: {', '.join(one.label for one in found)}",
                hint="write more of the digest",
            )
        return found[-1]

    def of_record(self, record: Record) -> Version:
        """The version that a record of the registry tells of; which aliases stand on it is not looked up."""
        return self._version(record, {})

    def _version(self, record: Record, standing: Mapping[int, tuple[str, ...]]) -> Version:
        number = int(record.key.rpartition("/")[2])
        document = record.document
        try:
            return Version(
                number=number,
                digest=str(document["tree"]),
                store=Location(str(document["store"]["system"]), str(document["store"]["path"])),
                parent=document.get("parent"),
                message=str(document.get("message", "")),
                tags=tuple(document.get("tags") or ()),
                metadata=document.get("metadata") or {},
                files=int(document.get("files", 0)),
                size=int(document.get("size", 0)),
                author=str(document.get("author") or record.author),
                time=float(document.get("time") or record.time),
                expires=document.get("expires"),
                aliases=standing.get(number, ()),
                produced_by=_producer(document.get("produced_by")),
                drafted=document.get("drafted") is True,
                name=self.name,
                series=self.series,
                registry=self.registry.url,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"the record of {self.name}:v{number} cannot be read: {error}", where=self.registry.url
            ) from error

    def __iter__(self) -> Iterator[Version]:
        return iter(self.all())


def _producer(told: Any) -> RunRef | None:
    return RunRef(str(told["run"]), str(told.get("name", ""))) if isinstance(told, dict) and "run" in told else None


def _label(number: object) -> str:
    return "no version" if number is None else f"v{number}"
