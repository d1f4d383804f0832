"""Databases as sources: real servers and files, Arrow all the way, read only, and no secret kept."""

from __future__ import annotations

import datetime
import decimal
import json
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
import uuid
from contextlib import closing, contextmanager

import adbc_driver_postgresql.dbapi
import adbc_driver_snowflake.dbapi
import duckdb
import pyarrow as pa
import pytest

from rh import config
from rh.errors import (
    AccessError,
    DeadlineError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.tables.database import Source, is_database
from rh.testing.servers.process import LOOPBACK, Server

ROWS = 200_000


@contextmanager
def talking(dsn):
    """A cursor of its own beside ours, as another user of the database has."""
    with adbc_driver_postgresql.dbapi.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        yield cursor


@pytest.fixture(scope="module")
def postgres(postgres_server):
    """A server with a table `big` and a user `guest` who may read nothing."""
    with talking(postgres_server.dsn) as cursor:
        for statement in (
            "drop table if exists big",
            f"create table big as select i, i * 2.5 as half, 'text ' || i as t from generate_series(1, {ROWS}) i",
            "drop type if exists mood cascade",
            "create type mood as enum ('glad', 'sad')",
            "drop role if exists guest",
            "create role guest login password 'guest-canary-4711'",
        ):
            cursor.execute(statement)
    yield postgres_server
    with talking(postgres_server.dsn) as cursor:
        for statement in ("drop table big", "drop type mood", "drop role guest"):
            cursor.execute(statement)


def asked(dsn, query):
    with talking(dsn) as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def eventually(condition):
    """Wait for what the server does by itself."""
    for _ in range(600):
        if condition():
            return
        threading.Event().wait(0.05)
    pytest.fail("it did not happen within 30 s")


def ours(dsn):
    """How many connections of rh the server has."""
    return asked(dsn, "select count(*) from pg_stat_activity where application_name = 'rh'")[0][0]


# Rows


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "redshift"])
def test_rows_come_in_batches_of_exactly_that_size(postgres, scheme):
    """By COPY; by a cursor as for Redshift, which has no COPY to the client."""
    source = Source(postgres.dsn.replace("postgresql://", f"{scheme}://"), "select i, t from big order by i")
    batches = list(source.reader(30_000))
    assert [batch.num_rows for batch in batches] == [30_000] * 6 + [20_000]
    assert pa.Table.from_batches(batches).column("i").to_pylist() == list(range(1, ROWS + 1))
    assert source.schema() == batches[0].schema == pa.schema({"i": pa.int32(), "t": pa.string()})
    assert source.count() == ROWS
    assert ours(postgres.dsn) == 0


def test_parameters_are_bound(postgres):
    """Values, never text: what would be SQL if it were pasted in is looked for as it is."""
    query = "select i from big where i > $1 and t <> $2 order by i"
    source = Source(postgres.dsn, query, [10, "'; drop table big; --"])
    assert source.count() == ROWS - 10
    assert [batch.num_rows for batch in source.reader(100_000)] == [100_000, ROWS - 10 - 100_000]
    values = [datetime.date(2020, 2, 3), decimal.Decimal("1.50"), True, b"\0x", None, ["a", "b"]]
    casts = ["date", "numeric(5,2)", "bool", "bytea", "int", "text[]"]
    names = ", ".join(f"${n}::{cast} as c{n}" for n, cast in enumerate(casts, 1))
    assert list(Source(postgres.dsn, f"select {names}", values).reader().read_all().to_pylist()[0].values()) == values
    with pytest.raises(InvalidError, match=r"there is no parameter \$1\n *LINE 1: select \$1::int"):
        Source(postgres.dsn, "select $1::int as n").reader()
    with pytest.raises(InvalidError, match="operator does not exist: integer = text"):
        Source(postgres.dsn, "select i from big where i = $1", ["one"]).reader()


TYPES = [
    ("1::int2", pa.int16(), 1),
    ("1::int8", pa.int64(), 1),
    ("1.5::float4", pa.float32(), 1.5),
    ("1.5::numeric(10,2)", pa.decimal128(10, 2), decimal.Decimal("1.50")),
    ("1.5::numeric(60,2)", pa.decimal256(60, 2), decimal.Decimal("1.50")),
    ("1.5::numeric", pa.string(), "1.5"),
    ("1e40::numeric", pa.string(), "1" + "0" * 40),
    ("true", pa.bool_(), True),
    ("'x'::varchar(5)", pa.string(), "x"),
    ("'\\x0001'::bytea", pa.binary(), b"\0\1"),
    ("date '2020-02-03'", pa.date32(), datetime.date(2020, 2, 3)),
    ("time '12:30'", pa.time64("us"), datetime.time(12, 30)),
    ("timestamp '2020-02-03 04:05:06.7'", pa.timestamp("us"), datetime.datetime(2020, 2, 3, 4, 5, 6, 700_000)),  # noqa: DTZ001
    (
        "timestamptz '2020-02-03 04:05:06+02'",
        pa.timestamp("us", "UTC"),
        datetime.datetime(2020, 2, 3, 2, 5, 6, tzinfo=datetime.UTC),
    ),
    ("interval '1 month 2 days'", pa.month_day_nano_interval(), pa.MonthDayNano([1, 2, 0])),
    ("'{\"a\": 1}'::jsonb", pa.json_(), '{"a": 1}'),
    ("'3d4f7a0e-0000-4000-8000-000000000001'::uuid", pa.uuid(), uuid.UUID("3d4f7a0e-0000-4000-8000-000000000001")),
    ("array[1, null]", pa.list_(pa.int32()), [1, None]),
    ("array[1.5::numeric]", pa.list_(pa.string()), ["1.5"]),
    ("'glad'::mood", pa.string(), "glad"),
    ("null::int", pa.int32(), None),
    ("null", pa.string(), None),
]


@pytest.mark.parametrize(("text", "kind", "value"), TYPES, ids=[text for text, _, _ in TYPES])
def test_types_of_postgresql(postgres, text, kind, value):
    """The table of the page, row by row; the schema is known without a row."""
    source = Source(postgres.dsn, f"select {text} as x")
    found = source.reader().read_all()
    assert found.schema == source.schema() == pa.schema({"x": kind})
    assert found.column("x").to_pylist() == [value]


@pytest.mark.parametrize(
    "text", ["inet '1.1.1.1'", "timetz '12:00+02'", "point(1, 2)", "xml '<a/>'", "array[inet '::1']"]
)
def test_a_type_without_counterpart_names_the_cast(postgres, text):
    with pytest.raises(UnsupportedError, match=r"column 'x' is \w+, which Arrow does not have.*\n.*x::text"):
        Source(postgres.dsn, f"select {text} as x").reader()


def test_a_value_that_does_not_fit_names_the_column(postgres):
    with pytest.raises(InvalidError, match="column 'x' is decimal128"):
        Source(postgres.dsn, "select 'NaN'::numeric(5,1) as x").reader().read_all()


def test_no_rows_have_a_schema_all_the_same(postgres):
    for parameters, where in (((), "i < 0"), ((0,), "i < $1")):
        found = Source(postgres.dsn, f"select i, t from big where {where}", parameters).reader().read_all()
        assert found.schema == pa.schema({"i": pa.int32(), "t": pa.string()})
        assert found.num_rows == 0


def test_two_columns_of_one_name_are_refused(postgres):
    with pytest.raises(InvalidError, match="two columns of the result are called 'a'"):
        Source(postgres.dsn, "select 1 as a, 2 as a").reader()


@pytest.mark.parametrize(
    "text", ["select 1 as n -- one", "select 1 as n;", "\n(values (1))", "with x as (select 1 as n) table x"]
)
def test_comments_and_semicolons_do_no_harm(postgres, text):
    assert Source(postgres.dsn, text).reader().read_all().to_pydict().popitem()[1] == [1]
    assert Source(postgres.dsn, text).count() == 1


def test_show_and_explain_give_rows(postgres):
    assert Source(postgres.dsn, "show server_version").reader().read_all().num_rows == 1
    assert Source(postgres.dsn, "explain select 1").reader().read_all().num_rows >= 1


@pytest.mark.parametrize(("value", "parameters"), [("'x'", []), ("$1", ["x"])])
def test_memory_is_bounded(postgres, python, value, parameters):
    """A result of 300 MB is read with less than a quarter of it held, with and without parameters."""
    code = """
import json, resource, sys
from rh.tables.database import Source
url, query, parameters = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
Source(url, "select 1 as n").reader().read_all()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(batch.num_rows for batch in Source(url, query, parameters).reader(10_000))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    query = f"select i, repeat({value}, 1000) as t from generate_series(1, 300000) i"
    rows, grown = python(code, postgres.url, query, json.dumps(parameters), PGPASSWORD=postgres.password).split()
    assert int(rows) == 300_000
    assert int(grown) < 75 * 1024  # KiB


# Reading only


@pytest.mark.parametrize(
    "text",
    [
        "insert into big values (0, 0, 'x')",
        "insert into big values (0, 0, 'x') returning i",
        "with x as (delete from big returning i) select * from x",
        "select * from big for update",
        "drop table big",
        "create table other as select 1",
        "commit",
        "set transaction read write",
        "select set_config('transaction_read_only', 'off', true)",
        "copy big to program 'touch {path}'",
        "copy big to '{path}'",
        "select 1; drop table big",
        "select 1) to stdout; drop table big; --",
        "do $$ begin delete from big; end $$",
    ],
)
def test_nothing_is_written_in_postgresql(postgres, tmp_path, text):
    tmp_path.chmod(0o777)
    with pytest.raises(InvalidError):
        Source(postgres.dsn, text.format(path=tmp_path / "written")).reader().read_all()
    assert asked(postgres.dsn, "select count(*), min(i) from big") == [(ROWS, 1)]
    assert asked(postgres.dsn, "select count(*) from pg_tables where tablename = 'other'") == [(0,)]
    assert list(tmp_path.iterdir()) == []


# Errors


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("select * from nope", NotFoundError, r'relation "nope" does not exist\nLINE 1: select \* from nope\n {22}\^'),
        ("select nope from big", InvalidError, r'column "nope" does not exist\nLINE 1: select nope from big\n {15}\^'),
        ("selec 1", InvalidError, r'syntax error at or near "selec"\nLINE 1: selec 1\n {8}\^'),
        ("select i / (i - 150000) as x from big", InvalidError, r"^division by zero"),
        ("create temp table x (i int)", InvalidError, r"gives no rows; only queries are run here"),
    ],
)
def test_a_wrong_query_is_told_by_the_database_itself(postgres, text, kind, told):
    with pytest.raises(kind, match=told) as caught:
        Source(postgres.dsn, text).reader().read_all()
    assert caught.value.where == postgres.url
    assert ours(postgres.dsn) == 0


def test_who_cannot_come_in_is_told_why(postgres):
    port, password = postgres.port, postgres.password
    for url, kind, told in (
        (
            f"postgresql://rh@{LOOPBACK}:{port}/postgres",
            UnauthenticatedError,
            r"no password supplied.*\n  fix: PGPASSWORD",
        ),
        (f"postgresql://rh:wrong@{LOOPBACK}:{port}/postgres", UnauthenticatedError, "password authentication failed"),
        (f"postgresql://rh:{password}@{LOOPBACK}:{port}/nodb", NotFoundError, 'database "nodb" does not exist'),
        (
            f"postgresql://rh:{password}@{LOOPBACK}:1/x",
            UnavailableError,
            "cannot connect: .*port 1 failed: Connection refused",
        ),
        (f"postgresql://rh:{password}@no-such-host.invalid/x", UnavailableError, "could not translate host name"),
        (f"postgresql://rh:{password}@[bad/x", InvalidError, "IPv6"),
        (
            f"postgresql://rh:{password}@{LOOPBACK}:{port}/postgres?sslmode=require",
            UnavailableError,
            "does not support SSL",
        ),
        ("postgresql:///?service=nowhere", NotFoundError, 'service "nowhere" not found'),
        (
            f"postgresql://guest:guest-canary-4711@{LOOPBACK}:{port}/postgres",
            AccessError,
            "permission denied for table big",
        ),
    ):
        with pytest.raises(kind, match=told) as caught:
            Source(url, "select * from big").reader()
        assert type(caught.value) is kind, url
        assert password not in str(caught.value)


def test_a_silent_server_is_given_up_on(postgres):
    """Promise 25: something listens and never answers."""
    import socket

    with socket.create_server((LOOPBACK, 0)) as silent, config.override({"timeout_s": 2}):
        url = f"postgresql://rh:x@{LOOPBACK}:{silent.getsockname()[1]}/x"
        with pytest.raises(DeadlineError, match="timeout expired"):
            Source(url, "select 1").reader()


SLOWLY = "select i, repeat('x', 1000) as t, pg_sleep(0.0001)::text as s from big"


@pytest.mark.parametrize(
    ("function", "told", "parameters"),
    [
        ("pg_terminate_backend", "terminating connection", ()),
        ("pg_terminate_backend", "terminating connection", ("x",)),
        ("pg_cancel_backend", "the query was cancelled", ()),
    ],
)
def test_a_connection_lost_on_the_way_is_no_end_of_rows(postgres, function, told, parameters):
    query = SLOWLY.replace("'x'", "$1") if parameters else SLOWLY
    reader = Source(postgres.dsn, query, parameters).reader(100)
    reader.read_next_batch()
    asked(postgres.dsn, f"select {function}(pid) from pg_stat_activity where application_name = 'rh'")
    with pytest.raises(UnavailableError, match=told):
        reader.read_all()


def test_a_limit_of_the_database_is_a_deadline(postgres):
    source = Source(postgres.dsn + "?options=-c%20statement_timeout%3D200", "select pg_sleep(60)::text as x")
    with pytest.raises(DeadlineError, match="statement timeout"):
        source.reader().read_all()


def test_an_abandoned_reader_ends_its_query(postgres):
    """The server works for nobody: neither after a few batches nor before the first."""
    reader = Source(postgres.dsn, SLOWLY).reader(100)
    reader.read_next_batch()
    del reader
    eventually(lambda: ours(postgres.dsn) == 0)
    reader = Source(postgres.dsn, SLOWLY, ()).reader(100)
    del reader
    eventually(lambda: ours(postgres.dsn) == 0)


def test_an_interrupt_ends_a_query(postgres):
    """Promise 28: Ctrl-C while the server thinks returns at once, and the server stops as well."""
    code = (
        "import sys; from rh.tables.database import Source\n"
        "print('ready', flush=True)\n"
        "Source(sys.argv[1], 'select pg_sleep(100)::text as x').reader().read_all()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, postgres.url],
        env={**os.environ, "PGPASSWORD": postgres.password},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    sleeping = "select count(*) from pg_stat_activity where application_name = 'rh' and query like '%pg_sleep(100)%'"
    eventually(lambda: asked(postgres.dsn, f"{sleeping} and state = 'active'")[0][0])
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    eventually(lambda: not asked(postgres.dsn, sleeping)[0][0])


# Secrets


def test_a_password_is_used_and_kept_nowhere(postgres, caplog, tmp_path):
    """Promise 34: not in the value's repr, pickle or record; not in errors, causes and tracebacks; not in logs."""
    caplog.set_level(logging.DEBUG)
    wrong = "canary-" + uuid.uuid4().hex
    source = Source(postgres.dsn, "select 1 as n")
    assert source.count() == 1
    again = pickle.loads(pickle.dumps(source))
    assert again == source
    seen = [
        repr(source),
        str(source),
        repr(vars(source)),
        json.dumps(source.as_dict()),
        repr(pickle.dumps(source)),
        source.system,
    ]
    for url in (
        postgres.dsn.replace(postgres.password, wrong),
        f"postgresql://rh:{wrong}@{LOOPBACK}:1/x",
        f"postgresql://rh:{wrong}@[bad/x",
        f"postgresql://rh@{LOOPBACK}:1/x?password={wrong}&sslpassword={wrong}&sslmode=nonsense",
        f"mysql://rh:{wrong}@host/x",
        f"postgresql://rh:{wrong}/2@{LOOPBACK}/x",
        f"postgresql://rh:1/{wrong}@{LOOPBACK}/x",
        f"postgresql://rh:1?{wrong}@{LOOPBACK}/x",
        f"postgresql://rh:{wrong}#2@{LOOPBACK}/x",
        f"snowflake://me:{wrong}@account/db/schema/more",
        f"snowflake://me@account/db?private_key_passphrase={wrong}&nonsense=1",
    ):
        try:
            Source(url, "select * from nothing").reader()
        except RhError as error:
            seen += [
                str(error),
                repr(pickle.dumps(error)),
                json.dumps(error.as_dict()),
                *traceback.format_exception(error),
            ]
        else:
            pytest.fail(url)
    with pytest.raises(InvalidError) as caught:
        Source(postgres.dsn, "", ())
    seen += [str(caught.value), caplog.text]
    with pytest.raises(UnauthenticatedError, match="no password supplied"):
        again.count()
    for secret in (postgres.password, wrong):
        assert secret not in "\n".join(seen)


def test_the_platforms_own_places_give_the_password(postgres, monkeypatch, tmp_path):
    """libpq's variable, password file and service file."""
    source = Source(postgres.url, "select 1 as n")
    with monkeypatch.context() as here:
        here.setenv("PGPASSWORD", postgres.password)
        assert source.count() == 1
    (tmp_path / "pgpass").write_text(f"{LOOPBACK}:{postgres.port}:*:rh:{postgres.password}\n")
    (tmp_path / "pgpass").chmod(0o600)
    with monkeypatch.context() as here:
        here.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
        assert source.count() == 1
    (tmp_path / "services").write_text(
        f"[store]\nhost={LOOPBACK}\nport={postgres.port}\nuser=rh\ndbname=postgres\npassword={postgres.password}\n"
    )
    with monkeypatch.context() as here:
        here.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        assert Source("postgresql:///?service=store", "select 1 as n").count() == 1


# Values


def test_a_source_is_a_plain_value():
    """Making one does no I/O; it survives pickle and its record, parameters of all kinds included."""
    moment = datetime.datetime(2020, 2, 3, 4, 5, tzinfo=datetime.UTC)
    parameters = [1, "x", 1.5, None, True, [1, 2], b"\0", moment, moment.date(), moment.time()]
    parameters += [decimal.Decimal("1.50"), uuid.UUID(int=5)]
    source = Source("postgresql://me@nowhere.invalid:5432/db?sslmode=require", "select 1", parameters)
    assert source.system == "postgresql://me@nowhere.invalid:5432/db?sslmode=require"
    assert pickle.loads(pickle.dumps(source)) == source
    assert Source.of_dict(json.loads(json.dumps(source.as_dict()))) == source
    assert Source.of_dict(source.as_dict(), local=False) == source
    with pytest.raises(InvalidError, match="not of this machine, and names files or settings here: passfile, sslkey"):
        Source.of_dict({"system": "postgresql://h/d?sslkey=/k&passfile=/p", "query": "select 1"}, local=False)
    with pytest.raises(InvalidError, match="cannot hold a parameter of type object"):
        Source(source.system, "select 1", [object()]).as_dict()


def test_what_is_no_source_is_refused():
    assert is_database("Postgresql://h/d")
    assert not any(map(is_database, ("s3://b/k", "postgresql", None, 5, "file:///x")))
    for arguments, told in (
        (("s3://b/k", "select 1"), "not the URL of a database.*\n.*schemes: postgresql"),
        (("postgresql://h/d", "  "), "the text of one statement"),
        (("postgresql://h/d", "select 1", "x"), "parameters are a list"),
        (("postgresql://h/d", "select 1", {"a": 1}), "parameters are a list"),
    ):
        with pytest.raises(InvalidError, match=told):
            Source(*arguments)
    with pytest.raises(InvalidError, match="one row or more"):
        Source("postgresql://h/d", "select 1").reader(0)


# Files


@pytest.fixture
def sqlite_url(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.execute("create table a (i integer, r real, t text, b blob, empty text, mixed)")
        db.executemany(
            "insert into a values (?, ?, ?, ?, null, ?)",
            [(n, n / 2, f"text {n}", b"\0", n if n < 40_000 else "late") for n in range(50_000)],
        )
    return f"sqlite://{tmp_path}/a.db"


@pytest.fixture
def duckdb_url(tmp_path):
    with duckdb.connect(str(tmp_path / "a.duckdb")) as db:
        db.execute("create table a as select range as i, range / 2 as r, 'text ' || range as t from range(50000)")
    return f"duckdb://{tmp_path}/a.duckdb"


def test_text_of_sqlite_that_is_no_utf8(sqlite_url):
    """SQLite keeps what it is given as text, whatever it is."""
    latin = "select cast(x'4dfc6c' as text) as name"
    with pytest.raises(InvalidError, match="column 'name' has text that is not UTF-8"):
        Source(sqlite_url, latin).reader().read_all()
    rows = Source(sqlite_url, f"select cast(name as blob) as name from ({latin})").reader().read_all()
    assert rows.to_pydict() == {"name": [b"M\xfcl"]}


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_rows_of_a_file(request, kind):
    url = request.getfixturevalue(f"{kind}_url")
    source = Source(url, "select i, r, t from a order by i")
    batches = list(source.reader(20_000))
    assert [batch.num_rows for batch in batches] == [20_000, 20_000, 10_000]
    assert source.schema() == batches[0].schema == pa.schema({"i": pa.int64(), "r": pa.float64(), "t": pa.string()})
    assert source.count() == 50_000
    assert pa.Table.from_batches(batches).to_pylist()[49_999] == {"i": 49_999, "r": 24_999.5, "t": "text 49999"}
    bound = Source(url, "select i from a where t = ? or i = ?", ["x' or 1 = 1 --", 7])
    assert bound.reader().read_all().to_pylist() == [{"i": 7}]
    assert bound.count() == 1


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
@pytest.mark.parametrize(
    "text",
    [
        "insert into a (i) values (1)",
        "insert into a (i) values (1) returning i",
        "delete from a",
        "drop table a",
        "attach '{path}/new.db' as new",
        "vacuum into '{path}/copy.db'",
        "copy a to '{path}/a.csv'",
        "pragma journal_mode = wal",
        "select 1; drop table a",
        "select 1) as q; drop table a; select * from (select 1",
    ],
)
def test_nothing_is_written_in_a_file(request, kind, text, tmp_path):
    url = request.getfixturevalue(f"{kind}_url")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidError):
        Source(url, text.format(path=tmp_path)).reader().read_all()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("kind", "text", "error", "told"),
    [
        ("sqlite", "select * from nope", NotFoundError, "no such table: nope"),
        ("sqlite", "select nope from a", InvalidError, "no such column: nope"),
        ("sqlite", "select i from a wher i", InvalidError, "syntax error"),
        ("sqlite", "select i from a where i = ?", InvalidError, "parameter count mismatch"),
        ("sqlite", "select mixed from a", InvalidError, r"Type mismatch in column 0.*\n.*cast"),
        ("duckdb", "select * from b", NotFoundError, "tables here: a"),
        ("duckdb", "select tt from a", InvalidError, "did you mean t"),
        ("duckdb", "select * from read_csv('/etc/passwd')", InvalidError, "its tables and nothing else"),
    ],
)
def test_a_wrong_query_of_a_file(request, kind, text, error, told):
    url = request.getfixturevalue(f"{kind}_url")
    with pytest.raises(error, match=told):
        Source(url, text).reader().read_all()


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_whole_path_behind_four_slashes(kind, request):
    """As SQLAlchemy writes it."""
    url = request.getfixturevalue(f"{kind}_url")
    four = url.replace(":///", ":////")
    assert Source(four, "select 1 as n").system == url
    assert Source(four, "select 1 as n").reader().read_all()["n"].to_pylist() == [1]


def test_no_rows_of_sqlite_have_the_columns(sqlite_url):
    found = Source(sqlite_url, "select i, t from a where i < 0").reader().read_all()
    assert found.column_names == ["i", "t"]
    assert found.num_rows == 0


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_file_that_is_none_is_told(kind, tmp_path):
    (tmp_path / "text").write_text("not a database " * 1000)
    for url, error in (
        (f"{kind}://{tmp_path}/missing.db", NotFoundError),
        (f"{kind}://{tmp_path}", InvalidError),
        (f"{kind}://host/a.db", InvalidError),
        (f"{kind}://", InvalidError),
    ):
        with pytest.raises(error):
            Source(url, "select 1 as n").reader()
    with pytest.raises(RhError, match="not a"):
        Source(f"{kind}://{tmp_path}/text", "select * from a").reader()
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


# Snowflake, as fakesnow plays it; BigQuery, as far as one comes without an account


class Fakesnow(Server):
    """Snowflake's protocol over DuckDB: queries, Arrow results, bound parameters. No warehouses, roles or passwords."""

    name = "fakesnow"
    start_timeout_s = 60.0

    @property
    def url(self):
        return f"snowflake://me@fakesnow/db1/s1?host={LOOPBACK}&port={self.port}&protocol=http"

    def _command(self):
        return [sys.executable, "-m", "fakesnow", "-s", "-p", str(self.port)]

    def _furnish(self):
        options = {
            "username": "me",
            "password": "x",
            "adbc.snowflake.sql.account": "fakesnow",
            "adbc.snowflake.sql.uri.host": LOOPBACK,
            "adbc.snowflake.sql.uri.port": str(self.port),
            "adbc.snowflake.sql.uri.protocol": "http",
        }
        with adbc_driver_snowflake.dbapi.connect(db_kwargs=options, autocommit=True) as connection:
            with connection.cursor() as cursor:
                for statement in (
                    "create database if not exists db1",
                    "create schema if not exists db1.s1",
                    "create table db1.s1.a (id int, name varchar, price number(10, 2), day date)",
                    "insert into db1.s1.a select 1, 'one', 1.5, '2020-02-03'::date",
                    "insert into db1.s1.a values (2, 'two', 2.5, null)",
                ):
                    cursor.execute(statement)
                    cursor.fetchall()


@pytest.fixture(scope="module")
def snowflake():
    with Fakesnow() as server:
        yield server


def test_snowflake_without_a_password_says_so(monkeypatch, tmp_path):
    """The driver refuses before it asks any server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SNOWFLAKE_PASSWORD", raising=False)
    with pytest.raises(UnauthenticatedError, match=r"password is empty(.|\n)*SNOWFLAKE_PASSWORD"):
        Source(f"snowflake://me@account/db/s?host={LOOPBACK}&port=1&protocol=http", "select 1 as x").reader()


def snowflake_url(server, password="canary"):
    return server.url.replace("//me@", f"//me:{password}@")


@pytest.mark.slow
def test_rows_of_snowflake(snowflake):
    source = Source(snowflake_url(snowflake), "select id, name, price, day from a order by id")
    found = source.reader(1).read_all()
    assert found.to_pylist() == [
        {"ID": 1, "NAME": "one", "PRICE": decimal.Decimal("1.50"), "DAY": datetime.date(2020, 2, 3)},
        {"ID": 2, "NAME": "two", "PRICE": decimal.Decimal("2.50"), "DAY": None},
    ]
    assert source.schema() == found.schema
    assert source.count() == 2
    bound = Source(snowflake_url(snowflake), "select id from a where name = ? or id = ?", ["x' or 1 = 1 --", 2])
    assert bound.reader().read_all().to_pylist() == [{"ID": 2}]


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("select * from nope", NotFoundError, "Table with name NOPE does not exist"),
        ("insert into a (id) values (3)", InvalidError, "gives no rows; only queries"),
        ("drop table a", InvalidError, "gives no rows; only queries"),
        ("select id from a wher name", InvalidError, "Line 2"),
    ],
)
def test_a_wrong_query_of_snowflake(snowflake, text, error, told):
    with pytest.raises(error, match=told):
        Source(snowflake_url(snowflake), text).reader()
    assert Source(snowflake_url(snowflake), "select * from a").count() == 2


def test_snowflakes_connections_are_used(snowflake, monkeypatch, tmp_path):
    """`connections.toml` by name and by default; what the URL says goes before it. And the password's own variable."""
    home = tmp_path / "snow"
    home.mkdir()
    monkeypatch.setenv("SNOWFLAKE_HOME", str(home))
    (home / "connections.toml").write_text(
        f'[fake]\naccount = "fakesnow"\nuser = "me"\npassword = "canary"\nhost = "{LOOPBACK}"\n'
        f'port = {snowflake.port}\nprotocol = "http"\ndatabase = "db1"\nschema = "elsewhere"\n'
    )
    assert Source("snowflake:///db1/s1?connection=fake", "select * from a").count() == 2
    monkeypatch.setenv("SNOWFLAKE_DEFAULT_CONNECTION_NAME", "fake")
    assert Source("snowflake:///db1/s1", "select * from a").count() == 2
    with pytest.raises(NotFoundError, match="no connection 'fale'; did you mean fake"):
        Source("snowflake:///db1/s1?connection=fale", "select 1").reader()
    monkeypatch.setenv("SNOWFLAKE_PASSWORD", "canary")
    assert Source(snowflake.url, "select * from a").count() == 2


@pytest.mark.slow
def test_a_snowflake_that_is_not_there_is_given_up_on():
    url = f"snowflake://me:canary@account/db?host={LOOPBACK}&port=1&protocol=http"
    with config.override({"timeout_s": 2}), pytest.raises((UnavailableError, DeadlineError)) as caught:
        Source(url, "select 1").reader()
    assert "canary" not in str(caught.value)


def test_bigquery_without_credentials_says_where_they_come_from(monkeypatch):
    """Nothing plays BigQuery for its driver, which takes no other address: up to the credentials it is tested."""
    with pytest.raises(UnauthenticatedError, match="gcloud auth application-default login"):
        Source("bigquery://project/dataset", "select 1").reader()
    with pytest.raises(InvalidError, match="names no project"):
        Source("bigquery://", "select 1").reader()
