"""What a running registry server tells: answers, metrics, its description, the audit log."""

import hashlib
import json
import pickle
import sqlite3
import threading
from contextlib import closing
from urllib.parse import urlencode

import pytest

from rh import errors
from rh.registry import filters, open_registry
from rh.registry.bucket.log_format import entry_key
from rh.registry.http import RemoteAccounts
from rh.registry.server.accounts import FRESH_S
from rh.registry.server.audit import Audit
from rh.registry.server.endpoints import ENDPOINTS
from rh.registry.server.run import serve
from rh.testing.servers.registry import RegistryServer
from tests.registry.server.client import request


def test_nothing_without_a_token(server):
    for endpoint in ENDPOINTS:
        target = endpoint.path.replace("{user}", "ada").replace("{id}", "0" * 12)
        body = b"{}" if endpoint.method in ("POST", "PUT") else None
        if endpoint.name == "search":
            body = b'{"where": {"all": []}, "prefix": "none/"}'
        if endpoint.name == "list":
            target += "?prefix=none/"
        status, _, told = request(server, endpoint.method, target, body=body)
        assert (status, told["error"]["kind"]) == (401, "unauthenticated"), endpoint.name
    for path in ("/metrics", "/openapi.json"):
        assert request(server, "GET", path)[0] == 401
    for path in ("/health", "/ready"):
        assert request(server, "GET", path)[0] == 200


def test_metrics_and_description(server, people):
    people("ada").put("resources/ada/x", {})
    status, _, text = request(server, "GET", "/metrics", token=server.token())
    assert status == 200
    assert 'rh_requests_total{endpoint="commit",status="200"}' in text
    assert 'rh_request_seconds_bucket{endpoint="commit",le="+Inf"}' in text
    assert request(server, "GET", "/metrics", token=server.token("bob"))[0] == 403
    status, _, told = request(server, "GET", "/openapi.json", token=server.token("bob"))
    assert told["openapi"].startswith("3.1")
    for endpoint in ENDPOINTS:
        assert told["paths"][endpoint.path][endpoint.method.lower()]["operationId"] == endpoint.name


def test_every_answer_has_its_id_and_the_protocol(server):
    _, headers, told = request(server, "GET", "/nothing", headers={"X-Request-Id": "mine-1"})
    assert headers["RH-Protocol"] == "1"
    assert headers["X-Request-Id"] == told["error"]["request"] == "mine-1"
    _, headers, _ = request(server, "GET", "/health", headers={"X-Request-Id": "not\tan id"})
    assert len(headers["X-Request-Id"]) == 32
    assert request(server, "PATCH", "/v1/record")[0] == 405
    assert request(server, "HEAD", "/health")[0] == 200


def test_the_audit_log_tells_who_changed_what(server, people, org):
    ada, bob = people("ada"), people("bob")
    ada.put(f"resources/{org}/audited", {"metadata": {"canary": "document-canary"}})
    with pytest.raises(errors.AccessError):
        bob.put(f"resources/{org}/audited", {"n": 1})
    RemoteAccounts(ada).put_share(f"{org}/audited", {"bob": "read"})
    text = server.audit.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    mine = [(one["user"], one["action"], one["outcome"]) for one in lines if any(org in key for key in one["keys"])]
    assert mine == [("ada", "commit", "done"), ("bob", "commit", "refused"), ("ada", "put_share", "done")]
    assert all(one["request"] and one["client"] == "127.0.0.1" and one["time"] for one in lines)
    assert "document-canary" not in text
    assert server.token("ada").rpartition("_")[2] not in text
    assert server.audit.stat().st_mode & 0o777 == 0o600


def test_an_audit_log_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(errors.InvalidError, match="audit log cannot be written") as caught:
        serve(open_registry(f"sqlite://{tmp_path}/x.db"), port=0, audit=Audit(tmp_path / "none" / "audit.jsonl"))
    assert "--audit FILE" in caught.value.hint
    with RegistryServer() as server:
        registry = open_registry(server.url)
        monkeypatch.setenv("RH_REGISTRY", server.url)
        monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token())
        registry.put("resources/ada/x", {})
        assert request(server, "GET", "/ready")[2] == {"ready": True}
        server.audit.rename(tmp_path / "audit")
        server.audit.mkdir()
        registry.put("resources/ada/x", {"n": 1})
        assert request(server, "GET", "/ready")[::2] == (200, {"ready": True, "audit": "cannot be written"})
        metrics = request(server, "GET", "/metrics", token=server.token())[2]
        assert "rh_audit_failures_total 1" in metrics
        assert "rh_audit_failing 1" in metrics
        server.audit.rmdir()
        registry.put("resources/ada/x", {"n": 2})
        assert request(server, "GET", "/ready")[2] == {"ready": True}
        assert "rh_audit_failing 0" in request(server, "GET", "/metrics", token=server.token())[2]


def test_a_registry_that_cannot_be_written_is_read():
    with RegistryServer() as server:
        open_registry(server.behind).put("resources/ada/x", {})
        with closing(sqlite3.connect(server.directory / "registry.db")) as db:
            db.execute("create trigger full before insert on changes begin select raise(abort, 'no space'); end")
        token = server.token()
        assert request(server, "GET", "/v1/record?key=resources/ada/x", token=token)[0] == 200
        body = b'{"steps": [{"do": "delete", "key": "resources/ada/x", "when": "any"}]}'
        assert request(server, "POST", "/v1/commit", token=token, body=body)[0] == 503


def test_errors_carry_the_id_of_the_request(server, people, org):
    bob = people("bob")
    with pytest.raises(errors.AccessError) as caught:
        bob.put(f"resources/{org}/noted", {})
    (note,) = pickle.loads(pickle.dumps(caught.value)).__notes__
    identity = note.split()[1].rstrip(",")
    assert json.loads(server.audit.read_text().splitlines()[-1])["request"] == identity


def test_the_audit_log_tells_both_names_of_a_rename(server, people, org):
    ada = people("ada")
    ada.put(f"resources/{org}/x", {})
    ada.rename(f"resources/{org}/x", f"resources/{org}/y")
    lines = [json.loads(line) for line in server.audit.read_text().splitlines()]
    assert lines[-1]["keys"] == [f"resources/{org}/x", f"resources/{org}/y"]


def test_what_is_behind_the_server_is_not_told():
    with RegistryServer() as server:
        token = server.token()
        assert request(server, "GET", "/ready", token=token)[0] == 200
        with closing(sqlite3.connect(server.directory / "registry.db")) as db:
            for (table,) in db.execute("select name from sqlite_master where type = 'table'").fetchall():
                db.execute(f"alter table {table} rename to lost_{table}")
        status, _, told = request(server, "GET", f"/v1/record?{urlencode({'key': 'a'})}", token=token)
        assert status >= 500
        assert str(server.directory) not in json.dumps(told)
        assert told["error"]["request"] in server.log
        assert request(server, "GET", "/health")[0] == 200


def test_a_registry_newer_than_the_server(monkeypatch):
    """Another program has brought it to its schema: the server is told to be upgraded, by clients and by `/ready`."""
    with RegistryServer() as server:
        monkeypatch.setenv("RH_REGISTRY", server.url)
        monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token())
        registry = open_registry(server.url)
        registry.put("resources/ada/x", {})
        with closing(sqlite3.connect(server.directory / "registry.db")) as db:
            db.execute("pragma user_version = 99")
        for verb in (lambda: registry.get("resources/ada/x"), lambda: registry.put("resources/ada/x", {"n": 1})):
            with pytest.raises(errors.UnsupportedError, match="is of a newer rh than the server") as caught:
                verb()
            assert "upgrades rh-data there" in caught.value.hint
            assert str(server.directory) not in str(caught.value)
        threading.Event().wait(FRESH_S)
        status, _, told = request(server, "GET", "/ready")
        assert (status, told["error"]["kind"]) == (503, "unsupported")
        assert "newer rh than the server" in told["error"]["message"]
        assert "schema 99" in server.log
        server.kill()
        with pytest.raises(errors.UnavailableError, match="upgrade rh-data"):
            server.start()


def test_a_log_newer_than_the_server(tmp_path):
    """Of a registry in a directory or bucket, a newer `rh` writes its next entry so."""
    with RegistryServer(f"file://{tmp_path}/registry") as server:
        last = max((tmp_path / "registry/log").rglob("*.json"))
        number, previous = int(last.stem) + 1, hashlib.sha256(last.read_bytes()).hexdigest()
        text = json.dumps({"format": 99, "sequence": number, "previous": previous})
        told = f'{{"sha256":"{hashlib.sha256(text.encode()).hexdigest()}","entry":{text}}}'
        (tmp_path / "registry" / entry_key(number)).write_text(told)
        threading.Event().wait(FRESH_S)
        status, _, told = request(server, "GET", "/v1/me", token=server.token())
        assert (status, told["error"]["kind"]) == (501, "unsupported")
        assert "newer rh than the server" in told["error"]["message"]


def test_a_moment_that_is_none(server, people):
    for as_of in ("1e999", "1" + "0" * 30, "1" + "0" * 400, "-1" + "0" * 400):
        body = f'{{"where": {{"all": []}}, "prefix": "none/", "as_of": {as_of}}}'.encode()
        status, _, told = request(server, "POST", "/v1/search", token=server.token(), body=body)
        assert status in (200, 400), told
    with pytest.raises(errors.InvalidError, match="not a moment"):
        next(open_registry(server.behind).search(filters.All(()), as_of=10**400), None)
    assert next(open_registry(server.behind).search(filters.All(()), "none/", as_of=10**30), None) is None
