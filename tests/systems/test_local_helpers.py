"""Many small files on a disk: helper processes take part, and nothing depends on them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rh import digest
from rh.errors import AccessError, ConflictError, NameClashError, NotFoundError
from rh.systems.local import LocalSystem, helpers, plain
from rh.testing.systems import by_key
from rh.types import Entry, Files, Location

FILES = 1000
PER_FOLDER = 25


def open_at(path, **settings):
    return LocalSystem.open(Location("file", str(path)), {"kind": "file", "timeout_s": 20.0, **settings})


def children():
    """The processes that this one has started and not yet seen end."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # a thread that an earlier test left, and that has ended by now
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


def debris(path):
    return [str(one) for one in Path(path).rglob(".rh-tmp-*")]


def content(number):
    return b"%d " % number * (number % 300)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(helpers, "cores", lambda: 2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "from"
    for number in range(FILES):
        path = root / f"d{number // PER_FOLDER:03}" / f"f{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
        path.chmod(0o755 if number % 7 == 0 else 0o644)
    return root


@pytest.fixture
def source(tree):
    return open_at(tree)


@pytest.fixture
def target(tmp_path):
    return open_at(tmp_path / "to")


@pytest.fixture
def entries(source):
    return list(source.list())


def number_of(key):
    return int(key[-5:])


def check(target, outcomes):
    """Everything has arrived, as it was, and the outcomes say so."""
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert len(outcomes) == FILES
    listed = {entry.key: entry for entry in target.list()}
    assert len(listed) == FILES
    for outcome in outcomes:
        data = content(number_of(outcome.key))
        assert Path(target.root.at(outcome.key)).read_bytes() == data
        assert outcome.digest == digest.of_bytes(data).text
        assert outcome.entry == listed[outcome.key]
        assert outcome.entry.executable is (number_of(outcome.key) % 7 == 0)
    assert debris(target.root.path) == []


class Watch:
    """Hands items on, and does something once at the `at`th."""

    def __init__(self, items, at=700, do=lambda: None):
        self.items, self.at, self.do = items, at, do
        self.seen = set()

    def __iter__(self):
        before = children()
        for number, item in enumerate(self.items):
            self.seen |= children() - before if number % 100 == 0 else set()
            if number == self.at:
                self.seen |= children() - before
                self.do()
            yield item


def pairs(entries, prefix=""):
    return [(entry, prefix + entry.key) for entry in entries]


# What they do


@pytest.mark.slow
@pytest.mark.parametrize("existing", [False, True], ids=["into nothing", "over what is there"])
def test_a_copy_has_help(source, target, entries, existing):
    if existing:
        for entry in entries:
            target.write(entry.key, b"before", executable=False)
    before = children()
    watch = Watch(pairs(entries))
    check(target, list(target.copy_many(source, watch)))
    assert len(watch.seen) == 1
    assert children() <= before


def test_digests_have_help(source, entries):
    before = children()
    watch = Watch(entries)
    outcomes = list(source.digest_many(watch))
    assert {outcome.key: outcome.digest for outcome in outcomes} == {
        entry.key: digest.of_bytes(content(number_of(entry.key))).text for entry in entries
    }
    assert [outcome.entry for outcome in sorted(outcomes)] == sorted(entries)
    assert len(watch.seen) == 1
    assert children() <= before


def test_few_files_need_none(source, target, entries):
    watch = Watch(pairs(entries[:200]))
    assert len(list(target.copy_many(source, watch))) == 200
    assert watch.seen == set()


def test_replaced_files_keep_their_permissions(source, target, entries):
    """Also those that a helper replaces."""
    list(target.copy_many(source, pairs(entries)))
    for entry in entries:
        os.chmod(target.root.at(entry.key), 0o600)
    assert all(outcome.error is None for outcome in target.copy_many(source, pairs(entries)))
    modes = {os.stat(target.root.at(entry.key)).st_mode & 0o777 for entry in entries}
    assert modes == {0o600, 0o700}


# Nothing depends on them


def no_interpreter(tmp_path, monkeypatch, script):
    program = tmp_path / "python3"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "not a program",
        "#!/bin/sh\nexit 3\n",
        "#!/bin/sh\nread x; echo what do you want from me\n",
        "#!/bin/sh\necho; echo; echo; exec cat\n",
    ],
)
def test_without_helpers_all_is_done_here(source, target, entries, tmp_path, monkeypatch, script):
    """What is started may be anything at all, as long as it is ours to end."""
    no_interpreter(tmp_path, monkeypatch, script)
    source, target = (open_at(one.root.path, timeout_s=1.0) for one in (source, target))
    before = children()
    check(target, list(target.copy_many(source, pairs(entries))))
    assert len(list(source.digest_many(entries))) == FILES
    assert children() <= before


@pytest.mark.parametrize("executable", ["", "/nowhere/python3", "/bin/sh"])
def test_where_no_interpreter_is_known(source, target, entries, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    watch = Watch(pairs(entries))
    check(target, list(target.copy_many(source, watch)))
    assert watch.seen == set()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
@pytest.mark.parametrize("existing", [False, True], ids=["into nothing", "over what is there"])
def test_a_helper_that_ends_or_hangs_loses_nothing(source, target, entries, how, existing):
    """Its work is done again, in place of whatever it left."""
    if existing:
        list(target.copy_many(source, pairs(entries)))
    before = children()
    source, target = (open_at(one.root.path, timeout_s=1.0) for one in (source, target))
    killed = []

    def kill():
        killed.extend(children() - before)
        for pid in killed:
            os.kill(pid, how)

    check(target, list(target.copy_many(source, Watch(pairs(entries), do=kill))))
    assert len(killed) == 1
    assert children() <= before
    killed.clear()
    outcomes = list(source.digest_many(Watch(entries, do=kill)))
    assert len(killed) == 1
    assert {outcome.error for outcome in outcomes} == {None}
    assert {outcome.key for outcome in outcomes} == {entry.key for entry in entries}
    assert children() <= before


@pytest.mark.slow
def test_errors_are_the_same_with_and_without(tree, target, monkeypatch, tmp_path):
    """Whatever is not plain is told by the same code in the same words."""
    source = open_at(shutil.copytree(tree, tmp_path / "from"))
    entries = list(source.list())
    spoilt = {
        "changed": lambda path: path.write_bytes(b"something else"),
        "gone": os.unlink,
        "out": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
        "in": lambda path: (path.unlink(), path.symlink_to("../d000/f00001")),
        "dir": lambda path: (path.unlink(), path.mkdir()),
        "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
        "grown": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    }
    odd = {}
    for number, (what, spoil) in enumerate(spoilt.items()):
        for at in range(300 + number, FILES, 130):
            spoil(Path(source.root.at(entries[at].key)))
            odd[entries[at].key] = what
    (tmp_path / "to").mkdir()
    (tmp_path / "to/d005").write_bytes(b"a file where a directory must be")
    odd_keys = [Entry("d999/missing", 3, "file", "3-1-1-1"), Entry("../x", 3, "file", "3-1-1-1")]
    asked = [*entries, *odd_keys]

    def told(outcomes):
        return {key: (str(outcome.error), outcome.digest) for key, outcome in by_key(outcomes).items()}

    def both(road):
        monkeypatch.setattr(helpers, "cores", lambda: 1)
        alone = told(road(asked))
        monkeypatch.setattr(helpers, "cores", lambda: 2)
        watch = Watch(asked)
        helped = told(road(watch))
        assert len(watch.seen) == 1
        assert helped == alone
        assert len(helped) == len(asked)
        return helped

    digests = both(source.digest_many)
    copies = both(lambda asked: target.copy_many(source, ((entry, entry.key) for entry in asked)))
    wrong = {key for key, (error, _) in copies.items() if error != "None"}
    blocked = {entry.key for entry in entries if entry.key.startswith("d005/")}
    assert wrong == set(odd) | blocked | {"d999/missing", "../x"}
    wrong = {key for key, (error, _) in digests.items() if error != "None"}
    assert wrong == {key for key, what in odd.items() if what not in ("changed", "grown", "in")} | {
        "d999/missing",
        "../x",
    }
    errors = by_key(target.copy_many(source, ((entry, entry.key) for entry in asked)))
    kinds = {odd[key]: type(errors[key].error) for key in odd if key not in blocked}
    assert kinds["changed"] is ConflictError
    assert kinds["gone"] is NotFoundError
    assert kinds["out"] is NameClashError
    assert debris(target.root.path) == []


# Listings


@pytest.fixture(scope="module")
def odd_tree(tmp_path_factory):
    """Directories with what is not plain among them, several of each, so that a helper comes to some."""
    root = tmp_path_factory.mktemp("odd") / "tree"
    for number in range(60):
        here = root / f"d{number:02}"
        (here / "below" / "deep").mkdir(parents=True)
        for file in range(30):
            (here / f"f{file:02}").write_bytes(content(file))
            (here / "below" / f"f{file:02}").write_bytes(content(file))
        (here / "below-").touch()  # sorts before what is in `below/`
        match number % 12:
            case 1:
                (here / "link").symlink_to("f00")
            case 2:
                (here / "to").symlink_to("below")
            case 3:
                os.mkfifo(here / "pipe")
            case 4:
                (here / ".rh-tmp-x").touch()
            case 5:
                Path(os.fsdecode(os.fsencode(here) + b"/\xff")).touch()
            case 6:
                (here / "\U0001f600").touch()
                (here / "\uffee").mkdir()
            case 7:
                shutil.rmtree(here)
                here.mkdir()
            case 8:
                for file in range(600):
                    (here / "below" / f"g{file}").touch()
            case 9:
                (here / "f03").chmod(0o755)
            case _:
                pass
    return root


@pytest.fixture
def odd(odd_tree):
    return open_at(odd_tree)


def listed(system, monkeypatch, cores, **how):
    """The listing, and the processes that took part."""
    monkeypatch.setattr(helpers, "cores", lambda: cores)
    before, seen, found = children(), set(), []
    pages = system.list_pages(follow=True) if how.pop("follow", False) else ([one] for one in system.list(**how))
    for page in pages:
        seen |= children() - before
        found += page
    assert children() <= before
    return found, seen


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"follow": True}, {"depth": 2}, {"prefix": "d0"}, {"after": "d17/below/f07"}])
def test_a_listing_with_help_is_the_same(odd, monkeypatch, how):
    alone, nobody = listed(odd, monkeypatch, 1, **how)
    helped, somebody = listed(odd, monkeypatch, 2, **how)
    assert helped == alone
    assert len(alone) > 500
    assert (len(nobody), len(somebody)) == (0, 1)
    keys = [os.fsencode(entry.key) for entry in helped]
    assert keys == sorted(set(keys))
    for entry in helped[::50]:
        if entry.kind == "file" and not (entry.etag or "").startswith("~"):
            assert odd.head(entry.key) == entry


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("at", [600, 1500])
def test_a_listing_whose_helper_ends_or_hangs_is_whole(odd, monkeypatch, how, at):
    alone, _ = listed(odd, monkeypatch, 1)
    monkeypatch.setattr(helpers, "cores", lambda: 2)
    before, killed, found = children(), [], []
    for number, entry in enumerate(odd.list()):
        found.append(entry)
        if number == at:
            killed = list(children() - before)
            for pid in killed:
                os.kill(pid, how)
    assert len(killed) == 1
    assert found == alone
    assert children() <= before


@pytest.mark.slow
@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\nread x; echo no\n"])
def test_a_listing_needs_no_helper(odd, tmp_path, monkeypatch, script):
    alone, _ = listed(odd, monkeypatch, 1)
    no_interpreter(tmp_path, monkeypatch, script)
    assert listed(odd, monkeypatch, 2)[0] == alone


@pytest.mark.parametrize("follow", [False, True])
def test_what_is_deleted_while_it_is_listed_is_no_error(odd_tree, tmp_path, follow):
    """Also where a helper had read it before the listing came to it."""
    root = tmp_path / "copy"
    subprocess.run(["cp", "-al", odd_tree, root], check=True)
    odd = open_at(root)
    keys = []
    for number, page in enumerate(odd.list_pages(follow=follow)):
        keys += [entry.key for entry in page]
        if number == 0:
            last = int(keys[-1][1:3])
            for gone in range(last + 2, 60, 2):
                shutil.rmtree(root / f"d{gone:02}")
    for stays in range(last + 1, 60, 2):
        if stays % 12 not in (5, 6, 7):
            assert sum(key.startswith(f"d{stays:02}/below/f") for key in keys) == 30


def test_a_directory_that_must_not_be_read_is_told(odd, monkeypatch):
    if os.geteuid() == 0:
        monkeypatch.setattr(plain, "folder", forbidden(plain.folder))
        monkeypatch.setattr(os, "scandir", forbidden(os.scandir))
    else:
        (Path(odd.root.path) / "d40").chmod(0)
    try:
        with pytest.raises(AccessError, match="d40"):
            listed(odd, monkeypatch, 1)
    finally:
        (Path(odd.root.path) / "d40").chmod(0o755)


def forbidden(function):
    """A superuser may read everything: refuse what others would be refused."""

    def refused(path, *more):
        if str(path).rstrip("/").endswith("d40"):
            raise PermissionError(13, "Permission denied")
        return function(path, *more)

    return refused


# The end


def test_an_abandoned_copy_ends_its_helpers(source, target, entries):
    before = children()
    watch = Watch(iter(entries))
    digests = source.digest_many(watch)
    for _ in range(500):
        next(digests)
    assert len(children() - before) == 1
    digests.close()
    assert children() <= before

    def stop():
        raise KeyboardInterrupt

    watch = Watch(pairs(entries), do=stop)
    with pytest.raises(KeyboardInterrupt):
        list(target.copy_many(source, watch))
    assert len(watch.seen) == 1
    assert children() <= before
    assert debris(target.root.path) == []
    assert list(target.list()) == []


def test_nothing_is_held_open(source, target, entries):
    before = sorted(os.listdir("/proc/self/fd"))
    list(target.copy_many(source, pairs(entries)))
    list(source.digest_many(entries))
    copying = target.copy_many(source, Watch(pairs(entries), do=lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        list(copying)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
def test_a_killed_process_takes_its_helpers_along(source, target, entries):
    """Promise 6: nothing is to be seen but whole files, the rest has hidden names, and `sweep` removes it."""
    script = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent.parent.parent)!r})
        from rh.systems.local import helpers
        from tests.systems.test_local_helpers import Watch, children, open_at, pairs
        helpers.cores = lambda: 2
        source, target = open_at({source.root.path!r}), open_at({target.root.path!r})
        def tell():
            print(*children(), flush=True)
            os.kill(os.getpid(), 9)
        list(target.copy_many(source, Watch(pairs(source.list()), do=tell)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    (helper,) = map(int, done.stdout.split())
    until = time.monotonic() + 10
    while Path(f"/proc/{helper}/stat").exists() and time.monotonic() < until:
        if Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break  # whoever adopted it has not looked yet
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{helper}/stat").exists()
    for entry in target.list():
        assert Path(target.root.at(entry.key)).read_bytes() == content(number_of(entry.key))
    assert debris(target.root.path) != []
    assert target.sweep(older_than_s=3600) == 0
    assert target.sweep() > 0
    assert debris(target.root.path) == []
    check(target, list(target.copy_many(source, pairs(entries))))


def test_a_forked_child_leaves_the_helpers_alone(source, target, entries):
    """A child that has our half of the conversation in its memory lets go of it without a word."""

    def fork():
        child = os.fork()
        if not child:
            try:
                copying.close()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    outcomes = []
    digests = source.digest_many(Watch(entries))
    for _ in range(500):
        outcomes.append(next(digests))
    copying = digests
    fork()
    outcomes.extend(digests)
    assert len({outcome.key for outcome in outcomes}) == FILES
    assert {outcome.error for outcome in outcomes} == {None}


# New directories


def test_a_new_directory_appears_whole(source, target, entries):
    """Whoever sees it sees every file that goes into it with the same batch."""
    stop, seen = threading.Event(), []

    def look():
        while not stop.is_set():
            for name in os.listdir(target.root.path) if os.path.exists(target.root.path) else ():
                if not name.startswith("."):
                    seen.append(len(os.listdir(f"{target.root.path}/{name}")))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        check(target, list(target.copy_many(source, pairs(entries))))
        time.sleep(0.05)
    finally:
        stop.set()
        thread.join()
    assert set(seen) == {PER_FOLDER}


def test_a_directory_that_somebody_else_makes_meanwhile(source, target, entries):
    """The files go there one by one, and what is there stays."""

    def make():
        for number in range(0, 40, 3):
            folder = Path(target.root.path) / f"d{number:03}"
            folder.mkdir()
            (folder / "theirs").write_bytes(b"theirs")
        (Path(target.root.path) / "d001").write_bytes(b"a file")

    outcomes = by_key(target.copy_many(source, Watch(pairs(entries), at=FILES - 1, do=make)))
    blocked = {key for key in outcomes if key.startswith("d001/")}
    assert {key for key, outcome in outcomes.items() if outcome.error} == blocked
    assert {type(outcomes[key].error) for key in blocked} == {NameClashError}
    for entry in entries:
        if entry.key not in blocked:
            assert outcomes[entry.key].entry == target.head(entry.key)
            assert target.read(entry.key).read() == content(number_of(entry.key))
    assert sum(entry.key.endswith("/theirs") for entry in target.list()) == 14
    assert debris(target.root.path) == []


def test_a_link_put_in_while_we_work(source, target, entries, tmp_path):
    """A directory of the target that is swapped for a link out of it gets nothing, helper or not."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = Path(target.root.path)
    for number in range(40):
        (root / f"d{number:03}").mkdir(parents=True)

    def swap():
        for number in range(20, 40):
            (root / f"d{number:03}").rmdir() if not os.listdir(root / f"d{number:03}") else None
            if not (root / f"d{number:03}").exists():
                (root / f"d{number:03}").symlink_to(outside)

    outcomes = by_key(target.copy_many(source, Watch(pairs(entries), at=600, do=swap)))
    assert os.listdir(outside) == []
    wrong = {key: outcome.error for key, outcome in outcomes.items() if outcome.error}
    assert wrong
    assert {type(error) for error in wrong.values()} == {NameClashError}
    assert debris(target.root.path) == []


@pytest.mark.parametrize("cores", [1, 2])
def test_plain_files_are_listed_by_column(cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with anything else in it is none of theirs; those after it are."""
    monkeypatch.setattr(helpers, "cores", lambda: cores)
    (tmp_path / "a").mkdir()
    for folder in "bcd":
        (tmp_path / folder).mkdir()
        for number in range(1_300):
            (tmp_path / folder / f"{number:04}").touch()
    system = LocalSystem.open(Location("file", str(tmp_path)), {"kind": "file"})
    first, *others = system.list_pages()
    assert first[0] == Entry("a/", 0, "dir")
    assert not isinstance(first, Files)
    assert {type(page) for page in others} == {Files}
    assert [entry for page in (first, *others) for entry in page] == list(system.list())
    one = others[0][7]
    assert one == system.head(one.key) == others[0][5:10][2]
    assert others[0][-1] == [*others[0]][-1]
