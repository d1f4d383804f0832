"""The registry over HTTP: the shipped suite against a server, and what is the client's own."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import rh
from rh import config, errors
from rh.observe import counting
from rh.registry import open_registry
from rh.registry.base import Delete, Put, Rename
from rh.registry.filters import F
from rh.registry.http import HTTPRegistry, logins
from rh.registry.http.wire import PROTOCOL
from rh.registry.sql import postgres
from rh.testing._suite_histories import HistorySuite
from rh.testing.registry import RegistrySuite, finished, python
from rh.testing.servers.httpd import WebServer
from rh.testing.servers.registry import RegistryServer
from rh.types import ABSENT, Match


@pytest.fixture
def server(monkeypatch):
    with RegistryServer() as server:
        monkeypatch.setenv("RH_REGISTRY", server.url)
        monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token())
        yield server


@pytest.fixture
def registry(server):
    with open_registry(server.url) as registry:
        yield registry


class OverHTTP(RegistrySuite):
    """The suite; but the author is whose token it is."""

    def test_preconditions(self, registry):
        first = registry.put("a", {"n": 1}, when=ABSENT)
        with pytest.raises(errors.ExistsError, match=r"'a' .*revision 1 \(by ada\)"):
            registry.put("a", {"n": 2}, when=ABSENT)
        second = registry.put("a", {"n": 2}, when=Match(first.etag), by="bob")
        with pytest.raises(errors.ConflictError, match=r"revision 2 \(by ada\), not 1"):
            registry.put("a", {"n": 3}, when=Match(first.etag))
        registry.delete("a", when=Match(second.etag))
        with pytest.raises(errors.ConflictError, match="gone"):
            registry.put("a", {"n": 3}, when=Match(second.etag))

    def test_revisions_are_never_used_twice(self, registry):
        registry.put("a", {"n": 1}, by="ada")
        registry.put("a", {"n": 2}, by="bob")
        registry.delete("a", by="cy")
        assert registry.put("a", {"n": 3}, when=ABSENT).revision == 4
        history = list(registry.history("a"))
        assert [(c.revision, c.action) for c in history] == [(1, "put"), (2, "put"), (3, "delete"), (4, "put")]
        assert {c.author for c in history} == {"ada"}
        assert [c.revision for c in registry.history("a", after=2)] == [3, 4]

    def test_a_writer_that_is_killed_leaves_all_or_nothing(self, registry, url):
        """What the server had in hand then may be done a moment later, so the pair is read at once."""
        code = (
            "import sys, itertools\nfrom rh.registry import open_registry\nfrom rh.registry.base import Put\n"
            "registry = open_registry(sys.argv[1])\nprint('up', flush=True)\n"
            "for n in itertools.count():\n    registry.commit([Put('left', {'n': n}), Put('right', {'n': n})])\n"
        )
        for delay in (0.0, 0.02, 0.05):
            process = python(code, url)
            assert process.stdout.readline() == "up\n"
            threading.Event().wait(delay)
            process.kill()
            process.communicate()
            assert len({str(record.document) for record in registry.list()}) <= 1


class TestOverSQLite(OverHTTP):
    @pytest.fixture
    def url(self, server):
        return server.url


@pytest.mark.slow
class TestOverPostgreSQL(OverHTTP):
    @pytest.fixture
    def url(self, postgres_server, monkeypatch):
        with closing(psycopg.connect(postgres_server.dsn, autocommit=True)) as db:
            db.execute("drop schema if exists behind_http cascade")
        monkeypatch.setenv("PGPASSWORD", postgres_server.password)
        variables = {"PGPASSWORD": postgres_server.password}
        with RegistryServer(f"{postgres_server.url}?schema=behind_http", variables=variables) as server:
            monkeypatch.setenv("RH_REGISTRY", server.url)
            monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token())
            yield server.url
        postgres._connections.close()


class TestHistoriesOverARestart(HistorySuite):
    @pytest.fixture
    def url(self, server):
        return server.url

    @pytest.fixture
    def registry(self, registry):
        return registry

    @pytest.fixture
    def restart(self, server):
        return server.restart


# Requests.


def test_loading_a_name_is_one_request(registry, monkeypatch, tmp_path):
    monkeypatch.setenv("RH_REGISTRY", registry.url)
    monkeypatch.setenv("RH_USER", "ada")
    rh.folder(path=tmp_path).save("/ada/cats")
    with counting() as counts:
        assert rh.load("@/cats").name == "/ada/cats"
    assert counts.total("registry") == 1
    with counting() as counts, pytest.raises(errors.NotFoundError, match="did you mean /ada/cats"):
        rh.load("@/cat")
    assert counts.requests["registry", "get"] == 1


class Twice(HTTPRegistry):
    """Every request that changes something arrives twice, and the answer of the first is lost."""

    def _send(self, verb, method, *rest):
        if method != "GET":
            super()._send(verb, method, *rest).read()
        return super()._send(verb, method, *rest)


def test_a_request_that_arrives_twice_has_the_effect_of_one(server):
    """Promise 13."""
    from rh.registry.http import RemoteAccounts

    registry = Twice(server.url)
    registry.put("resources/ada/a", {"n": 1}, when=ABSENT)
    registry.commit([Rename("resources/ada/a", "resources/ada/b"), Put("resources/ada/c", {}, ABSENT)])
    registry.commit([Delete("resources/ada/b")])
    assert [(c.key[-1], c.revision) for c in registry.changes("resources/")] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("c", 1),
        ("b", 2),
    ]
    accounts = RemoteAccounts(registry)
    accounts.put_user("bob")
    token = accounts.new_token(user="bob", name="ci")
    assert registry.whoami(token)["user"] == "bob"
    assert [one.name for one in accounts.credentials("bob")] == ["ci"]
    assert accounts.put_share("ada/c", {"bob": "read"}).roles == {"bob": "read"}
    accounts.put_share("ada/c", {"bob": None}, public=True)
    assert accounts.share("ada/c") == ("ada/c", True, {}, ())
    accounts.revoke_credential(accounts.credentials("bob")[0].id)
    assert registry.replay([]) == 0


@pytest.fixture
def slow_start(monkeypatch):
    """A server may take longer to restart here than reads are tried where nothing listens."""
    monkeypatch.setattr("rh.registry.http._REFUSED_S", 25.0)


@pytest.mark.usefixtures("slow_start")
def test_the_server_restarts_in_the_middle(server, registry):
    """Promise 15: what was answered is there, and what was under way is there once."""
    done = threading.Event()
    added = []

    def add():
        mine = 0
        while not done.is_set():
            registry.update("counter", lambda document: {"n": (document or {"n": 0})["n"] + 1})
            mine += 1
        added.append(mine)

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(add) for _ in range(4)]
        for _ in range(3):
            threading.Event().wait(0.3)
            server.restart()
        done.set()
        for one in work:
            one.result()
    assert registry.get("counter").document == {"n": sum(added)}
    assert [change.revision for change in registry.history("counter")] == list(range(1, sum(added) + 1))


def test_a_graceful_stop_loses_nothing(server, registry):
    """What is under way when the server is told to stop ends; nothing is half done."""
    stopped = threading.Event()

    def add(n):
        made = 0
        registry = HTTPRegistry(server.url, timeout_s=2)
        while not stopped.is_set():
            try:
                registry.put(f"key-{n}", {"n": made + 1})
            except errors.UnavailableError:
                break
            made += 1
        return made

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(add, n) for n in range(4)]
        threading.Event().wait(0.5)
        os.kill(server.pid, signal.SIGTERM)
        counts = [one.result() for one in work]
    assert min(counts) > 0
    behind = open_registry(server.behind)
    for n, made in enumerate(counts):
        assert behind.get(f"key-{n}").document["n"] == made
    assert "Traceback" not in server.log


# Errors.


def test_an_unreachable_registry_says_what_still_works(server, registry):
    server.kill()
    with pytest.raises(errors.UnavailableError, match="cannot be reached") as caught:
        HTTPRegistry(server.url, timeout_s=0.5).get("a")
    assert caught.value.where == server.url
    assert "~/" in caught.value.hint


def test_where_nothing_listens_reads_give_up_before_the_deadline(server, registry, monkeypatch):
    """A commit is asked again until the deadline: what was worked on is not to be lost to a restart."""
    from rh.registry import http
    from rh.registry.http import RemoteAccounts

    monkeypatch.setattr(http, "_REFUSED_S", 0.001)
    server.kill()
    registry = HTTPRegistry(server.url, timeout_s=300)
    for read in (
        lambda: registry.get("a"),
        lambda: list(registry.list()),
        lambda: list(registry.search(F.x == 1)),
        lambda: list(registry.changes()),
        registry.whoami,
        RemoteAccounts(registry).users,
    ):
        with counting() as counts, pytest.raises(errors.UnavailableError, match="cannot be reached") as caught:
            read()
        assert counts.total("registry") == 1
        assert "~/" in caught.value.hint
    with counting() as counts, pytest.raises(errors.UnavailableError):
        HTTPRegistry(server.url, timeout_s=1).put("a", {})
    assert counts.total("registry") > 1


@pytest.mark.usefixtures("slow_start")
def test_a_read_waits_for_a_server_that_restarts(server, registry):
    registry.put("a", {"n": 1})
    server.kill()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(registry.get, "a")
        server.start()
        assert answer.result().document == {"n": 1}


def test_a_token_of_the_environment_that_is_refused_is_named(server, registry, monkeypatch):
    monkeypatch.setenv("RH_REGISTRY_TOKEN", f"rh_{'0' * 12}_{'c' * 48}")
    with pytest.raises(errors.UnauthenticatedError) as caught:
        registry.get("a")
    assert caught.value.hint.startswith("RH_REGISTRY_TOKEN is what was sent")
    assert "c" * 48 not in str(caught.value)


def test_a_peer_that_says_nothing():
    """Promise 25."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = HTTPRegistry(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.5)
        with pytest.raises(errors.DeadlineError, match=r"0\.5 s") as caught:
            registry.get("a")
    assert "~/" in caught.value.hint


class Odd(WebServer):
    """A web server that answers everything the same."""

    def __init__(self, status, body=b"{}", **headers):
        super().__init__()
        self.answer = status, body, headers

    def _answer(self, handler):
        status, body, headers = self.answer
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def test_a_registry_newer_than_the_client():
    with Odd(200, RH_Protocol=str(PROTOCOL + 1)) as newer:
        with pytest.raises(errors.UnsupportedError, match="upgrade rh-data"):
            open_registry(newer.url).get("a")
        assert len(newer.requests) == 1


@pytest.mark.parametrize(("status", "text"), [(200, "no registry of rh"), (404, "no registry of rh")])
def test_what_is_no_registry(status, text):
    with Odd(status, b"<html>hello</html>") as site, pytest.raises(errors.InvalidError, match=text):
        open_registry(site.url).get("a")


def test_a_redirect_gets_no_token(monkeypatch):
    monkeypatch.setenv("RH_REGISTRY_TOKEN", "rh_canary")
    with Odd(200) as elsewhere, Odd(302, Location=elsewhere.url) as site:
        monkeypatch.setenv("RH_REGISTRY", site.url)
        with pytest.raises(errors.InvalidError, match="do not follow redirects"):
            open_registry(site.url).get("a")
        assert [asked.headers["authorization"] for asked in site.requests] == ["Bearer rh_canary"]
        assert not elsewhere.requests


def test_the_token_of_the_environment_is_for_the_registry_that_is_configured(monkeypatch):
    """Another server, which an option or a URL named, gets none."""
    monkeypatch.setenv("RH_REGISTRY_TOKEN", "rh_canary")
    refusal = b'{"error": {"kind": "unauthenticated"}}'
    with (
        Odd(401, refusal, RH_Protocol=str(PROTOCOL)) as ours,
        Odd(401, refusal, RH_Protocol=str(PROTOCOL)) as other,
    ):
        for configured in ("", "sqlite:///tmp/x.db", "https://", ours.url + "/"):
            monkeypatch.setenv("RH_REGISTRY", configured)
            with pytest.raises(errors.UnauthenticatedError) as caught:
                open_registry(other.url).get("a")
            assert "RH_REGISTRY_TOKEN goes only to the registry" in caught.value.hint
        assert ["authorization" in asked.headers for asked in other.requests] == [False] * 4
        with pytest.raises(errors.UnauthenticatedError):
            open_registry(ours.url).get("a")
        assert [asked.headers["authorization"] for asked in ours.requests] == ["Bearer rh_canary"]


def test_a_damaged_answer_is_asked_for_again_and_then_told():
    with Odd(200, b'{"key": ', RH_Protocol=str(PROTOCOL)) as broken:
        with pytest.raises(errors.IntegrityError, match="damaged"):
            HTTPRegistry(broken.url, timeout_s=0.5).get("a")
        assert len(broken.requests) > 1


def test_plain_http_is_for_this_machine(monkeypatch):
    with pytest.raises(errors.InvalidError, match="read the token") as caught:
        open_registry("http://registry.example.org")
    assert "RH_REGISTRY_ALLOW_HTTP" in caught.value.hint
    monkeypatch.setenv("RH_REGISTRY_ALLOW_HTTP", "1")
    assert open_registry("http://registry.example.org").url == "http://registry.example.org"
    assert open_registry("https://registry.example.org/base/").url == "https://registry.example.org/base"


@pytest.mark.parametrize("url", ["https://", "https://me:hunter2@host", "https://h?x=1", "https://h:x"])
def test_bad_urls(url):
    with pytest.raises(errors.InvalidError) as caught:
        open_registry(url)
    assert "hunter2" not in str(caught.value)


# Tokens.


def test_the_file_of_tokens_is_private(server, registry, monkeypatch):
    token = server.token()
    monkeypatch.delenv("RH_REGISTRY_TOKEN")
    logins.remember("https://other", "rh_other")
    logins.remember(server.url, token)
    assert logins.path().stat().st_mode & 0o777 == 0o600
    assert registry.whoami()["user"] == "ada"
    logins.path().chmod(0o644)
    with pytest.raises(errors.AccessError, match="others may read") as caught:
        registry.whoami()
    assert "chmod 600" in caught.value.hint
    logins.path().chmod(0o600)
    assert logins.forget(server.url)
    assert not logins.forget(server.url)
    assert logins.token_of("https://other") == "rh_other"
    with pytest.raises(errors.UnauthenticatedError, match="needs a token") as caught:
        registry.whoami()
    assert f"rh login {server.url}" in caught.value.hint
    logins.path().write_text("{rh_canary")
    with pytest.raises(errors.InvalidError, match="damaged") as caught:
        registry.whoami()
    assert "rh_canary" not in str(caught.value)


@pytest.mark.parametrize(("before", "after"), [(0o700, 0o600), (0o640, 0o640), (0o600, 0o600)])
def test_settings_are_not_opened_to_others_by_a_login(before, after):
    file = config.home() / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    file.chmod(before)
    assert logins.set_registry("https://registry.example.org", "ada") == file
    assert file.stat().st_mode & 0o777 == after


@pytest.mark.parametrize(
    "before",
    [
        "",
        'user = "bob"\n# mine\n[systems.ovh]\nkind = "s3"\nregistry = "not this"\n',
        'registry = "sqlite:///x.db" # old\nworkers = 3\n',
        "[systems.s3]\nroot = 's3://b'",
    ],
)
def test_settings_keep_what_is_in_them(before):
    file = config.home() / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(before)
    import tomllib

    old = tomllib.loads(before)
    logins.set_registry("https://r", "ada")
    assert tomllib.loads(file.read_text()) == old | {"registry": "https://r", "user": "ada"}
    assert ("# mine" in file.read_text()) is ("# mine" in before)


def test_a_token_is_nowhere(server, registry, caplog, tmp_path):
    """Promise 34."""
    caplog.set_level("DEBUG")
    token = server.token()
    secret = token.rpartition("_")[2]
    registry.put("resources/ada/a", {"n": 1})
    texts = [repr(registry), str(vars(registry)), repr(pickle.dumps(registry)), caplog.text, server.log]
    assert pickle.loads(pickle.dumps(registry)).get("resources/ada/a").revision == 1
    with pytest.raises(errors.NotFoundError) as caught:
        registry.get("nothing")
    texts += [repr(caught.value), str(caught.value), repr(pickle.dumps(caught.value))]
    texts += [json.dumps([change._asdict() for change in registry.changes()])]
    for file in server.directory.rglob("*"):
        if file.is_file():
            texts.append(file.read_bytes().decode("latin-1"))
    texts.append(Path(f"/proc/{server.pid}/cmdline").read_text())
    assert not [text for text in texts if secret in text]


def test_a_forked_child_has_connections_of_its_own(server):
    """Also where threads of the parent are in the middle of requests."""
    code = f"""
import faulthandler, os, threading
from rh.registry import open_registry
registry = open_registry({server.url!r})
stop = threading.Event()
def busy():
    while not stop.wait(0.002):  # fewer than the server allows a token
        registry.find("a")
threads = [threading.Thread(target=busy) for _ in range(4)]
[t.start() for t in threads]
for n in range(5):
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(40, exit=True)
        registry.put(f"child-{{n}}", {{"n": n}})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
[t.join() for t in threads]
print(len(list(registry.list("child-"))))
"""
    assert finished(python(code)).split() == ["5"]


# TLS.


@pytest.fixture
def certificate(tmp_path):
    """A certificate of its own for 127.0.0.1, and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "rh test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, private


@pytest.mark.parametrize("variable", ["RH_CA_BUNDLE", "SSL_CERT_FILE"])
def test_tls(certificate, monkeypatch, variable):
    with RegistryServer(tls=certificate) as server:
        monkeypatch.setenv("RH_REGISTRY", server.url)
        monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token())
        with pytest.raises(errors.AccessError, match="certificate") as caught:
            open_registry(server.url).get("a")
        assert "RH_CA_BUNDLE" in caught.value.hint
        monkeypatch.setenv(variable, str(certificate[0]))
        with HTTPRegistry(server.url, timeout_s=20) as registry:
            assert registry.put("resources/ada/x", {"n": 1}).author == "ada"


def test_a_certificate_that_cannot_be_used(tmp_path):
    (tmp_path / "cert.pem").write_text("nonsense")
    program = Path(sys.executable).with_name("rh")
    subprocess.run([program, "registry", "user", "add", "ada", "--admin"], capture_output=True, timeout=30, check=True)
    done = subprocess.run(
        [program, "registry", "serve", "--tls-cert", "cert.pem", "--tls-key", "cert.pem"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be used" in done.stderr
