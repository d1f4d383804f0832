"""Git repositories, over Git's own smart HTTP server, from disk and through sshd."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from rh import config, observe
from rh.errors import (
    AccessError,
    ConflictError,
    FullError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems import locate, open_system, settings_of
from rh.systems.abilities import Following
from rh.systems.git import GitSystem
from rh.testing.systems import SystemSuite
from rh.types import Entry, Location, Match

FILES = {
    "README.md": b"# hi\r\n",
    "data/a b.csv": b"1,2\n",
    "data/deep/x.bin": bytes(range(256)) * 999,
    "data-1": b"",
    "ü/é": b"u",
}


def git(url: str, **settings: object) -> GitSystem:
    location = locate(url)
    return GitSystem.open(location, {**settings_of(location.system), "timeout_s": 10.0, **settings})


@pytest.fixture
def repository(git_server):
    name = f"team/r{len(os.listdir(git_server.root / 'team')) if (git_server.root / 'team').exists() else 0}"
    git_server.make_repository(name)
    run, links = frozenset({"README.md"}), {"data/link": "../README.md"}
    first = git_server.commit(name, FILES, tag="v1", executable=run, links=links)
    return git_server, name, first


def url_of(repository, ref=""):
    server, name, _ = repository
    return f"git+{server.url}/{name}.git{ref}"


class TestConformance(SystemSuite):
    """The promises of the contract, over HTTP, as far as something that is only read keeps them."""

    keeps = frozenset({"links", "executable"})
    abilities = frozenset({Following})
    flat = False
    writable = False

    @pytest.fixture
    def system(self, repository):
        server, name, _ = repository
        server.commit(name, {"base/.rh-keep": b""}, branch="work")
        self.place = server, name
        location = Location("site", f"{name}@work/base")
        with GitSystem.open(location, {**server.settings(), "name": "site", "timeout_s": 10.0}) as system:
            yield system

    def put(self, system, tree):
        server, name = self.place
        server.commit(name, {f"base/{key}": data for key, data in tree.items()}, branch="work")
        system._repository.__init__(system._repository.url, "work", system.settings, "site")

    def link(self, system, links):
        server, name = self.place
        links = {f"base/{key}": target for key, target in links.items()}
        server.commit(name, {}, branch="work", links=links)
        system._repository.__init__(system._repository.url, "work", system.settings, "site")

    def test_read_match(self, system):
        """A handle stays on its commit: what it read it reads again, whatever is pushed (3)."""
        self.put(system, {"f": b"one"})
        first = system.head("f")
        server, name = self.place
        server.commit(name, {"base/f": b"two!"}, branch="work")
        assert system.read("f", when=Match(first.etag)).read() == b"one"
        later = self.again(system)
        assert later.read("f").read() == b"two!"
        with pytest.raises(ConflictError):
            later.read("f", when=Match(first.etag))


def test_a_tree_is_listed_exactly(repository):
    with git(url_of(repository)) as system:
        entries = {entry.key: entry for entry in system.list()}
        assert list(entries) == ["README.md", "data-1", "data/a b.csv", "data/deep/x.bin", "data/link", "ü/é"]
        assert entries["README.md"].executable is True
        assert entries["data-1"].executable is False
        link = entries["data/link"]
        assert (link.kind, link.target, link.size) == ("link", "../README.md", 12)
        assert [e.key for e in system.list(depth=1)] == ["README.md", "data-1", "data/", "ü/"]
        for key, data in FILES.items():
            assert system.read(key).read() == data
            assert entries[key].size == len(data)
            sha = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            assert entries[key].etag == sha
        assert system.read("data/link").read() == FILES["README.md"], "reading goes through links"


def test_links_are_followed_inside_the_repository(repository):
    server, name, _ = repository
    links = {"all": "data", "data.link": "ü/../data/deep", "two": "all/link"}
    server.commit(name, {"data.z": b"z"}, branch="links", links={**links, "data/link": "../README.md"})
    server.commit(name, FILES, branch="links")
    system = git(url_of(repository, "@links"))
    followed = list(system.list_following())
    below = ["a b.csv", "deep/x.bin", "link"]
    keys = ["README.md", *(f"all/{key}" for key in below), "data-1", "data.link/x.bin", "data.z"]
    assert [e.key for e in followed] == [*keys, *(f"data/{key}" for key in below), "two", "ü/é"]
    assert {e.kind for e in followed} == {"file"}
    for entry in followed:
        assert len(system.read(entry.key).read()) == entry.size
    assert system.read("all/deep/x.bin").read() == FILES["data/deep/x.bin"]
    assert [e.key for e in system.at("all").list()] == below
    assert [e.key for e in system.list_following("data.", depth=1)] == ["data.link/", "data.z"]
    for target in ("..", "../../etc", "/etc", "gone", "self", "."):
        server.commit(name, {}, branch="links", links={"self": target}, message=target)
        system = git(url_of(repository, "@links"))
        assert [e.target for e in system.list_following() if e.kind == "link"] == [target], "it is not followed"
        assert system.head("self").target == target


@pytest.mark.parametrize("kind", ["branch", "tag", "commit", "full name", "slash"])
def test_any_ref(repository, kind):
    server, name, first = repository
    server.commit(name, {"new": b"on main"})
    server.commit(name, {"odd": b"x"}, branch="feature/x")
    ref, key = {
        "branch": ("@main", "new"),
        "tag": ("@v1", "README.md"),
        "commit": (f"@{first}", "README.md"),
        "full name": ("@refs%2Ftags%2Fv1", "README.md"),
        "slash": ("@feature%2Fx", "odd"),
    }[kind]
    keys = {entry.key for entry in git(url_of(repository, ref)).list()}
    assert key in keys
    assert ("new" in keys) == (kind == "branch")


def test_a_sub_path(repository):
    system = git(url_of(repository, "@v1/data"))
    assert [e.key for e in system.list()] == ["a b.csv", "deep/x.bin", "link"]
    assert system.at("deep").read("x.bin").read() == FILES["data/deep/x.bin"]
    with pytest.raises(NotFoundError, match="nothing"):
        git(url_of(repository, "@v1/nope")).list()
    with pytest.raises(NotFoundError, match="not a directory"):
        git(url_of(repository, "@v1/README.md")).list()


def test_owner_and_repository_below_an_endpoint(repository):
    server, name, _ = repository
    config.register("forge", server.settings())
    location = Location("forge", f"{name}@v1/data")
    system = GitSystem.open(location, config.system("forge"))
    assert system.read("a b.csv").read() == b"1,2\n"
    assert system._repository.url == f"{server.url}/{name}.git"
    config.register("pinned", {"kind": "git", "url": f"git+{server.url}/{name}.git", "ref": "v1"})
    assert GitSystem.open(Location("pinned", "data"), config.system("pinned")).read("a b.csv").read() == b"1,2\n"
    with pytest.raises(InvalidError, match="owner/repo"):
        GitSystem.open(Location("forge", "alone"), config.system("forge"))


def test_github_means_github():
    def parts(url):
        repository = git(url)._repository
        return repository.url, repository.ref

    assert parts("github://a/b") == ("https://github.com/a/b.git", "")
    assert parts("github://a/b.git@main/sub") == ("https://github.com/a/b.git", "main")
    assert parts("github://a/b@feature%2Fx") == ("https://github.com/a/b.git", "feature/x")
    assert parts("git+ssh://git@github.com/a/b.git@v1") == ("ssh://git@github.com/a/b.git", "v1")
    system = GitSystem.open(Location("github", "a/b@v2/data/x"), config.system("github"))
    assert (system._repository.url, system._repository.ref) == ("https://github.com/a/b.git", "v2")
    assert system._root == "data/x"


def test_what_is_here_is_not_fetched_again(repository):
    server, _name, first = repository
    with observe.counting() as counts:
        system = git(url_of(repository))
        list(system.list())
    assert counts.received[system.location.system] > 0
    seen = len(server.requests)
    with observe.counting() as counts:
        assert [e.key for e in git(url_of(repository)).list()]
    assert counts.received[system.location.system] == 0
    assert 0 < len(server.requests) - seen <= 2
    seen = len(server.requests)
    assert git(url_of(repository, f"@{first}")).read("README.md").read() == FILES["README.md"]
    assert len(server.requests) == seen, "a commit that is here needs nobody"


def test_only_one_commit_is_fetched(repository):
    server, name, _ = repository
    noise = os.urandom(300_000)
    server.commit(name, {"big": noise})
    server.commit(name, {"small": b"1"}, removed=frozenset({"big"}))
    with observe.counting() as counts:
        system = git(url_of(repository))
        assert system.read("small").read() == b"1"
    assert 0 < counts.received[system.location.system] < 100_000, "history does not travel"
    received = counts.received[system.location.system]
    server.commit(name, {"small": b"2"})
    with observe.counting() as counts:
        assert git(url_of(repository)).read("small").read() == b"2"
    assert 0 < counts.received[system.location.system] <= received + 1000


def test_a_server_that_gives_no_commit_by_id(repository, git_server):
    server, name, first = repository
    path = server.root / f"{name}.git"
    server.commit(name, {"later": b"1"})
    subprocess.run(["git", "-C", str(path), "tag", "-d", "v1"], check=True, capture_output=True)
    subprocess.run(["git", "-C", str(path), "config", "--unset", "uploadpack.allowAnySHA1InWant"], check=True)
    assert git(url_of(repository, f"@{first}")).read("README.md").read() == FILES["README.md"]


def test_missing_things(repository):
    with pytest.raises(NotFoundError, match="no such repository"):
        git(url_of((repository[0], "team/none", ""))).list()
    with pytest.raises(NotFoundError, match="no branch, tag or commit 'v9'"):
        git(url_of(repository, "@v9")).list()
    with pytest.raises(NotFoundError, match="40 digits"):
        git(url_of(repository, f"@{repository[2][:10]}")).list()
    with pytest.raises(NotFoundError):
        git(url_of(repository, "@" + "0" * 39 + "1")).list()
    system = git(url_of(repository))
    for key in ("nope", "data", "README.md/x", "data/"):
        with pytest.raises(NotFoundError):
            system.head(key)
    for key in ("../x", "/README.md", "data/../README.md"):
        with pytest.raises(NameClashError):
            system.head(key)
    repository[0].make_repository("team/void")
    with pytest.raises(NotFoundError, match="empty"):
        git(url_of((repository[0], "team/void", ""))).list()


def test_what_is_no_url_is_a_typed_error():
    for url in ("git+https://[bad/x.git", "git+ssh://[bad/x.git"):
        with pytest.raises(InvalidError, match="not a URL"):
            git(url)


def test_passwords_in_urls_are_refused():
    with pytest.raises(InvalidError) as caught:
        git("git+https://ada:s3cret@host/x/r.git")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InvalidError, match="not a repository's URL"):
        git("git://host/x/r.git")


def test_a_local_repository_is_read_where_it_is(repository, tmp_path):
    server, name, first = repository
    bare = server.root / f"{name}.git"
    assert git(f"git+file://{bare}@v1").read("README.md").read() == FILES["README.md"]
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(bare), str(clone)], check=True)
    assert git(f"git+file://{clone}@{first}").read("README.md").read() == FILES["README.md"]
    assert not (config.home() / "cache" / "git").exists()
    with pytest.raises(NotFoundError):
        git(f"git+file://{tmp_path}/none.git").list()
    with pytest.raises(NotFoundError, match="no branch"):
        git(f"git+file://{bare}@nope").list()


@pytest.mark.parametrize("name", ["a b.git", "a#b.git", "a?b.git", "a%20b.git"])
def test_a_local_repository_has_the_path_it_has(repository, tmp_path, name):
    """As every `file://` URL here, it is not quoted: `#` and `?` are characters of it."""
    shutil.copytree(repository[0].root / f"{repository[1]}.git", tmp_path / name)
    assert git(f"git+file://{tmp_path / name}@v1").read("README.md").read() == FILES["README.md"]


def test_submodules_are_no_silent_gap(repository, tmp_path):
    server, name, first = repository
    bare = server.root / f"{name}.git"
    words = ["git", "-C", str(bare), "-c", "user.name=x", "-c", "user.email=x@y"]
    empty = subprocess.run([*words, "hash-object", "-w", "--stdin"], input=b"", capture_output=True, check=True)
    lines = f"160000 commit {first}\tmod\n100644 blob {empty.stdout.decode().strip()}\tz\n"
    made = subprocess.run([*words, "mktree"], input=lines.encode(), capture_output=True, check=True)
    tree = made.stdout.decode().strip()
    commit = subprocess.run(
        [*words, "commit-tree", tree, "-m", "m"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with pytest.raises(UnsupportedError, match="submodule") as caught:
        list(git(f"git+file://{bare}@{commit}").list())
    assert first in (caught.value.hint or "")
    assert [e.key for e in git(f"git+file://{bare}@{commit}", submodules="skip").list()] == ["z"]


def test_a_damaged_cache_is_noticed(repository):
    system = git(url_of(repository))
    list(system.list())
    system.close()
    (cache,) = [path for path in (config.home() / "cache" / "git").iterdir() if path.is_dir()]
    (pack,) = (cache / "objects" / "pack").glob("*.pack")
    data = bytearray(pack.read_bytes())
    for at in range(12, len(data) - 20):
        data[at] ^= 0xFF
    pack.chmod(0o600)
    pack.write_bytes(data)
    with pytest.raises(IntegrityError):
        git(url_of(repository)).read("data/deep/x.bin").read()


def test_a_cache_that_was_removed_is_made_again(repository):
    """And what a handle stays on with it, although the branch has moved."""
    system = git(url_of(repository))
    entries = list(system.list())
    system.close()
    server, name, _ = repository
    server.commit(name, {"later": b""})
    shutil.rmtree(config.home() / "cache" / "git")
    assert list(system.list()) == entries


def test_a_cache_that_was_left_half_made_is_made_anew(repository):
    list(git(url_of(repository)).list())
    (cache,) = [path for path in (config.home() / "cache" / "git").iterdir() if path.is_dir()]
    shutil.rmtree(cache)
    (cache / "branches").mkdir(parents=True)  # as a process leaves it that is killed there
    assert git(url_of(repository)).read("README.md").read() == FILES["README.md"]


def test_two_processes_share_one_cache(repository, python):
    _server, _name, _ = repository
    code = (
        "import sys; from rh.systems import *; from rh.systems.git import GitSystem\n"
        "l = locate(sys.argv[1]); s = GitSystem.open(l, settings_of(l.system)); print(len(list(s.list())))"
    )
    results = []
    threads = [threading.Thread(target=lambda: results.append(python(code, url_of(repository)))) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert results == ["6\n"] * 3
    assert len([p for p in (config.home() / "cache" / "git").iterdir() if p.is_dir()]) == 1


def test_through_ssh(repository, ssh_a):
    server, name, _ = repository
    bare = server.root / f"{name}.git"
    more = {key: ssh_a.settings()[key] for key in ("identity_file", "known_hosts_file")}
    url = f"git+ssh://{ssh_a.user}@{ssh_a.host}:{ssh_a.port}{bare}"
    more["config_file"] = "/dev/null"
    system = git(url, **more)
    assert {e.key for e in system.list()} == {*FILES, "data/link"}
    with pytest.raises(AccessError, match="key is unknown"):
        git(f"{url}@v1", **{**more, "known_hosts_file": "/dev/null"}).list()
    with pytest.raises(UnauthenticatedError, match="refused the login"):
        git(f"{url}@v1", **{**more, "identity_file": "/dev/null"}).list()
    with pytest.raises(NotFoundError, match="no such repository"):
        git(f"git+ssh://{ssh_a.user}@{ssh_a.host}:{ssh_a.port}/no/such.git", **more).list()


def test_nobody_there():
    begun = time.monotonic()
    with pytest.raises(UnavailableError):
        git("git+http://127.0.0.1:9/x/r.git").list()
    assert time.monotonic() - begun < 5


# large files


def pointer(data: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
        hashlib.sha256(data).hexdigest().encode(),
        len(data),
    )


@contextmanager
def lfs_server(git_server, objects):
    """The batch API and basic downloads of Git LFS beside a Git server, by one door."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def send(self, status, data, kind):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self):
            if not self.path.endswith("/info/lfs/objects/batch"):
                return git_server._answer(self)
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert asked["operation"] == "download"
            answers = []
            for one in asked["objects"]:
                if one["oid"] in objects:
                    href = f"http://127.0.0.1:{self.server.server_port}/media/{one['oid']}"
                    one["actions"] = {"download": {"href": href, "header": {"X-Ticket": "t1"}}}
                else:
                    one["error"] = {"code": 404, "message": "Object does not exist"}
                answers.append(one)
            return self.send(200, json.dumps({"objects": answers}).encode(), "application/vnd.git-lfs+json")

        def do_GET(self):
            if not self.path.startswith("/media/"):
                return git_server._answer(self)
            assert self.headers["X-Ticket"] == "t1"
            return self.send(200, objects[self.path.rpartition("/")[2]], "application/octet-stream")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_large_files_are_fetched_not_their_pointers(repository):
    server, name, _ = repository
    data = os.urandom(2_000_000)
    lost, bad = b"lost", b"bad bytes"
    server.commit(name, {"m.bin": pointer(data), "lost": pointer(lost), "bad": pointer(bad)})
    oid = hashlib.sha256(data).hexdigest()
    objects = {oid: data, hashlib.sha256(bad).hexdigest(): b"BAD bytes"}
    with lfs_server(server, objects) as url:
        system = git(f"git+{url}/{name}.git")
        entry = system.head("m.bin")
        assert (entry.size, entry.check) == (len(data), f"sha256:{oid}")
        assert {e.key: e.size for e in system.list()}["m.bin"] == len(data)
        assert system.read("m.bin").read() == data
        assert system.read("m.bin", (1000, 2000)).read() == data[1000:2000]
        with pytest.raises(NotFoundError, match="does not have"):
            system.read("lost")
        with pytest.raises(IntegrityError, match="other bytes"):
            system.read("bad")
        with pytest.raises(IntegrityError, match="other bytes"):
            system.read("bad")
    bare = server.root / f"{name}.git"
    local = git(f"git+file://{bare}")
    with pytest.raises(UnsupportedError, match="LFS pointer"):
        local.read("m.bin")
    path = bare / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert local.read("m.bin").read() == data


@pytest.mark.parametrize("damage", [lambda data: b"X" + data[1:], lambda data: data[:1000]], ids=["flipped", "cut"])
def test_a_damaged_large_file_is_never_handed_out(repository, damage, monkeypatch):
    server, name, _ = repository
    data = os.urandom(100_000)
    oid = hashlib.sha256(data).hexdigest()
    server.commit(name, {"m.bin": pointer(data)})
    objects = {oid: data}

    def break_(path):
        path.write_bytes(damage(data))
        os.utime(path, (1_700_000_000,) * 2)

    with lfs_server(server, objects) as url:
        system = git(f"git+{url}/{name}.git")
        assert system.read("m.bin").read() == data
        (path,) = (config.home() / "cache" / "git").glob(f"*/lfs/objects/*/*/{oid}")
        objects.clear()
        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "file_digest", None)
            assert system.read("m.bin", (5, 9)).read() == data[5:9], "it is hashed once, and fetched once"
        break_(path)
        with pytest.raises(NotFoundError, match="does not have"):
            system.read("m.bin")
        objects[oid] = data
        assert system.read("m.bin", (0, 9)).read() == data[:9]
        assert path.read_bytes() == data, "it was fetched again"
    bare = server.root / f"{name}.git"
    path = bare / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    path.parent.mkdir(parents=True)
    break_(path)
    with pytest.raises(IntegrityError, match="damaged") as caught:
        git(f"git+file://{bare}").read("m.bin")
    assert "git lfs" in caught.value.hint


def test_a_large_file_that_shrinks_while_it_is_read_is_an_error(repository):
    server, name, _ = repository
    data = os.urandom(100_000)
    oid = hashlib.sha256(data).hexdigest()
    server.commit(name, {"m.bin": pointer(data)})
    bare = server.root / f"{name}.git"
    path = bare / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with git(f"git+file://{bare}").read("m.bin") as body:
        os.truncate(path, 50_000)
        with pytest.raises(IntegrityError, match="50000 bytes early"):
            body.read()


def test_no_room_for_a_large_file(repository):
    server, name, _ = repository
    data = os.urandom(2_000_000)
    server.commit(name, {"m.bin": pointer(data)})
    with lfs_server(server, {hashlib.sha256(data).hexdigest(): data}) as url:
        system = git(f"git+{url}/{name}.git")
        system.head("m.bin")
        (cache,) = [path for path in (config.home() / "cache" / "git").iterdir() if path.is_dir()]
        disk = cache / "lfs"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
        try:
            with pytest.raises(FullError, match="no space"):
                system.read("m.bin")
            assert [path for path in disk.rglob("*") if path.is_file()] == []
        finally:
            subprocess.run(["umount", disk], check=True)
        assert system.read("m.bin").read() == data


def test_a_text_about_pointers_is_a_text(repository):
    server, name, _ = repository
    text = b"see:\n" + pointer(b"x")
    server.commit(name, {"doc": text})
    assert git(url_of(repository)).read("doc").read() == text


def test_the_token_goes_to_github_only(repository, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "s3cret-token")
    server = repository[0]
    system = git(url_of(repository))
    list(system.list())
    assert all("authorization" not in request.headers for request in server.requests)
    login = git("github://a/b")._repository._login
    assert set(login("https://github.com/a/b.git/info/refs")) == {"Authorization"}
    assert login("https://github.com.evil.org/a/b.git") == {}
    assert login("http://github.com/a/b.git") == {}
    assert "s3cret" not in repr(git("github://a/b"))


def test_the_system_opens_by_url(repository):
    system = open_system(locate(url_of(repository, "@v1/data")))
    assert isinstance(system.head("a b.csv"), Entry)
