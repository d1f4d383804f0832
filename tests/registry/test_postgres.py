"""PostgreSQL as the registry: the shipped suite, and what is its own."""

import contextlib
import os
import pickle
import secrets
import select
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from rh import errors
from rh.registry import open_registry
from rh.registry.base import Put
from rh.registry.filters import F
from rh.registry.sql import postgres
from rh.registry.sql.postgres import PostgresRegistry
from rh.testing import servers
from rh.testing._suite_histories import HistorySuite
from rh.testing.registry import RegistrySuite
from rh.testing.servers.process import Port
from rh.types import Match


@pytest.fixture(scope="module")
def database(postgres_server):
    """A database of this module's own."""
    name = f"t{secrets.token_hex(6)}"
    with closing(psycopg.connect(postgres_server.dsn, autocommit=True)) as db:
        db.execute(f"create database {name}")
    return postgres_server.dsn.rpartition("/")[0] + "/" + name


@pytest.fixture
def url(database):
    schema = f"s{secrets.token_hex(6)}"
    yield f"{database}?schema={schema}"
    postgres._connections.close()
    with closing(psycopg.connect(database, autocommit=True)) as db:
        db.execute(f"drop schema if exists {schema} cascade")


@pytest.fixture
def registry(url):
    with open_registry(url) as registry:
        yield registry


class TestPostgres(RegistrySuite):
    @pytest.fixture
    def url(self, url):
        return url


class TestHistoriesOverARestart(HistorySuite):
    @pytest.fixture
    def url(self, server):
        return server.dsn

    @pytest.fixture
    def registry(self, url):
        with open_registry(url) as registry:
            yield registry

    @pytest.fixture
    def restart(self, server):
        return server.restart


def password(url):
    return url.partition("://")[2].partition("@")[0].partition(":")[2]


def tables(database, schema="rh"):
    with closing(psycopg.connect(database, autocommit=True)) as db:
        return db.execute("select tablename from pg_tables where schemaname = %s", (schema,)).fetchall()


def schema_of(url):
    return url.rpartition("=")[2]


def test_reading_creates_nothing_and_the_first_change_says_that_it_does(registry, url, caplog):
    assert list(registry.list()) == list(registry.changes()) == list(registry.search(F.a == 1)) == []
    assert registry.find("a") is None
    assert tables(url.partition("?")[0], schema_of(url)) == []
    assert not caplog.messages
    registry.put("a", {})
    registry.put("b", {})
    assert caplog.messages == [f"a new registry was begun at {registry.url}"]


def test_the_schema_is_rh_unless_told(database):
    with open_registry(database) as registry:
        registry.put("a", {})
    assert len(tables(database)) == 5
    with closing(psycopg.connect(database, autocommit=True)) as db:
        db.execute("drop schema rh cascade")


def test_two_first_users_at_once(url, python):
    code = "import sys; from rh.registry import open_registry; open_registry(sys.argv[1]).put(sys.argv[2], {})"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: python(code, url, f"k{n}"), range(4)))
    assert [record.key for record in open_registry(url).list()] == ["k0", "k1", "k2", "k3"]


def test_a_newer_schema_is_refused_and_left_alone(registry, url):
    registry.put("a", {"n": 1})
    schema = schema_of(url)
    with closing(psycopg.connect(url.partition("?")[0], autocommit=True)) as db:
        db.execute(f"update {schema}.about set schema = 2")
        for call in (
            lambda: registry.get("a"),
            lambda: registry.put("a", {"n": 2}),
            lambda: list(registry.list()),
            lambda: list(registry.history("a")),
            lambda: list(registry.changes()),
            lambda: list(registry.search(F.a == 1)),
            lambda: registry.delete("a"),
        ):
            with pytest.raises(errors.UnsupportedError, match=r"schema 2; .*up to 1") as caught:
                call()
            assert caught.value.hint == "upgrade rh-data"
        assert db.execute(f"select count(*) from {schema}.changes").fetchone() == (1,)
        assert db.execute(f"select schema from {schema}.about").fetchone() == (2,)


def test_an_older_schema_is_brought_up_in_place(registry, monkeypatch, url):
    registry.put("a", {"n": 1})
    step = ("alter table @changes add column note text", "update @changes set note = 'seen'")
    monkeypatch.setattr(postgres, "MIGRATIONS", (*postgres.MIGRATIONS, step))
    assert registry.get("a").document == {"n": 1}
    registry.put("a", {"n": 2})
    with closing(psycopg.connect(url.partition("?")[0], autocommit=True)) as db:
        assert db.execute(f"select schema from {schema_of(url)}.about").fetchone() == (2,)
        assert db.execute(f"select note from {schema_of(url)}.changes order by sequence").fetchall() == [
            ("seen",),
            (None,),
        ]


def test_a_migration_that_fails_changes_nothing(registry, monkeypatch):
    registry.put("a", {"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(
            postgres, "MIGRATIONS", (*postgres.MIGRATIONS, ("create table @extra (x int)", "select no_such_function()"))
        )
        with pytest.raises(errors.RhError, match="no_such_function"):
            registry.get("a")
    assert registry.get("a").document == {"n": 1}


def test_another_programs_tables_are_left_alone(registry, url):
    with closing(psycopg.connect(url.partition("?")[0], autocommit=True)) as db:
        db.execute(f"create schema {schema_of(url)}")
        db.execute(f"create table {schema_of(url)}.changes (x int)")
        with pytest.raises(errors.InvalidError, match="something else"):
            registry.put("a", {})
        assert tables(url.partition("?")[0], schema_of(url)) == [("changes",)]


@pytest.mark.parametrize(
    "wrong",
    ["postgresql://h:port/db", "postgresql://h/db?schema=a%22b", "postgresql://h/db?novalue", "postgres://[h/db"],
)
def test_a_bad_url_is_refused(wrong):
    with pytest.raises(errors.InvalidError):
        open_registry(wrong)


def test_an_option_that_libpq_does_not_know(database):
    with pytest.raises(errors.InvalidError, match="option") as caught:
        open_registry(f"{database}?passwd=hunter2").get("a")
    assert "hunter2" not in str(caught.value)


def test_no_secret_is_shown(url, monkeypatch):
    """Promise 34."""
    secret = password(url)
    assert len(secret) > 12
    registry = open_registry(f"{url}&sslpassword={secret}")
    assert "rh@127.0.0.1" in registry.url
    shown = [registry.url, repr(registry), str(vars(pickle.loads(pickle.dumps(registry))))]
    with pytest.raises(errors.RhError) as caught:
        registry.get("missing")
    shown += [str(caught.value), repr(caught.value)]
    wrong = open_registry(url.replace(secret, secret + "x"))
    with pytest.raises(errors.UnauthenticatedError) as caught:
        wrong.get("a")
    shown += [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    assert not [text for text in shown if secret in text]
    assert "PGPASSWORD" in caught.value.hint
    for copy in (pickle.loads(pickle.dumps(registry)), open_registry(registry.url)):
        with pytest.raises(errors.UnauthenticatedError):
            copy.get("a")
        with monkeypatch.context() as patch:
            patch.setenv("PGPASSWORD", secret)
            copy.put("a", {})
            assert copy.get("a").key == "a"
        copy.close()


def test_the_password_may_lie_in_a_file(url, tmp_path):
    registry, secret = open_registry(url), password(url)
    (tmp_path / "pass").write_text(f"*:*:*:*:{secret}\n")
    (tmp_path / "pass").chmod(0o600)
    assert list(open_registry(f"{registry.url}&passfile={tmp_path}/pass").list()) == []


def test_a_database_that_is_not_there(database):
    with pytest.raises(errors.NotFoundError, match="nowhere"):
        open_registry(database.rpartition("/")[0] + "/nowhere").get("a")


def test_a_user_without_rights(url, database):
    secret = secrets.token_hex(8)
    with closing(psycopg.connect(database, autocommit=True)) as db:
        db.execute(f"create role reader login password '{secret}'")
        with open_registry(url) as mine:
            mine.put("a", {"n": 1})
            db.execute(f"grant usage on schema {schema_of(url)} to reader")
            db.execute(f"grant select on all tables in schema {schema_of(url)} to reader")
            with open_registry(url.replace("rh:" + password(url), f"reader:{secret}")) as theirs:
                assert theirs.get("a").document == {"n": 1}
                assert len(list(theirs.changes())) == 1
                with pytest.raises(errors.AccessError):
                    theirs.put("a", {"n": 2})
                assert theirs.get("a").document == {"n": 1}
            db.execute("drop owned by reader")
            db.execute("drop role reader")


def test_nobody_answers():
    port = Port()
    with pytest.raises(errors.UnavailableError, match=r"the registry cannot be reached: .* refused") as caught:
        open_registry(f"postgresql://rh@127.0.0.1:{port.number}/db").get("a")
    assert "names in ~/ are on this machine and work without it, and so do local files" in caught.value.hint
    port.release()


def test_a_key_that_no_index_takes(registry):
    with pytest.raises(errors.InvalidError, match="2600 bytes"):
        registry.put("𝄞" * 1000, {})
    registry.put("é" * 1000, {})


@pytest.fixture
def server():
    with servers.postgres() as server:
        yield server
        postgres._connections.close()


def test_a_restart_is_not_noticed(server):
    registry = open_registry(server.dsn)
    registry.put("a", {"n": 1})
    assert registry.get("a").revision == 1
    server.restart()
    assert registry.get("a").revision == 1
    server.restart()
    assert registry.put("a", {"n": 2}).revision == 2
    server.kill()
    started = threading.Timer(0.5, server.start)
    started.start()
    assert registry.put("a", {"n": 3}).revision == 3
    started.join()


def test_a_server_that_says_nothing_ends_at_the_deadline(server):
    registry = PostgresRegistry(server.dsn, timeout_s=0.5)
    registry.put("a", {"n": 1})
    stopped = [server.pid, *children(server.pid)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        for call in (lambda: registry.get("a"), lambda: registry.put("a", {"n": 2})):
            begun = time.monotonic()
            with pytest.raises((errors.DeadlineError, errors.UnavailableError)):
                call()
            assert time.monotonic() - begun < 5.5
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert PostgresRegistry(server.dsn).get("a").revision == 1


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def test_a_lock_that_is_never_given_up_ends_at_the_deadline(url):
    registry = PostgresRegistry(url)
    registry.put("a", {"n": 1})
    waiting = PostgresRegistry(url, timeout_s=0.5)
    with closing(psycopg.connect(url.partition("?")[0])) as db:
        db.execute("select pg_advisory_xact_lock(%s)", (registry._everybody,))
        assert waiting.get("a").document == {"n": 1}
        with pytest.raises(errors.DeadlineError):
            waiting.put("a", {"n": 2})
    waiting.close()
    registry.put("a", {"n": 3})
    registry.close()


class Wire:
    """Between a client and the server: counts how often the client asks and waits, and can lose an answer."""

    def __init__(self, port):
        self.asked, self.lose, self.lost = 0, -1, 0
        self._to, self._listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        postgres._connections.close()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._relay, args=(client,)))
                self._threads[-1].start()

    def _relay(self, client):
        said, state = b"", "login"
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            other = {client: server, server: client}
            with contextlib.suppress(OSError):
                while True:
                    for source in select.select([client, server], [], [])[0]:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        if source is client:
                            said, state = self._listen(said + data, state)
                        elif self.asked == self.lose:
                            self.lose, self.lost = -1, self.lost + 1
                            return
                        other[source].sendall(data)

    def _listen(self, said, state):
        """Count what asks for an answer: the end of a pipeline, or a flush, after a query. What is left is told."""
        while True:
            start = 0 if state == "login" else 1
            length = start + int.from_bytes(said[start : start + 4])
            if len(said) < max(8 - 3 * start, length):
                return said, state
            if state == "login":
                # What is no version (3.0) asks for TLS.
                state = "quiet" if int.from_bytes(said[4:8]) >> 16 == 3 else "login"
            elif said[:1] in (b"P", b"B", b"E"):
                state = "query"
            elif said[:1] in (b"S", b"H", b"Q"):
                self.asked += state == "query" or said[:1] == b"Q"
                state = "quiet"
            said = said[length:]

    def url(self, url):
        return url.replace(f":{self._to}/", f":{self.port}/")


def test_a_read_is_one_request_and_a_commit_two(url, postgres_server):
    with Wire(postgres_server.port) as wire, open_registry(wire.url(url)) as registry:
        registry.commit([Put(f"k{n}", {"metadata": {"n": n}}) for n in range(3)])
        for calls, asked in (
            (lambda: registry.get("k1"), 1),
            (lambda: list(registry.list()), 1),
            (lambda: list(registry.history("k1")), 1),
            (lambda: registry.put("k1", {"n": 2}), 2),
            (lambda: registry.commit([Put("k2", {}), Put("k3", {})]), 2),
        ):
            before = wire.asked
            calls()
            assert wire.asked - before == asked


def test_a_commit_whose_answer_was_lost_is_one(url, postgres_server):
    """Promise 3: the connection breaks before, in and after the commit; the change is there once."""
    with Wire(postgres_server.port) as wire, open_registry(wire.url(url)) as registry:
        registry.put("a", {"n": 0})
        for n in range(1, 9):
            wire.lose = wire.asked + 1 + n % 2  # the locks or the commit
            assert registry.put("a", {"n": n}, when=Match(str(n))).revision == n + 1
            assert wire.lost == n
    assert [change.document["n"] for change in open_registry(url).history("a")] == list(range(9))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_leaves_the_parents_connection_alone(registry):
    registry.put("a", {"n": 1})
    (before,) = [id(db) for _, _, db in postgres._connections._idle]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            registry.put("child", registry.get("a").document)
            registry.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [record.key for record in registry.list()] == ["a", "child"]
    assert [id(db) for _, _, db in postgres._connections._idle] == [before]


def test_a_listing_of_changes_waits_for_those_under_way(url, registry):
    """Promise 12: numbers given out before are told before, whoever commits first."""
    stop = threading.Event()

    def write(n):
        with open_registry(url) as mine:
            while not stop.is_set():
                mine.commit([Put(f"{n}/a", {}), Put("shared", {"by": n}), Put(f"{n}/b", {})])

    registry.put("shared", {})
    with ThreadPoolExecutor(4) as pool:
        try:
            writers = [pool.submit(write, n) for n in range(4)]
            for _ in range(20):
                seen = {}
                for change in registry.changes():
                    assert change.revision == seen.get(change.key, 0) + 1
                    seen[change.key] = change.revision
        finally:
            stop.set()
        for writer in writers:
            writer.result()


def test_nothing_is_told_standard_error_where_there_are_no_tables(registry, monkeypatch, caplog):
    """Also where the server's refusal is there before the last statement is sent."""
    real = postgres._Session._execute

    def slow(self, statement, values):
        cursor = real(self, statement, values)
        time.sleep(0.05)
        return cursor

    monkeypatch.setattr(postgres._Session, "_execute", slow)
    assert registry.find("a") is None
    assert list(registry.list()) == []
    registry.put("a", {"n": 1})
    assert not [record for record in caplog.records if record.name.startswith("psycopg")]
