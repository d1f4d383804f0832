"""SQLite as the registry: the shipped suite, and what is its own."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rh import config, errors
from rh.registry import default, local, open_registry
from rh.registry.base import Put
from rh.registry.filters import F
from rh.registry.sql import sqlite
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.testing.registry import RegistrySuite


class TestSQLite(RegistrySuite):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite://{tmp_path}/deep/registry.db"


@pytest.fixture
def registry(tmp_path):
    return SQLiteRegistry(tmp_path / "registry.db")


def test_reading_creates_nothing(registry):
    assert list(registry.list()) == []
    assert registry.find("a") is None
    assert not registry.path.parent.joinpath("registry.db").exists()


def test_the_default_is_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RH_HOME", str(tmp_path / "h"))
    monkeypatch.delenv("RH_REGISTRY", raising=False)
    assert default().url == local().url == f"sqlite://{tmp_path}/h/registry.db"
    monkeypatch.setenv("RH_REGISTRY", f"sqlite:///{tmp_path}/team.db")
    assert default().url == f"sqlite://{tmp_path}/team.db"
    monkeypatch.setenv("RH_REGISTRY", "sqlite:///~/team.db")
    assert default().url == "sqlite://" + os.path.expanduser("~/team.db")


@pytest.mark.parametrize("url", ["mysql://h/db", "odd://x"])
def test_other_schemes_say_what_there_is(url):
    with pytest.raises(errors.UnsupportedError, match=r"there is: sqlite:///path"):
        open_registry(url)


@pytest.mark.parametrize("url", ["registry.db", "sqlite://", "sqlite:///", "sqlite://rel/x.db", ""])
def test_a_bad_url_is_refused(url):
    with pytest.raises(errors.InvalidError, match="sqlite:///"):
        open_registry(url)


def test_a_secret_in_the_url_of_a_registry_is_not_repeated():
    with pytest.raises(errors.UnsupportedError) as caught:
        open_registry("mysql://me:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


def test_a_newer_schema_is_refused_and_left_alone(registry):
    registry.put("a", {"n": 1})
    with closing(sqlite3.connect(registry.path)) as db:
        db.execute(f"pragma user_version = {len(sqlite.MIGRATIONS) + 1}")
        db.execute("pragma wal_checkpoint(truncate)")
    before = registry.path.read_bytes()
    for call in (
        lambda: registry.get("a"),
        lambda: registry.put("a", {"n": 2}),
        lambda: list(registry.list()),
        lambda: list(registry.history("a")),
        lambda: registry.delete("a"),
    ):
        with pytest.raises(errors.UnsupportedError, match=r"schema 3; .*up to 2") as caught:
            call()
        assert caught.value.hint == "upgrade rh-data"
    assert registry.path.read_bytes() == before


def test_an_older_schema_is_brought_up_in_place(registry, monkeypatch):
    registry.put("a", {"n": 1})
    registry.put("a", {"n": 2})
    step = ("alter table changes add column note text", "update changes set note = 'seen'")
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, step))
    assert registry.get("a").document == {"n": 2}
    registry.put("a", {"n": 3})
    assert [change.document for change in registry.history("a")] == [{"n": 1}, {"n": 2}, {"n": 3}]
    with closing(sqlite3.connect(registry.path)) as db:
        assert db.execute("pragma user_version").fetchone() == (3,)
        assert db.execute("select count(*) from changes where note = 'seen'").fetchone() == (2,)


def test_a_migration_that_fails_changes_nothing(registry, monkeypatch):
    registry.put("a", {"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(
            sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, ("create table extra (x)", "select no_such_function()"))
        )
        with pytest.raises(errors.UnavailableError, match=r"no_such_function"):
            registry.get("a")
    assert registry.get("a").document == {"n": 1}
    with closing(sqlite3.connect(registry.path)) as db:
        assert db.execute("select name from sqlite_master where name = 'extra'").fetchone() is None


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table bookmarks (url)")
    before = path.read_bytes()
    with pytest.raises(errors.InvalidError, match="something else") as caught:
        SQLiteRegistry(path).put("a", {})
    assert caught.value.hint == "name another file in RH_REGISTRY"
    assert path.read_bytes() == before
    here = config.home() / "registry.db"  # which RH_REGISTRY does not move
    here.parent.mkdir(exist_ok=True)
    path.rename(here)
    with pytest.raises(errors.InvalidError, match="something else") as caught:
        local().get("a")
    assert caught.value.hint == f"move {here} away, or set RH_HOME to another directory"


def test_a_damaged_file_is_an_integrity_error(registry):
    registry.path.write_bytes(b"this is not a database, whatever its name says" * 100)
    for call in (lambda: registry.get("a"), lambda: registry.put("a", {})):
        with pytest.raises(errors.IntegrityError, match="damaged") as caught:
            call()
        assert caught.value.where == registry.url
    assert registry.path.read_bytes().startswith(b"this is not a database")


def test_a_damaged_page_is_an_integrity_error(registry):
    registry.put("a", {"x": "y" * 60000})
    registry.close()
    data = bytearray(registry.path.read_bytes())
    data[4096:8192] = b"\xa5" * 4096
    data[4096 * 2 :] = b"\xa5" * (len(data) - 4096 * 2)
    registry.path.write_bytes(data)
    with pytest.raises(errors.IntegrityError):
        registry.get("a")


def test_a_damaged_record_is_an_integrity_error(registry):
    registry.put("a", {"n": 1})
    with closing(sqlite3.connect(registry.path, isolation_level=None)) as db:
        db.execute("update changes set document = '{\"n\": '")
    with pytest.raises(errors.IntegrityError, match="'a' is damaged"):
        registry.get("a")


def test_a_place_that_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    registry = SQLiteRegistry(tmp_path / "file" / "registry.db")
    for call in (lambda: registry.get("a"), lambda: registry.put("a", {})):
        with pytest.raises(errors.AccessError, match="Not a directory") as caught:
            call()
        assert "RH_HOME" in caught.value.hint
    with pytest.raises(errors.AccessError):
        SQLiteRegistry(tmp_path).put("a", {})


def test_a_place_somebody_else_owns(tmp_path, tmp_path_factory):
    """As a user without rights there: reading works where reading is allowed, writing is an `AccessError`."""
    registry, warm = SQLiteRegistry(tmp_path / "registry.db"), tmp_path_factory.mktemp("warm")
    registry.put("a", {"n": 1})
    code = (
        "import os, sys\nfrom rh import errors\nfrom rh.registry.sql.sqlite import SQLiteRegistry\n"
        "SQLiteRegistry(sys.argv[3]).put('warm', {})\n"  # imports what it needs while it may
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "registry = SQLiteRegistry(sys.argv[1])\n"
        "for call in (lambda: registry.put('a', {'n': 2}), lambda: SQLiteRegistry(sys.argv[2]).put('a', {})):\n"
        "    try: call()\n    except errors.AccessError as error: print('refused', error.hint is not None)\n"
    )
    for directory in (tmp_path, *tmp_path.parents):
        if (
            directory.stat().st_uid == os.getuid()
            and directory != directory.parent
            and not directory.stat().st_mode & 0o001
        ):
            directory.chmod(0o755)
    registry.path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, (registry.path, tmp_path / "new" / "r.db", warm / "r.db"))],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "RH_HOME": "/nowhere"},
        )
    finally:
        tmp_path.chmod(0o755)
        registry.path.chmod(0o644)
    assert done.stdout == "refused True\nrefused True\n", done.stderr
    assert registry.get("a").document == {"n": 1}


def test_a_lock_that_is_never_given_up_ends_at_the_deadline(registry):
    registry.put("a", {"n": 1})
    waiting = SQLiteRegistry(registry.path, timeout_s=0.3)
    with closing(sqlite3.connect(registry.path, isolation_level=None)) as db:
        db.execute("begin immediate")
        assert waiting.get("a").document == {"n": 1}
        with pytest.raises(errors.DeadlineError, match=r"locked for 0\.3 s"):
            waiting.put("a", {"n": 2})
        db.execute("rollback")
    waiting.put("a", {"n": 3})


def test_a_full_disk_is_a_full_error(registry, monkeypatch):
    registry.put("a", {"n": 1})
    connected = SQLiteRegistry._connected

    @contextmanager
    def small(self, deadline, *, write):
        with connected(self, deadline, write=write) as db:
            db.execute("pragma max_page_count = 1")
            yield db

    monkeypatch.setattr(SQLiteRegistry, "_connected", small)
    with pytest.raises(errors.FullError):
        registry.put("b", {"x": "y" * 500_000})
    monkeypatch.undo()
    assert [record.key for record in registry.list()] == ["a"]


def test_the_file_and_its_directory_are_private(tmp_path, monkeypatch):
    monkeypatch.setenv("RH_HOME", str(tmp_path / "home"))
    local().put("a", {})
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0


def test_a_new_registry_is_told_of_once_unless_it_is_this_machines_own(registry, tmp_path, monkeypatch, caplog):
    """A misspelt path looks like a new registry."""
    monkeypatch.setenv("RH_HOME", str(tmp_path / "home"))
    local().put("a", {})
    assert not caplog.messages
    assert not list(registry.list())
    registry.put("a", {})
    registry.put("b", {})
    assert caplog.messages == [f"a new registry was begun at {registry.url}"]


def test_write_ahead_logging_unless_the_disk_is_a_networks(registry, monkeypatch, caplog):
    registry.put("a", {})
    with closing(sqlite3.connect(registry.path)) as db:
        assert db.execute("pragma journal_mode").fetchone() == ("wal",)
    monkeypatch.setattr(sqlite, "on_network", lambda path: True)
    other = SQLiteRegistry(registry.path.with_name("shared.db"))
    other.put("a", {})
    with closing(sqlite3.connect(other.path)) as db:
        assert db.execute("pragma journal_mode").fetchone() == ("delete",)
    assert "file:///directory is the kind of registry for a shared disk" in caplog.messages[-1]


def descriptors(path):
    """How many descriptors of this process are open on a file or what SQLite puts beside it."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sum(one.startswith(str(path)) for one in found)


def test_few_descriptors_stay_open_and_none_after_close(registry, tmp_path):
    registry.put("a", {})
    few = descriptors(tmp_path)
    for n in range(20):
        registry.put("a", {"n": n})
        registry.get("a")
        next(registry.list())
    assert 0 < descriptors(tmp_path) <= few + 3
    for n in range(30):
        SQLiteRegistry(tmp_path / f"{n}.db").put("a", {})
    assert descriptors(tmp_path) <= 9 * 3
    for path in tmp_path.glob("*.db"):
        SQLiteRegistry(path).close()
    assert descriptors(tmp_path) == 0


def test_a_file_that_was_replaced_is_noticed(registry, tmp_path):
    registry.put("a", {"n": 1})
    other = SQLiteRegistry(tmp_path / "other.db")
    other.put("a", {"n": 2})
    other.close()
    os.replace(other.path, registry.path)
    for left in ("-wal", "-shm"):
        registry.path.with_name(registry.path.name + left).unlink()
    assert registry.get("a").document == {"n": 2}
    registry.put("a", {"n": 3})
    registry.close()
    assert [change.document for change in registry.history("a")] == [{"n": 2}, {"n": 3}]
    registry.path.unlink()
    assert list(registry.list()) == []


def test_an_idle_connection_crosses_no_fork(registry, tmp_path):
    registry.put("a", {"n": 1})
    assert descriptors(tmp_path) > 0
    child = os.fork()
    if child == 0:
        os._exit(descriptors(tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert registry.get("a").document == {"n": 1}


@pytest.fixture
def released(tmp_path):
    """A registry as schema 1 wrote it."""
    path = tmp_path / "released.db"
    shutil.copy(Path(__file__).parents[1] / "compat" / "registry-schema-1.db", path)
    return SQLiteRegistry(path)


def test_the_first_schema_is_read_and_brought_up(released):
    """Promise 37."""
    with closing(sqlite3.connect(released.path)) as db:
        assert db.execute("pragma user_version").fetchone() == (1,)
    assert [record.key for record in released.list()] == ["resources/~/probe", "resources/~/train", "resources/é"]
    train = released.get("resources/~/train")
    assert (train.revision, train.author, train.time) == (2, "bob", 1780000001.25)
    assert train.document["metadata"]["big"] == 2**64 - 1
    assert [(c.revision, c.author, c.action) for c in released.history("gone")] == [
        (1, "ada", "put"),
        (2, "bob", "delete"),
    ]
    assert [record.key for record in released.search(F.stage == "train")] == ["resources/~/train"]
    assert [record.key for record in released.search((F.ids == 7) & (F.big > 2**64 - 2))] == ["resources/~/train"]
    assert list(released.search(F.ids == 5)) == []
    assert [record.key for record in released.search(~F.stage.exists())] == ["resources/é"]
    released.put("resources/~/train", {"metadata": {"stage": "test"}})
    assert [r.key for r in released.search(F.stage == "test")] == ["resources/~/probe", "resources/~/train"]
    again = released.commit([Put("resources/~/train", {})], token="new")
    assert again[0].revision == 4
    with pytest.raises(errors.InvalidError, match="token"):
        released.put("resources/~/train", {}, token="t1")
    with closing(sqlite3.connect(released.path)) as db:
        assert db.execute("pragma user_version").fetchone() == (2,)


def test_two_bring_it_up_at_once(released, python):
    code = "import sys; from rh.registry import open_registry; print(len(list(open_registry(sys.argv[1]).list())))"
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: python(code, released.url), range(4)))
    assert told == ["3\n"] * 4
    assert [record.key for record in released.search(F.stage == "train")] == ["resources/~/train"]
