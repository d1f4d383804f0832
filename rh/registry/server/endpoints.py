"""What a server answers: one function per endpoint, each from a call to plain JSON.

They run in threads and know nothing of HTTP. `ENDPOINTS` is all of them; `openapi` describes them from the same table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from rh.errors import (
    AccessError,
    ConflictError,
    ExistsError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
)
from rh.registry import filters
from rh.registry.accounts import Role, Share, check_path, check_user
from rh.registry.base import Change, Put, Record, Registry, Rename, Step, check_steps
from rh.registry.http.wire import change_of, encode, step_of
from rh.registry.server.accounts import RESERVED, StoredAccounts
from rh.registry.server.limits import Limits
from rh.registry.server.rights import ADMIN, READ, Caller, Rights

__all__ = ["ENDPOINTS", "Call", "Endpoint", "Service"]

PAGE = 1000
_INDEXED = 50
"""Conditions of a filter that is left to the registry; one of more is held against its records, page by page."""
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Service:
    """What the endpoints work on."""

    registry: Registry
    accounts: StoredAccounts
    rights: Rights
    limits: Limits


@dataclass(slots=True)
class Call:
    """One request: who asks, for what. `keys` is for the audit log."""

    service: Service
    caller: Caller
    credential: str | None
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: dict[str, Any]
    keys: tuple[str, ...] = ()

    @property
    def registry(self) -> Registry:
        return self.service.registry

    @property
    def user(self) -> str:
        """Whose token it is."""
        if self.caller.user is None:
            raise UnauthenticatedError("this needs a token")
        return self.caller.user

    @property
    def accounts(self) -> StoredAccounts:
        """The accounts, changed in the name of who asks."""
        return self.service.accounts.as_(self.user, self.credential)

    def field(self, name: str, kinds: type | tuple[type, ...], default: Any = ...) -> Any:
        """A field of the body. `InvalidError` if it is of another type, or is not there and has no default."""
        value = self.body.get(name, default)
        if value is ... or (value is not default and not isinstance(value, kinds)):
            raise InvalidError(f"the field {name!r} is missing or of the wrong type")
        if isinstance(value, bool) and kinds is not bool:
            raise InvalidError(f"the field {name!r} is of the wrong type")
        return value

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number of the query."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise InvalidError(f"{name} is not a number")
        return min(int(text), most)

    def nothing(self, key: str) -> NoReturn:
        """What is told of a key that is not there, or that the caller may not know of."""
        self.check_known(key)
        raise NotFoundError(f"nothing is registered as {key!r}")

    def check_known(self, prefix: str) -> None:
        """Refuse who has no token, where nothing found means that nothing is public there."""
        if self.caller.user is None and not self.service.rights.reaches(self.caller, prefix):
            raise UnauthenticatedError("nothing here is public: this needs a token")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One line of the API.

    Attributes:
        name: in metrics and the audit log.
        work: what answers it: a JSON value, or an iterator of lines that are sent as they come.
        access: who may ask at all: with a token, also without one, or admins.
        audited: whether it changes something.
        query, body: the parameters and what they are, for the description.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    name: str
    work: Callable[[Call], Any]
    summary: str
    access: Literal["public", "user", "admin"] = "user"
    audited: bool = False
    query: Mapping[str, str] | None = None
    body: Mapping[str, str] | None = None

    @property
    def changes_people(self) -> bool:
        """Whether it changes who may do what."""
        return self.audited and self.method != "POST"


class Raw(bytes):
    """JSON that is encoded already."""


# Records.


def _get(call: Call) -> Any:
    key = call.query.get("key", "")
    record = call.registry.find(key) if key else None
    if record is None or call.service.rights.level(call.caller, key, record.document) < READ:
        call.nothing(key)
    return record._asdict()


def _list(call: Call) -> Any:
    query = call.query
    prefix, after = query.get("prefix", ""), query.get("after", "")
    return _page(call, call.registry.list(prefix, after=after), prefix, after, call.number("limit", PAGE, PAGE))


def _search(call: Call) -> Any:
    where = filters.of_dict(call.field("where", dict))
    as_of = call.field("as_of", (int, float), None)
    as_of = None if as_of is None else filters.moment(as_of)
    limit = max(1, min(call.field("limit", int, PAGE), PAGE))
    prefix, after = call.field("prefix", str, ""), call.field("after", str, "")
    if sum(1 for _ in where.fields()) <= _INDEXED:
        return _page(call, call.registry.search(where, prefix, after=after, as_of=as_of), prefix, after, limit)
    found = call.registry.search(filters.All(()), prefix, after=after, as_of=as_of)
    return _page(call, found, prefix, after, limit, where)


def _page(
    call: Call, found: Iterable[Record], prefix: str, after: str, limit: int, where: filters.Filter | None = None
) -> Raw:
    """Records that the caller may read, as many as fit; `next` is the key to go on after.

    Where most are not for the caller, a page ends when it took long enough, and may hold none.
    """
    limits, rights = call.service.limits, call.service.rights
    until = time.monotonic() + limits.page_s
    parts: list[bytes] = []
    size, last, more = 0, "", False
    for record in found:
        if (parts and (len(parts) >= limit or size >= limits.page_bytes)) or (last and time.monotonic() > until):
            more = True
            break
        last = record.key
        if where is not None and not where.matches(record.document):
            continue
        if rights.level(call.caller, record.key, record.document) >= READ:
            parts.append(encode(record._asdict()))
            size += len(parts[-1])
    if not parts and not more and not after:
        call.check_known(prefix)
    return Raw(b'{"records":[' + b",".join(parts) + b'],"next":' + encode(last if more else None) + b"}")


def _history(call: Call) -> Any:
    key, limit = call.query.get("key", ""), call.number("limit", PAGE, PAGE)
    parts: list[bytes] = []
    size, more = 0, False
    found = call.registry.history(key, after=call.number("after", 0, 1 << 62))
    for change in call.service.rights.visible(call.caller, found):
        if parts and (len(parts) >= limit or size >= call.service.limits.page_bytes):
            more = True
            break
        parts.append(encode(change._asdict()))
        size += len(parts[-1])
    if not parts:
        call.check_known(key)
    return Raw(b'{"changes":[' + b",".join(parts) + b'],"more":' + encode(more) + b"}")


def _changes(call: Call) -> Iterator[bytes]:
    number = 0
    for change in call.service.rights.visible(call.caller, call.registry.changes(call.query.get("prefix", ""))):
        number += 1
        yield encode(change._asdict())
    yield encode({"end": number})


def _commit(call: Call) -> Any:
    steps = [step_of(told) for told in call.field("steps", list)]
    token = call.field("token", str, None)
    if token is not None and not 0 < len(token) <= 200:
        raise InvalidError("a token of a commit has 1 to 200 characters")
    call.keys = tuple(_keys(steps))
    rights = call.service.rights
    try:
        rights.check(call.caller, steps)
        made = _made(call, steps, token)
    except (AccessError, NotFoundError, InvalidError) as error:
        # When it is sent again, the share that allowed it may have moved by what it did the first time.
        before = None if token is None else _made_before(call, steps, token, error)
        if before is None:
            raise
        made = before
    if not _is_answer(made, steps, call.user):
        raise InvalidError("this token was used for other changes")
    rights.learn(made)
    return {"changes": [change._asdict() for change in made]}


def _keys(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        yield step.key
        if isinstance(step, Rename):
            yield step.to


def _made(call: Call, steps: Sequence[Step], token: str | None) -> Sequence[Change]:
    """Commit, with what was said of names that move or go away."""
    for attempt in range(_TRIES):
        shares = _share_steps(call, steps)
        try:
            made = call.registry.commit([*steps, *shares], by=call.user, token=token)
        except (ConflictError, ExistsError):
            if attempt == _TRIES - 1 or _share_steps(call, steps) == shares:
                raise
        else:
            break
    if shares:
        call.service.accounts.now(at_once=True)
    return [change for change in made if not change.key.startswith(RESERVED)]


def _share_steps(call: Call, steps: Sequence[Step]) -> list[Step]:
    snapshot, gone = call.caller.snapshot, frozenset(step.key for step in steps if not isinstance(step, Put))
    found: list[Step] = []
    for old, new in call.service.rights.renames(steps):
        if old in snapshot.shares:
            keep = new is not None and min(snapshot.role(call.user, one) for one in (old, new)) >= ADMIN
            found += call.service.accounts.follow(old, new if keep else None, gone)
    return found


def _made_before(call: Call, steps: Sequence[Step], token: str, refusal: RhError) -> Sequence[Change] | None:
    """The changes of these steps, if the caller made them with this token already."""
    check_steps(steps, "commit")
    if isinstance(refusal, InvalidError):  # the registry knows the token with other steps: with those that moved shares
        accounts, renames = call.service.accounts, call.service.rights.renames(steps)
        if not any(accounts.followed(old, token) for old, _ in renames):
            return None
    found: list[Change] = []
    for key in _keys(steps):
        change = next((change for change in call.registry.history(key) if change.token == token), None)
        if change is None:
            return None
        found.append(change)
    return found if _is_answer(found, steps, call.user) else None


def _is_answer(made: Sequence[Change], steps: Sequence[Step], user: str) -> bool:
    """Whether changes are those that a user gets by these steps. Of imported commits no registry knows it."""
    documents = {step.key: step.document for step in steps if isinstance(step, Put)}
    return [change.key for change in made] == [*_keys(steps)] and all(
        change.author == user and (change.key not in documents or change.document == documents[change.key])
        for change in made
    )


def _replay(call: Call) -> Any:
    changes: list[Change] = [change_of(told) for told in call.field("changes", list)]
    call.keys = tuple(change.key for change in changes)
    if any(key.startswith(RESERVED) for key in call.keys):
        raise AccessError(f"keys in {RESERVED} are the server's own")
    new = call.registry.replay(changes)
    call.service.rights.learn(changes)
    return {"new": new}


# People.


def _me(call: Call) -> Any:
    return {"user": call.user, "admin": call.caller.is_admin, "credential": call.credential}


def _users(call: Call) -> Any:
    return {"users": [user._asdict() for user in call.accounts.users()]}


def _put_user(call: Call) -> Any:
    call.keys = (check_user(call.path["user"]),)
    return call.accounts.put_user(call.path["user"], admin=call.field("admin", bool, default=False))._asdict()


def _remove_user(call: Call) -> Any:
    call.keys = (check_user(call.path["user"]),)
    call.accounts.remove_user(call.path["user"])
    return {}


def _credentials(call: Call) -> Any:
    user = call.query.get("user")
    if user != call.user and not call.caller.is_admin:
        if user is not None:
            raise AccessError("the tokens of others are shown to admins only")
        user = call.user
    return {"credentials": [one._asdict() for one in call.accounts.credentials(user)]}


def _put_credential(call: Call) -> Any:
    call.keys = (call.path["id"],)
    user = call.field("user", str, None) or call.user
    if user != call.user and not call.caller.is_admin:
        raise AccessError("tokens for others are made by admins only")
    return call.accounts.put_credential(
        call.path["id"],
        call.field("sha256", str),
        user=user,
        name=call.field("name", str, ""),
        ttl_s=call.field("ttl_s", (int, float), None),
    )._asdict()


def _revoke_credential(call: Call) -> Any:
    call.keys = (call.path["id"],)
    told = call.caller.snapshot.credentials.get(call.path["id"])
    if not call.caller.is_admin and (told is None or told["user"] != call.user):
        raise NotFoundError(f"there is no token {call.path['id']!r:.80} of yours")
    call.accounts.revoke_credential(call.path["id"])
    return {}


def _share(call: Call) -> Any:
    return _told(call.accounts.share(_shared_path(call, call.query.get("path"))))


def _put_share(call: Call) -> Any:
    path = _shared_path(call, call.field("path", str))
    call.keys = (path,)
    roles: dict[str, Role | None] = call.field("roles", dict, {})
    return _told(call.accounts.put_share(path, roles, public=call.field("public", bool, None)))


def _shares(call: Call) -> Any:
    given = call.query.get("prefix")
    path = None if given is None else _shared_path(call, given)
    found = call.accounts.shares(path)
    if path is None:
        found = [one for one in found if call.caller.snapshot.role(call.user, one.path) >= ADMIN]
    return {"shares": [_told(one) for one in found]}


def _shared_path(call: Call, given: Any) -> str:
    path = check_path(given)
    role = call.caller.snapshot.role(call.user, path)
    if role < READ:
        raise NotFoundError(f"nothing is called /{path}")
    if role < ADMIN:
        raise AccessError(
            f"{call.user} may not share /{path}: that needs the role admin on it or above it",
            hint=f"an admin can say: rh registry grant /{path.partition('/')[0]} {call.user} admin",
        )
    return path


def _told(share: Share) -> dict[str, Any]:
    told = {"path": share.path, "public": share.public, "roles": dict(share.roles)}
    return told | {"inherited": [_told(one) for one in share.inherited]}


_KEY = {"key": "the exact key of a record"}
_PAGED = {
    "prefix": "only keys that start with this",
    "after": "only keys after this one",
    "limit": f"up to {PAGE} records",
}

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/record", "get", _get, "What is under a key.", access="public", query=_KEY),
    Endpoint("GET", "/v1/records", "list", _list, "Records in key order, a page at a time.", "public", query=_PAGED),
    Endpoint(
        "POST",
        "/v1/search",
        "search",
        _search,
        "Records that a filter holds for, a page at a time.",
        "public",
        body={
            "where": "object: a filter (rh.registry.filters)",
            "prefix": "string",
            "after": "string",
            "as_of": "number: seconds since the epoch",
            "limit": "integer",
        },
    ),
    Endpoint(
        "GET",
        "/v1/history",
        "history",
        _history,
        "Every change of a key, oldest first, a page at a time.",
        "public",
        query=_KEY | {"after": "only revisions after this one", "limit": f"up to {PAGE} changes"},
    ),
    Endpoint(
        "GET",
        "/v1/changes",
        "changes",
        _changes,
        'Every change ever made, one JSON object a line; the last line is {"end": how many}.',
        query={"prefix": "only keys that start with this"},
    ),
    Endpoint(
        "POST",
        "/v1/commit",
        "commit",
        _commit,
        "Make all these changes or none. The same again with the same token has the effect of one.",
        audited=True,
        body={
            "steps": "array: put {do, key, document, when}, delete {do, key, when},"
            " rename {do, key, to, replace, when}; when is any, absent or {match: revision}",
            "token": "string",
        },
    ),
    Endpoint(
        "POST",
        "/v1/replay",
        "replay",
        _replay,
        "Take over changes of another registry as they are.",
        "admin",
        audited=True,
        body={"changes": "array: as /v1/changes tells them"},
    ),
    Endpoint("GET", "/v1/me", "me", _me, "Whose token this is."),
    Endpoint("GET", "/v1/users", "users", _users, "Everybody.", "admin"),
    Endpoint(
        "PUT",
        "/v1/users/{user}",
        "put_user",
        _put_user,
        "Let somebody in.",
        "admin",
        audited=True,
        body={"admin": "boolean"},
    ),
    Endpoint(
        "DELETE", "/v1/users/{user}", "remove_user", _remove_user, "Let somebody in no more.", "admin", audited=True
    ),
    Endpoint("GET", "/v1/tokens", "tokens", _credentials, "One's own tokens; admins see all.", query={"user": "whose"}),
    Endpoint(
        "PUT",
        "/v1/tokens/{id}",
        "put_token",
        _put_credential,
        "Accept a token, of which the server is told the hash only.",
        audited=True,
        body={
            "sha256": "string: of its secret, in hex",
            "user": "string: for admins",
            "name": "string: what it is for",
            "ttl_s": "number: how many seconds it lives",
        },
    ),
    Endpoint("DELETE", "/v1/tokens/{id}", "revoke_token", _revoke_credential, "Accept a token no more.", audited=True),
    Endpoint(
        "GET", "/v1/shares", "share", _share, "Who may do what below a prefix.", query={"path": "a prefix of names"}
    ),
    Endpoint(
        "GET",
        "/v1/grants",
        "shares",
        _shares,
        "What is said of prefixes and names that are one's own to share.",
        query={"prefix": "only of this one, of what lies below it, and of what lies above it"},
    ),
    Endpoint(
        "PUT",
        "/v1/shares",
        "put_share",
        _put_share,
        "Change who may do what below a prefix.",
        audited=True,
        body={
            "path": "string: a prefix of names",
            "roles": "object: user -> read, write, admin, or null for none",
            "public": "boolean: whether everybody may read",
        },
    ),
)
