"""How a registry server starts, and with what it does not; what clients hear of its certificate."""

from __future__ import annotations

import datetime
import ipaddress
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from rh import config, errors
from rh.registry import open_registry
from rh.registry.accounts import accounts_of
from rh.registry.server.accounts import FRESH_S
from rh.registry.sql import postgres
from rh.testing import servers
from rh.testing.servers.registry import RegistryServer
from tests.registry.kinds import toml
from tests.registry.server.client import request

RH = Path(sys.executable).with_name("rh")
DAY = datetime.timedelta(days=1)


def certified(place: Path, *, host: str = "127.0.0.1", begins: int = -2, passphrase: bytes = b"") -> tuple[Path, Path]:
    """A certificate of its own, for two days, which begins this many days from now; and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "rh test")])
    begin = datetime.datetime.now(datetime.UTC) + begins * DAY
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, begin + 3 * DAY)
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    place.mkdir(exist_ok=True)
    cert, private = place / "cert.pem", place / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    return cert, private


def refused(*options: object) -> tuple[int, str]:
    """What a server says that does not start, and its exit code. Nobody can be asked anything."""
    done = subprocess.run(
        [RH, "registry", "serve", "--port", "0", *map(str, options)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, start_new_session=True,
    )  # fmt: skip
    return done.returncode, done.stderr


def said(*options: object) -> str:
    """What a server says that does start, until it listens; told to stop in that moment, it does."""
    serving = subprocess.Popen(
        [RH, "registry", "serve", "--port", "0", *map(str, options)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        lines: list[str] = []
        assert serving.stderr is not None
        while not lines or not lines[-1].startswith("serving "):
            lines.append(serving.stderr.readline())
            assert lines[-1], lines
        return "".join(lines)
    finally:
        serving.terminate()
        try:
            assert serving.wait(30) == 0
        finally:
            serving.kill()
            serving.communicate()


@pytest.fixture
def registry(tmp_path):
    """A registry with a user, to be served."""
    url = f"sqlite://{tmp_path}/team.db"
    accounts_of(open_registry(url)).put_user("ada", admin=True)
    return url


# Where it listens.


@pytest.mark.slow
def test_tokens_in_the_clear_are_warned_of(registry, tmp_path):
    cert, key = certified(tmp_path / "tls")
    told = said("--registry", registry, "--host", "0.0.0.0")
    assert "tokens would travel in the clear" in told
    assert "--tls-cert and --tls-key, or a proxy" in told
    tls = ("--tls-cert", cert, "--tls-key", key)
    for options in (
        ("--host", "localhost"),
        ("--host", "0.0.0.0", *tls),
        ("--host", "0.0.0.0", "--public-url", "https://registry.example.org"),
    ):
        assert "in the clear" not in said("--registry", registry, *options)


@pytest.mark.slow
def test_where_nobody_can_listen(registry):
    for host in ("192.0.2.1", "no.such.host.invalid"):
        code, told = refused("--registry", registry, "--host", host)
        assert code == 7
        assert "--host is an address of this machine" in told
        assert "another --port" not in told
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, told = refused("--registry", registry, "--port", taken.getsockname()[1])
        assert (code, "choose another --port" in told) == (7, True)


# What it serves.


def test_a_registry_that_cannot_be_served(moto_server, tmp_path):
    """It is read once: what will not be better in a moment is refused, by its own error."""
    config.home().mkdir(parents=True, exist_ok=True)
    (config.home() / "config.toml").write_text(toml("s3", moto_server.settings()))
    code, told = refused("--registry", "s3://there-is-no-such-bucket/registry")
    assert code == 3
    assert "there-is-no-such-bucket" in told
    (tmp_path / "other.db").write_bytes(b"this is no database" * 100)
    code, told = refused("--registry", f"sqlite://{tmp_path}/other.db")
    assert code not in (0, 7)
    assert "serving" not in told


def test_a_registry_that_does_not_answer_yet(monkeypatch):
    """After a power cut everything starts at once: the server says so, and waits for it."""
    with servers.postgres() as database:
        monkeypatch.setenv("PGPASSWORD", database.password)
        server = RegistryServer(database.url, variables={"PGPASSWORD": database.password, "RH_TIMEOUT_S": "2"})
        token = server.token()
        postgres._connections.close()
        database.kill()
        with server:
            assert "warning: " in server.log
            assert request(server, "GET", "/ready")[0] == 503
            database.start()
            threading.Event().wait(FRESH_S)
            assert request(server, "GET", "/v1/me", token=token)[2]["user"] == "ada"
    postgres._connections.close()


# Certificates.


def test_a_key_with_a_passphrase(registry, tmp_path):
    cert, key = certified(tmp_path / "tls", passphrase=b"hunter2")
    code, told = refused("--registry", registry, "--tls-cert", cert, "--tls-key", key)
    assert code == 2
    assert "the key has a passphrase" in told
    assert str(key) in told
    assert "Enter PEM" not in told
    command = next(line for line in told.splitlines() if "openssl pkey" in line)
    open_it = shlex.split(command.partition("(umask 077; ")[2].partition(")")[0])
    plain = tmp_path / "tls" / "plain.pem"
    words = [str(plain) if word == "FILE" else word for word in open_it]
    subprocess.run([*words, "-passin", "pass:hunter2"], check=True, timeout=30)
    assert "serving" in said("--registry", registry, "--tls-cert", cert, "--tls-key", plain)


def test_a_key_of_another_certificate(registry, tmp_path):
    cert, _ = certified(tmp_path / "one")
    _, key = certified(tmp_path / "two")
    for wrong in (key, tmp_path / "none.pem"):
        code, told = refused("--registry", registry, "--tls-cert", cert, "--tls-key", wrong)
        assert code == 2
        assert str(wrong) in told


@pytest.mark.parametrize(
    ("made", "reason", "fix"),
    [
        ({"host": "registry.example.org"}, "mismatch", "use the name that the certificate is for"),
        ({"host": "192.0.2.7"}, "mismatch", "use the name that the certificate is for"),
        ({"begins": -9}, "expired", "renews the certificate"),
        ({"begins": 5}, "not yet valid", "set the clock"),
    ],
)
def test_a_certificate_that_is_trusted_and_no_good(tmp_path, monkeypatch, made, reason, fix):
    """To trust its authority, as it is, would not help."""
    cert, key = certified(tmp_path / "tls", **made)
    with RegistryServer(tls=(cert, key)) as server:
        monkeypatch.setenv("RH_CA_BUNDLE", str(cert))
        with pytest.raises(errors.AccessError, match=reason) as caught:
            open_registry(server.url).get("a")
        assert fix in caught.value.hint
        assert "RH_CA_BUNDLE" not in caught.value.hint
