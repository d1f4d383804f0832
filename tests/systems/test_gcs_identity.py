"""Who we are to Google Cloud Storage: tokens, signatures, narrow tokens, and that none of them leaks."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import pickle
import secrets
import threading
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from rh.errors import AccessError, InvalidError, RhError, UnauthenticatedError, UnavailableError
from rh.systems import gcs
from rh.systems.gcs import GCSSystem
from rh.testing.faults import FaultProxy, Status
from rh.testing.servers import GCSServer
from rh.types import Location, SignedRequest

TOKEN = "ya29.canary-" + secrets.token_hex(16)
EMAIL = "robot@project.iam.gserviceaccount.com"


class IdentityServer:
    """Where credentials are exchanged for tokens, as Google's endpoints answer: OAuth 2, STS and IAM credentials."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.lasts_s = 3600
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {} if text.startswith("{") else {key: values[0] for key, values in parse_qs(text).items()}
                outer.asked.append((self.path, form))
                until = "2099-01-01T00:00:00Z"
                answer: dict[str, Any] = {"access_token": TOKEN, "expires_in": outer.lasts_s, "token_type": "Bearer"}
                if "generateAccessToken" in self.path:
                    answer = {"accessToken": f"{TOKEN}-impersonated", "expireTime": until}
                elif "subject_token" in form:
                    answer["access_token"] = f"{TOKEN}-narrow"
                    answer["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
                if outer.status != 200:
                    answer = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
                body = json.dumps(answer).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def identity_server() -> Iterator[IdentityServer]:
    server = IdentityServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def key_file(key: rsa.RSAPrivateKey, identity_server: IdentityServer, tmp_path: Path) -> Path:
    """A service account's key file, as the console hands them out."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    path = tmp_path / "key.json"
    document = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": f"{identity_server.url}/token",
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def proxy(gcs_server: GCSServer) -> Iterator[FaultProxy]:
    with FaultProxy(gcs_server.port, http=True) as proxy:
        yield proxy


@pytest.fixture
def system(gcs_server: GCSServer, proxy: FaultProxy, key_file: Path) -> GCSSystem:
    """A place that is reached with a service account's key, through a proxy that notes what it is sent."""
    return opened(gcs_server, proxy, credentials_file=str(key_file))


def opened(server: GCSServer, proxy: FaultProxy, path: str | None = None, **more: Any) -> GCSSystem:
    given = server.settings(via=proxy.port, timeout_s=20.0, **more)
    given.pop("anonymous")
    return GCSSystem.open(Location("gs", path or f"{server.buckets[0]}/t{secrets.token_hex(6)}"), given)


def send(request: SignedRequest, data: bytes | None = None) -> tuple[int, bytes]:
    query = urllib.request.Request(request.url, data=data, method=request.method, headers=dict(request.headers))
    with urllib.request.urlopen(query, timeout=20) as answer:
        return answer.status, answer.read()


def bearers(proxy: FaultProxy) -> set[str | None]:
    return {lower(request.headers).get("authorization") for request in proxy.requests}


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_one_token_for_everybody(system: GCSSystem, proxy: FaultProxy, identity_server: IdentityServer) -> None:
    """A token is fetched once, however many threads and handles ask at once, and travels in the header only."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: system.at(f"d{n % 4}").write(f"{n}", b"x"), range(64)))
    other = GCSSystem.open(system.location, {**system.settings, "root": "gs://elsewhere"})
    assert len(list(other.list())) == 64
    assert len(identity_server.asked) == 1
    path, form = identity_server.asked[0]
    assert path == "/token"
    claims = json.loads(base64.urlsafe_b64decode(form["assertion"].split(".")[1] + "=="))
    assert claims["iss"] == EMAIL
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert bearers(proxy) == {f"Bearer {TOKEN}"}
    assert not any(TOKEN in request.path + request.query for request in proxy.requests)


def test_a_token_that_ends_is_renewed(system: GCSSystem, identity_server: IdentityServer) -> None:
    identity_server.lasts_s = 1
    for _ in range(3):
        system.write("k", b"x")
    assert len(identity_server.asked) == 3
    identity_server.lasts_s = 3600
    for _ in range(3):
        system.write("k", b"x")
    assert len(identity_server.asked) == 4


def test_credentials_that_were_renewed_are_read_anew(
    gcs_server: GCSServer, proxy: FaultProxy, key_file: Path, identity_server: IdentityServer
) -> None:
    """Whoever is told to log in again does so, and goes on in the same process."""
    system = opened(gcs_server, proxy, credentials_file=str(key_file))
    identity_server.status = 400
    with pytest.raises(UnauthenticatedError):
        system.write("k", b"x")
    good = key_file.read_text()
    key_file.write_text(good.replace(EMAIL, f"new-{EMAIL}"))
    identity_server.status = 200
    assert system.write("k", b"x").size == 1
    claims = json.loads(base64.urlsafe_b64decode(identity_server.asked[-1][1]["assertion"].split(".")[1] + "=="))
    assert claims["iss"] == f"new-{EMAIL}"


def test_user_project_is_named(gcs_server: GCSServer, proxy: FaultProxy, key_file: Path) -> None:
    """Who pays is said with every request, signed ones too."""
    system = opened(gcs_server, proxy, credentials_file=str(key_file), user_project="payer")
    system.write("k", b"x")
    assert system.read("k").read() == b"x"
    assert {lower(request.headers).get("x-goog-user-project") for request in proxy.requests} == {"payer"}
    assert "userProject=payer" in system.sign_read("k").url


def test_nothing_secret_is_told(
    system: GCSSystem, proxy: FaultProxy, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither key nor token is in a repr, a pickle, a log line at DEBUG, an error or a traceback."""
    caplog.set_level(logging.DEBUG)
    told = [repr(system), repr(system.settings), str(system.url("k"))]
    system.write("k", b"x")
    request = system.sign_read("k")
    told += [repr(request), repr(system.sign_write("k", 1))]
    upload = system.begin("big", 10, part_size=10)
    upload.put(0, b"0123456789")
    told += [upload.token, repr(upload)]
    for code in (401, 403, 500):
        proxy.plan = [Status(code=code, body=b'{"error": {"message": "no"}}')]
        for work in (lambda: system.head("k"), lambda: system.write("k", b"y"), lambda: upload.finish([""])):
            with pytest.raises(RhError) as caught:
                work()
            told += ["".join(traceback.format_exception(caught.value)), json.dumps(caught.value.as_dict())]
    told.append(pickle.dumps(system).decode("latin-1"))
    told.append(caplog.text)
    private = json.loads(key_file.read_text())["private_key"].splitlines()[3]
    signature = dict(parse_qsl(urlsplit(request.url).query))["X-Goog-Signature"]
    for canary in (TOKEN, private, signature):
        assert not any(canary in text for text in told)
    back = pickle.loads(pickle.dumps(system))
    proxy.plan = []
    assert back.read("k").read() == b"x"


def verify(key: rsa.RSAPrivateKey, request: SignedRequest, *, host: str) -> dict[str, str]:
    """Check a V4 signature the way the store does (signed URLs of the XML API): its query parameters."""
    parts = urlsplit(request.url)
    assert parts.netloc == host
    query = dict(parse_qsl(parts.query, strict_parsing=True))
    signature = query.pop("X-Goog-Signature")
    signed = query["X-Goog-SignedHeaders"]
    headers = {"host": host} | lower(request.headers)
    canonical = "\n".join(
        [
            request.method,
            parts.path,
            "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(query.items())),
            *(f"{name}:{headers[name]}" for name in signed.split(";")),
            "",
            signed,
            "UNSIGNED-PAYLOAD",
        ]
    )
    scope = query["X-Goog-Credential"].partition("/")[2]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}".encode()
    key.public_key().verify(bytes.fromhex(signature), text, padding.PKCS1v15(), hashes.SHA256())
    assert query["X-Goog-Credential"].startswith(EMAIL)
    return query


@pytest.mark.parametrize("name", ["plain", "d/ü x+y%2F&?#", "a//b", "x/../y", "~t*'()!"])
def test_signed_urls(
    gcs_server: GCSServer, key: rsa.RSAPrivateKey, key_file: Path, identity_server: IdentityServer, name: str
) -> None:
    """The signature is right for any key, works without our credentials, and binds size and type of a write."""
    settings = {"endpoint_url": gcs_server.endpoint, "credentials_file": str(key_file), "timeout_s": 20}
    system = GCSSystem.open(Location("gs", f"{gcs_server.buckets[0]}/t{secrets.token_hex(6)}"), settings)
    host = f"127.0.0.1:{gcs_server.port}"
    write = system.sign_write(name, 5, expires_s=100)
    query = verify(key, write, host=host)
    assert query["X-Goog-Expires"] == "100"
    assert set(query["X-Goog-SignedHeaders"].split(";")) == {"content-type", "host", "x-goog-content-length-range"}
    assert write.headers["x-goog-content-length-range"] == "5,5"
    assert send(write, b"bytes")[0] == 200
    read = system.sign_read(name)
    verify(key, read, host=host)
    assert send(read) == (200, b"bytes")
    upload = system.begin(name, 15, part_size=10)
    for number, part in enumerate((b"0123456789", b"abcde")):
        request = system.sign_part(upload, number, len(part))
        verify(key, request, host=host)
        assert send(request, part)[0] == 200
    upload.finish(["", ""])
    assert system.read(name).read() == b"0123456789abcde"
    assert len(identity_server.asked) == 1
    for wrong in (0, -1, 700_000):
        with pytest.raises(InvalidError):
            system.sign_read(name, expires_s=wrong)


@contextmanager
def redirected(monkeypatch: pytest.MonkeyPatch, server: IdentityServer) -> Iterator[None]:
    """Google's own identity endpoints, whose addresses are fixed, are the local server while the block runs."""
    original = gcs._Identity._request

    @contextmanager
    def request(self: Any) -> Iterator[Callable[..., Any]]:
        with original(self) as send_it:

            def here(url: str, *rest: Any, **more: Any) -> Any:
                parts = urlsplit(url)
                return send_it(url.replace(f"{parts.scheme}://{parts.netloc}", server.url), *rest, **more)

            yield here

    with monkeypatch.context() as patch:
        patch.setattr(gcs._Identity, "_request", request)
        yield


def test_a_login_without_a_key_gives_narrow_tokens(
    gcs_server: GCSServer,
    proxy: FaultProxy,
    identity_server: IdentityServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nothing can sign, a request carries a token for the objects below the root only, read or write."""
    login = tmp_path / "login.json"
    login.write_text(
        json.dumps({"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"})
    )
    bucket = gcs_server.buckets[0]
    root = f"t{secrets.token_hex(6)}/it's"
    with redirected(monkeypatch, identity_server):
        system = opened(gcs_server, proxy, f"{bucket}/{root}", credentials_file=str(login))
        write = system.sign_write("k", 5)
        system.sign_write("l", 5)
        read = system.sign_read("k")
        system.sign_read("l")
    exchanges = [json.loads(unquote(form["options"])) for _, form in identity_server.asked if "subject_token" in form]
    assert len(exchanges) == 2
    rules = [exchange["accessBoundary"]["accessBoundaryRules"] for exchange in exchanges]
    assert [len(rule) for rule in rules] == [1, 1]
    assert [rule[0]["availablePermissions"] for rule in rules] == [
        ["inRole:roles/storage.objectAdmin"],
        ["inRole:roles/storage.objectViewer"],
    ]
    escaped = root.replace("'", "\\'")
    for rule in rules:
        assert rule[0]["availableResource"] == f"//storage.googleapis.com/projects/_/buckets/{bucket}"
        expression = rule[0]["availabilityCondition"]["expression"]
        assert expression == f"resource.name.startsWith('projects/_/buckets/{bucket}/objects/{escaped}/')"
    for request in (write, read):
        assert request.headers["Authorization"] == f"Bearer {TOKEN}-narrow"
        assert TOKEN not in request.url + repr(request)
    proxy.reset()
    assert send(write, b"bytes")[0] == 200
    assert send(read) == (200, b"bytes")
    assert bearers(proxy) == {f"Bearer {TOKEN}-narrow"}


def test_impersonation(
    gcs_server: GCSServer,
    proxy: FaultProxy,
    identity_server: IdentityServer,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with redirected(monkeypatch, identity_server):
        system = opened(gcs_server, proxy, credentials_file=str(key_file), impersonate="other@p.iam")
        system.write("k", b"x")
    assert identity_server.asked[-1][0].endswith("/serviceAccounts/other@p.iam:generateAccessToken")
    assert bearers(proxy) == {f"Bearer {TOKEN}-impersonated"}


def test_credentials_that_do_not_work(
    gcs_server: GCSServer, proxy: FaultProxy, identity_server: IdentityServer, key_file: Path, tmp_path: Path
) -> None:
    """Missing, malformed, refused and unreachable: each says what to do, and no request is sent without a token."""
    with pytest.raises(UnauthenticatedError, match="credentials") as caught:
        GCSSystem.open(Location("gs", "b"), {"timeout_s": 5}).head("k")
    assert "gcloud auth application-default login" in (caught.value.hint or "")
    broken = tmp_path / "broken.json"
    document = json.loads(key_file.read_text())
    for content in ("", "not json", json.dumps({**document, "private_key": "canary-not-a-key"})):
        broken.write_text(content)
        with pytest.raises(UnauthenticatedError) as caught:
            opened(gcs_server, proxy, credentials_file=str(broken)).head("k")
        assert "canary-not-a-key" not in str(caught.value)
    with pytest.raises(UnauthenticatedError):
        opened(gcs_server, proxy, credentials_file=str(tmp_path / "none.json")).head("k")
    for content in ("{}", "[]", json.dumps({"type": "external_account", "credential_source": {"executable": {}}})):
        broken.write_text(content)
        with pytest.raises(InvalidError, match="neither"):
            opened(gcs_server, proxy, credentials_file=str(broken)).head("k")
    identity_server.status = 400
    with pytest.raises(UnauthenticatedError, match="refused our credentials"):
        opened(gcs_server, proxy, credentials_file=str(key_file)).head("k")
    broken.write_text(json.dumps({**document, "token_uri": "http://127.0.0.1:9/token"}))
    with pytest.raises(UnavailableError, match="identity service"):
        opened(gcs_server, proxy, credentials_file=str(broken)).head("k")
    assert proxy.requests == []
    assert issubclass(UnauthenticatedError, AccessError)


def test_another_account_is_another_place(
    gcs_server: GCSServer, proxy: FaultProxy, system: GCSSystem, key_file: Path, tmp_path: Path
) -> None:
    """The store copies between places of one account only."""
    twin = tmp_path / "twin.json"
    twin.write_text(key_file.read_text())
    assert system.can_copy_from(opened(gcs_server, proxy, credentials_file=str(key_file)))
    assert not system.can_copy_from(opened(gcs_server, proxy, credentials_file=str(twin)))
