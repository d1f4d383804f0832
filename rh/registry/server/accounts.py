"""The accounts of a server, as records of the registry it serves.

They are under `server/`, which no client sees: `server/users/<name>`, `server/credentials/<id>`, `server/used/<id>`
and `server/shares/<path>`. `Snapshot` is all of them at one moment; requests are judged by one that is at most
`FRESH_S` old, and at once by what this process changed.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rh.config import did_you_mean
from rh.errors import ConflictError, ExistsError, InvalidError, NotFoundError, RhError, UnauthenticatedError
from rh.forks import Lock
from rh.observe import log
from rh.registry.accounts import (
    ROLES,
    Accounts,
    Credential,
    Role,
    Share,
    User,
    check_identity,
    check_path,
    check_user,
    parse_token,
)
from rh.registry.base import Delete, Put, Record, Registry, Step
from rh.types import ABSENT, Match

__all__ = ["RESERVED", "Snapshot", "StoredAccounts"]

RESERVED = "server/"
FRESH_S = 2.0
"""How late a server notices what another process changed here: a token revoked, a role given."""
_USED_S = 3600.0
"""How exactly the last use of a token is kept: every note of it is a record that stays for ever."""

_USERS, _CREDENTIALS, _USED, _SHARES = (f"{RESERVED}{what}/" for what in ("users", "credentials", "used", "shares"))
_NOBODY = "0" * 64


@dataclass(slots=True)
class Snapshot:
    """Everybody and everything they may do, at one moment."""

    admins: dict[str, bool] = field(default_factory=dict)
    """User → whether an admin."""
    credentials: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    shares: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    taken: float = 0.0

    def role(self, user: str | None, path: str) -> int:
        """What a user may do with the name `path` (no slash in front): 0 for nothing, else 1 + the place in `ROLES`."""
        if user is not None and self.admins.get(user):
            return len(ROLES)
        parts = path.split("/")
        if user is not None and parts[0] == user and user in self.admins:
            return len(ROLES)
        most = 0
        for depth in range(1, len(parts) + 1):
            share = self.shares.get("/".join(parts[:depth]))
            if share is not None:
                role = share["roles"].get(user) if user is not None else None
                most = max(most, ROLES.index(role) + 1 if role in ROLES else 0, 1 if share["public"] else 0)
        return most

    def share(self, path: str) -> Share:
        """What is said of `path` (no slash in front), and of what lies above it."""
        said = (_share(above, self.shares.get(above)) for above in _above(path))
        return _share(path, self.shares.get(path), tuple(one for one in said if one.public or one.roles))

    @property
    def has_public(self) -> bool:
        """Whether there is anything for those without a token."""
        return any(share["public"] for share in self.shares.values())

    def children(self, identity: str) -> list[str]:
        """The tokens that were made with a token, with one of those, and so on."""
        made: dict[Any, list[str]] = {}
        for child, told in self.credentials.items():
            made.setdefault(told.get("parent"), []).append(child)
        found = [*made.get(identity, ())]
        for child in found:  # which grows meanwhile
            found += made.get(child, ())
        return found

    def credential(self, identity: str) -> Credential:
        """What is known of a token."""
        told = self.credentials[identity]
        return Credential(
            identity,
            str(told["user"]),
            str(told["name"]),
            float(told["created"]),
            told["expires"],
            self.used.get(identity),
            bool(told["revoked"]),
        )


class StoredAccounts(Accounts):
    """The accounts in a registry.

    Args:
        registry: that has them.
        by: who changes them.
        credential: the id of the token with which they do.
    """

    def __init__(self, registry: Registry, *, by: str, credential: str | None = None) -> None:
        self.registry = registry
        self.by = by
        self.credential = credential
        self._lock = Lock()
        self._snapshot = Snapshot()
        self._failure: tuple[float, RhError] | None = None

    def as_(self, user: str, credential: str | None = None) -> StoredAccounts:
        """The same, for somebody else who changes them."""
        return StoredAccounts(self.registry, by=user, credential=credential)

    # Reading.

    def fresh(self) -> bool:
        """Whether `now` costs nothing."""
        return time.monotonic() - self._snapshot.taken < FRESH_S

    def now(self, *, at_once: bool = False) -> Snapshot:
        """A snapshot at most `FRESH_S` old, or of this moment."""
        if not at_once and self.fresh():
            return self._snapshot
        with self._lock:
            if at_once or not self.fresh():
                self._snapshot = self._read_or_fail(at_once=at_once)
            return self._snapshot

    def _read_or_fail(self, *, at_once: bool) -> Snapshot:
        """A new snapshot; where that failed a moment ago, the same error, for all who waited meanwhile."""
        if self._failure is not None and not at_once and time.monotonic() - self._failure[0] < FRESH_S:
            raise self._failure[1]
        try:
            made = self._read()
        except RhError as error:
            self._failure = (time.monotonic(), error)
            raise
        self._failure = None
        return made

    def _read(self) -> Snapshot:
        made = Snapshot(taken=time.monotonic())
        for record in self.registry.list(RESERVED):
            _, what, rest = record.key.split("/", 2)
            if what == "users":
                made.admins[rest] = bool(record.document.get("admin"))
            elif what == "credentials":
                made.credentials[rest] = record.document
            elif what == "used":
                made.used[rest] = record.time
            elif what == "shares":
                made.shares[rest] = record.document
        return made

    def check_token(self, token: str) -> Credential:
        """Whose token it is.

        Raises:
            UnauthenticatedError: it is none of ours, or is no more; which of the two a stranger is not told.
        """
        parsed = parse_token(token)
        identity, sha256 = parsed if parsed is not None else ("", _NOBODY)
        snapshot = self.now()
        if identity and identity not in snapshot.credentials:
            snapshot = self._look_up(identity, snapshot)
        told = snapshot.credentials.get(identity)
        same = hmac.compare_digest(str(told["sha256"]) if told is not None else _NOBODY, sha256)
        if told is None or not same or parsed is None:
            raise UnauthenticatedError("the token is not one of this registry")
        found = snapshot.credential(identity)
        if found.revoked or found.user not in snapshot.admins:
            raise UnauthenticatedError("the token was revoked")
        if found.expires is not None and time.time() >= found.expires:
            raise UnauthenticatedError("the token has expired")
        return found

    def _look_up(self, identity: str, snapshot: Snapshot) -> Snapshot:
        """A token made a moment ago by another process is good at once."""
        if self.registry.find(_CREDENTIALS + identity) is None:
            return snapshot
        return self.now(at_once=True)

    @staticmethod
    def knows(token: str, snapshot: Snapshot) -> bool:
        """Whether `check_token` asks the registry for nothing more than a snapshot."""
        parsed = parse_token(token)
        return parsed is None or parsed[0] in snapshot.credentials

    def note_use(self, credential: Credential) -> None:
        """Remember when a token was used, if that can be written: a full disk is no reason not to answer."""
        if self.wants_note(credential):
            self._snapshot.used[credential.id] = time.time()
            try:
                self.registry.put(_USED + credential.id, {}, by=credential.user)
            except RhError as error:
                log.warning("that the token %s was used cannot be noted: %s", credential.id, error)

    def wants_note(self, credential: Credential) -> bool:
        """Whether `note_use` would write."""
        return credential.used is None or time.time() - credential.used > _USED_S

    def users(self) -> list[User]:
        return [User(name, admin) for name, admin in sorted(self.now(at_once=True).admins.items())]

    def credentials(self, user: str | None = None) -> list[Credential]:
        snapshot = self.now(at_once=True)
        found = [snapshot.credential(identity) for identity in snapshot.credentials]
        return sorted((one for one in found if user in (None, one.user)), key=lambda one: (one.user, one.created))

    def share(self, path: str) -> Share:
        return self.now(at_once=True).share(check_path(path))

    def shares(self, prefix: str | None = None) -> list[Share]:
        top = None if prefix is None else check_path(prefix)
        found = self.now(at_once=True).shares
        chosen = [path for path in found if top is None or path in _above(top) or f"{path}/".startswith(f"{top}/")]
        said = [_share(path, found[path]) for path in sorted(chosen, key=lambda path: path.split("/"))]
        return [one for one in said if one.public or one.roles]

    # Changing.

    def put_user(self, name: str, *, admin: bool = False) -> User:
        check_user(name)
        snapshot = self.now(at_once=True)
        if name not in snapshot.admins and self._is_of_others(name, snapshot):
            raise ExistsError(f"/{name} belongs to a team", hint="choose another name, or move what is below it away")
        if not admin and _is_only_admin(name, snapshot):
            raise ConflictError(f"{name} is the only admin", hint="make somebody else an admin first")
        self._update(_USERS + name, lambda told: {**(told or {}), "admin": bool(admin)})
        return User(name, bool(admin))

    def _is_of_others(self, name: str, snapshot: Snapshot) -> bool:
        """Whether there is something below `/<name>`, and nothing of it was written by somebody of that name."""
        below = f"{name}/"
        shared = any(
            (path == name or path.startswith(below)) and (told["public"] or told["roles"])
            for path, told in snapshot.shares.items()
        )
        some = False
        for record in self.registry.list(f"resources/{below}"):
            some = True
            if record.author == name:
                return False
        return some or shared

    def remove_user(self, name: str) -> None:
        check_user(name)
        snapshot = self.now(at_once=True)
        if name not in snapshot.admins:
            raise _unknown(name, snapshot)
        if _is_only_admin(name, snapshot):
            raise ConflictError(f"{name} is the only admin", hint="make somebody else an admin first")
        self._revoke(lambda now: [one for one, told in now.credentials.items() if told["user"] == name])
        for path, told in snapshot.shares.items():
            if name in told["roles"]:
                self.put_share(path, {name: None})
        self._delete(_USERS + name)

    def put_credential(
        self, identity: str, sha256: str, *, user: str | None = None, name: str = "", ttl_s: float | None = None
    ) -> Credential:
        user = user or self.by
        if parse_token(f"rh_{identity}_{'0' * 48}") is None or len(sha256) != 64 or not _is_hex(sha256):
            raise InvalidError("not the id of a token and the SHA-256 of its secret")
        if not isinstance(name, str) or len(name) > 128:
            raise InvalidError("the name of a token is a text of up to 128 characters")
        if ttl_s is not None and not 0 < ttl_s < 1e10:
            raise InvalidError("a token lives for more than 0 seconds")
        snapshot = self.now(at_once=True)
        if user not in snapshot.admins:
            raise _unknown(user, snapshot)
        now = time.time()
        # Who finds a token makes nothing of it that outlives it.
        parent = self.credential if user == self.by else None
        limits = [snapshot.credentials[parent]["expires"]] if parent in snapshot.credentials else []
        ends = [end for end in (*limits, None if ttl_s is None else now + ttl_s) if end is not None]

        def change(told: dict[str, Any] | None) -> dict[str, Any]:
            if told is None:
                return {
                    "user": user,
                    "name": name,
                    "sha256": sha256,
                    "created": now,
                    "expires": min(ends, default=None),
                    "revoked": False,
                    "parent": parent,
                }
            if (told["user"], told["sha256"]) != (user, sha256):
                raise ExistsError("there is another token of this id", hint="make a new one")
            return told

        self._update(_CREDENTIALS + identity, change)
        # Who revokes a token takes away what was made with it until then; what is made later sees it here.
        if parent is not None and self.now().credentials[parent]["revoked"]:
            self._revoke(lambda _: [identity])
            raise UnauthenticatedError("the token was revoked")
        return self.now().credential(identity)

    def revoke_credential(self, identity: str) -> None:
        if check_identity(identity) not in self.now(at_once=True).credentials:
            raise NotFoundError(f"there is no token {identity!r:.80}")

        def doomed(now: Snapshot) -> list[str]:
            children = now.children(identity)
            # Who changes an old token for a new one says so with the new one, which stays.
            stay = {self.credential, *now.children(self.credential)} if self.credential in children else ()
            return [identity, *(child for child in children if child not in stay)]

        self._revoke(doomed)

    def _revoke(self, doomed: Callable[[Snapshot], Sequence[str]]) -> None:
        """Accept tokens no more, all at once, and so until there are no more of them: others may be made meanwhile."""
        while True:
            snapshot = self.now(at_once=True)
            told = snapshot.credentials
            standing = [one for one in doomed(snapshot) if not told[one]["revoked"]]
            if not standing:
                return
            self.registry.commit(
                [Put(_CREDENTIALS + one, {**told[one], "revoked": True}) for one in standing], by=self.by
            )

    def put_share(
        self, path: str, roles: Mapping[str, Role | None] | None = None, *, public: bool | None = None
    ) -> Share:
        path = check_path(path)
        roles = roles or {}
        snapshot = self.now(at_once=True)
        for user, role in roles.items():
            if role is not None and role not in ROLES:
                raise InvalidError(
                    f"there is no role {role!r:.80}" + did_you_mean(str(role)[:80], ROLES), hint=", ".join(ROLES)
                )
            if role is not None and user not in snapshot.admins:
                raise _unknown(user, snapshot)

        def change(told: dict[str, Any] | None) -> dict[str, Any]:
            before = _share(path, told)
            after = {**before.roles, **roles}
            return {
                "public": before.public if public is None else public,
                "roles": {user: role for user, role in sorted(after.items()) if role is not None},
            }

        self._update(_SHARES + path, change)
        return self.now().share(path)

    def follow(self, old: str, new: str | None, gone: Container[str]) -> list[Step]:
        """The steps by which what was said of a name by itself goes along when the name goes elsewhere, or away.

        Args:
            old: the name.
            new: what it will be called; `None` if it goes away.
            gone: keys that the same commit takes away.
        """
        record = self.registry.find(_SHARES + old)
        if record is None or any(below.key not in gone for below in self.registry.list(f"resources/{old}/")):
            return []  # what is said of a prefix stays as long as there are names below it
        steps: list[Step] = [Delete(_SHARES + old, Match(record.etag))]
        if new is not None:
            moved, there = _share(old, record.document), self.registry.find(_SHARES + new)
            before = _share(new, None if there is None else there.document)
            document = {
                "public": before.public or moved.public,
                "roles": dict(sorted({**before.roles, **moved.roles}.items())),
            }
            steps.append(Put(_SHARES + new, document, ABSENT if there is None else Match(there.etag)))
        return steps

    def followed(self, old: str, token: str) -> bool:
        """Whether what was said of a name was moved by the commit with a token."""
        return any(change.token == token for change in self.registry.history(_SHARES + old))

    def _update(self, key: str, change: Callable[[dict[str, Any] | None], dict[str, Any]]) -> Record:
        record = self.registry.find(key)
        if record is None or change(record.document) != record.document:
            record = self.registry.update(key, change, by=self.by)
        self.now(at_once=True)
        return record

    def _delete(self, key: str) -> None:
        steps: list[Step] = [Delete(key)]
        try:
            self.registry.commit(steps, by=self.by)
        except NotFoundError:
            return  # somebody else did
        finally:
            self.now(at_once=True)


def _share(path: str, told: Mapping[str, Any] | None, inherited: Sequence[Share] = ()) -> Share:
    return Share(path, bool(told and told["public"]), dict(told["roles"]) if told else {}, inherited)


def _above(path: str) -> list[str]:
    """The prefixes that a path lies below, the highest one first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _is_only_admin(name: str, snapshot: Snapshot) -> bool:
    return snapshot.admins.get(name, False) and sum(snapshot.admins.values()) == 1


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdef" for char in text)


def _unknown(user: object, snapshot: Snapshot) -> NotFoundError:
    near = did_you_mean(str(user), tuple(snapshot.admins))
    return NotFoundError(f"there is no user {user!r:.80}" + near, hint="rh registry user add makes one")
