"""Who we are on S3: the keys that are read without boto3 are those that boto3 finds."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rh.errors import AccessError, RhError, UnauthenticatedError
from rh.systems import locate, open_system
from rh.systems.abilities import Bulk, Item
from rh.systems.s3 import credentials as module
from rh.systems.s3.credentials import identity, plain_keys
from rh.testing import servers
from rh.testing.servers.rclone import PROFILE

KEYS = "aws_access_key_id = AKFILE\naws_secret_access_key = secret%of(file\n"
FILES = {
    "nothing": None,
    "default": f"[default]\n{KEYS}",
    "two": f"[default]\n{KEYS}[other]\n{KEYS.replace('AKFILE', 'AKOTHER')}aws_session_token = token\n",
    "region here": f"[default]\n{KEYS}region = eu-cred-1\n",
    "half": "[default]\naws_access_key_id = AKFILE\n",
    "empty key": "[default]\naws_access_key_id =\naws_secret_access_key =\n",
    "process": "[default]\ncredential_process = /bin/false\n",
    "garbled": "no section = here\n",
    "defaults": f"[DEFAULT]\nregion = odd\n[default]\n{KEYS}",
    "lines": f"[default]\n{KEYS}aws_session_token = a\n b\n",
}
CONFIGS = {
    "nothing": None,
    "region": "[default]\nregion = eu-conf-1\noutput = json\n[profile other]\nregion = eu-other-1\n",
    "profile default": "[profile default]\nregion = eu-conf-2\n",
    "both defaults": "[default]\nregion = eu-conf-1\n[profile default]\nregion = eu-conf-2\n",
    "role": "[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = other\n[profile other]\nregion = r\n",
    "endpoint": "[default]\nendpoint_url = http://conf:9\n",
    "services": "[default]\nservices = dev\n[services dev]\ns3 =\n  endpoint_url = http://service:9\n",
    "nested": "[default]\nregion = eu-conf-1\ns3 =\n  max_concurrent_requests = 20\n",
    "keys": f"[default]\n{KEYS.replace('AKFILE', 'AKCONF')}",
    "quoted": "[profile 'default']\nregion = eu-quoted-1\n[profile \"other\"]\nendpoint_url = http://quoted:9\n",
    "spaced": "[profile  other]\nregion = eu-spaced-1\n[profile\tdefault]\nregion = eu-tab-1\n",
}
VARIABLES: dict[str, Mapping[str, str]] = {
    "nothing": {},
    "keys": {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "env"},
    "token": {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "env", "AWS_SESSION_TOKEN": "t"},
    "half": {"AWS_ACCESS_KEY_ID": "AKENV"},
    "empty": {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
    "profile": {"AWS_PROFILE": "other"},
    "profile and keys": {"AWS_PROFILE": "other", "AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "env"},
    "old profile": {"AWS_DEFAULT_PROFILE": "other"},
    "no profile": {"AWS_PROFILE": "missing"},
    "regions": {"AWS_REGION": "us-a-1", "AWS_DEFAULT_REGION": "us-b-1"},
    "region": {"AWS_REGION": "us-a-1"},
    "endpoints": {"AWS_ENDPOINT_URL": "http://all:1", "AWS_ENDPOINT_URL_S3": "http://s3:1"},
    "endpoint": {"AWS_ENDPOINT_URL": "http://all:1"},
    "ignored": {"AWS_ENDPOINT_URL": "http://all:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    "expiring": {
        "AWS_ACCESS_KEY_ID": "AKENV",
        "AWS_SECRET_ACCESS_KEY": "env",
        "AWS_SESSION_TOKEN": "t",
        "AWS_CREDENTIAL_EXPIRATION": "2099-01-01T00:00:00Z",
    },
    "security token": {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "env", "AWS_SECURITY_TOKEN": "t"},
}
SETTINGS: dict[str, Mapping[str, Any]] = {
    "nothing": {},
    "profile": {"profile": "other"},
    "file": {"credentials_file": "FILE"},
    "both": {"credentials_file": "FILE", "profile": "other"},
    "anonymous": {"anonymous": True},
}


def furnish(tmp_path: Path, file: str, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home with these files, and no variables."""
    for name in [*os.environ]:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    for name, text in (("credentials", FILES[file]), ("config", CONFIGS[config])):
        if text is not None:
            (tmp_path / ".aws" / name).write_text(text)
    (tmp_path / "elsewhere").write_text(FILES["two"] or "")


def found(settings: Mapping[str, Any]) -> object:
    """What `identity` says, in a form that can be compared."""
    try:
        credentials, region, endpoint = identity({"name": "s3", **settings})
        told = credentials()
        return (None if told is None else tuple(told)), region, endpoint
    except RhError as error:
        return type(error), str(error)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("config", CONFIGS)
def test_keys_are_those_that_boto3_finds(
    file: str, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(tmp_path, file, config, monkeypatch)
    # Not every one with every other: each file meets each pair of these with some config.
    some = [*FILES].index(file) + [*CONFIGS].index(config)
    for variables, settings in itertools.islice(itertools.product(VARIABLES, SETTINGS), some % 20, None, 20):
        with monkeypatch.context() as patch:
            for name, value in VARIABLES[variables].items():
                patch.setenv(name, value)
            given = {
                name: str(tmp_path / "elsewhere") if value == "FILE" else value
                for name, value in SETTINGS[settings].items()
            }
            ours = found(given)
            patch.setattr(module, "plain_keys", lambda _settings: None)
            assert ours == found(given), (variables, settings)


@pytest.mark.parametrize(
    ("file", "config", "variables", "settings"),
    [
        ("nothing", "nothing", "keys", "nothing"),
        ("default", "nothing", "nothing", "nothing"),
        ("default", "region", "regions", "nothing"),
        ("two", "region", "profile", "nothing"),
        ("two", "profile default", "nothing", "profile"),
        ("two", "region", "keys", "both"),
        ("nothing", "nothing", "endpoints", "anonymous"),
    ],
)
def test_the_usual_keys_are_found_here(
    file: str, config: str, variables: str, settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(tmp_path, file, config, monkeypatch)
    for name, value in VARIABLES[variables].items():
        monkeypatch.setenv(name, value)
    given = {
        name: str(tmp_path / "elsewhere") if value == "FILE" else value for name, value in SETTINGS[settings].items()
    }
    assert plain_keys(given) is not None


def test_keys_in_the_environment_need_no_boto3(tmp_path: Path) -> None:
    """They take a third of a second to import, for which no command is to wait."""
    program = (
        "import sys, rh\n"
        "from rh.systems import locate, open_system\n"
        "open_system(locate('s3://bucket')).ask(rh.systems.abilities.Signing).sign_read('key')\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] in ('boto3', 'botocore')]\n"
    )
    environment = {
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-west-1",
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize("config", ["nothing", "nested"])
def test_keys_that_were_renewed_are_read_anew(
    s3_server: servers.S3Server, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told to renew them does so, and goes on in the same process; also where boto3 is asked."""
    furnish(tmp_path, "nothing", config, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    system, right = open_system(locate("s3://data/renewed")), Path(s3_server.credentials_file).read_text()
    bulk = system.ask(Bulk)
    assert bulk is not None
    for text in (None, FILES["default"]):
        if text is not None:
            (tmp_path / ".aws" / "credentials").write_text(text)
        with pytest.raises(UnauthenticatedError):
            system.write("k", b"1")
        (outcome,) = bulk.write_many([Item("k", b"1")])
        assert isinstance(outcome.error, UnauthenticatedError)
    with pytest.raises(AccessError, match="no reason") as caught:
        system.head("k")  # whose answer has no body
    assert "renew the credentials" in (caught.value.hint or "")
    (tmp_path / ".aws" / "credentials").write_text(right.replace(PROFILE, "default"))
    assert system.write("k", b"1").size == 1
