"""Real servers on free loopback ports, one call each::

    from rh.testing import servers

    with servers.s3() as s3, servers.ssh() as host:
        rh.config.register("s3", s3.settings())
        rh.config.register("ssh-a", host.settings())

Each is started when the block is entered (or by `start()`), waited for until it answers, and ended with everything
it started when the block is left, or when this process dies, however it dies. `url` and `endpoint` say where it is,
`port` stays the same over `kill()` and `start()`, `log` is what it printed, `environment()` points other programs
(and SDKs) at it. Servers with buckets have `make_bucket(name)`; hosts have a `home` and can be killed, frozen, made
noisy or given another key.

`settings()` is what a system of that kind takes from the configuration. No secret is in it, private files hold them.
`settings(root="s3://data/here", timeout_s=5)` sets others or adds to them.

`s3()`, `moto()`
    `kind="s3"`, `endpoint_url`, `region`, `credentials_file` (an AWS shared-credentials file) and `profile` in it,
    `root="s3://data"`
`gcs()`
    `kind="gs"`, `endpoint_url="http://127.0.0.1:port"`, `anonymous=True`, `root="gs://data"`
`azure()`
    `kind="azure"`, `account`, `endpoint_url="http://127.0.0.1:port/account"`, `connection_string_file`,
    `root="az://data"`
`azure_versions(azure)`
    the same: an account that keeps versions, before a running `azure()`
`ssh()`
    `kind="ssh"`, `host`, `port`, `user`, `identity_file`, `known_hosts_file`, `config_file` (an ssh_config in which
    the host is called by its alias)
`http()`
    `kind="http"`, `endpoint_url`
`git()`
    `kind="git"`, `endpoint_url` (`owner/repo` is below it, as on GitHub)

What each is good for, and what not: `s3` (rclone) is fast, checks signatures and knows multipart, copies and
metadata; it accepts and ignores preconditions and refuses odd keys. `moto` knows preconditions, odd keys, versions
and open uploads; it is slow, and accepts any signature and any checksum. `gcs` (fake-gcs-server) has the JSON API
with preconditions on upload, and odd keys; it ignores preconditions on deletion, accepts any checksum and does not
write by the XML API. `azure` (azurite) has everything but versions and is slow; `azure_versions` adds these. `ssh`,
`git` and `postgres` are the real thing.
"""

from __future__ import annotations

from rh.testing.servers.azure_versions import AzureVersions
from rh.testing.servers.azurite import AzureServer
from rh.testing.servers.fake_gcs import GCSServer
from rh.testing.servers.git_http import GitServer
from rh.testing.servers.httpd import HTTPServer
from rh.testing.servers.moto import MotoServer
from rh.testing.servers.postgresql import PostgresServer
from rh.testing.servers.process import Server
from rh.testing.servers.rclone import S3Server
from rh.testing.servers.sshd import SSHServer

__all__ = [
    "AzureServer",
    "AzureVersions",
    "GCSServer",
    "GitServer",
    "HTTPServer",
    "MotoServer",
    "PostgresServer",
    "S3Server",
    "SSHServer",
    "Server",
    "azure",
    "azure_versions",
    "gcs",
    "git",
    "http",
    "moto",
    "postgres",
    "s3",
    "ssh",
]

s3 = S3Server
moto = MotoServer
gcs = GCSServer
azure = AzureServer
azure_versions = AzureVersions
ssh = SSHServer
http = HTTPServer
git = GitServer
postgres = PostgresServer
