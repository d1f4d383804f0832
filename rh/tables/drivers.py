"""How databases are reached: URLs and their secrets, ADBC drivers, and what their errors mean.

A secret in a URL is a password beside the user, or a value in the query whose name says so. It goes to the driver and
is struck from whatever is told. Without one the platform's own places are asked: libpq's variables and files
(`PGPASSWORD`, `~/.pgpass`, `pg_service.conf`), Snowflake's `connections.toml`, Google's default credentials.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from rh import config
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    FullError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
)
from rh.plugins import need

__all__ = ["COPY", "DRIVERS", "Address", "Driver", "Errors", "parse", "public"]

COPY = "adbc.postgresql.use_copy"
FILES = ("sqlite", "duckdb")
"""Schemes of databases that are a file here."""
BATCH_BYTES = 4 << 20
"""What the PostgreSQL driver puts into one batch."""

_URL = re.compile(r"([A-Za-z]+)://(?:([^/?#]*)@)?([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
_SECRET = re.compile(r"pass|pwd|secret|token|private_key|credential|apikey|api_key", re.IGNORECASE)
_NO_SECRET = re.compile(r"(file|path)$", re.IGNORECASE)
"""Where a secret lies is none."""


class Address:
    """A database's URL in its parts. `repr` and pickle do not have the secrets; a pickle would be of no use without."""

    def __init__(self, scheme: str, user: str | None, host: str, path: str, query: list[tuple[str, str]]) -> None:
        name, colon, password = (user or "").partition(":")
        if scheme in FILES and not host and path.startswith("//"):
            path = path[1:]  # SQLAlchemy writes a whole path behind four slashes
        self.scheme, self.host, self.path = scheme, host, unquote(path)
        self.user = unquote(name)
        self.options = {key: value for key, value in query if not is_secret(key)}
        self.secrets = {key: value for key, value in query if is_secret(key) and value}
        if colon and password:
            self.secrets["password"] = unquote(password)
        login = f"{quote(self.user, safe='')}@" if name else ""
        self.url = f"{scheme}://{login}{host}{path}{_query(self.options)}"

    def __repr__(self) -> str:
        return f"Address({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return parse, (self.url,)

    def get(self, *names: str) -> str | None:
        """An option or a secret, by the first of these names that has one."""
        return next((value for name in names if (value := self.secrets.get(name) or self.options.get(name))), None)

    def file(self) -> str:
        """The path of a database that is a file here.

        Raises:
            InvalidError: the URL names a host. `NotFoundError`: there is no such file.
        """
        path = os.path.expanduser(self.path[1:] if self.path.startswith("/~") else self.path)
        if self.host or not path.startswith("/") or path == "/":
            raise InvalidError(
                f"{self.scheme} is a file on this machine, named by its whole path",
                where=self.url,
                hint=f"{self.scheme}:///path/to/file",
            )
        if not os.path.exists(path):
            raise NotFoundError("there is no such file", where=self.url)
        if not os.path.isfile(path):
            raise InvalidError("this is not a file", where=self.url)
        if not os.access(path, os.R_OK):
            raise AccessError("the file may not be read", where=self.url)
        return path


def is_secret(name: str) -> bool:
    """Whether an option of that name holds a secret."""
    return bool(_SECRET.search(name)) and not _NO_SECRET.search(name)


def is_place(name: str) -> bool:
    """Whether an option of that name says where something lies on this machine."""
    return bool(_NO_SECRET.search(name)) or name in (
        "service",
        "connection",
        "sslkey",
        "sslcert",
        "sslrootcert",
        "sslcrl",
    )


def parse(url: str) -> Address:
    """The parts of a URL.

    Raises:
        InvalidError: it is none; the message does not repeat it.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise InvalidError("this is not the URL of a database", hint="postgresql://user@host:5432/database")
    scheme, user, host, path, query = found.groups()
    pairs = parse_qsl(query or "", keep_blank_values=True)
    if scheme.lower() not in (*FILES, "bigquery") and user is None and _is_login(host, path, pairs):
        raise InvalidError(
            "the URL has no host with a port that is a number: perhaps a password has an unquoted / or ?",
            hint="urllib.parse.quote(password, safe='') is how it is written in a URL",
        )
    return Address(scheme.lower(), user, host, path, pairs)


def _is_login(host: str, path: str, pairs: list[tuple[str, str]]) -> bool:
    """Whether what stands for hosts and ports may be a user and the begin of a password, whose rest is elsewhere."""
    ports = [one.rpartition("]")[2].partition(":")[2] for one in host.split(",")]
    if not all(port.isdigit() for port in ports if port):
        return True
    return any(ports) and ("@" in path or any("@" in name for name, _ in pairs))


def public(url: str) -> str:
    """A URL without its secrets, or a placeholder if it cannot be taken apart."""
    try:
        return parse(url).url
    except InvalidError:
        return "…" if "@" in url or "?" in url else url


def _query(options: Mapping[str, str]) -> str:
    pairs = [f"{quote(key, safe='')}={quote(value, safe='/:,')}" for key, value in options.items()]
    return "?" + "&".join(pairs) if pairs else ""


# Drivers


class Driver(NamedTuple):
    """A kind of database.

    Attributes:
        connect: opens a connection.
        describes: how the columns of a query are known: from the prepared `statement`; from an `empty` selection of it;
            or from its first `rows`.
        begin: the statement that begins a read-only transaction, where there are such.
        copies: whether PostgreSQL's COPY brings the rows.
        options: of the statement that brings the rows.
    """

    connect: Callable[[Address], Any]
    describes: Literal["statement", "empty", "rows"]
    begin: str | None = None
    copies: bool = False
    options: Mapping[str, str] = {}


def _seconds() -> int:
    return max(1, round(float(config.get("timeout_s"))))


def _postgresql(address: Address) -> Any:
    """Libpq reads the URL itself, and what is missing there from its own places."""
    host = address.host
    if address.scheme == "redshift" and host and not re.search(r":\d+$", host):
        host += ":5439"
    seconds = str(_seconds())
    options = {
        "application_name": "rh",
        "connect_timeout": seconds,
        "keepalives_idle": seconds,
        "tcp_user_timeout": seconds + "000",
        **address.options,
        **address.secrets,
    }
    login = f"{quote(address.user, safe='')}@" if address.user else ""
    url = f"postgresql://{login}{host}{quote(address.path)}{_query(options)}"
    return need("adbc_driver_postgresql.dbapi", purpose=address.scheme).connect(url, autocommit=True)


def _sqlite(address: Address) -> Any:
    url = f"file:{quote(address.file())}?mode=ro"
    return need("adbc_driver_sqlite.dbapi", purpose="SQLite").connect(url, autocommit=True)


_SNOWFLAKE = {
    "user": "username",
    "password": "password",
    "account": "adbc.snowflake.sql.account",
    "database": "adbc.snowflake.sql.db",
    "schema": "adbc.snowflake.sql.schema",
    "warehouse": "adbc.snowflake.sql.warehouse",
    "role": "adbc.snowflake.sql.role",
    "region": "adbc.snowflake.sql.region",
    "host": "adbc.snowflake.sql.uri.host",
    "port": "adbc.snowflake.sql.uri.port",
    "protocol": "adbc.snowflake.sql.uri.protocol",
    "token": "adbc.snowflake.sql.client_option.auth_token",
    "private_key_file": "adbc.snowflake.sql.client_option.jwt_private_key",
    "private_key_path": "adbc.snowflake.sql.client_option.jwt_private_key",
    "private_key": "adbc.snowflake.sql.client_option.jwt_private_key_pkcs8_value",
    "private_key_passphrase": "adbc.snowflake.sql.client_option.jwt_private_key_pkcs8_password",
    "private_key_file_pwd": "adbc.snowflake.sql.client_option.jwt_private_key_pkcs8_password",
}
"""What `connections.toml` and the URL call things, and what the driver does."""

_AUTHENTICATORS = {
    "snowflake": "auth_snowflake",
    "oauth": "auth_oauth",
    "externalbrowser": "auth_ext_browser",
    "snowflake_jwt": "auth_jwt",
    "username_password_mfa": "auth_mfa",
    "programmatic_access_token": "auth_pat",
    "workload_identity": "auth_wif",
}


def _snowflake(address: Address) -> Any:
    names = [part for part in address.path.split("/") if part]
    if len(names) > 2:
        raise InvalidError(
            "the path is a database and a schema", where=address.url, hint="snowflake://user@account/db/schema"
        )
    own = {
        "user": address.user,
        "account": address.host,
        "database": names[0] if names else "",
        "schema": names[1] if len(names) > 1 else "",
        **address.options,
        **address.secrets,
    }
    settings = {**_snowflake_connection(own.pop("connection", ""), address), **{k: v for k, v in own.items() if v}}
    if not settings.get("password") and (password := os.environ.get("SNOWFLAKE_PASSWORD")):
        settings["password"] = password
    options = {"adbc.snowflake.sql.client_option.app_name": "rh"}
    for name in ("login_timeout", "request_timeout", "client_timeout"):
        options[f"adbc.snowflake.sql.client_option.{name}"] = f"{_seconds()}s"
    authenticator = str(settings.pop("authenticator", "")).lower()
    if authenticator:
        options["adbc.snowflake.sql.auth_type"] = _AUTHENTICATORS.get(authenticator, "auth_okta")
        if authenticator not in _AUTHENTICATORS:
            options["adbc.snowflake.sql.client_option.okta_url"] = authenticator
    elif settings.keys() & {"private_key_file", "private_key_path", "private_key"}:
        options["adbc.snowflake.sql.auth_type"] = "auth_jwt"
    for name, value in settings.items():
        if name not in _SNOWFLAKE:
            raise InvalidError(
                f"Snowflake's driver takes no setting {name!r}" + config.did_you_mean(name, tuple(_SNOWFLAKE)),
                where=address.url,
                hint=f"settings: {', '.join(_SNOWFLAKE)}, authenticator, connection",
            )
        options[_SNOWFLAKE[name]] = str(value)
    driver = need("adbc_driver_snowflake.dbapi", purpose="Snowflake")
    return driver.connect(db_kwargs=options, autocommit=True)


def _snowflake_connection(name: str, address: Address) -> dict[str, Any]:
    """A connection of Snowflake's own `connections.toml`: the one asked for; the default where no account is named."""
    asked = name or ("" if address.host else os.environ.get("SNOWFLAKE_DEFAULT_CONNECTION_NAME", "default"))
    if not asked:
        return {}
    homes = [Path(os.environ["SNOWFLAKE_HOME"])] if os.environ.get("SNOWFLAKE_HOME") else []
    homes += [Path.home() / ".snowflake", Path.home() / ".config" / "snowflake"]
    for home in homes:
        path = home / "connections.toml"
        try:
            found = tomllib.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            raise InvalidError("this file cannot be read as TOML", where=str(path)) from None  # the cause quotes lines
        if asked not in found:
            raise NotFoundError(
                f"there is no connection {asked!r}" + config.did_you_mean(asked, tuple(found)), where=str(path)
            )
        return {key: value for key, value in found[asked].items() if value not in ("", None)}
    raise NotFoundError(
        f"there is no connections.toml with a connection {asked!r}",
        where=address.url,
        hint="snowflake://user@account/db",
    )


def _bigquery(address: Address) -> Any:
    if not address.host:
        raise InvalidError("the URL names no project", where=address.url, hint="bigquery://project/dataset")
    options = {"adbc.bigquery.sql.project_id": address.host}
    names = [part for part in address.path.split("/") if part]
    if names:
        options["adbc.bigquery.sql.dataset_id"] = names[0]
    if location := address.get("location"):
        options["adbc.bigquery.sql.location"] = location
    if path := address.get("credentials_file", "credentials_path"):
        options["adbc.bigquery.sql.auth_type"] = "adbc.bigquery.sql.auth_type.json_credential_file"
        file = options["adbc.bigquery.sql.auth_credentials"] = os.path.expanduser(path)
        if not os.path.isfile(file):
            raise NotFoundError("there is no such file of credentials", where=file, hint="credentials_file= names it")
    driver = need("adbc_driver_bigquery.dbapi", purpose="BigQuery")
    return driver.connect(options, autocommit=True)


_READ_ONLY = "begin read only"
_FEW_AHEAD = {"adbc.rpc.result_queue_size": "16", "adbc.snowflake.rpc.prefetch_concurrency": "4"}
_POSTGRESQL = Driver(
    _postgresql,
    "statement",
    _READ_ONLY,
    copies=True,
    options={"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)},
)

DRIVERS: Mapping[str, Driver] = {
    "postgresql": _POSTGRESQL,
    "postgres": _POSTGRESQL,
    "redshift": Driver(_postgresql, "statement", _READ_ONLY),
    "sqlite": Driver(_sqlite, "rows", options={"adbc.sqlite.query.batch_rows": "16384"}),
    "snowflake": Driver(_snowflake, "empty", options=_FEW_AHEAD),
    "bigquery": Driver(_bigquery, "empty"),
}
"""By scheme."""


# Errors

_STATES: tuple[tuple[str, type[RhError]], ...] = (
    ("25006", InvalidError),
    ("28", UnauthenticatedError),
    ("42501", AccessError),
    ("42P01", NotFoundError),
    ("42S02", NotFoundError),
    ("3D", NotFoundError),
    ("3F", NotFoundError),
    ("02", NotFoundError),
    ("08", UnavailableError),
    ("40", ConflictError),
    ("57014", DeadlineError),
    ("57P", UnavailableError),
    ("53300", UnavailableError),
    ("53", FullError),
    ("58", UnavailableError),
    ("XX", UnavailableError),
)
"""SQLSTATE, or its beginning, and what it is to us. What is not here is a wrong query."""

_TEXTS: tuple[tuple[type[RhError], str], ...] = (
    (InvalidError, r"\bin URI\b|URI query parameter|invalid (?:port|sslmode|connection option)"),
    (
        UnauthenticatedError,
        r"authentication failed|no password supplied|password is empty|incorrect username or password|\b401\b",
    ),
    (UnauthenticatedError, r"could not find default credentials|invalid_grant|invalid credentials"),
    (AccessError, r"no pg_hba.conf entry|permission denied|access denied|\b403\b|not authorized"),
    (
        NotFoundError,
        r"(?:database|role|file|service) \"?[^\"]*\"? (?:does )?not (?:exist|found)|no such table|not found: ",
    ),
    (NotFoundError, r"table with name .* does not exist"),
    (DeadlineError, r"timeout expired|statement timeout|deadline exceeded|timed out|timeout after"),
    (UnavailableError, r"could not translate host name|no such host|no route|network is unreachable|dial tcp|\bSSL\b"),
    (
        UnavailableError,
        r"connection refused|connection to server|connection (?:was )?(?:reset|lost|closed)|broken pipe",
    ),
    (UnavailableError, r"server closed the connection|terminating connection|unable to open|database is locked"),
    (FullError, r"disk is full|out of memory"),
)
"""What a message without SQLSTATE says, in the order in which they are looked for."""

_HINTS = {
    "postgresql": "PGPASSWORD, ~/.pgpass or a service of ~/.pg_service.conf give the password",
    "snowflake": "give the password in ~/.snowflake/connections.toml (?connection=name) or SNOWFLAKE_PASSWORD",
    "bigquery": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS",
}


class Errors:
    """A block in which a driver's errors become ours, without the secrets of the address."""

    def __init__(self, address: Address) -> None:
        self.where = address.url
        self.scheme = {"postgres": "postgresql", "redshift": "postgresql"}.get(address.scheme, address.scheme)
        told = {one for value in address.secrets.values() for one in (value, quote(value, safe=""))}
        self.secrets = [one for one in told if len(one) > 3]  # less is no secret, and would turn words into riddles
        self.before = False
        self.text: str | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, (RhError, StopIteration)) or not isinstance(error, Exception):
            return
        raise self.ours(error) from self._safe(error)

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """While the connection is made: what is not understood is a database that cannot be reached."""
        self.before = True
        try:
            with self:
                yield
        finally:
            self.before = False

    @contextmanager
    def checking(self, text: str) -> Iterator[None]:
        """While it is found out whether a text is a query."""
        self.text = text
        try:
            with self:
                yield
        finally:
            self.text = None

    def no_rows(self) -> InvalidError:
        """The error for a statement that gives no rows."""
        return InvalidError(
            "this statement gives no rows; only queries are run here", where=self.where, hint="select …"
        )

    def _clean(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "…")
        return text

    def _safe(self, error: Exception) -> Exception | None:
        """The cause, without secrets: it stays the context of ours, and some tools pickle that as well."""
        if self._clean(repr(error)) != repr(error):
            error.args = tuple(self._clean(one) if isinstance(one, str) else one for one in error.args)
        return error if self._clean(repr(error)) == repr(error) else None

    def ours(self, error: Exception) -> RhError:
        """What a driver's error means."""
        text = self._clean(str(error)).strip()
        state = getattr(error, "sqlstate", None) or ""
        if self.text is not None and not re.match(
            r"\s*(?:select|with|values|from|table|\(|--|/\*)", self.text, re.IGNORECASE
        ):
            return self.no_rows()
        kind = self._kind(state, text)
        message = _message(text)
        if state == "25006":
            return InvalidError(f"only queries are run here: {message}", where=self.where)
        if "due to user request" in text:
            return UnavailableError(f"the query was cancelled: {message}", where=self.where)
        what = "cannot connect: " if self.before and kind not in (UnauthenticatedError, NotFoundError) else ""
        hint = _HINTS.get(self.scheme) if kind is UnauthenticatedError else None
        if kind is UnavailableError and self.before:
            hint = "is the database running there, and can this machine reach it?"
        if "Type mismatch in column" in text:
            hint = "SQLite's columns hold any type: cast it in the query, cast(column as text)"
        return kind(what + message, where=self.where, hint=hint)

    def _kind(self, state: str, text: str) -> type[RhError]:
        for prefix, kind in _STATES if state else ():
            if state.startswith(prefix):
                return kind
        if not state or self.before:
            for kind, pattern in _TEXTS:
                if re.search(pattern, text, re.IGNORECASE):
                    return kind
        lost = "[libpq]" in text and "ERROR:" not in text and not state  # libpq speaks, not the server
        return UnavailableError if self.before or lost else InvalidError


_AROUND = re.compile(
    r"(?:[A-Z_]+: )?(?:\[\w+\] )?(?:Failed to (?:connect|prepare query|execute query(?: '.*?')?|step query): |"
    r"Execution error \[\w+\]: |could not begin COPY: )*(?:ERROR: +)?",
    re.DOTALL,
)
_AFTER = re.compile(
    r"\s*Query was:.*|\nquery: .*|: \"postgres(?:ql)?://.*|\.?\s*Vendor code: .*|\.?\s*SQLSTATE: .*", re.DOTALL
)
_IN_COPY = re.compile(r"(LINE 1: )COPY \((.*\n) {6}")


def _message(text: str) -> str:
    """What the database itself said, with the line that shows the position, without what the driver put around it."""
    text = _IN_COPY.sub(r"\1\2", _AFTER.sub("", text))
    around = _AROUND.match(text)
    return text[around.end() if around else 0 :].strip().rstrip(".")
